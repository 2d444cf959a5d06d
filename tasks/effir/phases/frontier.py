"""frontier: what all arms and landmarks came to, as a page, a picture, a table and a CSV, and the end of the MLflow run."""

import csv
import datetime
import io
import json
from dataclasses import asdict
from typing import Any

from effir.arms import LANDMARKS, contrast_list
from effir.errors import EffirError
from effir.judge.agreement import Agreement, agreements
from effir.judge.frontier import KINDS, Entry, Row, contrasts, rows
from effir.judge.frontier_page import render, standalone
from effir.phases import importance
from effir.phases.gate import limits_of, read_scores
from effir.phases.job import Job
from effir.reading import read_json
from effir.services import registry
from effir.spec import RunSpec

FRESH = True
FIELDS = tuple(RunSpec.model_fields)


def run(job: Job) -> dict[str, Any]:
    """Write frontier.json, .csv, .html and .svg; output: report (URI), rows, lines, contrasts, failed (arms without a result)."""
    entries = [entry for told in job.arguments.get("phases", []) if (entry := _entry(job, told))]
    if not any(not entry.landmark for entry in entries):
        raise EffirError("no arm was assessed: all of them failed; the first failed task's log says why")
    begun = job.arguments["begun"]
    wanted = [(one["name"], one["seed"]) for one in begun["output"]["arms"]]
    beside = [(name, None) for name in LANDMARKS] + [(one["name"], one["caption"]["seed"]) for one in begun["output"]["references"]]
    there = {(entry.arm, entry.seed) for entry in entries}
    failed = [{"arm": name, "seed": seed} for name, seed in [*beside, *wanted] if (name, seed) not in there]
    limits = limits_of(job.spec)
    table = rows(entries, limits)
    lines = {one["name"]: one["line"] for one in begun["output"]["arms"] if one["name"] != one["line"]}
    pairs = contrasts(entries, contrast_list(begun["output"]["contrasts"], {name for name, _ in wanted}), limits)
    orders = _orders(job, begun)
    uri = f"{job.store.artifact('frontier', job.digest)}/frontier.html"
    plain = [asdict(row) for row in table]
    created = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    (job.out / "frontier.json").write_text(
        json.dumps(
            {"rows": plain, "lines": lines, "contrasts": [asdict(one) for one in pairs], "failed": failed, "created": created}
            | {"orders": [asdict(one) for one in orders], "study": begun["output"]["study"]},
            indent=1,
        )
    )
    (job.out / "frontier.csv").write_text(_csv(table))
    (job.out / "frontier.html").write_text(
        render(table, lines, pairs, failed, job.spec, created, begun["output"]["study"], orders), encoding="utf-8"
    )
    (job.out / "frontier.svg").write_text(standalone(table), encoding="utf-8")
    for one in failed:
        job.warn(f"{one['arm']} (seed {one['seed']}) has no result; its tasks' logs say why")
    if run_id := job.run.get("mlflow_run_id"):
        for end in ("html", "svg", "csv", "json"):
            registry.log_artifact(run_id, job.out / f"frontier.{end}", job.store)
        registry.finish_run(run_id, {"effir.arms": len(table), "effir.failed": len(failed)}, _metrics(table), by=job.tracker.run_id)
    told = _headline(table, failed)
    job.say(told)
    job.output.update(report=uri, headline=told, note=f"**{told}**", rows=plain, lines=lines)
    job.output.update(contrasts=[asdict(one) for one in pairs], orders=[asdict(one) for one in orders], failed=failed)
    return {"arms": sum(not row.landmark for row in table), "failed": len(failed), "on_the_frontier": sum(row.best for row in table)}


def _headline(table: list[Row], failed: list[dict[str, Any]]) -> str:
    arms, best = [row.arm for row in table if not row.landmark], [row.arm for row in table if row.best and not row.landmark]
    lost = f", {len(failed)} without a result" if failed else ""
    return f"{len(arms)} arms measured{lost}; no other is both better and faster than {', '.join(best) or 'the reference'}."


