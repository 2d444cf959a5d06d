"""The machine at hand in numbers: a few seconds of the very arithmetic that the phases of a recipe will do."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from effir.compress.shapes import Backbone, Layer, Shape
from effir.forecast import flops, texts
from effir.forecast.hardware import CPU2, H100X8, HERE, Hardware
from effir.forecast.volume import Volume
from effir.forecast.work import training_documents

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

LAYERS = 6
WEIGHTS = 1 << 28
"""Bytes of weights below which a model is measured whole: a few layers of it would stay in the processor's cache, which all do not."""
REPEATS = 3
TOKENS = 2048
FLOATS = 1 << 24
SQUARE = 1536
SERVICES = 0.34
"""Cores that the stack beside a run takes on a machine whose processor is the device; it stands still while this measures."""
PHASE_IMPORTS = "import effir.export.writer, effir.train.adapters, effir.train.contrastive, effir.train.loop"
LIGHT_IMPORTS = "import effir.phases.execute"
CORE_SECONDS = 0.0137
"""Of `_errand` on a core of speed 1."""


def measure(volume: Volume, heavy: str = PHASE_IMPORTS, light: str = LIGHT_IMPORTS) -> Hardware:
    """Rates of this machine at the recipe's widths, lengths and data type; what is not measured is as on the named machine of its kind.

    heavy, light: statements that a phase begins with, with and without torch; what the one takes longer is the machine's `imports`.
    """
    import torch

    cuda = torch.cuda.is_available() and volume.spec.device != "cpu"
    if volume.spec.threads and not cuda:
        torch.set_num_threads(volume.spec.threads)
    device = "cuda" if cuda else "cpu"
    cores = torch.get_num_threads() if not cuda else os.cpu_count() or 1
    left = 1.0 if cuda else 1 - SERVICES / (os.cpu_count() or 1)
    float32 = left * _forward(volume, volume.whole, torch.float32, device)
    found = replace(
        H100X8 if cuda else CPU2,
        name=HERE, cores=cores, shared=not cuda, devices=torch.cuda.device_count() if cuda else 1, memory=_memory(cuda),
        encode=left * _forward(volume, volume.whole, _dtype(volume), device), train=left * _backward(volume, device), float32=float32,
        outside=left * _forward(volume, _MINILM, _dtype(volume), device), processor=_processor(cores) if cuda else float32,
        bandwidth=_bandwidth(device), core=CORE_SECONDS / _errand(), imports=0.0,
    )  # fmt: skip
    return replace(found, imports=max(_import(heavy) - _import(light), 0.01) * found.core)


_MINILM = Backbone(Shape(384, (Layer(384, 384, 1024),) * 6), 1024, 32, 384, 384, 0, 384)
"""MiniLM's arithmetic in the layers of a Llama, whose MLPs have a third matrix."""


def _forward(volume: Volume, backbone: Backbone, dtype: "torch.dtype", device: str) -> float:
    """Operations a second of encoding documents of the first collection, without gradients; models of others' are as they load them."""
    import torch

    from effir.retrieve.prepack import prepack

    model, small = _stack(backbone, dtype, device)
    model = model if backbone is _MINILM else prepack(model)
    ids, lengths = _batch(volume, device)

    def once() -> None:
        with torch.inference_mode():
            model(input_ids=ids, use_cache=False)

    return flops.encoding(small.shape, lengths, len(lengths)) / _timed(once, device)


