from contextlib import contextmanager
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch

from effir.compress import importance, measures, needs, pictures, surgery, variants
from effir.compress.cut import Cut
from effir.compress.measures import MEASURES
from effir.spec import RunSpec
from effir.train.plan import Texts

LOOKING = [name for name, need in needs.IMPORTANCE.items() if need != "nothing"]
ALONE = [name for name in LOOKING if name not in {"in_turn", "learned_mask"}]


def told(done, total):
    assert 0 < done <= total


@pytest.fixture
def score(pairs, ids):
    """Scores a model by a measure's name, on calibration text or contrastive batches as the measure needs."""

    def run(name, model, **settings):
        data = {"text": [(ids, torch.ones_like(ids))], "pairs": pairs(model, **settings), "nothing": 0}
        return MEASURES[name](model, data[needs.IMPORTANCE[name]], told)

    return run


def test_every_measure_has_a_need_a_spec_value_and_an_axis():
    assert set(MEASURES) == set(needs.IMPORTANCE) == set(pictures.AXES)
    assert set(MEASURES) == set(get_args(RunSpec.model_fields["importance_measure"].annotation))


@pytest.mark.parametrize("name", ALONE)
def test_a_sub_layer_that_does_nothing_scores_zero_and_goes_first(tiny, score, name):
    model = tiny()
    torch.nn.init.zeros_(model.layers[1].self_attn.o_proj.weight)
    torch.nn.init.zeros_(model.layers[2].mlp.down_proj.weight)
    found = score(name, model)
    assert found.mean["attention"][1] == pytest.approx(0, abs=1e-6)
    assert found.mean["mlp"][2] == pytest.approx(0, abs=1e-6)
    others = {"attention": np.delete(found.mean["attention"], 1), "mlp": np.delete(found.mean["mlp"], 2), "block": found.mean["block"]}
    assert all(np.abs(rest).min() > 2e-6 for rest in others.values()), others
    if name != "leave_one_out":
        cut = variants.choose("1A1M", found)
        assert (cut.drop_attention, cut.drop_mlp) == ([1], [2])


@pytest.mark.parametrize("name", ALONE)
def test_a_layer_made_weak_becomes_the_least_important(tiny, score, name):
    model = tiny()
    for projection in (model.layers[1].self_attn.o_proj, model.layers[1].mlp.down_proj):
        projection.weight.data *= 1e-3
    found = score(name, model)
    for kind in importance.KINDS:
        assert np.abs(found.mean[kind]).argmin() == 1, kind


@pytest.mark.parametrize("name", LOOKING)
def test_measuring_leaves_the_model_as_it_was(tiny, score, ids, name):
    model = tiny()
    before = model(input_ids=ids, use_cache=False).last_hidden_state
    score(name, model)
    after = model(input_ids=ids, use_cache=False).last_hidden_state
    assert torch.equal(before, after)
    assert not after.requires_grad
    assert all(value.grad is None for value in model.parameters())


def test_l2_is_the_mean_relative_length_of_what_is_added(tiny, ids):
    model = tiny()
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    expected = []
    with torch.no_grad():
        states = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    for before, after in pairwise(states[:4]):
        ratio = (after - before).pow(2).sum(-1).sqrt() / before.pow(2).sum(-1).sqrt()
        expected.append(float(ratio[mask.bool()].mean()))
    found = MEASURES["l2"](model, [(ids, mask)], told)
    assert np.allclose(found.mean["block"][:3], expected, rtol=1e-5)


def test_l2_of_the_first_attention_is_as_small_as_that_attention_is_made(tiny, ids):
    model, weak = tiny(), tiny()
    weak.layers[0].self_attn.o_proj.weight.data *= 0.01
    full, small = (MEASURES["l2"](one, [(ids, torch.ones_like(ids))], told).mean["attention"][0] for one in (model, weak))
    assert small == pytest.approx(0.01 * full, rel=1e-4)


def test_attended_weighs_tokens_by_the_attention_that_they_receive(tiny, ids):
    """Against states and attentions that transformers gives, written out for every text on its own."""
    model = tiny()
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    model.set_attn_implementation("eager")
    expected = []
    for row, length in ((0, 9), (1, 6)):
        with torch.no_grad():
            out = model(input_ids=ids[row : row + 1, :length], use_cache=False, output_hidden_states=True, output_attentions=True)
        share = torch.stack(out.attentions)[:, 0].mean((0, 1, 2))
        assert float(share.sum()) == pytest.approx(1)
        assert share.argmax() == 0
        expected.append([float((measures.importance.one_minus_cosine(x, y)[0] * share).sum()) for x, y in pairwise(out.hidden_states[:4])])
    model.set_attn_implementation("sdpa")
    found = MEASURES["attended"](model, [(ids, mask)], told)
    assert np.allclose(found.mean["block"][:3], np.average(expected, axis=0, weights=[9, 6]), rtol=1e-5)
    assert found.tokens == 15
    assert not np.allclose(found.mean["block"], MEASURES["cosine"](model, [(ids, mask)], told).mean["block"], rtol=0.01)


