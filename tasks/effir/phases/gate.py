"""gate: the verdict on the candidate, from per-query scores, measured speed and the proof of reloading."""

import json
from pathlib import Path
from typing import Any

from effir.judge.gate import Candidate, judge
from effir.judge.quality import Limits, Scores
from effir.judge.verdict import Rule, Verdict
from effir.manifest import Manifest, code_version, content_of
from effir.phases import evidence
from effir.phases.job import Job
from effir.reading import read_columns
from effir.services import promotions
from effir.spec import RunSpec

FRESH = True
FIELDS = (
    "name", "collections", "in_domain", "margin", "margins", "margin_mean", "confidence", "resamples", "seed",
    "min_query_speedup", "min_document_speedup", "max_parameters",
)  # fmt: skip


def run(job: Job) -> dict[str, Any]:
    """Write verdict.json and verdict.md; output: verdict, reasons, champion (the one judged against)."""
    verdict, told = decide(job)
    write(job, verdict, told)
    job.say(verdict.to_markdown())
    job.output.update(verdict=verdict.verdict, reasons=verdict.reasons, champion=verdict.champion)
    return _numbers(verdict)


def decide(job: Job) -> tuple[Verdict, dict[str, Any]]:
    """The verdict against the champion that stands now, and what else verdict.json tells: data, digest of the candidate's files, code."""
    manifest, data = job.manifest("candidate"), evidence.check(job)
    scores = read_scores(job.file("evaluate", "scores.parquet"))
    crowned = standing_champion(job, manifest, scores)
    verdict = judge(
        scores=scores,
        speed=json.loads(job.file("speed", "speed.json").read_text()),
        proof=json.loads(job.file("verify", "proof.json").read_text()),
        candidate=Candidate(
            manifest.digest, {path: file.sha256 for path, file in manifest.files.items()}, manifest.numbers.get("parameters", 0)
        ),
        champion=crowned,
        limits=limits_of(job.spec),
    )
    if gone := promotions.withdrawn(job.store, job.spec.name, manifest.digest):
        verdict = verdict.but(Rule("not_withdrawn", False, _withdrawn(job.spec.name, gone)))
    return verdict, {"data": data, "files": content_of(manifest.files), "code": code_version("effir.phases.gate")}


def write(job: Job, verdict: Verdict, told: dict[str, Any]) -> None:
    """verdict.json and verdict.md."""
    (job.out / "verdict.json").write_text(json.dumps(verdict.to_json() | told, indent=1, allow_nan=False))
    (job.out / "verdict.md").write_text(verdict.to_markdown())


def _withdrawn(name: str, record: dict[str, Any]) -> str:
    version, why = record["from"]["version"], f" ({'; '.join(record['why'])})" if record["why"] else ""
    return (
        f"the candidate is version {version}, which {record['who']} took back on {record['at'][:10]}{why}; "
        f"`effir rollback {name} --to {version}` makes it the champion all the same"
    )


def limits_of(spec: RunSpec) -> Limits:
    """What the spec demands of a candidate."""
    return Limits(
        collections=tuple(spec.collection_names()),
        in_domain=tuple(spec.in_domain_names()),
        margin=spec.margin,
        margin_mean=spec.margin_mean,
        margins=spec.margin_by_name(),
        confidence=spec.confidence,
        resamples=spec.resamples,
        seed=spec.seed,
        min_query_speedup=spec.min_query_speedup,
        min_document_speedup=spec.min_document_speedup,
        max_parameters=spec.max_parameters,
    )


def standing_champion(job: Job, candidate: Manifest, scores: dict[str, dict[str, Scores]]) -> dict[str, Any] | None:
    """The champion now, whose scores are added where another run has them.

    Raises EffirError if there are none to compare the candidate with.
    """
    crowned = promotions.champion(job.store, job.spec.name)
    if crowned is None or crowned["digest"] == candidate.digest or evidence.has(job, crowned):
        return crowned
    found = evidence.elsewhere(job, crowned)
    if found is None:
        raise promotions.Overtaken(
            f"version {crowned['version']} of {job.spec.name} was crowned while this run was under way, and on other data or settings, so "
            "the candidate cannot be compared with it: trigger the run again, which finds everything else done"
        )
    scores["champion"] = found
    return crowned


def read_scores(path: Path) -> dict[str, dict[str, Scores]]:
    """scores.parquet as model → collection → per-query nDCG@10."""
    import numpy as np

    columns = ("model", "collection", "query_id", "cluster", "ndcg_at_10")
    table = read_columns(path, columns)
    rows: dict[str, dict[str, list[tuple[str, str, float]]]] = {}
    for model, collection, query, cluster, value in zip(*(table[name] for name in columns), strict=True):
        given = (query, query if cluster is None else str(cluster), float("nan") if value is None else value)
        rows.setdefault(model, {}).setdefault(collection, []).append(given)
    found: dict[str, dict[str, Scores]] = {}
    for model, by_collection in rows.items():
        for collection, given_rows in by_collection.items():
            queries, clusters, values = zip(*given_rows, strict=True)
            found.setdefault(model, {})[collection] = Scores(queries, clusters, np.asarray(values, dtype=np.float64))
    return found


def _numbers(verdict: Verdict) -> dict[str, Any]:
    failed = [rule for rule in verdict.rules if not rule.passed]
    mean = next((rule.value for rule in verdict.rules if rule.rule == "mean_not_inferior_to_reference"), None)
    return {"promoted": int(verdict.verdict == "promoted"), "rules": len(verdict.rules), "rules_failed": len(failed)} | (
        {} if mean is None else {"mean_bound": mean}
    )
