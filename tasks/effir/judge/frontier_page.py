"""The page of a frontier: the picture quality against speed, and the table."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from markupsafe import Markup

from effir.judge.frontier import Contrast, Row
from effir.judge.pictures import WIDTH, svg, svg_line, svg_text, ticks, widened
from effir.judge.report import environment
from effir.spec import RunSpec

LEFT, RIGHT, TOP, BOTTOM = 60, WIDTH - 20, 20, 380


def render(table: Sequence[Row], pairs: Sequence[Contrast], failed: Sequence[Mapping[str, Any]], spec: RunSpec, created: str) -> str:
    """The page as HTML text, its pictures inside: one of the mean and one of each collection, with a switch between them."""
    names = list(table[0].quality)
    pictures = {"mean": Markup(picture(table, None))} | ({name: Markup(picture(table, name)) for name in names} if len(names) > 1 else {})
    page = environment().get_template("frontier.html.jinja")
    return page.render(rows=table, contrasts=pairs, failed=failed, spec=spec, created=created, names=names, pictures=pictures)


def picture(table: Sequence[Row], collection: str | None) -> str:
    """Quality (points) against document speed-up as SVG: a dot an arm, with intervals, the frontier as a line, landmarks as levels."""
    timed = [row for row in table if row.speedup]
    levels = [row for row in table if not row.speedup]
    height = {row.arm: 100 * (row.mean if collection is None else row.quality[collection]) for row in table}
    left, right = widened(min(row.speedup["document"][1] for row in timed), max(row.speedup["document"][2] for row in timed))
    low, high = widened(min(height.values()), max(height.values()))

    def x(speed: float) -> float:
        return LEFT + (speed - left) / (right - left) * (RIGHT - LEFT)

    def y(points: float) -> float:
        return BOTTOM - (points - low) / (high - low) * (BOTTOM - TOP)

    parts = [svg_line(LEFT, BOTTOM, RIGHT, BOTTOM, "zero")]
    for tick in ticks(low, high):
        parts += [svg_line(LEFT, y(tick), RIGHT, y(tick), "grid"), svg_text(LEFT - 8, y(tick) + 4, f"{tick:g}", "label")]
    parts += [svg_text(x(tick), BOTTOM + 20, f"{tick:g}×", "tick") for tick in ticks(left, right)]
    for row in levels:
        parts += [svg_line(LEFT, y(height[row.arm]), RIGHT, y(height[row.arm]), "margin")]
        parts += [svg_text(RIGHT, y(height[row.arm]) - 4, row.arm, "label")]
    best = sorted((row for row in timed if row.best), key=lambda row: row.speedup["document"][0])
    steps = " ".join(f"{x(row.speedup['document'][0]):.1f},{y(height[row.arm]):.1f}" for row in best)
    if collection is None:
        parts.append(f'<polyline class="line line2" points="{steps}"/>')
    for row in timed:
        parts.append(_dot(row, height[row.arm], x, y, collection))
    return svg(BOTTOM + 40, parts, f"nDCG@10 times 100 ({collection or 'mean over the collections'}) against measured document speed-up")


def _dot(row: Row, points: float, x: Any, y: Any, collection: str | None) -> str:
    """A dot with what a reader wants to know on hovering; intervals of speed, and of the difference on the mean."""
    speed, slow, fast = row.speedup["document"]
    parts = [svg_line(x(slow), y(points), x(fast), y(points), "spread")]
    told = f"{row.arm}: {points:.1f} at {speed:.2f}× ({slow:.2f} to {fast:.2f})"
    if row.difference is not None and row.interval and collection is None:
        ends = [points + 100 * (end - row.difference) for end in row.interval]
        parts.append(svg_line(x(speed), y(ends[0]), x(speed), y(ends[1]), "spread"))
        told += f"; {100 * row.difference:+.1f} against the reference ({100 * row.interval[0]:+.1f} to {100 * row.interval[1]:+.1f})"
    parts.append(f'<circle class="{"dot best" if row.best else "dot"}" cx="{x(speed):.1f}" cy="{y(points):.1f}" r="5"/>')
    parts.append(svg_text(x(speed) + 8, y(points) - 6, row.arm, "name"))
    return f'<g class="arm"><title>{escape(told)}</title>{"".join(parts)}</g>'