@pytest.mark.parametrize(("looked_at", "matters"), [(0, False), (5, True)])
def test_attended_passes_over_what_no_token_looks_at(tiny, ids, looked_at, matters):
    """One MLP changes token 5 alone, and all tokens look at one token alone."""
    model = tiny()

    def only(_module, _args, output):
        output[:, torch.arange(9) != 5] = 0
        return output

    def stares(_module, _args, output):
        weights = torch.zeros(2, 4, 9, 9)
        weights[..., looked_at] = 1
        return output[0], weights

    model.layers[2].mlp.register_forward_hook(only)
    for layer in model.layers:
        layer.self_attn.register_forward_hook(stares)
    found = MEASURES["attended"](model, [(ids, torch.ones_like(ids))], told).mean["mlp"]
    plain = MEASURES["cosine"](model, [(ids, torch.ones_like(ids))], told).mean["mlp"]
    assert plain[2] > 1e-5
    assert found[2] == pytest.approx(9 * plain[2] if matters else 0, abs=1e-6)


@pytest.mark.parametrize("name", ["cosine", "l2", "attended"])
def test_padded_text_scores_as_text_without_padding(tiny, ids, name):
    model, mask = tiny(), torch.ones_like(ids)
    mask[1, 6:] = 0
    padded = MEASURES[name](model, [(ids, mask)], told)
    apart = MEASURES[name](model, [(ids[:1], mask[:1]), (ids[1:, :6], mask[1:, :6])], told)
    for kind in importance.KINDS:
        assert np.allclose(padded.mean[kind], apart.mean[kind], rtol=1e-6)
        assert np.allclose(padded.error[kind], apart.error[kind], rtol=1e-6)


@pytest.mark.parametrize("settings", [{"batch_tokens": 1}, {"batch_tokens": 20}, {"micro_batch": 3}])
@pytest.mark.parametrize("name", ["taylor", "leave_one_out"])
def test_padding_and_the_micro_batch_do_not_matter(tiny, score, name, settings):
    plain, other = score(name, tiny(layers=2)), score(name, tiny(layers=2), **settings)
    for kind in importance.KINDS:
        assert np.allclose(plain.mean[kind], other.mean[kind], rtol=1e-3, atol=1e-6)


@contextmanager
def gated(model, kind, index, gate):
    """Multiplies what a sub-layer or a block adds by `gate`: attention and MLP in their weights, a block at its output."""
    layer = model.layers[index]
    if kind == "block":
        hook = layer.register_forward_hook(lambda _, args, out: args[0] + gate * (out - args[0]))
        yield
        hook.remove()
        return
    weight = (layer.self_attn.o_proj if kind == "attention" else layer.mlp.down_proj).weight
    before = weight.data.clone()
    weight.data *= gate
    yield
    weight.data = before


@pytest.mark.parametrize("kind", importance.KINDS)
def test_taylor_is_the_derivative_by_a_gate(tiny, pairs, loss_by_hand, kind):
    """Central differences; a step much smaller would drown in Llama's norm, which computes in float32 whatever it is given."""
    model = tiny(layers=3)
    given = pairs(model, steps=2)
    found = MEASURES["taylor"](model, given, told).mean[kind]
    step = 3e-3
    for index in range(3):
        slopes = []
        for batch in range(2):
            ends = []
            for gate in (1 - step, 1 + step):
                with gated(model, kind, index, gate), torch.no_grad():
                    ends.append(float(loss_by_hand(model, given, batch)))
            slopes.append(abs(ends[1] - ends[0]) / (2 * step))
        assert found[index] == pytest.approx(np.mean(slopes), rel=5e-4, abs=2e-5)


@pytest.mark.parametrize("name", ["taylor", "leave_one_out"])
def test_in_bfloat16_the_scores_are_nearly_the_same(tiny, score, name):
    exact, rough = score(name, tiny(), steps=4), score(name, tiny().bfloat16(), steps=4, mixed=True)
    flat = [np.concatenate([one.mean[kind] for kind in importance.KINDS]) for one in (exact, rough)]
    assert np.corrcoef(*flat)[0, 1] > 0.98


