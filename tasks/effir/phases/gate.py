"""gate: the verdict on the candidate, from per-query scores, measured speed and the proof of reloading."""

import json
from pathlib import Path
from typing import Any

from effir.errors import EffirError
from effir.judge.gate import Candidate, Verdict, judge
from effir.judge.quality import Limits, Scores
from effir.manifest import Manifest
from effir.phases.job import Job
from effir.reading import read_columns
from effir.services import registry
from effir.spec import RunSpec

FRESH = True
FIELDS = (
    "name", "collections", "in_domain", "margin", "margins", "margin_mean", "confidence", "resamples", "seed",
    "min_query_speedup", "min_document_speedup", "max_parameters",
)  # fmt: skip


def run(job: Job) -> dict[str, Any]:
    """Write verdict.json and verdict.md; output: verdict, reasons, champion (the one judged against)."""
    manifest = job.manifest("candidate")
    crowned = standing_champion(job, manifest)
    verdict = judge(
        scores=read_scores(job.file("evaluate", "scores.parquet")),
        speed=json.loads(job.file("speed", "speed.json").read_text()),
        proof=json.loads(job.file("verify", "proof.json").read_text()),
        candidate=Candidate(
            manifest.digest, {path: file.sha256 for path, file in manifest.files.items()}, manifest.numbers.get("parameters", 0)
        ),
        champion=crowned,
        limits=limits_of(job.spec),
    )
    (job.out / "verdict.json").write_text(json.dumps(verdict.to_json(), indent=1, allow_nan=False))
    (job.out / "verdict.md").write_text(verdict.to_markdown())
    job.say(verdict.to_markdown())
    job.output.update(verdict=verdict.verdict, reasons=verdict.reasons, champion=verdict.champion)
    return _numbers(verdict)


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


def standing_champion(job: Job, candidate: Manifest) -> dict[str, Any] | None:
    """The registry's champion now. Raises EffirError if it is not the one whose scores this run has."""
    crowned = registry.champion(job.spec.name)
    if crowned is None or crowned["digest"] == candidate.digest:
        return crowned
    scored = job.manifest("champion").digest if job.has("champion") else None
    if scored != crowned["digest"]:
        raise EffirError(
            f"version {crowned['version']} of {job.spec.name} was crowned while this run was under way, so the candidate was not "
            "compared with it: trigger the run again"
        )
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
