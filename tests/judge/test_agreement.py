import numpy as np
import pytest

from effir.compress.scores import Importance
from effir.judge.agreement import agreements


def scores(attention: list[float], mlp: list[float]) -> Importance:
    mean = {"attention": np.array(attention), "mlp": np.array(mlp), "block": np.array(mlp)}
    return Importance(mean, mean, 0, 0)


def test_an_order_is_what_counts_and_not_the_scale() -> None:
    up = [float(one) for one in range(12)]
    found = agreements({"a": scores(up, up), "b": scores([one**3 for one in up], up[::-1]), "c": scores(up, [1.0] * 12)})
    assert [(one.first, one.second) for one in found] == [("a", "b"), ("a", "c")]
    assert (found[0].attention, found[0].mlp, found[0].same) == (1.0, -1.0, 4)
    assert (found[1].attention, found[1].mlp) == (1.0, None), "scores that are all alike have no order"


def test_it_is_the_correlation_of_ranks() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 30))
    (found,) = agreements({"a": scores(one, one), "b": scores(two, two)})
    ranks = [np.argsort(np.argsort(values)) for values in (one, two)]
    assert found.mlp == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_one_alone_agrees_with_nothing() -> None:
    assert agreements({"a": scores([0.0, 1.0], [0.0, 1.0])}) == []
