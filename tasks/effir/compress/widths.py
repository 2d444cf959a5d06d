"""From z to widths: one ranking over all kept MLPs, rounded to what hardware likes, the total kept."""

import numpy as np

from effir.compress.cut import Cut


def choose(depth: Cut, scales: dict[int, np.ndarray], keep_ratio: float, multiple: int) -> Cut:
    """Add to a depth cut the neurons that stay.

    scales: layer → z of shape (width,). z itself is ranked, not ReLU(z), so that dead neurons do not tie; ties go by
    (layer, index), the first stays. Widths are multiples of `multiple` (or a layer's full width), and their sum is the
    multiple nearest to keep_ratio × all neurons. A layer of width 0 becomes a dropped MLP.
    """
    order = sorted(scales)
    full = np.array([len(scales[layer]) for layer in order])
    target = keep_ratio * full.sum()
    flat = np.concatenate([scales[layer] for layer in order])
    owner = np.repeat(np.arange(len(order)), full)
    best = np.argsort(-flat, kind="stable")[: round(target)]
    wanted = np.bincount(owner[best], minlength=len(order))
    found = round_widths(wanted, full, multiple, round(target))
    neurons, dropped = {}, set(depth.drop_mlp)
    for layer, width, whole in zip(order, found, full, strict=True):
        if width == 0:
            dropped.add(layer)
        elif width < whole:
            neurons[layer] = np.sort(np.argsort(-scales[layer], kind="stable")[:width])
    return Cut(depth.layers, sorted(depth.drop_attention), sorted(dropped), neurons)


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
