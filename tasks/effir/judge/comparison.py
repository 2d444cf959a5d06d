"""Two runs side by side: scores with paired differences, speed, sizes, and the settings that differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from effir.judge.pictures import intervals
from effir.judge.quality import Limits, Scores, compare, statements
from effir.judge.report import environment
from effir.judge.significance import mean_over_collections

METHOD = (
    "Differences: paired Bayesian bootstrap over queries, clusters kept together, {confidence} intervals with room for one cluster more on "
    "which one of the two loses all, so that even equal scores leave an interval; p: paired randomisation, Holm-adjusted. "
    "Speed-ups are each over the run's own reference on its own machine, and are not tested against each other."
)
FIRST, SECOND = "first", "candidate"


@dataclass(frozen=True)
class Run:
    """A run as its report left it.

    summary: what last-run.json holds; spec: the resolved spec as a table; scores: collection → per-query nDCG@10 of the candidate;
    data: collection → digest of what it was evaluated on
    """

    summary: Mapping[str, Any]
    spec: Mapping[str, Any]
    scores: Mapping[str, Scores]
    data: Mapping[str, str]


def compare_runs(first: Run, second: Run, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95) -> dict[str, Any]:
    """{runs, collections, mean, settings, method}, plain JSON; differences are the second run's candidate minus the first's, -1 to 1.

    collections: name → {first, second, difference, interval, p, significant}, or {first, second, problem} where the two cannot be
    compared query by query; mean: the same over those that can, null without any; p: Holm-adjusted over all collections and both
    directions; settings: field → [first's value, second's value].
    """
    names = tuple(dict.fromkeys((*first.scores, *second.scores)))
    limits = Limits(names, (), margin=1, margin_mean=1, confidence=confidence, resamples=resamples, seed=seed)
    paired = [
        name for name in names if first.data.get(name, "") == second.data.get(name) and name in first.scores and name in second.scores
    ]
    table = {model: {name: run.scores[name] for name in paired} for model, run in ((FIRST, first), (SECOND, second))}
    tested = {one.collection: one for one in statements(table, [FIRST], limits)}
    found: dict[str, dict[str, Any]] = {}
    samples = []
    for name in names:
        told: dict[str, Any] = {label: _mean(run.scores.get(name)) for label, run in (("first", first), ("second", second))}
        sample = compare(table, FIRST, SECOND, name, limits) if name in paired else _why_not(first, second, name)
        if isinstance(sample, str):
            found[name] = told | {"problem": sample.replace(FIRST, "first run").replace(SECOND, "second run")}
            continue
        samples.append(sample)
        test = tested[name]
        found[name] = told | {"difference": sample.estimate, "interval": list(sample.interval(confidence))}
        found[name] |= {"p": test.p, "significant": test.significant}
    over = mean_over_collections(samples, seed) if len(samples) > 1 else None
    return {
        "runs": [_told(run) for run in (first, second)],
        "collections": found,
        "mean": {"difference": over.estimate, "interval": list(over.interval(confidence)), "collections": len(samples)} if over else None,
        "settings": {name: [first.spec.get(name), second.spec.get(name)] for name in _differing(first.spec, second.spec)},
        "method": METHOD.format(confidence=f"{confidence:.0%}"),
    }


def render(found: Mapping[str, Any]) -> str:
    """What `compare_runs` found as an HTML page that stands alone."""
    rows = [(name, one) for name, one in found["collections"].items() if "interval" in one]
    rows += [("mean", found["mean"])] if found["mean"] else []
    drawn = intervals([(name, 100 * one["difference"], 100 * one["interval"][0], 100 * one["interval"][1], None) for name, one in rows])
    page = environment().get_template("compare.html.jinja")
    return page.render(found=found, names=[run["dag_run_id"] for run in found["runs"]], picture=Markup(drawn))


def _mean(scores: Scores | None) -> float | None:
    return float(scores.values.mean()) if scores and len(scores.values) else None


def _why_not(first: Run, second: Run, name: str) -> str:
    for run, called in ((first, "first"), (second, "second")):
        if name not in run.scores:
            return f"the {called} run was not evaluated on {name}"
    return f"the two runs were evaluated on different versions of {name}"


def _told(run: Run) -> dict[str, Any]:
    kept = ("dag_run_id", "verdict", "model", "params", "speedup", "report")
    return {name: run.summary[name] for name in kept} | {"base_model": run.spec.get("base_model")}


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [name for name in dict.fromkeys((*first, *second)) if first.get(name) != second.get(name)]
