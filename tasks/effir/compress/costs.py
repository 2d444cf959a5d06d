"""What encoding costs, as a sum over sub-layers: counted in matmul operations, or timed on the machine at hand."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from effir.compress.shapes import Backbone, Shape, attention_flops, mlp_flops
from effir.errors import BadInput

SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
CACHE_BYTES = 128 * 2**20
VOCABULARY = 1024


@dataclass(frozen=True)
class CostModel:
    """Cost of encoding one batch of texts by a backbone whose attentions are all alike, in `unit` (flops or seconds).

    lengths: tokens of each text. attention: one attention with its norm. mlp: (neurons, cost) of one MLP with its norm at widths in
    ascending order, straight lines through and beyond them. layer: what a layer costs on top, whatever is left of it.
    fixed: embeddings, last norm and pooling. machine: where it was timed.
    """

    unit: str
    lengths: tuple[int, ...]
    attention: float
    mlp: tuple[tuple[int, float], ...]
    layer: float = 0.0
    fixed: float = 0.0
    machine: str = ""

    def of_mlp(self, neurons: int) -> float:
        """Cost of an MLP of this width; 0 without neurons."""
        if not neurons:
            return 0.0
        widths = [width for width, _ in self.mlp]
        last = min(max(int(np.searchsorted(widths, neurons)), 1), len(widths) - 1)
        (low, before), (high, after) = self.mlp[last - 1], self.mlp[last]
        return max(before + (after - before) * (neurons - low) / (high - low), 0.0)

    def cost(self, shape: Shape) -> float:
        """Predicted cost of encoding the batch."""
        parts = sum(self.layer + self.attention * bool(one.query) + self.of_mlp(one.neurons) for one in shape.layers)
        return self.fixed + parts

    def speedup(self, full: Shape, cut: Shape) -> float:
        """Predicted cost of the one over that of the other."""
        return self.cost(full) / self.cost(cut)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "CostModel":
        """Read what `to_json` wrote."""
        points = tuple((int(width), float(cost)) for width, cost in plain["mlp"])
        return cls(**{**plain, "lengths": tuple(plain["lengths"]), "mlp": points})


def arithmetic(backbone: Backbone, lengths: Sequence[int]) -> CostModel:
    """Matmul operations alone: cost(shape) equals shapes.flops(shape, lengths)."""
    shape = backbone.shape
    attention = next((attention_flops(shape, one, lengths) for one in shape.layers if one.query), 0)
    widest = max((one.neurons for one in shape.layers), default=0) or 1
    return CostModel("flops", tuple(lengths), attention, ((0, 0.0), (widest, mlp_flops(shape, widest, lengths))))


def calibrate(
    backbone: Backbone, lengths: Sequence[int], dtype: str = "bfloat16", device: str = "cpu", threads: int = 0, repeats: int = 9
) -> CostModel:
    """Time the parts of a Llama of these widths, with random weights, on texts of these lengths padded to one batch.

    Timed by turns, median of `repeats` after one untimed turn: no layer at all; stacks of layers with nothing in them, with an
    attention alone, and with an MLP alone at each of SHARES of the full width. A stack is as deep as it takes to outgrow the
    processor's caches, up to the backbone's own depth. A wider MLP never counts as cheaper.
    threads: of the processor; 0 leaves them as they are. Raises BadInput for a backbone without any attention or without any MLP.
    """
    full = max((one.neurons for one in backbone.shape.layers), default=0)
    if not full or not any(one.query for one in backbone.shape.layers):
        raise BadInput(
            "costs are timed on a backbone that has an attention and an MLP: calibrate the base model, not what a cut left of it"
        )
    widths = sorted({max(1, round(full * share)) for share in SHARES})
    with _threads(threads):
        stacks = [_stack(backbone, attention, 0, dtype, device) for attention in (False, True)]
        stacks += [_stack(backbone, False, width, dtype, device) for width in widths]
        times = _by_turns([_bare(stacks[0]), *stacks], lengths, device, repeats)
    fixed = times[0]
    nothing, alone, *mlps = [max(time - fixed, 0.0) / len(stack.layers) for time, stack in zip(times[1:], stacks, strict=True)]
    layer = min(nothing, alone, *mlps)
    rising = np.maximum.accumulate(np.array(mlps) - layer)
    points = tuple((width, float(cost)) for width, cost in zip(widths, rising, strict=True))
    return CostModel("seconds", tuple(lengths), alone - layer, points, layer, fixed, f"{_name(device)}, {dtype}, threads {threads}")


def _stack(backbone: Backbone, attention: bool, neurons: int, dtype: str, device: str) -> Any:
    """A model of layers that have an attention, or an MLP of this width, or neither."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    from effir.compress import surgery
    from effir.compress.cut import Cut
    from effir.retrieve.prepack import prepack

    first = next(one for one in backbone.shape.layers if one.query)
    kind = getattr(torch, dtype)
    weights = backbone.attention_parameters(first) * attention + backbone.mlp_parameters(neurons)
    layers = min(len(backbone.shape.layers), max(2, -(-CACHE_BYTES // max(weights * kind.itemsize, 1))))
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=backbone.shape.hidden, intermediate_size=max(neurons, 1), num_hidden_layers=layers,
        num_attention_heads=first.query // backbone.head_size, num_key_value_heads=first.key_value // backbone.head_size,
        head_dim=backbone.head_size,
    )  # fmt: skip
    with torch.device(device):
        model = LlamaModel(config).to(kind).eval()
    every = list(range(layers))
    return prepack(surgery.drop(model, Cut(layers, [] if attention else every, [] if neurons else every)))


def _bare(model: Any) -> Any:
    """The same embeddings and last norm without a layer."""
    from torch import nn

    without = type(model)(model.config).to(model.dtype).to(model.device).eval()
    without.layers = nn.ModuleList()
    return without


def _by_turns(models: list[Any], lengths: Sequence[int], device: str, repeats: int) -> list[float]:
    """Median seconds of each to turn the batch into unit vectors."""
    import time

    import torch

    ids = torch.randint(VOCABULARY, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0)).to(device)
    seconds: list[list[float]] = [[] for _ in models]
    with torch.inference_mode():
        for _ in range(repeats + 1):
            for model, found in zip(models, seconds, strict=True):
                began = time.perf_counter()
                states = model(input_ids=ids, use_cache=False).last_hidden_state
                torch.nn.functional.normalize(states.float().mean(1), dim=-1).cpu()
                found.append(time.perf_counter() - began)
    return [median(found[1:]) for found in seconds]


def _name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