def test_leaving_out_is_what_dropping_is(tiny, pairs, loss_by_hand):
    model = tiny(layers=3)
    given = pairs(model)
    found = MEASURES["leave_one_out"](model, given, told)
    whole = [given.evaluate(step)["info_nce"] for step in range(2)]
    for kind in importance.KINDS:
        for index in range(3):
            gone = {"drop_attention": [index]} if kind != "mlp" else {}
            gone |= {"drop_mlp": [index]} if kind != "attention" else {}
            smaller = surgery.drop(tiny(layers=3), Cut(3, **gone))
            without = pairs(smaller)
            rises = [without.evaluate(step)["info_nce"] - whole[step] for step in range(2)]
            assert found.mean[kind][index] == np.mean(rises)
            assert found.error[kind][index] == pytest.approx(abs(rises[0] - rises[1]) / 2)
            exact = np.mean([float(loss_by_hand(smaller, given, step)) - float(loss_by_hand(model, given, step)) for step in range(2)])
            assert found.mean[kind][index] == pytest.approx(exact, abs=1e-5)


def test_leaving_out_costs_three_passes_a_layer_and_one(tiny, pairs):
    model = tiny()
    given = pairs(model, steps=3)
    given.evaluate(0)
    each = given.encoder.forward_passes
    seen = []
    MEASURES["leave_one_out"](model, given, lambda done, total: seen.append((done, total)))
    assert given.encoder.forward_passes - each == each * 3 * (3 * 4 + 1)
    assert seen == [(done, 39) for done in range(1, 40)]


def test_the_error_is_that_of_the_mean_over_batches(tiny, pairs):
    model = tiny()
    given = pairs(model, steps=3)
    together = MEASURES["taylor"](model, given, told)
    plan, apart = given.plan, []
    for step in plan:
        given.plan = [step]
        apart.append(MEASURES["taylor"](model, given, told))
    assert together.samples == 3
    assert together.tokens == sum(one.tokens for one in apart)
    for kind in importance.KINDS:
        scores = np.array([one.mean[kind] for one in apart])
        assert np.allclose(together.mean[kind], scores.mean(0))
        assert np.allclose(together.error[kind], scores.std(0, ddof=1) / np.sqrt(3))
        assert not apart[0].error[kind].any()


def test_depth_drops_the_last(tiny):
    found = MEASURES["depth"](tiny(), 0, told)
    for plain in ("2M", "2B"):
        assert variants.choose(plain, found) == variants.choose(f"last{plain}", found)
    assert variants.choose("1A", found).drop_attention == [3]


def test_random_depends_on_the_seed_alone(tiny):
    first, again, other = (MEASURES["random"](tiny(seed=number), seed, told) for number, seed in ((0, 1), (1, 1), (0, 2)))
    for kind in importance.KINDS:
        assert np.array_equal(first.mean[kind], again.mean[kind])
        assert not np.array_equal(first.mean[kind], other.mean[kind])
        assert ((first.mean[kind] >= 0) & (first.mean[kind] < 1)).all()
    assert not np.array_equal(first.mean["attention"], first.mean["mlp"])


@pytest.mark.parametrize("name", ["cosine", "leave_one_out", "random"])
def test_a_picture_of_scores_above_and_below_zero(tiny, score, tmp_path, name):
    pictures.layer_scores(score(name, tiny()), name, tmp_path / "importance.png")
    assert (tmp_path / "importance.png").read_bytes().startswith(b"\x89PNG")


class Needs:
    """A loss of which the right order is known: each unit vector that is missing at the end costs 1."""

    plan = ((),)
    texts = Texts({}, {}, {})

    def __init__(self, model):
        self.model, self.looks = model, 0

    def evaluate(self, step):
        self.looks += 1
        with torch.no_grad():
            end = self.model(input_ids=torch.zeros((1, 1), dtype=torch.long)).last_hidden_state[0, 0]
        return {"info_nce": float((1 - end[:3].clamp(max=1)).sum())}


