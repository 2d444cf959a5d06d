"""Which layers live and how wide they are: what the scores said of every sub-layer, and what was left of it, as SVG."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from effir.judge.pictures import WIDTH, svg, svg_box, svg_dot, svg_line, svg_text, ticks, widened

LEFT, RIGHT = 70, WIDTH - 20
TOP, BOTTOM = 36, 200
KINDS = ("attention", "mlp")


@dataclass(frozen=True)
class Layers:
    """A model's layers before and after the cut; every sequence has an entry a layer.

    measure: what scored the sub-layers; importance, error: "attention" and "mlp" → means and standard errors
    full, left: MLP neurons before and after (0: the MLP is gone); dropped: layers whose attention is gone
    """

    measure: str
    importance: Mapping[str, Sequence[float]]
    error: Mapping[str, Sequence[float]]
    full: Sequence[int]
    left: Sequence[int]
    dropped: Sequence[int] = ()

    def gone(self, kind: str, layer: int) -> bool:
        """Whether the sub-layer was dropped."""
        return layer in self.dropped if kind == "attention" else not self.left[layer]


def widths(found: Layers) -> str:
    """A bar a layer, as tall as its MLP was, filled as far as it still is; above it a square: the attention, hollow where gone."""
    most, step = max(found.full), (RIGHT - LEFT) / len(found.full)
    parts = [svg_text(LEFT - 8, 18, "attention", "label"), svg_text(LEFT - 8, TOP + 4, f"{most:,}", "label")]
    parts += [svg_text(LEFT - 8, BOTTOM + 4, "0", "label"), svg_text(LEFT - 8, (TOP + BOTTOM) / 2, "MLP", "label")]
    for layer, (full, left) in enumerate(zip(found.full, found.left, strict=True)):
        x, width = LEFT + layer * step, max(step - 3, 1)
        hollow = found.gone("attention", layer)
        side = min(width, 10)
        told = f"layer {layer}: attention {'dropped' if hollow else 'kept'}"
        parts.append(svg_box(x + (width - side) / 2, 14 - side / 2, side, side, "gone" if hollow else "first", told))
        for neurons, kind in ((full, "before"), (left, "after")):
            height = neurons / most * (BOTTOM - TOP)
            parts.append(svg_box(x, BOTTOM - height, width, height, kind, f"layer {layer}: {left:,} of {full:,} MLP neurons"))
    parts += [svg_line(LEFT, BOTTOM, RIGHT, BOTTOM, "zero"), *_layer_numbers(len(found.full))]
    lost = sum(not left for left in found.left)
    gone = f"{len(found.dropped)} of {len(found.full)} attentions and {lost} MLPs are gone"
    told = f"{gone}; {sum(found.left):,} of {sum(found.full):,} neurons stay"
    return svg(BOTTOM + 40, parts, f"What is left of each layer: {told}")


def importance(found: Layers) -> str:
    """Scores of attention and MLP a layer, with standard errors; hollow: dropped. Logarithmic where scores span powers of ten."""
    low, high, marks, scale = _scale([value for kind in KINDS for value in found.importance[kind]])
    step = (RIGHT - LEFT) / len(found.full)

    def y(value: float) -> float:
        return BOTTOM - (scale(value) - low) / (high - low) * (BOTTOM - TOP)

    parts = []
    for mark in marks:
        parts += [svg_line(LEFT, y(mark), RIGHT, y(mark), "grid"), svg_text(LEFT - 8, y(mark) + 4, f"{mark:g}", "label")]
    for number, kind in enumerate(KINDS):
        places = [(LEFT + (layer + 0.5) * step, value) for layer, value in enumerate(found.importance[kind])]
        parts.append(f'<polyline class="line line{number}" points="{" ".join(f"{x:.1f},{y(value):.1f}" for x, value in places)}"/>')
        for layer, (x, value) in enumerate(places):
            gap, gone = found.error[kind][layer], found.gone(kind, layer)
            ends = [min(max(y(value + sign * gap), TOP), BOTTOM) for sign in (-1, 1)]
            parts.append(svg_line(x, ends[0], x, ends[1], "spread"))
            told = f"{kind} of layer {layer}: {value:.4g} ± {gap:.2g}{', dropped' if gone else ''}"
            parts.append(svg_dot(x, y(value), f"dot{number}{' hollow' if gone else ''}", told))
        parts.append(svg_text(RIGHT - 10 - 60 * (1 - number), 16, kind, f"legend line{number}"))
    parts += [svg_line(LEFT, BOTTOM, RIGHT, BOTTOM, "zero"), *_layer_numbers(len(found.full))]
    return svg(BOTTOM + 40, parts, f"Importance of attention and MLP by layer ({found.measure}); hollow dots were dropped")


def _scale(values: Sequence[float]) -> tuple[float, float, list[float], Callable[[float], float]]:
    """Ends of an axis as it is drawn, the values that are marked on it, and what turns a value into a place between the ends."""
    if min(values) > 0 and max(values) > 20 * min(values):
        smallest = math.log10(min(values)) - 1
        low, high = widened(math.log10(min(values)), math.log10(max(values)))
        marks = [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]
        return low, high, marks, lambda value: math.log10(value) if value > 0 else smallest
    low, high = widened(min(values), max(values))
    return low, high, ticks(low, high), lambda value: value


def _layer_numbers(count: int) -> list[str]:
    """Layer numbers below a picture, ten at most."""
    step = (RIGHT - LEFT) / count
    every = -(-count // 10)
    shown = [svg_text(LEFT + (layer + 0.5) * step, BOTTOM + 18, str(layer), "tick") for layer in range(0, count, every)]
    return [*shown, svg_text((LEFT + RIGHT) / 2, BOTTOM + 36, "layer", "tick")]
