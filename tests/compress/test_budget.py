import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effir.compress import budget, costs, shapes, surgery
from effir.compress.budget import KINDS, Target, Utility
from effir.compress.costs import CostModel
from effir.compress.shapes import Backbone, Layer, Shape
from effir.errors import BadInput

WIDTH = 12
WIDTHS = {"mlp": [0, 12], "width": [5, 10, 12], "mlp width": [0, 5, 10, 12], "": [12]}


def backbone(layers: int = 3) -> Backbone:
    return Backbone(Shape(8, (Layer(8, 4, WIDTH),) * layers), 20, 4, 8, 8, 0, 8)


def utility(seed: int, layers: int = 3) -> Utility:
    random = np.random.default_rng(seed)
    return Utility(random.random(layers), random.random(layers), {layer: random.gamma(0.5, 1, WIDTH) for layer in range(layers)})


def timed(seed: int) -> CostModel:
    attention, step, start, layer, fixed = np.random.default_rng(seed).random(5)
    return CostModel("seconds", (4, 9), attention, ((4, start), (8, start + step), (12, start + 3 * step)), 0.3 * layer, fixed)


def best_of_all(utility: Utility, model: CostModel, target: Target, allow: tuple[str, ...]) -> float | None:
    """The most utility that any of all possible cuts keeps within the target, by trying every one."""
    whole, best = backbone(), None
    attention = [(True, False) if "attention" in allow else (True,)] * 3
    widths = [WIDTHS[" ".join(one for one in ("mlp", "width") if one in allow)]] * 3
    for kept in itertools.product(*attention):
        for left in itertools.product(*widths):
            if not any(kept) and not any(left):
                continue
            cut = shapes.cut(whole, [layer for layer in range(3) if not kept[layer]], left)
            if target.speedup and model.cost(cut.shape) > model.cost(whole.shape) / target.speedup:
                continue
            if target.parameters and shapes.count(cut)[0] > target.parameters:
                continue
            worth = sum(utility.attention[layer] for layer in range(3) if kept[layer])
            for layer, width in enumerate(left):
                scores = sorted(utility.neurons[layer], reverse=True)
                worth += utility.mlp[layer] * sum(scores[:width]) / sum(scores)
            best = worth if best is None else max(best, worth)
    return best


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    speedup=st.none() | st.floats(1.0, 6.0),
    parameters=st.none() | st.integers(200, 2200),
    allow=st.lists(st.sampled_from(KINDS), unique=True).map(tuple),
    arithmetic=st.booleans(),
)
def test_no_cut_within_the_target_is_better(
    seed: int, speedup: float | None, parameters: int | None, allow: tuple[str, ...], arithmetic: bool
) -> None:
    if speedup is None and parameters is None:
        speedup = 2.0
    given_utility, model, target = utility(seed), timed(seed), Target(speedup, parameters)
    if arithmetic:
        model = costs.arithmetic(backbone(), [4, 9])
    best = best_of_all(given_utility, model, target, allow)
    if best is None:
        for ask in (budget.choose, budget.check_reach):
            with pytest.raises(BadInput, match="out of reach"):
                ask(given_utility, model, backbone(), target, 5, allow)
        return
    budget.check_reach(given_utility, model, backbone(), target, 5, allow)
    found = budget.choose(given_utility, model, backbone(), target, 5, allow, gap=0)
    whole = given_utility.attention.sum() + given_utility.mlp.sum()
    assert found.utility_kept == pytest.approx(best / whole, rel=1e-6)
    assert found.utility_bound == pytest.approx(best / whole, rel=1e-6)
    assert found.speedup >= (speedup or 0) * (1 - 1e-6)
    assert found.parameters <= (parameters or found.parameters)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), speedups=st.lists(st.floats(1.0, 4.0), min_size=4, max_size=4).map(sorted))
def test_more_speed_never_keeps_more(seed: int, speedups: list[float]) -> None:
    model = costs.arithmetic(backbone(5), [16])
    kept = [budget.choose(utility(seed, 5), model, backbone(5), Target(one), 2, gap=0).utility_kept for one in speedups]
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(kept))


def test_the_nearest_within_reach_is_named_and_is_within_reach() -> None:
    model, whole = timed(3), backbone()
    with pytest.raises(BadInput, match=r"a speed-up of 500 is out of reach: with mlp to cut and widths in steps of 5") as caught:
        budget.choose(utility(3), model, whole, Target(500.0), 5, ("mlp",))
    nearest = float(re.findall(r"nearest is ([\d.]+)$", str(caught.value))[0])
    found = budget.choose(utility(3), model, whole, Target(nearest), 5, ("mlp",))
    assert nearest <= found.speedup < nearest + 0.01
    assert found.cut.drop_mlp == [0, 1, 2]
    with pytest.raises(BadInput, match=r"^10 parameters are out of reach: with attention, mlp, width to cut") as caught:
        budget.choose(utility(3), model, whole, Target(parameters=10), 5)
    smallest = int(re.findall(r"nearest is ([\d,]+)$", str(caught.value))[0].replace(",", ""))
    assert budget.choose(utility(3), model, whole, Target(parameters=smallest), 5).parameters == smallest
    with pytest.raises(BadInput, match="with nothing to cut"):
        budget.choose(utility(3), model, whole, Target(1.5), 5, ())


