"""What this machine could do at best: matrix products of a model's own shapes, back to back."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from effir.compress import shapes

ROWS = 512
"""Tokens that go through a product at once: enough to fill the cores, few enough for their caches."""


def seconds(folder: Path, lengths: Sequence[int]) -> float:
    """Least time to encode texts of these lengths in tokens: the float32 model's matmul operations at the measured rate of its products."""
    shape = shapes.read(folder / "model" / "config.json").shape
    return shapes.flops(shape, lengths) / rate(shape, torch.float32)


def rate(shape: shapes.Shape, dtype: torch.dtype, at_least: float = 2.0) -> float:
    """Operations a second over the products of a middle layer, the best of its runs in `at_least` seconds."""
    layer, width = shape.layers[len(shape.layers) // 2], shape.hidden
    sizes = [(width, layer.query), (width, layer.key_value), (width, layer.key_value), (layer.query, width)]
    sizes += [(width, layer.neurons), (width, layer.neurons), (layer.neurons, width)]
    inputs = [torch.randn(ROWS, rows, dtype=dtype) for rows, _ in sizes]
    weights = [torch.randn(columns, rows, dtype=dtype) for rows, columns in sizes]
    count, best, end = sum(2 * ROWS * rows * columns for rows, columns in sizes), 0.0, time.perf_counter() + at_least
    with torch.inference_mode():
        while time.perf_counter() < end:
            began = time.perf_counter()
            for given, weight in zip(inputs, weights, strict=True):
                torch.nn.functional.linear(given, weight)
            best = max(best, count / (time.perf_counter() - began))
    return best
