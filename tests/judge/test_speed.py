from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaModel, ModernBertConfig, ModernBertModel

from effir.compress import surgery
from effir.compress.cut import Cut
from effir.judge.speed import Layer, Shape, flops, interleaved, ratio_of_medians, shape_of, spread_over_lengths, summary


class Clock:
    """A clock that moves only when told, so that runs take exactly the time they claim."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def task(self, name: str, seconds: float):
        def run() -> None:
            self.order.append(name)
            self.now += seconds

        return run


def tiny() -> LlamaModel:
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8
    )
    torch.manual_seed(0)
    return LlamaModel(config).eval()


def test_rounds_alternate_and_the_first_run_of_each_is_not_timed():
    clock = Clock()
    rounds = interleaved(clock.task("r", 2.0), clock.task("c", 1.0), seconds=0, min_rounds=3, clock=clock)
    assert clock.order == ["r", "c", "r", "c", "c", "r", "r", "c"]
    assert rounds == [(2.0, 1.0)] * 3


def test_rounds_go_on_until_the_time_is_spent():
    clock = Clock()
    assert len(interleaved(clock.task("r", 2.0), clock.task("c", 1.0), seconds=30, min_rounds=2, clock=clock)) == 10


def test_ratio_and_interval_are_of_medians():
    rng = np.random.default_rng(0)
    candidate = rng.lognormal(0, 0.05, 41)
    rounds = list(zip(1.5 * rng.permutation(candidate), candidate, strict=True))
    ratio, (low, high) = ratio_of_medians(rounds)
    assert ratio == pytest.approx(1.5)
    assert 1.4 < low < 1.5 < high < 1.6
    spoilt = [*rounds, (100.0, 1.0), (0.01, 1.0)]
    assert ratio_of_medians(spoilt)[0] == pytest.approx(1.5, rel=0.02)


def test_an_interval_covers_the_true_ratio_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        rounds = np.stack([1.3 * rng.lognormal(0, 0.1, 25), rng.lognormal(0, 0.1, 25)], axis=1)
        low, high = ratio_of_medians(rounds.tolist(), resamples=400, seed=trial)[1]
        covered += low <= 1.3 <= high
    assert 0.9 <= covered / 200 <= 0.995


def test_flops_are_those_torch_counts():
    """Torch counts full attention: n² pairs where causal attention needs n(n+1)/2."""
    model, length = tiny(), 11
    model.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.arange(length)[None])
    shape = shape_of(model)
    assert shape == Shape(32, (Layer(32, 16, 48), Layer(32, 16, 48)))
    unneeded = sum(4 * layer.query * (length**2 - length * (length + 1) // 2) for layer in shape.layers)
    assert counter.get_total_flops() == flops(shape, [length]) + unneeded


def test_flops_of_a_model_that_attends_both_ways_are_exactly_those_torch_counts():
    config = ModernBertConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, attn_implementation="eager",
        pad_token_id=0, bos_token_id=0, eos_token_id=0, cls_token_id=0, sep_token_id=0,
    )  # fmt: skip
    model, length = surgery.apply(ModernBertModel(config).eval(), Cut(2, neurons={1: np.arange(16)})), 11
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.arange(length)[None])
    shape = shape_of(model)
    assert shape == Shape(32, (Layer(32, 32, 48), Layer(32, 32, 16)), causal=False)
    assert counter.get_total_flops() == flops(shape, [length])


def test_flops_add_up_over_texts_and_ignore_order():
    shape = shape_of(tiny())
    assert flops(shape, [3, 9, 4]) == flops(shape, [9]) + flops(shape, [4, 3])


def test_dropped_sub_layers_and_narrow_layers_cost_what_is_left():
    model = surgery.apply(tiny(), Cut(2, drop_attention=[0], drop_mlp=[1]))
    assert shape_of(model) == Shape(32, (Layer(0, 0, 48), Layer(32, 16, 0)))
    assert flops(shape_of(model), [5]) == 2 * 5 * 32 * (3 * 48) + 2 * 5 * 32 * (2 * 32 + 2 * 16) + 4 * 15 * 32
    narrow = surgery.apply(tiny(), Cut(2, neurons={0: np.arange(16)}))
    assert [layer.neurons for layer in shape_of(narrow).layers] == [16, 48]


def test_a_model_without_layers_has_no_shape_to_speak_of():
    assert shape_of(SimpleNamespace(config=SimpleNamespace(hidden_size=8, model_type="llama"), layers=[])) == Shape(8, ())


def test_summary_sets_the_ratio_against_the_bound():
    found = summary([(3.0, 2.0)] * 9, bound=2.0)
    assert found == {"reference": [3.0] * 9, "candidate": [2.0] * 9, "ratio": 1.5, "interval": [1.5, 1.5], "bound": 2.0, "of_bound": 0.75}


def test_few_texts_stand_for_all_lengths():
    lengths = [int(length) for length in np.random.default_rng(0).permutation(np.arange(1, 101))]
    chosen = [lengths[place] for place in spread_over_lengths(lengths, 10)]
    assert np.mean(chosen) == pytest.approx(50.5, abs=1)
    assert (min(chosen), max(chosen)) == (6, 96)
    assert len(spread_over_lengths(lengths, 1000)) == 100
