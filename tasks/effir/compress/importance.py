"""How much each sub-layer changes the residual stream, streamed over calibration text; by Eq. 3, S = 1 - cos(x, x + F(x))."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from effir.compress.anatomy import anatomy_of, layers_of
from effir.compress.scores import KINDS, Importance

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class _Sums:
    layers: int
    tokens: int = 0
    total: dict[str, np.ndarray] = field(default_factory=dict)
    samples: dict[str, list[np.ndarray]] = field(default_factory=dict)


def one_minus_cosine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """1 - cos over the last dimension, float32: (n, t, d), (n, t, d) → (n, t)."""
    return 1 - torch.nn.functional.cosine_similarity(x.float(), y.float(), dim=-1)


def relative_change(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """‖y - x‖ / ‖x‖ over the last dimension, float32: (n, t, d), (n, t, d) → (n, t); of a state that is all zeros, 0."""
    x, y = x.float(), y.float()
    length = x.norm(dim=-1)
    return torch.where(length > 0, (y - x).norm(dim=-1) / length, 0)


def tensor_of(output: Any) -> torch.Tensor:
    """The hidden states that a module gives, alone or as the first of several."""
    return output[0] if isinstance(output, tuple) else output


def scaled(output: Any, factor: float | torch.Tensor) -> Any:
    """The same, with the hidden states multiplied."""
    states = tensor_of(output) * factor
    return (states, *output[1:]) if isinstance(output, tuple) else states


def received(weights: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """How much attention each token receives, mean over heads and the real tokens that look: (n, heads, t, t), (n, t) → (n, t)."""
    looks = weights.mean(1, dtype=torch.float64) * mask[:, :, None]
    return looks.sum(1) / mask.sum(1, keepdim=True)


def measure(
    model: Any,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    progress: Callable[[int], None] | None = None,
    change: Change = one_minus_cosine,
    attended: bool = False,
) -> Importance:
    """Score every sub-layer; no hidden state is stored.

    batches: (token ids (n, t), mask (n, t) with 1 for real tokens). Padding is excluded. change: the states before and after a
    sub-layer → a score per token; Eq. 3 by default. Mean over all tokens of all samples; the error is that of the mean over
    samples. attended: a token counts by the attention that it receives, mean over layers (which is to be
    `effir.train.attention.written_out`).
    Cost: one forward pass over the text.
    """
    anatomy, layers = anatomy_of(model), layers_of(model)
    sums = _Sums(len(layers))
    sums.total = {kind: np.zeros(len(layers)) for kind in KINDS}
    sums.samples = {kind: [] for kind in KINDS}
    state: dict[str, torch.Tensor] = {}
    found: dict[tuple[str, int], torch.Tensor] = {}
    looks: list[torch.Tensor] = []

    def watch(index: int, layer: Any) -> list:
        def before(_module, args, kwargs):
            state["x"] = args[0] if args else kwargs["hidden_states"]

        def middle(_module, args):
            state["h"] = args[0]
            found["attention", index] = change(state["x"], state["h"])

        def after(_module, _args, output):
            out = tensor_of(output)
            found["mlp", index] = change(state["h"], out)
            found["block", index] = change(state["x"], out)

        def look(_module, _args, output):
            if output[1] is not None:
                looks.append(received(output[1], state["mask"]))

        watched = [getattr(layer, anatomy.attention).register_forward_hook(look)] if attended else []
        return [
            *watched,
            layer.register_forward_pre_hook(before, with_kwargs=True),
            anatomy.middle_of(layer).register_forward_pre_hook(middle),
            layer.register_forward_hook(after),
        ]

    hooks = [hook for index, layer in enumerate(layers) for hook in watch(index, layer)]
    try:
        with torch.inference_mode():
            for done, (ids, mask) in enumerate(batches, 1):
                state["mask"] = mask
                model(input_ids=ids, attention_mask=None if bool(mask.all()) else mask, use_cache=False)
                _add(sums, found, torch.stack(looks).mean(0) * mask.sum(1, keepdim=True) if attended else mask)
                found.clear()
                looks.clear()
                if progress:
                    progress(done)
    finally:
        for hook in hooks:
            hook.remove()
    return _finish(sums)


def _add(sums: _Sums, found: dict[tuple[str, int], torch.Tensor], weights: torch.Tensor) -> None:
    """weights: how much a token counts; those of a sample add up to its tokens."""
    weights = weights.double()
    counts = weights.sum(1)
    sums.tokens += round(float(counts.sum()))
    for kind in KINDS:
        scores = torch.stack([(found[kind, index].double() * weights).sum(1) for index in range(sums.layers)])
        sums.total[kind] += scores.sum(1).cpu().numpy()
        sums.samples[kind].extend((scores / counts.clamp(min=1)).T.cpu().numpy())


def _finish(sums: _Sums) -> Importance:
    count = len(sums.samples["mlp"])
    mean = {kind: sums.total[kind] / max(sums.tokens, 1) for kind in KINDS}
    error = {}
    for kind in KINDS:
        spread = np.std(sums.samples[kind], axis=0, ddof=1) if count > 1 else np.full(sums.layers, np.nan)
        error[kind] = np.nan_to_num(spread / np.sqrt(max(count, 1)))
    return Importance(mean, error, sums.tokens, count)
