"""One HTML page that holds a run's result: verdict first, then pictures, tables and where everything came from."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from effir.judge.headline import gains
from effir.judge.layers import Layers, importance, widths
from effir.judge.pictures import Interval, curves, intervals
from effir.judge.tradeoff import Point, against_reference, tradeoff

MODELS = ("base", "bm25", "minilm", "reference", "candidate", "champion")
METRICS = {"ndcg_at_10": "nDCG@10", "recall_at_100": "Recall@100"}


@dataclass(frozen=True)
class Report:
    """What a page shows.

    summary:    what last-run.json holds; verdict: verdict.json; overview: as `overview` makes it; speed: speed.json
    spec:       the resolved spec as a table
    provenance: a row an artifact: {name, phase, digest, created, seconds}
    environment: library versions; machine is in speed
    training:   model → (step, loss) points; tokens: what for → how many were read
    layers:     which sub-layers live, and why; examples: collection → as phases/examples.py makes them; links: label → address
    """

    summary: Mapping[str, Any]
    verdict: Mapping[str, Any]
    overview: Mapping[str, Any]
    speed: Mapping[str, Any]
    spec: Mapping[str, Any]
    provenance: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    created: str
    training: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    layers: Layers | None = None
    examples: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


def overview(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """nDCG@10 and Recall@100 by collection and model, from metrics.json: {models, collections: {name: {model: {metric: value}}}}.

    Models stand in the order base, bm25, minilm, reference, candidate, champion, as far as they were evaluated.
    """
    models = [model for model in MODELS if model in metrics]
    names = list(dict.fromkeys(name for model in models for name in metrics[model]))
    collections = {
        name: {model: {metric: metrics[model][name][metric] for metric in METRICS} for model in models if name in metrics[model]}
        for name in names
    }
    return {"models": models, "collections": collections}


def loss_curve(training: Any) -> list[tuple[float, float]]:
    """(step from 1, loss) of training.json: a list of {loss, …}, or a table that holds one under `history`."""
    history = training.get("history", []) if isinstance(training, Mapping) else training
    return [(step, float(parts["loss"])) for step, parts in enumerate(history, 1) if parts.get("loss") is not None]


def steps(phases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each phase took, shards and collections of one model together: {name, tasks, cached, seconds, forward_passes, share}.

    phases: as the summary lists them; cached: tasks that were found done; share: of the seconds of the longest, 0 to 1.
    """
    found: dict[str, dict[str, Any]] = {}
    for one in phases:
        name = " ".join(one["name"].split()[:2])
        row = found.setdefault(name, {"name": name, "tasks": 0, "cached": 0, "seconds": 0.0, "forward_passes": 0})
        row["tasks"] += 1
        row["cached"] += bool(one["cached"])
        row["seconds"] += one["seconds"] or 0.0
        row["forward_passes"] += one["forward_passes"]
    longest = max((row["seconds"] for row in found.values()), default=0) or 1.0
    return [row | {"share": row["seconds"] / longest} for row in found.values()]


def render(report: Report) -> str:
    """The page as HTML text, with every picture inside."""
    pictures = {
        "tradeoff": tradeoff(_points(report), _tradeoff_title(report), frontier=False),
        "differences": intervals(_rows(report)),
        "curves": curves(report.training),
        "importance": importance(report.layers) if report.layers and report.layers.importance else "",
        "widths": widths(report.layers) if report.layers else "",
    }
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            metrics=METRICS,
            gains=gains(report.summary),
            steps=steps(report.summary["phases"]),
            pictures={name: Markup(picture) for name, picture in pictures.items()},
        )
    )


def environment() -> jinja2.Environment:
    """Where the pages' templates are read, with the filters that they use."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "points": points,
        "signed": signed,
        "count": count,
        "median": statistics.median,
        "words": words,
        "figure": figure,
        "millions": millions,
    }
    return found


def points(score: float | None) -> str:
    """A score as it is shown: times 100, one decimal."""
    return "–" if score is None else f"{100 * score:.1f}"


def signed(difference: float | None) -> str:
    """A difference of scores as it is shown."""
    return "–" if difference is None else f"{100 * difference:+.1f}"


def count(number: float | None) -> str:
    """A whole number with separators."""
    return "–" if number is None else f"{number:,.0f}"


def millions(number: float) -> str:
    """A number of parameters.

    >>> millions(116926272), millions(7_241_732_096), millions(700)
    ('116.9\\xa0M', '7,241.7\\xa0M', '700')
    """
    return f"{number / 1e6:,.1f}\N{NO-BREAK SPACE}M" if number >= 1e5 else f"{number:,.0f}"


def words(name: str) -> str:
    """A rule's name as words.

    >>> words("mean_not_inferior_to_reference")
    'mean not inferior to reference'
    """
    return name.replace("_", " ")


def figure(value: float | None, rule: str) -> str:
    """A rule's value or bound: differences of nDCG@10 in points, ratios and counts as they are.

    >>> figure(-0.01234, "not_inferior_to_reference"), figure(1.234, "query_speedup"), figure(116926272, "parameters")
    ('-1.23', '1.23', '116,926,272')
    """
    if value is None:
        return "–"
    if "inferior" in rule:
        return f"{100 * value:+.2f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _rows(report: Report) -> list[Interval]:
    margins = {rule.get("collection"): -rule["bound"] for rule in report.verdict["rules"] if rule["rule"] == "not_inferior_to_reference"}
    found = report.summary["quality"]
    rows = [(name, one, margins.get(name, report.spec["margin"])) for name, one in found.items()]
    if len(found) > 1 and report.summary.get("mean"):
        rows.append(("mean", report.summary["mean"], report.spec["margin_mean"]))
    return [(name, 100 * one["difference"], 100 * one["interval"][0], 100 * one["interval"][1], 100 * margin) for name, one, margin in rows]


def _points(report: Report) -> list[Point]:
    """Every model on the mean over the collections that all of them have; reference and candidate where they were timed."""
    mean = report.summary.get("mean")
    if not mean:
        return []
    names = list(report.summary["quality"])
    scores = report.overview["collections"]
    others = [one for one in report.overview["models"] if one not in ("reference", "candidate")]
    levels = [
        Point(model, 100 * statistics.fmean(scores[name][model]["ndcg_at_10"] for name in names))
        for model in others
        if all(model in scores.get(name, {}) for name in names)
    ]
    speed = report.summary["speedup"]
    low, high = (100 * (mean["reference"] + end) for end in mean["interval"])
    told = against_reference(mean["difference"], mean["interval"])
    candidate = Point("candidate", 100 * mean["candidate"], (low, high), (speed["document"], *speed["document_interval"]), True, told)
    return [*levels, Point("reference", 100 * mean["reference"], None, (1.0, 1.0, 1.0)), candidate]


def _tradeoff_title(report: Report) -> str:
    names = list(report.summary["quality"])
    on = names[0] if len(names) == 1 else f"the mean of {len(names)} collections"
    return f"nDCG@10 times 100 on {on} against measured document speed-up"
