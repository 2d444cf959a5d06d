"""The sub-layers that a variant's name drops, by importance (Eq. 4-5)."""

import numpy as np

from effir.compress.cut import Cut
from effir.compress.grammar import GRAMMAR, check, parse, split, take
from effir.compress.scores import Importance

__all__ = ["GRAMMAR", "check", "choose", "parse", "ranking", "split"]
KINDS = {"A": "attention", "M": "mlp", "B": "block"}


def choose(variant: str, importance: Importance) -> Cut:
    """The least important sub-layers of each kind (Eq. 4-5: groups ranked separately, lowest score dropped first).

    Ties go to the later layer; a width part of the name is left to widths.choose. Raises BadInput if the name does not parse or
    more is to be dropped than there is.
    """
    layers = len(importance.mean["mlp"])
    attention, mlp = take(variant, layers, {kind: ranking(importance.mean[name]) for kind, name in KINDS.items()})
    return Cut(layers, sorted(attention), sorted(mlp))


def ranking(scores: np.ndarray) -> list[int]:
    """Layers from least to most important; of equals the later first."""
    return sorted(range(len(scores)), key=lambda index: (scores[index], -index))
