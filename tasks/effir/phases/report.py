"""report: one HTML page, the summary that last-run.json holds, and the end of the MLflow run."""

import datetime
import json
from collections.abc import Mapping
from typing import Any

from effir.compress import shapes
from effir.judge.headline import headline
from effir.judge.layers import KINDS, Layers
from effir.judge.quality import Scores, compare
from effir.judge.report import Report, loss_curve, overview, render
from effir.judge.significance import mean_over_collections
from effir.manifest import MANIFEST, Manifest, digest_of
from effir.phases.examples import examples
from effir.phases.gate import limits_of, read_scores
from effir.phases.job import Job
from effir.reading import read_json
from effir.services import registry
from effir.spec import RunSpec

FRESH = True
FIELDS = tuple(RunSpec.model_fields)
PICTURES = {"importance.png": "importance", "widths.png": "narrow"}
TRAINED = ("reference", "candidate")


def run(job: Job) -> dict[str, Any]:
    """Write report.html; output: report (URI), headline (the outcome in a sentence), summary (last-run.json), overview (nDCG@10 and
    Recall@100 by collection and model), note (what Airflow shows beside the run)."""
    verdict = json.loads(job.file("promote", "verdict.json").read_text())
    speed = json.loads(job.file("speed", "speed.json").read_text())
    metrics = json.loads(job.file("evaluate", "metrics.json").read_text())
    uri = f"{job.store.artifact('report', job.digest)}/report.html"
    scores = read_scores(job.file("evaluate", "scores.parquet"))
    summary = _summary(job, scores, verdict, speed, uri)
    table = overview(metrics)
    manifests = _manifests(job)
    training = {model: read_json(job.file(model, "training.json")) for model in TRAINED if "training.json" in manifests[model].files}
    page = render(
        Report(
            summary=summary,
            verdict=verdict,
            overview=table,
            speed=speed,
            spec=job.spec.model_dump(),
            provenance=[_origin(name, one) for name, one in manifests.items()],
            environment=_environment(manifests) | speed["machine"],
            created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            training={model: loss_curve(told) for model, told in training.items()},
            tokens=_tokens(manifests, speed, training),
            layers=_layers(job, manifests),
            examples=examples(job, scores),
            links=_links(job),
        )
    )
    path = job.out / "report.html"
    path.write_text(page, encoding="utf-8")
    told = headline(summary)
    job.output.update(report=uri, headline=told, summary=summary, overview=table, note=_note(told, summary, job.run))
    job.say(told)
    if run_id := job.run.get("mlflow_run_id"):
        pictures = [job.file(name, one) for one, name in PICTURES.items() if name in manifests and one in manifests[name].files]
        for one in (path, *pictures):
            registry.log_artifact(run_id, one, job.store)
        registry.finish_run(run_id, _tags(job.output["note"], summary), _metrics(summary, table), by=job.tracker.run_id)
    return {"query_speedup": summary["speedup"]["query"], "document_speedup": summary["speedup"]["document"]}


def _summary(
    job: Job, scores: Mapping[str, Mapping[str, Scores]], verdict: dict[str, Any], speed: dict[str, Any], uri: str
) -> dict[str, Any]:
    quality, mean = _quality(job, scores)
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
        "quality": quality,
        "mean": mean,
        "phases": job.arguments.get("phases", []),
        "report": uri,
    }