def _entry(job: Job, told: dict[str, Any]) -> Entry | None:
    """An assessed model from how its phase is told of; None for other phases."""
    caption, manifest = told["caption"], job.manifest_at(told["manifest"])
    if manifest.phase != "assess":
        return None
    folder = job.folder_at(told["manifest"])
    ((_, scores),) = read_scores(folder / "scores.parquet").items()
    speed = folder / "speed.json"
    measured = next(iter(json.loads((folder / "metrics.json").read_text()).values()))
    cosines = [one["mean_query_cosine"] for one in measured.values() if "mean_query_cosine" in one]
    return Entry(
        arm=caption["arm"],
        scores=scores,
        seed=caption.get("seed"),
        reference=caption.get("reference"),
        landmark=manifest.key["arguments"]["model"] != "candidate",
        speed=json.loads(speed.read_text()) if speed.exists() else None,
        parameters=manifest.numbers.get("parameters"),
        parameters_non_embedding=manifest.numbers.get("parameters_non_embedding"),
        cosine=sum(cosines) / len(cosines) if cosines else None,
        sibling=caption.get("sibling", False),
    )


def _orders(job: Job, begun: dict[str, Any]) -> list[Agreement]:
    """The scores of the frontier's own model, or of its references, beside the first of them."""
    from effir.compress.scores import Importance

    asked, references = begun["output"]["scores"], begun["output"]["references"]
    found: dict[str, Importance] = {}
    for told in job.arguments.get("phases", []):
        manifest = job.manifest_at(told["manifest"])
        one = asked[told["caption"]["place"]] if manifest.phase == "importance" else None
        if one and one["base"] == 0:
            found[score_name(one, asked, references)] = Importance.from_json(read_json(job.folder_at(told["manifest"]) / "importance.json"))
    return agreements(found) if found else []


def score_name(one: dict[str, Any], asked: list[dict[str, Any]], references: list[dict[str, Any]]) -> str:
    """A measure and whose sub-layers it scored, with those of its settings that are not alike in the whole frontier."""
    spec = RunSpec(**one["spec"])
    aside = importance.unused(spec, {}) | {"importance_measure"}
    mine = [name for name in importance.FIELDS if name not in aside]
    told = [f"{name}={one['spec'][name]}" for name in mine if len({str(other["spec"][name]) for other in asked}) > 1]
    whose = "base" if one["reference"] is None else references[one["reference"]]["name"]
    return ", ".join([f"{spec.importance_measure} of the {whose}", *told])


def _csv(table: list[Row]) -> str:
    """A line for each arm; scores 0 to 1."""
    lines = [_line(row) for row in table]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _line(row: Row) -> dict[str, Any]:
    low, high = row.interval or (None, None)
    line = {
        "arm": row.arm,
        "seeds": " ".join(map(str, row.seeds)),
        "landmark": row.landmark,
        "sibling": row.sibling,
        "mean_ndcg_at_10": row.mean,
    }
    line |= {f"{name}/ndcg_at_10": value for name, value in row.quality.items()}
    line |= {"spread": row.spread, "difference": row.difference, "difference_low": low, "difference_high": high}
    for kind in KINDS:
        ratio, slow, fast = row.speedup.get(kind, (None, None, None))
        line |= {f"{kind}_speedup": ratio, f"{kind}_speedup_low": slow, f"{kind}_speedup_high": fast, f"{kind}_bound": row.bound.get(kind)}
    size = {"parameters": row.parameters, "parameters_non_embedding": row.parameters_non_embedding}
    return line | size | {"mean_query_cosine": row.cosine, "best": row.best}


def _metrics(table: list[Row]) -> dict[str, float]:
    found = {f"{_slug(row.arm)}/mean_ndcg_at_10": row.mean for row in table}
    return found | {f"{_slug(row.arm)}/document_speedup": row.speedup["document"][0] for row in table if row.speedup and not row.landmark}


def _slug(arm: str) -> str:
    """An arm's name in the characters that MLflow allows in a metric's."""
    return "".join(one if one.isalnum() or one in "_-. /" else {"%": "pct", ":": " ", "=": "-"}.get(one, "_") for one in arm)
