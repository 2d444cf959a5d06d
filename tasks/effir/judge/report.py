"""One HTML page that holds a run's result: verdict first, then tables, pictures and where everything came from."""

import base64
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from effir.judge.pictures import curves, intervals

MODELS = ("base", "bm25", "minilm", "reference", "candidate", "champion")
METRICS = {"ndcg_at_10": "nDCG@10", "recall_at_100": "Recall@100"}


@dataclass(frozen=True)
class Report:
    """What a page shows.

    summary:    what last-run.json holds; verdict: verdict.json; overview: as `overview` makes it; speed: speed.json
    spec:       the resolved spec as a table
    provenance: a row an artifact: {name, phase, digest, created, seconds}
    environment: library versions and machine
    training:   model → (step, loss) points; images: title → PNG bytes; links: label → address
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
    images: Mapping[str, bytes] = field(default_factory=dict)
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


def render(report: Report) -> str:
    """The page as HTML text, with every picture inside."""
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            metrics=METRICS,
            differences=Markup(intervals(_rows(report))),
            curves=Markup(curves(report.training)),
            images={title: base64.b64encode(data).decode() for title, data in report.images.items()},
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
    found.filters |= {"points": points, "signed": signed, "count": count, "median": statistics.median}
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


def _rows(report: Report) -> list[tuple[str, float, float, float, float]]:
    margins = {rule.get("collection"): -rule["bound"] for rule in report.verdict["rules"] if rule["rule"] == "not_inferior_to_reference"}
    rows = []
    for name, found in report.summary["quality"].items():
        low, high = found["interval"]
        margin = margins.get(name, report.spec["margin"])
        rows.append((name, 100 * found["difference"], 100 * low, 100 * high, 100 * margin))
    return rows
