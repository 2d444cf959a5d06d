"""Pictures of a report as inline SVG; colours come from the page's style sheet, so they follow light and dark."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH = 720
LABEL = 170
ROW = 34
Interval = tuple[str, float, float, float, float | None]


def intervals(rows: Sequence[Interval]) -> str:
    """Differences with their intervals beside the tolerated loss.

    rows: (label, difference, low, high, margin), all in points; a row's tick below zero marks minus its margin, where it has one.
    """
    if not rows:
        return ""
    ends = [value for _, difference, low, high, margin in rows for value in (difference, low, high, -(margin or 0.0), 0.0)]
    left, right = widened(min(ends), max(ends))
    height = ROW * len(rows) + 40

    def x(value: float) -> float:
        return LABEL + (value - left) / (right - left) * (WIDTH - LABEL - 20)

    parts = [svg_line(x(0), 8, x(0), height - 32, "zero")]
    for place, (label, difference, low, high, margin) in enumerate(rows):
        y = 24 + ROW * place
        parts += [
            svg_text(LABEL - 12, y + 4, label, "label"),
            *([svg_line(x(-margin), y - 11, x(-margin), y + 11, "margin")] if margin is not None else []),
            svg_line(x(low), y, x(high), y, "interval"),
            svg_dot(x(difference), y, "dot", f"{label}: {difference:+.2f} ({low:+.2f} to {high:+.2f})"),
        ]
    parts += [svg_text(x(tick), height - 12, f"{tick:+g}" if tick else "0", "tick") for tick in ticks(left, right)]
    ticked = "; the dashed ticks mark the tolerated loss" if any(row[4] is not None for row in rows) else ""
    return svg(height, parts, f"Difference in nDCG@10 (points) with 95% intervals{ticked}")


def curves(lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines over steps, one a name, with a legend. Points that are not finite are left out."""
    kept = {name: [point for point in points if all(map(math.isfinite, point))] for name, points in lines.items()}
    points = [point for line in kept.values() for point in line]
    if not points:
        return ""
    height, top, bottom = 280, 40, 240
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = widened(min(y for _, y in points), max(y for _, y in points))

    def place(point: tuple[float, float]) -> str:
        x = 60 + (point[0] - left) / ((right - left) or 1) * (WIDTH - 80)
        return f"{x:.1f},{bottom - (point[1] - low) / (high - low) * (bottom - top):.1f}"

    parts = [svg_line(60, bottom, WIDTH - 20, bottom, "zero")]
    for tick in ticks(low, high):
        y = bottom - (tick - low) / (high - low) * (bottom - top)
        parts += [svg_line(60, y, WIDTH - 20, y, "grid"), svg_text(52, y + 4, f"{tick:g}", "label")]
    for number, (name, line) in enumerate(kept.items()):
        parts.append(f'<polyline class="line line{number % 4}" points="{" ".join(map(place, line))}"/>')
        parts.append(
            f'<text class="legend line{number % 4}" x="{WIDTH - 30 - 100 * (len(kept) - 1 - number)}" y="18">{escape(name)}</text>'
        )
    parts += [svg_text(60, height - 18, f"step {left:g}", "tick"), svg_text(WIDTH - 40, height - 18, f"{right:g}", "tick")]
    return svg(height, parts, "Training loss by step")


def widened(low: float, high: float) -> tuple[float, float]:
    """A range with some room at both ends."""
    room = (high - low) * 0.06 or 1.0
    return low - room, high + room


def ticks(low: float, high: float) -> list[float]:
    """Round numbers inside a range, about five of them.

    >>> ticks(-2.2, 1.1)
    [-2.0, -1.0, 0.0, 1.0]
    """
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [round(step * count, 10) + 0.0 for count in range(first, math.floor(high / step) + 1)]


def svg_line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A line of a class of the style sheet."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def svg_text(x: float, y: float, text: str, kind: str) -> str:
    """Text of a class of the style sheet."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def svg_dot(x: float, y: float, kind: str, told: str) -> str:
    """A dot of a class of the style sheet, with what it stands for on hovering."""
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{escape(told)}</title></circle>'


def svg_box(x: float, y: float, width: float, height: float, kind: str, told: str) -> str:
    """A filled rectangle of a class of the style sheet, with what it stands for on hovering."""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {place}><title>{escape(told)}</title></rect>'


def svg(height: float, parts: Sequence[str], title: str) -> str:
    """The picture of these parts, WIDTH wide; title: what a person who cannot see it is told."""
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
