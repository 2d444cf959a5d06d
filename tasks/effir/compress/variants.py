"""The paper's names for what is dropped: 8A, 16M, 16B, last16B, last8M, 16M8A, full."""

import re

import numpy as np

from effir.compress.cut import Cut
from effir.compress.importance import Importance
from effir.errors import BadInput

GRAMMAR = "full, or parts such as 8A (attention), 16M (MLPs), 4B (blocks), last16B, last8M one after another"
PART = re.compile(r"(last)?([1-9]\d*)([ABM])")


def parse(variant: str) -> list[tuple[bool, int, str]]:
    """(take the last ones?, how many, kind A, M or B) for every part of a name.

    >>> parse("16M8A")
    [(False, 16, 'M'), (False, 8, 'A')]
    """
    if variant == "full":
        return []
    parts = [(bool(last), int(count), kind) for last, count, kind in PART.findall(variant)]
    if "".join(f"{'last' * last}{count}{kind}" for last, count, kind in parts) != variant or not parts:
        raise BadInput(f"variant {variant!r} does not parse: write {GRAMMAR}")
    if len({kind for _, _, kind in parts}) != len(parts):
        raise BadInput(f"variant {variant!r} names the same kind of sub-layer twice")
    return parts


def choose(variant: str, importance: Importance) -> Cut:
    """The least important sub-layers of each kind (Eq. 4-5: groups ranked separately, lowest score dropped first).

    Ties go to the later layer. Raises BadInput if more is to be dropped than there is.
    """
    layers = len(importance.mean["mlp"])
    attention: set[int] = set()
    mlp: set[int] = set()
    for last, count, kind in parse(variant):
        check(variant, count, layers)
        name = {"A": "attention", "M": "mlp", "B": "block"}[kind]
        order = range(layers - 1, -1, -1) if last else ranking(importance.mean[name])
        chosen = set(list(order)[:count])
        attention |= chosen if kind in "AB" else set()
        mlp |= chosen if kind in "MB" else set()
    if len(attention & mlp) == layers:
        raise BadInput(f"variant {variant} would drop all {layers} layers of the model")
    return Cut(layers, sorted(attention), sorted(mlp))


def ranking(scores: np.ndarray) -> list[int]:
    """Layers from least to most important; of equals the later first."""
    return sorted(range(len(scores)), key=lambda index: (scores[index], -index))


def check(variant: str, count: int, layers: int) -> None:
    """Raises BadInput if `count` sub-layers cannot be dropped from `layers` layers."""
    if count > layers:
        raise BadInput(f"variant {variant} drops {count} sub-layers, but the model has only {layers} layers")
