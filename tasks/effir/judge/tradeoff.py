"""The picture quality against speed: a dot a timed model with its intervals, the others as levels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from effir.judge.pictures import WIDTH, svg, svg_line, svg_text, ticks, widened

LEFT, RIGHT, TOP, BOTTOM = 60, WIDTH - 130, 20, 380
APART = 16
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Point:
    """A model in the picture.

    quality: points of nDCG@10 (0 to 100); interval: of the quality; speed: (ratio, low, high), None for a model that was not timed;
    best: whether no other is both better and faster; whole: whether it stands for a model of which nothing is cut
    """

    label: str
    quality: float
    interval: tuple[float, float] | None = None
    speed: tuple[float, float, float] | None = None
    best: bool = False
    told: str = ""
    whole: bool = False


def against_reference(difference: float, interval: Sequence[float]) -> str:
    """What a point's `told` says of its mean difference from the reference (fractions of 1), with the interval."""
    return f"; {100 * difference:+.1f} against the reference ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})"


def tradeoff(points: Sequence[Point], title: str, *, frontier: bool = True) -> str:
    """The picture as SVG, empty where nothing was timed; frontier: join the best by a line. Several whole ones are joined."""
    timed = [point for point in points if point.speed]
    if not timed:
        return ""
    speeds = _range([end for point in timed if point.speed for end in point.speed])
    heights = _range([end for point in points for end in (point.quality, *(point.interval or ()))])
    x, y = _scale(speeds, LEFT, RIGHT), _scale(heights, BOTTOM, TOP)
    parts = [*_axes(speeds, heights, x, y)]
    parts += _levels([point for point in points if not point.speed], y)
    if frontier:
        parts.append(_joined([point for point in timed if point.best], "line line2", x, y))
    if len(whole := [point for point in timed if point.whole]) > 1:
        parts.append(_joined(whole, "line siblings", x, y))
    parts += [_dot(point, x, y) for point in timed]
    return svg(BOTTOM + 50, parts, title)


def _joined(points: Sequence[Point], name: str, x: Scale, y: Scale) -> str:
    ends = sorted((point.speed[0], point.quality) for point in points if point.speed)
    return f'<polyline class="{name}" points="{" ".join(f"{x(speed):.1f},{y(quality):.1f}" for speed, quality in ends)}"/>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    return widened(min(values), max(values))


def _scale(ends: tuple[float, float], first: float, last: float) -> Scale:
    return lambda value: first + (value - ends[0]) / (ends[1] - ends[0]) * (last - first)


def _axes(speeds: tuple[float, float], heights: tuple[float, float], x: Scale, y: Scale) -> list[str]:
    parts = [svg_line(LEFT, BOTTOM, RIGHT, BOTTOM, "zero")]
    for tick in ticks(*heights):
        parts += [svg_line(LEFT, y(tick), RIGHT, y(tick), "grid"), svg_text(LEFT - 8, y(tick) + 4, f"{tick:g}", "label")]
    parts += [svg_text(x(tick), BOTTOM + 20, f"{tick:g}×", "tick") for tick in ticks(*speeds)]
    return [*parts, svg_text((LEFT + RIGHT) / 2, BOTTOM + 40, "document speed-up over the full-size reference", "tick")]


def _levels(levels: Sequence[Point], y: Scale) -> list[str]:
    """Models that were not timed: a dashed line each, named at the right end, names at least APART pixels from each other."""
    parts: list[str] = []
    lowest = float(TOP - APART)
    for point in sorted(levels, key=lambda point: -point.quality):
        lowest = max(y(point.quality), lowest + APART)
        parts += [svg_line(LEFT, y(point.quality), RIGHT, y(point.quality), "level")]
        parts += [svg_text(RIGHT + 8, lowest + 4, f"{point.label} {point.quality:.1f}", "name")]
    return parts


def _dot(point: Point, x: Scale, y: Scale) -> str:
    """A dot with its intervals, and its figures on hovering."""
    assert point.speed
    speed, slow, fast = point.speed
    height = y(point.quality)
    parts = [svg_line(x(slow), height, x(fast), height, "spread")]
    if point.interval:
        parts.append(svg_line(x(speed), y(point.interval[0]), x(speed), y(point.interval[1]), "spread"))
    told = f"{point.label}: {point.quality:.1f} at {speed:.2f}× ({slow:.2f} to {fast:.2f}){point.told}"
    parts.append(f'<circle class="{"dot best" if point.best else "dot"}" cx="{x(speed):.1f}" cy="{height:.1f}" r="5"/>')
    parts.append(svg_text(x(speed) + 8, height - 8, point.label, "name"))
    return f'<g class="arm"><title>{escape(told)}</title>{"".join(parts)}</g>'