@pytest.fixture
def giving(tiny):
    """A model whose named sub-layers add a unit vector each, and all others nothing."""

    def make(given):
        model = tiny(layers=3)
        model.norm = torch.nn.Identity()
        torch.nn.init.zeros_(model.embed_tokens.weight)

        def adds(axis):
            def add(_module, _args, output):
                vector = torch.zeros_like(output[0] if isinstance(output, tuple) else output)
                if axis is not None:
                    vector[..., axis] = 1
                return (vector, *output[1:]) if isinstance(output, tuple) else vector

            return add

        for index, layer in enumerate(model.layers):
            layer.self_attn.register_forward_hook(adds(given.get(("attention", index))))
            layer.mlp.register_forward_hook(adds(given.get(("mlp", index))))
        return Needs(model)

    return make


def test_of_two_that_stand_in_for_each_other_one_is_needed(giving):
    needs_both = giving({("mlp", 0): 0, ("mlp", 2): 0, ("attention", 1): 1})
    alone = MEASURES["leave_one_out"](needs_both.model, needs_both, told).mean
    assert alone["mlp"].tolist() == [0, 0, 0] and alone["attention"].tolist() == [0, 1, 0]
    found = MEASURES["in_turn"](needs_both.model, needs_both, told).mean
    size = 3 * 32 * 48 / (32 * 32 * 2 + 32 * 16 * 2)
    assert sorted(found["mlp"][[0, 2]]) == [0, pytest.approx(1)]
    assert found["mlp"][1] == 0 and found["attention"][[0, 2]].tolist() == [0, 0]
    assert found["attention"][1] == pytest.approx(1) and size > 1
    assert found["block"].tolist() == (found["attention"] + found["mlp"]).tolist()


def test_in_turn_is_greedy_removal(tiny, pairs, monkeypatch):
    """With no bound to what it looks at, it gives the order of a search written out: a price is looked at again before it is paid."""
    monkeypatch.setattr(measures, "LOOKS", 100)
    model = tiny(layers=3)
    given = pairs(model)
    found = MEASURES["in_turn"](model, given, told).mean
    parts = [(kind, index) for index in range(3) for kind in ("attention", "mlp")]

    def loss(gone):
        with measures.without(model, gone):
            return np.mean([given.evaluate(step)["info_nce"] for step in range(2)])

    size = {"attention": sum(one.numel() for one in model.layers[0].self_attn.parameters()), "mlp": 3 * 32 * 48}
    seemed = {one: (loss([one]) - loss([])) / size[one[0]] for one in sorted(parts)}
    order = []
    while seemed:
        fresh = set(seemed) if not order else set()
        while (one := min(seemed, key=lambda one: (seemed[one], one))) not in fresh:
            seemed[one] = (loss([*order, one]) - loss(order)) / size[one[0]]
            fresh.add(one)
        order.append(one)
        del seemed[one]
    worth = [found[kind][index] / size[kind] for kind, index in order]
    assert worth == sorted(worth)
    sizes = [size[kind] for kind, _ in order]
    prices = [(loss(order[: turn + 1]) - loss(order[:turn])) / sizes[turn] for turn in range(len(order))]
    assert worth == pytest.approx(measures.rising(prices, sizes).tolist(), rel=1e-4)


def regressed(prices, weights):
    """Isotonic regression by its min-max formula."""

    def mean(start, end):
        return np.average(prices[start:end], weights=np.square(weights[start:end]))

    count = len(prices)
    return [max(min(mean(start, end) for end in range(turn + 1, count + 1)) for start in range(turn + 1)) for turn in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_what_rises_rises_strictly_and_stays_near_the_regression(seed):
    dice = np.random.default_rng(seed)
    prices, weights = np.linspace(0, 2, 40) + dice.normal(0, 1, 40), dice.choice([1, 3], 40)
    found, wanted = measures.rising(prices, weights), np.array(regressed(prices, weights))
    assert (np.diff(found) > 0).all()
    for level in np.unique(wanted.round(9)):
        step = np.abs(wanted - level) < 1e-8
        assert found[step].mean() == pytest.approx(level)
        others = np.abs(wanted[~step] - level)
        assert np.abs(found[step] - level).max() <= others.min() / 3 + 1e-9


def test_what_rises_already_and_what_is_equal_stays():
    assert measures.rising([0.0, 0.0, 0.0, 1.0, 5.0], [1, 3, 1, 3, 1]).tolist() == [0, 0, 0, 1, 5]
    assert measures.rising([2.0, 1.0], [1, 1]).tolist() == [1, 2]
    assert measures.rising([3.0], [7]).tolist() == [3]


def test_in_turn_looks_at_few(giving):
    model = giving({("mlp", 0): 0})
    MEASURES["in_turn"](model.model, model, told)
    assert model.looks <= 1 + 6 + needs.LOOKS * 5