def test_a_cut_keeps_the_best_neurons_and_surgery_leaves_what_was_planned(tiny, tmp_path) -> None:
    model = tiny(layers=4, width=48)
    model.config.save_pretrained(tmp_path)
    whole = shapes.find(str(tmp_path))
    random = np.random.default_rng(1)
    scores = {layer: random.gamma(0.3, 1, 48).astype(np.float32) for layer in range(4)}
    worth = Utility(np.array([1.0, 0.01, 1.0, 0.01]), np.array([1.0, 0.5, 1e-4, 1e-4]), scores)
    found = budget.choose(worth, costs.arithmetic(whole, [64]), whole, Target(2.0), 8, gap=0)
    assert found.cut.drop_attention == [1, 3]
    assert max(found.widths[2:]) <= 8 < min(found.widths[:2])
    assert found.cut.neurons, "none was narrowed"
    for layer, kept in found.cut.neurons.items():
        assert len(kept) == found.widths[layer]
        assert scores[layer][kept].min() > np.delete(scores[layer], kept).max()
        assert kept.tolist() == sorted(kept)
    surgery.apply(model, found.cut)
    assert surgery.parameters(model)[0] == found.parameters
    assert [width for width in found.widths if width] == [width for width in surgery.widths(model) if width]
    left = shapes.cut(whole, found.cut.drop_attention, found.widths).shape
    assert found.speedup == pytest.approx(found.flop_bound) == pytest.approx(shapes.flops(whole.shape, [64]) / shapes.flops(left, [64]))


def test_what_was_cut_before_stays_cut() -> None:
    shape = Shape(8, (Layer(0, 0, WIDTH), Layer(8, 4, 0), Layer(8, 4, WIDTH)))
    whole = Backbone(shape, 20, 4, 8, 8, 0, 8)
    scores = {0: np.ones(WIDTH), 2: np.ones(WIDTH)}
    found = budget.choose(Utility(np.ones(3), np.ones(3), scores), costs.arithmetic(whole, [8]), whole, Target(1.01), 4)
    assert 0 in found.cut.drop_attention
    assert found.widths[1] == 0


def test_curve() -> None:
    assert budget.curve(np.array([1.0, 3.0, -5.0, 0.0])).tolist() == [0, 0.75, 1, 1, 1]
    assert budget.curve(np.array([-1.0, 0.0])).tolist() == [0, 0.5, 1]


def test_widths() -> None:
    assert budget.widths_of(10, 4, KINDS) == [0, 4, 8, 10]
    assert budget.widths_of(8, 4, ("width",)) == [4, 8]
    assert budget.widths_of(10, 4, ("mlp",)) == [0, 10]
    assert budget.widths_of(10, 4, ("attention",)) == [10]
    assert budget.widths_of(0, 4, ()) == [0]


def test_a_large_model_is_solved_close_to_its_bound() -> None:
    whole = shapes.BUILT_IN["mistral-7b-v0.1"]
    scores = {layer: np.random.default_rng(layer).gamma(1, 1, 14336) for layer in range(32)}
    found = budget.choose(
        Utility(np.linspace(1, 0.1, 32), np.linspace(1, 0.1, 32), scores), costs.arithmetic(whole, [64]), whole, Target(2.0), 256
    )
    assert found.speedup >= 2.0
    assert 0 <= found.utility_bound - found.utility_kept <= 2.1e-4
    assert all(width % 256 == 0 for width in found.widths)


def test_a_search_cut_short_still_meets_its_target_and_says_how_good_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shapes.BUILT_IN["smollm2-135m"]
    depth = np.linspace(1, 0.1, 30)
    worth = Utility(depth, depth, {layer: np.arange(1536, 0, -1.0) for layer in range(30)})
    monkeypatch.setattr(budget, "NODES", 1)
    found = budget.choose(worth, costs.arithmetic(whole, [64]), whole, Target(parameters=75_000_000), gap=0)
    assert found.parameters <= 75_000_000
    assert 0 < found.utility_bound - found.utility_kept < 0.01


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"target": Target()}, "needs a target"),
        ({"allow": ("mlp", "blocks")}, "cannot allow blocks: choose among attention, mlp, width"),
        ({"utility": utility(0, 4)}, "for 4 attentions and 4 MLPs of 3 layers"),
        ({"utility": Utility(np.ones(3), np.full(3, np.nan), utility(0).neurons)}, "not a finite number"),
        ({"utility": Utility(np.ones(3), np.ones(3), {0: np.ones(WIDTH)})}, "layer 1 has 12 neurons, and scores for 0"),
    ],
)
def test_what_does_not_fit_is_said(change: dict, sentence: str) -> None:
    arguments = {"utility": utility(0), "costs": timed(0), "backbone": backbone(), "target": Target(1.5), "multiple": 5}
    with pytest.raises(BadInput, match=sentence):
        budget.choose(**(arguments | change))


def test_too_many_choices_are_refused_at_once() -> None:
    whole = shapes.BUILT_IN["mistral-7b-v0.1"]
    scores = {layer: np.ones(14336) for layer in range(32)}
    with pytest.raises(BadInput, match=r"widths in steps of 1 give over 100,000 choices: take a larger multiple"):
        budget.choose(Utility(np.ones(32), np.ones(32), scores), costs.arithmetic(whole, [64]), whole, Target(2.0), 1)
