"""From neuron scores to widths: one ranking over all kept MLPs or one share for each, rounded to what hardware likes."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from effir.compress.cut import Cut

Rule = Literal["global", "uniform"]


def choose(depth: Cut, scores: dict[int, np.ndarray], keep_ratio: float, multiple: int, rule: Rule = "global") -> Cut:
    """Add to a depth cut the neurons that stay.

    scores: layer → score of each neuron, (width,); of z, itself and not ReLU(z), so that dead neurons do not tie. Ties go by
    (layer, index), the first stays. rule: how many stay in each layer, see `global_widths` and `uniform_widths`; which ones
    is decided by the scores. A layer of width 0 becomes a dropped MLP.
    """
    order = sorted(scores)
    full = np.array([len(scores[layer]) for layer in order])
    if rule == "global":
        found = global_widths([scores[layer] for layer in order], keep_ratio, multiple)
    else:
        found = uniform_widths(full, keep_ratio, multiple)
    neurons, dropped = {}, set(depth.drop_mlp)
    for layer, width, whole in zip(order, found, full, strict=True):
        if width == 0:
            dropped.add(layer)
        elif width < whole:
            neurons[layer] = np.sort(np.argsort(-scores[layer], kind="stable")[:width])
    return Cut(depth.layers, sorted(depth.drop_attention), sorted(dropped), neurons)


def global_widths(scores: Sequence[np.ndarray], keep_ratio: float, multiple: int) -> np.ndarray:
    """The neurons of all layers ranked together, and each layer as wide as it has neurons among the best.

    Widths are multiples of `multiple` (or a layer's full width), and their sum is the multiple nearest to keep_ratio × all neurons.
    """
    full = np.array([len(one) for one in scores])
    target = round(keep_ratio * full.sum())
    owner = np.repeat(np.arange(len(full)), full)
    best = np.argsort(-np.concatenate(scores), kind="stable")[:target]
    return round_widths(np.bincount(owner[best], minlength=len(full)), full, multiple, target)


def uniform_widths(full: np.ndarray, keep_ratio: float, multiple: int) -> np.ndarray:
    """Every layer keeps the same share: the multiple of `multiple`, or the full width, that is nearest to keep_ratio × its width.

    Never 0; of two equally near, the narrower.
    """

    def nearest(whole: int) -> int:
        return min([*range(multiple, whole, multiple), whole], key=lambda width: abs(width - keep_ratio * whole))

    return np.array([nearest(int(whole)) for whole in full])


def round_widths(wanted: np.ndarray, full: np.ndarray, multiple: int, target: int) -> np.ndarray:
    """Widths near `wanted`, each a multiple or the layer's full width, whose sum is as near to `target` as steps allow.

    Largest remainder: round down, then give one step at a time to the layer that is furthest below its wanted width.
    """
    steps = (wanted // multiple) * multiple
    steps = np.where(wanted == full, full, steps)
    while True:
        room = np.minimum(multiple, full - steps)
        short = np.where(room > 0, wanted - steps, -np.inf)
        pick = int(np.argmax(short))
        gain = room[pick]
        if gain <= 0 or abs(steps.sum() + gain - target) >= abs(steps.sum() - target):
            return steps
        steps[pick] += gain
