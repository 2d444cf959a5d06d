"""What this machine could do at best: matrix products of a model's own shapes, back to back."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from effir.compress import shapes
from effir.retrieve.prepack import Prepacked

ROWS = 512
"""Tokens that go through a product at once: enough to fill the cores, few enough for their caches."""


def seconds(folder: Path, turns: Sequence[Sequence[int]]) -> list[float]:
    """Least time for each turn to encode texts of these lengths in tokens: the float32 model's matmul operations at its products' rate."""
    shape = shapes.read(folder / "model" / "config.json").shape
    fastest = rate(shape)
    return [shapes.flops(shape, lengths) / fastest for lengths in turns]


def rate(shape: shapes.Shape, at_least: float = 2.0) -> float:
    """Operations a second over a middle layer's products in float32, weights laid out beforehand; the best of its runs in `at_least` s."""
    layer, width = shape.layers[len(shape.layers) // 2], shape.hidden
    sizes = [(width, layer.query), (width, layer.key_value), (width, layer.key_value), (layer.query, width)]
    sizes += [(width, layer.neurons), (width, layer.neurons), (layer.neurons, width)]
    inputs = [torch.randn(ROWS, rows) for rows, _ in sizes]
    products = [Prepacked(torch.nn.Linear(*one, bias=False)) for one in sizes]
    count, best, end = sum(2 * ROWS * rows * columns for rows, columns in sizes), 0.0, time.perf_counter() + at_least
    with torch.inference_mode():
        while time.perf_counter() < end:
            began = time.perf_counter()
            for given, product in zip(inputs, products, strict=True):
                product(given)
            best = max(best, count / (time.perf_counter() - began))
    return best