def _backward(volume: Volume, device: str) -> float:
    """Operations a second of a training step as fine-tuning does it: adapters, autocast, parts of batch_tokens, clipping, AdamW.

    On a processor a step has no more groups than make TOKENS tokens.
    """
    import torch

    from effir.retrieve.encode import Encoder
    from effir.retrieve.settings import Settings
    from effir.train import adapters
    from effir.train.attention import attention_for

    spec = volume.spec
    model, small = _stack(volume.whole, _dtype(volume), device)
    adapted, parameters = adapters.attach(model, spec.lora_rank, spec.lora_alpha, spec.lora_dropout)
    encoder = Encoder(adapted.base_model.model.train(), None, Settings(pooling=spec.pooling), device)
    optimiser = torch.optim.AdamW(parameters.values(), lr=1e-6)
    query, document = _mean(volume.queries(volume.training)), _mean(training_documents(volume))
    groups = min(spec.micro_batch or spec.batch, spec.batch)
    if device == "cpu":
        groups = max(2, min(groups, TOKENS // (query + volume.group * document)))
    queries, documents = [[1] * query] * groups, [[1] * document] * (groups * volume.group)

    def once() -> None:
        optimiser.zero_grad(set_to_none=True)
        mixed = torch.autocast(device, torch.bfloat16, enabled=spec.dtype == "bfloat16", cache_enabled=False)
        with attention_for(encoder.model, max(query, document)), mixed:
            vectors = [encoder.embed_in_parts(texts, spec.batch_tokens) for texts in (queries, documents)]
        (vectors[0] @ vectors[1].T).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()

    counted = [(len(texts[0]), len(texts)) for texts in (queries, documents)]
    return sum(flops.training(small, [length], count, spec.lora_rank, cached=False) for length, count in counted) / _timed(once, device)


def _stack(backbone: Backbone, dtype: "torch.dtype", device: str) -> tuple[Any, Backbone]:
    """A Llama of LAYERS layers of these widths, random weights; and it in numbers."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    layer = backbone.shape.layers[0]
    count = min(max(LAYERS, WEIGHTS // (_layer_weights(backbone) * dtype.itemsize)), len(backbone.shape.layers))
    config = LlamaConfig(
        vocab_size=1024, hidden_size=backbone.shape.hidden, intermediate_size=layer.neurons, num_hidden_layers=count,
        num_attention_heads=layer.query // backbone.head_size, num_key_value_heads=layer.key_value // backbone.head_size,
        head_dim=backbone.head_size,
    )  # fmt: skip
    with torch.device(device):
        model: Any = LlamaModel(config)
    return model.to(dtype).eval(), replace(backbone, shape=Shape(backbone.shape.hidden, (layer,) * count))


def _layer_weights(backbone: Backbone) -> int:
    layer = backbone.shape.layers[0]
    return backbone.shape.hidden * (2 * (layer.query + layer.key_value) + 3 * layer.neurons)


def _batch(volume: Volume, device: str) -> tuple["torch.Tensor", list[int]]:
    """Token ids (n, t) of one batch of mean documents, and their lengths."""
    import torch

    from effir.retrieve.encode import pass_tokens

    length = _mean(volume.documents(volume.collections[0]))
    rows = max(1, pass_tokens(device, volume.spec.batch_tokens) // length)
    return torch.randint(1024, (rows, length), generator=torch.Generator().manual_seed(0)).to(device), [length] * rows


def _mean(lengths: "NDArray[np.integer]") -> int:
    return max(1, round(float(lengths.mean())))


def _timed(once: Callable[[], Any], device: str) -> float:
    """Median seconds of a few turns, after one that does not count."""
    import torch

    found = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        once()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return median(found[1:])


def _bandwidth(device: str) -> float:
    """Bytes a second of copying in a device's memory."""
    import torch

    one, other = torch.ones(FLOATS, device=device), torch.empty(FLOATS, device=device)
    return 2 * 4 * FLOATS / _timed(lambda: other.copy_(one), device)


def _processor(cores: int) -> float:
    """Operations a second of all cores in a float32 matrix product."""
    import torch

    one = torch.rand(SQUARE, SQUARE)
    return 2 * SQUARE**3 / _timed(lambda: one @ one, "cpu")


def _errand() -> float:
    """Seconds for a bit of what Python does in every phase: parse JSON, count words. The best of several turns."""
    line = json.dumps({"_id": "1", "title": "A title of six words here", "text": "some words of a text that is not short " * 12})
    found = []
    for _ in range(7):
        began = time.perf_counter()
        for _ in range(500):
            texts.pieces(json.loads(line)["text"])
        found.append(time.perf_counter() - began)
    return min(found)


def _import(statement: str) -> float:
    """Seconds of a fresh interpreter that imports what a phase does."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, capture_output=True)
    return time.perf_counter() - began


def _memory(cuda: bool) -> float:
    import psutil
    import torch

    return float(torch.cuda.get_device_properties(0).total_memory if cuda else psutil.virtual_memory().total)


def _dtype(volume: Volume) -> "torch.dtype":
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[volume.spec.dtype]
