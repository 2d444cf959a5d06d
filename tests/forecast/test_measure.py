from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from effir.compress import shapes
from effir.compress.shapes import Layer, Shape
from effir.forecast import measure
from effir.forecast.volume import Volume

SMALL = Shape(96, (Layer(96, 32, 160),) * 12)


@pytest.fixture
def volume(small: Callable[..., Volume]) -> Volume:
    """Of a backbone so small that measuring takes a moment."""
    amount = small(dtype="float32", batch_tokens=256, device="cpu", threads=1)
    return replace(amount, whole=replace(amount.whole, shape=SMALL, head_size=32))


@pytest.mark.parametrize(("weights", "count"), [(0, measure.LAYERS), (measure.WEIGHTS, 12)])
def test_the_stack_that_is_timed_is_the_backbone_s(volume: Volume, monkeypatch: pytest.MonkeyPatch, weights: int, count: int) -> None:
    monkeypatch.setattr(measure, "WEIGHTS", weights)
    model, numbers = measure._stack(volume.whole, torch.float32, "cpu")
    assert len(model.layers) == len(numbers.shape.layers) == count
    matrices = sum(one.numel() for layer in model.layers for one in layer.parameters() if one.ndim == 2)
    assert matrices == (shapes.flops(numbers.shape, [1]) - 4 * 96 * count) // 2


def test_a_batch_is_of_mean_documents(volume: Volume) -> None:
    ids, lengths = measure._batch(volume, "cpu")
    mean = round(volume.documents(volume.collections[0]).mean())
    assert ids.shape == (256 // mean, mean)
    assert lengths == [mean] * (256 // mean)


def test_a_machine_is_measured(volume: Volume) -> None:
    """Every figure is one of this machine: positive, and copying memory is not faster than any memory there is."""
    threads = torch.get_num_threads()
    try:
        found = measure.measure(volume, heavy="import json", light="pass")
    finally:
        torch.set_num_threads(threads)
    assert (found.name, found.shared, found.devices, found.cores) == ("here", True, 1, 1)
    for rate in (found.encode, found.train, found.float32, found.outside, found.processor):
        assert 1e6 < rate < 1e13
    assert 1e7 < found.bandwidth < 2e12
    assert 0.01 < found.core < 20
    assert found.imports > 0
    assert found.memory > 1e8
