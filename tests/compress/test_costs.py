import json
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaModel

from effir.compress import costs, shapes
from effir.compress.costs import CostModel
from effir.compress.shapes import Backbone, Layer, Shape
from effir.errors import BadInput

TIMED = CostModel("seconds", (9, 4), 5.0, ((10, 3.0), (20, 4.0), (40, 8.0)), layer=0.5, fixed=2.0, machine="here")


def backbone(layers: int = 4, hidden: int = 256, neurons: int = 1024) -> Backbone:
    shape = Shape(hidden, (Layer(hidden, hidden // 2, neurons),) * layers)
    return Backbone(shape, 1000, 64, hidden, hidden, 0, hidden)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 1024)), min_size=4, max_size=4), st.lists(st.integers(1, 300), min_size=1, max_size=3)
)
def test_arithmetic_is_the_sum_of_matmul_operations(parts: list[tuple[bool, int]], lengths: list[int]) -> None:
    whole = backbone()
    left = shapes.cut(whole, {index for index, (attention, _) in enumerate(parts) if not attention}, [width for _, width in parts]).shape
    model = costs.arithmetic(whole, lengths)
    assert model.cost(left) == pytest.approx(shapes.flops(left, lengths), rel=1e-12)


def test_widths_between_and_beyond_those_timed_lie_on_straight_lines() -> None:
    assert [TIMED.of_mlp(width) for width in (0, 5, 10, 15, 20, 30, 40, 50)] == [0, 2.5, 3, 3.5, 4, 6, 8, 10]


def test_a_model_costs_what_is_left_of_it() -> None:
    full = Shape(8, (Layer(8, 8, 40),) * 3)
    cut = Shape(8, (Layer(8, 8, 0), Layer(0, 0, 20)))
    assert TIMED.cost(full) == 2 + 3 * (0.5 + 5 + 8)
    assert TIMED.cost(cut) == 2 + (0.5 + 5) + (0.5 + 4)
    assert TIMED.cost(Shape(8, ())) == 2
    assert TIMED.speedup(full, cut) == 42.5 / 12


def test_a_cost_model_survives_json() -> None:
    assert CostModel.from_json(json.loads(json.dumps(TIMED.to_json()))) == TIMED


@pytest.fixture(scope="module")
def timed() -> CostModel:
    return costs.calibrate(backbone(), [64] * 8, "float32", threads=1, repeats=5)


def test_calibration_times_every_part(timed: CostModel) -> None:
    widths, seconds = zip(*timed.mlp, strict=True)
    assert widths == (128, 256, 512, 768, 1024)
    assert list(seconds) == sorted(seconds)
    assert seconds[-1] > 2 * seconds[0], "eight times the operations"
    assert min(timed.attention, timed.fixed, seconds[0]) > 0
    assert timed.layer >= 0
    assert timed.machine == "cpu, float32, threads 1"


def test_calibration_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    costs.calibrate(backbone(2, 128, 64), [4], "float32", threads=before + 1, repeats=1)
    assert torch.get_num_threads() == before


def test_what_lacks_a_part_cannot_be_timed() -> None:
    for left in (shapes.cut(backbone(2), [0, 1], [9, 9]), shapes.cut(backbone(2), [], [0, 0])):
        with pytest.raises(BadInput, match="calibrate the base model"):
            costs.calibrate(left, [4])


def test_the_parts_sum_up_to_a_whole_model(timed: CostModel) -> None:
    """Loosely, since other work may run on this machine; docs/method.md has the figures of a real comparison."""
    config = LlamaConfig(
        vocab_size=1000, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2
    )
    model, ids = LlamaModel(config).eval(), torch.zeros(8, 64, dtype=torch.long)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    with torch.inference_mode():
        for _ in range(8):
            began = time.perf_counter()
            model(input_ids=ids, use_cache=False)
            seconds.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    assert 0.4 < timed.cost(backbone().shape) / sorted(seconds)[3] < 2.5
