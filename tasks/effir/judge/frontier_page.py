"""The page of a frontier: the picture quality against speed, and the table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from effir.judge.agreement import Agreement
from effir.judge.frontier import Contrast, Row
from effir.judge.report import environment
from effir.judge.tradeoff import Point, against_reference, tradeoff
from effir.spec import RunSpec


def render(
    table: Sequence[Row],
    lines: Mapping[str, str],
    pairs: Sequence[Contrast],
    failed: Sequence[Mapping[str, Any]],
    spec: RunSpec,
    created: str,
    study: Mapping[str, str] | None = None,
    orders: Sequence[Agreement] = (),
) -> str:
    """The page as HTML text, its pictures inside: one of the mean and one of each collection, with a switch between them.

    lines: arm → how it was written, of those that were given a name; study: {name, question, published} of the study that this is
    """
    names = list(table[0].quality)
    pictures = {"mean": Markup(picture(table, None))} | ({name: Markup(picture(table, name)) for name in names} if len(names) > 1 else {})
    page = environment().get_template("frontier.html.jinja")
    shown = {"rows": table, "lines": lines, "contrasts": pairs, "failed": failed, "names": names, "pictures": pictures, "orders": orders}
    return page.render(**shown, spec=spec, created=created, study=study)


def picture(table: Sequence[Row], collection: str | None) -> str:
    """Quality (points) on a collection, or on the mean of all, against document speed-up as SVG; intervals of quality on the mean alone."""
    title = f"nDCG@10 times 100 ({collection or 'mean over the collections'}) against measured document speed-up"
    siblings = any(row.sibling for row in table)
    points = [replace(_point(row, collection), whole=siblings and (row.sibling or row.arm == "reference")) for row in table]
    return tradeoff(points, title, frontier=collection is None)


def standalone(table: Sequence[Row]) -> str:
    """The picture of the mean as an SVG file of its own, its style inside; empty where nothing was timed."""
    style = environment().get_template("style.css.jinja").render()
    return picture(table, None).replace(">", f' xmlns="http://www.w3.org/2000/svg"><style>{style}</style>', 1)


def _point(row: Row, collection: str | None) -> Point:
    quality = 100 * (row.mean if collection is None else row.quality[collection])
    speed = row.speedup["document"] if row.speedup else None
    if row.difference is None or not row.interval or collection is not None:
        return Point(row.arm, quality, None, speed, row.best)
    low, high = (quality + 100 * (end - row.difference) for end in row.interval)
    told = against_reference(row.difference, row.interval)
    return Point(row.arm, quality, (low, high), speed, row.best, told)
