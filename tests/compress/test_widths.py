import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from effir.compress import widths
from effir.compress.cut import Cut


@settings(max_examples=80, deadline=None)
@given(
    layers=st.integers(1, 6),
    width=st.sampled_from([64, 96, 200]),
    ratio=st.floats(0.05, 1.0),
    multiple=st.sampled_from([1, 16, 64]),
    seed=st.integers(0, 99),
)
def test_widths_are_multiples_and_keep_the_total(layers, width, ratio, multiple, seed):
    random = np.random.default_rng(seed)
    scales = {layer: random.normal(1, 0.1, width) for layer in range(layers)}
    cut = widths.choose(Cut(layers), scales, ratio, multiple)
    left = [0 if layer in cut.drop_mlp else len(cut.neurons.get(layer, range(width))) for layer in range(layers)]
    assert all(one % multiple == 0 or one == width for one in left)
    assert abs(sum(left) - round(ratio * layers * width)) <= multiple
    for layer, kept in cut.neurons.items():
        dropped = np.setdiff1d(np.arange(width), kept)
        assert scales[layer][kept].min() >= scales[layer][dropped].max()


def test_the_ranking_is_global_and_ties_go_by_index():
    scales = {0: np.full(4, 1.0), 2: np.array([0.1, 2.0, 2.0, 0.1])}
    cut = widths.choose(Cut(3, drop_mlp=[1]), scales, 0.5, 1)
    assert cut.neurons[2].tolist() == [1, 2]
    assert cut.neurons[0].tolist() == [0, 1]
    assert cut.drop_mlp == [1]


def test_dead_neurons_do_not_tie():
    cut = widths.choose(Cut(1), {0: np.array([-0.5, -0.1, -0.3, -0.2])}, 0.5, 1)
    assert cut.neurons[0].tolist() == [1, 3]


def test_a_layer_that_keeps_nothing_is_dropped():
    cut = widths.choose(Cut(2), {0: np.ones(8), 1: np.zeros(8)}, 0.5, 4)
    assert cut.drop_mlp == [1]
    assert cut.neurons == {}


@settings(max_examples=60, deadline=None)
@given(
    widths_before=st.lists(st.sampled_from([64, 96, 200]), min_size=1, max_size=5),
    ratio=st.floats(0.01, 0.99),
    multiple=st.sampled_from([1, 16, 64]),
    seed=st.integers(0, 99),
)
def test_uniform_keeps_the_same_share_of_every_layer_and_its_best_neurons(widths_before, ratio, multiple, seed):
    random = np.random.default_rng(seed)
    scores = {layer: random.normal(layer, 1, width) for layer, width in enumerate(widths_before)}
    cut = widths.choose(Cut(len(scores)), scores, ratio, multiple, "uniform")
    assert cut.drop_mlp == []
    for layer, width in enumerate(widths_before):
        kept = cut.neurons.get(layer, np.arange(width))
        assert len(kept) % multiple == 0 or len(kept) == width
        assert abs(len(kept) - ratio * width) <= multiple / 2 or len(kept) == min(multiple, width)
        assert set(kept) == set(np.argsort(-scores[layer])[: len(kept)])


def test_the_rules_differ_where_one_layer_matters_more():
    scores = {0: np.arange(8.0), 1: np.arange(8.0) + 100}
    assert widths.choose(Cut(2), scores, 0.5, 2, "global").drop_mlp == [0]
    cut = widths.choose(Cut(2), scores, 0.5, 2, "uniform")
    assert {layer: kept.tolist() for layer, kept in cut.neurons.items()} == {0: [4, 5, 6, 7], 1: [4, 5, 6, 7]}
