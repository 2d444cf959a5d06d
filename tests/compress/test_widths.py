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
