import numpy as np
import pytest

from effir.compress import variants
from effir.compress.scores import Importance
from effir.errors import BadInput

MEAN = {"attention": np.array([4.0, 1.0, 2.0, 3.0]), "mlp": np.array([1.0, 3.0, 2.0, 2.0]), "block": np.array([9.0, 8.0, 1.0, 7.0])}
SCORES = Importance(MEAN, MEAN, 10, 2)


@pytest.mark.parametrize(
    ("variant", "attention", "mlp"),
    [
        ("full", [], []),
        ("1A", [1], []),
        ("2M", [], [0, 3]),
        ("3M", [], [0, 2, 3]),
        ("2B", [2, 3], [2, 3]),
        ("last2B", [2, 3], [2, 3]),
        ("last2M", [], [2, 3]),
        ("1M2A", [1, 2], [0]),
        ("last1B1A", [1, 3], [3]),
    ],
)
def test_choice(variant, attention, mlp):
    cut = variants.choose(variant, SCORES)
    assert (cut.drop_attention, cut.drop_mlp) == (attention, mlp)


@pytest.mark.parametrize("variant", ["", "M", "0M", "8X", "last8", "8M8M", "8m", "last4B-2M", "16M30%"])
def test_what_does_not_parse(variant):
    with pytest.raises(BadInput, match="variant"):
        variants.parse(variant)


def test_more_than_there_is():
    with pytest.raises(BadInput, match="5M drops 5 sub-layers, but the model has only 4 layers"):
        variants.choose("5M", SCORES)
    with pytest.raises(BadInput, match="would drop all 4 layers"):
        variants.choose("4B", SCORES)