def _quality(job: Job, scores: Mapping[str, Mapping[str, Scores]]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Means of reference and candidate, their difference and its 95% interval: by collection, and over all that are comparable."""
    limits, samples = limits_of(job.spec), []
    quality: dict[str, dict[str, Any]] = {}
    for name in limits.collections:
        sample = compare(scores, *TRAINED, name, limits)
        if isinstance(sample, str):
            job.warn(f"{name} is left out of the summary: {sample}")
            continue
        means = {model: float(scores[model][name].values.mean()) for model in TRAINED}
        quality[name] = means | {"difference": sample.estimate, "interval": list(sample.interval())}
        samples.append(sample)
    if not samples:
        return quality, None
    over = mean_over_collections(samples, limits.seed) if len(samples) > 1 else samples[0]
    means = {model: sum(found[model] for found in quality.values()) / len(quality) for model in TRAINED}
    return quality, means | {"difference": over.estimate, "interval": list(over.interval())}


def _manifests(job: Job) -> dict[str, Manifest]:
    """Manifests of the inputs that are single artifacts, and of what prepare published."""
    found = {name: job.manifest_at(uri) for name, uri in job.inputs.items() if isinstance(uri, str)}
    parts = found["prepare"].parts if "prepare" in found else {}
    return found | {f"data {name}": job.manifest_at(uri) for name, uri in parts.items()}


def _origin(name: str, manifest: Manifest) -> dict[str, Any]:
    return {"name": name, "phase": manifest.phase, "digest": manifest.digest, "created": manifest.created, "seconds": manifest.seconds}


def _environment(manifests: dict[str, Manifest]) -> dict[str, Any]:
    return manifests["candidate"].key.get("libraries", {}) | manifests["candidate"].key.get("machine", {})


def _tokens(manifests: dict[str, Manifest], speed: dict[str, Any], training: dict[str, Any]) -> dict[str, int]:
    """What tokens were read for, where that is known."""
    found = {f"training the {model}": told.get("tokens") for model, told in training.items() if isinstance(told, dict)}
    found["scoring layers"] = manifests["importance"].numbers.get("tokens") if "importance" in manifests else None
    found |= {f"timing {kind} encoding, a round,": speed[kind].get("tokens") for kind in ("query", "document")}
    return {what: number for what, number in found.items() if number}


def _layers(job: Job, manifests: dict[str, Manifest]) -> Layers | None:
    """Which layers live; None where the run tells nothing of the cut. Of the base its configuration alone is fetched."""
    if "cut" not in manifests or "data base" not in manifests:
        return None
    base, told = manifests["data base"], read_json(job.file("cut", "cut.json"))
    files = {"config.json": base.files["config.json"]}
    folder = job.store.download(job.manifest("prepare").parts["base"].removesuffix(f"/{MANIFEST}"), files, job.scratch / "shape")
    full = shapes.neurons(folder)
    left = [0 if layer in told["drop_mlp"] else told["widths"].get(str(layer), neurons) for layer, neurons in enumerate(full)]
    scored = read_json(job.file("importance", "importance.json")) if "importance" in manifests else None
    means, errors = ({kind: scored[kind][what] for kind in KINDS} if scored else {} for what in ("mean", "error"))
    measure = f"{scored['measure']} in the {job.spec.importance_of}" if scored else ""
    return Layers(measure, means, errors, full, left, told["drop_attention"])


def _links(job: Job) -> dict[str, str]:
    links = {"Airflow run": job.run.get("airflow_url"), "MLflow run": registry.run_address(job.run.get("mlflow_run_id"))}
    return {label: address for label, address in links.items() if address}


def _note(told: str, summary: dict[str, Any], run: dict[str, Any]) -> str:
    """What Airflow and MLflow show beside the run, as Markdown."""
    address = registry.run_address(run.get("mlflow_run_id"))
    where = f"[The report]({address}/artifacts/report.html)" if address else f"The report: `{summary['report']}`"
    return "\n".join([f"**{told}.**", "", *[f"- {reason}" for reason in summary["reasons"]], "", where])


def _tags(note: str, summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "effir.verdict": summary["verdict"],
        "effir.model_version": summary["model"]["version"],
        "effir.report": summary["report"],
        "mlflow.note.content": note[:4900],
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
    speed = {f"speedup_{kind}": summary["speedup"][kind] for kind in ("query", "document")}
    mean = {f"mean/{name}": summary["mean"][name] for name in (*TRAINED, "difference")} if summary["mean"] else {}
    left = summary["params"]["candidate_non_embedding"] / summary["params"]["reference_non_embedding"]
    return found | sizes | speed | mean | {"parameters_share": left, "promoted": float(summary["verdict"] == "promoted")}
