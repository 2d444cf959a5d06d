"""report: one HTML page, the summary that last-run.json holds, and the end of the MLflow run."""

import datetime
import json
from typing import Any

from effir.judge.quality import compare
from effir.judge.report import Report, loss_curve, overview, render
from effir.manifest import Manifest, digest_of
from effir.phases.gate import limits_of, read_scores
from effir.phases.job import Job
from effir.services import registry
from effir.spec import RunSpec

FRESH = True
FIELDS = tuple(RunSpec.model_fields)
IMAGES = {
    "Importance": ("importance", "importance.png"),
    "Widths": ("narrow", "widths.png"),
}


def run(job: Job) -> dict[str, Any]:
    """Write report.html; output: report (URI), summary (last-run.json), overview (nDCG@10 and Recall@100 by collection and model)."""
    verdict = json.loads(job.file("promote", "verdict.json").read_text())
    speed = json.loads(job.file("speed", "speed.json").read_text())
    metrics = json.loads(job.file("evaluate", "metrics.json").read_text())
    uri = f"{job.store.artifact('report', job.digest)}/report.html"
    summary = _summary(job, verdict, speed, uri)
    table = overview(metrics)
    manifests = _manifests(job)
    page = render(
        Report(
            summary=summary,
            verdict=verdict,
            overview=table,
            speed=speed,
            spec=job.spec.model_dump(),
            provenance=[_origin(name, one) for name, one in manifests.items()],
            environment=_environment(manifests) | speed["machine"] | {"seed": job.spec.seed},
            created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            training=_training(job, manifests),
            images=_images(job, manifests),
            links=_links(job),
        )
    )
    path = job.out / "report.html"
    path.write_text(page, encoding="utf-8")
    job.output.update(report=uri, summary=summary, overview=table)
    if run_id := job.run.get("mlflow_run_id"):
        registry.log_artifact(run_id, path, job.store)
        registry.finish_run(run_id, _tags(summary), _metrics(summary, table), by=job.tracker.run_id)
    return {"query_speedup": summary["speedup"]["query"], "document_speedup": summary["speedup"]["document"]}


def _summary(job: Job, verdict: dict[str, Any], speed: dict[str, Any], uri: str) -> dict[str, Any]:
    numbers = {model: job.manifest(model).numbers for model in ("reference", "candidate")}
    return {
        "dag_run_id": job.run.get("id"),
        "spec_digest": digest_of(job.spec.model_dump()),
        "verdict": verdict["verdict"],
        "reasons": verdict["reasons"],
        "model": job.manifest("promote").output["model"],
        "params": {model: found["parameters"] for model, found in numbers.items()}
        | {f"{model}_non_embedding": found["parameters_non_embedding"] for model, found in numbers.items()},
        "speedup": {kind: speed[kind]["ratio"] for kind in ("query", "document")}
        | {f"{kind}_interval": speed[kind]["interval"] for kind in ("query", "document")},
        "metric": "ndcg_at_10",
        "quality": _quality(job),
        "phases": job.arguments.get("phases", []),
        "report": uri,
    }


def _quality(job: Job) -> dict[str, Any]:
    """Means of reference and candidate, their difference and its 95% interval, by collection."""
    scores, limits, quality = read_scores(job.file("evaluate", "scores.parquet")), limits_of(job.spec), {}
    for name in limits.collections:
        sample = compare(scores, "reference", "candidate", name, limits)
        if isinstance(sample, str):
            job.warn(f"{name} is left out of the summary: {sample}")
            continue
        means = {model: float(scores[model][name].values.mean()) for model in ("reference", "candidate")}
        quality[name] = means | {"difference": sample.estimate, "interval": list(sample.interval())}
    return quality


def _manifests(job: Job) -> dict[str, Manifest]:
    """Manifests of the inputs that are single artifacts, and of what prepare published."""
    found = {name: job.manifest_at(uri) for name, uri in job.inputs.items() if isinstance(uri, str)}
    parts = found["prepare"].parts if "prepare" in found else {}
    return found | {f"data {name}": job.manifest_at(uri) for name, uri in parts.items()}


def _origin(name: str, manifest: Manifest) -> dict[str, Any]:
    return {"name": name, "phase": manifest.phase, "digest": manifest.digest, "created": manifest.created, "seconds": manifest.seconds}


def _environment(manifests: dict[str, Manifest]) -> dict[str, Any]:
    return manifests["candidate"].key.get("libraries", {}) | manifests["candidate"].key.get("machine", {})


def _training(job: Job, manifests: dict[str, Manifest]) -> dict[str, list[tuple[float, float]]]:
    models = [model for model in ("reference", "candidate") if "training.json" in manifests[model].files]
    return {model: loss_curve(json.loads(job.file(model, "training.json").read_text())) for model in models}


def _images(job: Job, manifests: dict[str, Manifest]) -> dict[str, bytes]:
    given = {title: place for title, place in IMAGES.items() if place[0] in manifests and place[1] in manifests[place[0]].files}
    return {title: job.file(*place).read_bytes() for title, place in given.items()}


def _links(job: Job) -> dict[str, str]:
    links = {"Airflow run": job.run.get("airflow_url"), "MLflow run": registry.run_address(job.run.get("mlflow_run_id"))}
    return {label: address for label, address in links.items() if address}


def _tags(summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "effir.verdict": summary["verdict"],
        "effir.model_version": summary["model"]["version"],
        "effir.report": summary["report"],
        "mlflow.note.content": "\n".join([f"**{summary['verdict']}**", "", *[f"- {reason}" for reason in summary["reasons"]]])[:4900],
    }


def _metrics(summary: dict[str, Any], table: dict[str, Any]) -> dict[str, float]:
    """The run's figures: COLLECTION/METRIC for the candidate, MODEL/COLLECTION/METRIC for the others."""
    found = {
        f"{name}/{metric}" if model == "candidate" else f"{model}/{name}/{metric}": value
        for name, models in table["collections"].items()
        for model, scores in models.items()
        for metric, value in scores.items()
    }
    sizes = {f"parameters_{key}": value for key, value in summary["params"].items()}
    return found | sizes | {f"speedup_{kind}": summary["speedup"][kind] for kind in ("query", "document")}
