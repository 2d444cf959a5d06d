"""promote: the candidate becomes a model version by reference to its S3 folder, and the champion if the verdict says so."""

import json
from typing import Any

from effir.errors import EffirError
from effir.manifest import MANIFEST, digest_of
from effir.phases.job import Job
from effir.services import registry

FRESH = True
FIELDS = ("name",)


def run(job: Job) -> dict[str, Any]:
    """Write promotion.json; output: model {name, version, aliases}."""
    name = job.spec.name
    verdict = json.loads(job.file("gate", "verdict.json").read_text())
    before = _unchanged_champion(job, verdict)
    if before and before["digest"] == verdict["candidate"]["digest"]:
        version = before["version"]
        job.say(f"version {version} of {name} is this candidate and the champion already")
    else:
        version = _register(job, verdict)
        registry.challenger(name, version)
        if verdict["verdict"] == "promoted":
            registry.crown(name, version)
        job.say(f"version {version} of {name} is {'the champion' if verdict['verdict'] == 'promoted' else 'a challenger, and rejected'}")
    model = {"name": name, "version": version, "aliases": registry.aliases(name, version)}
    promotion = {"verdict": verdict["verdict"], "model": model, "before": before, "after": registry.champion(name)}
    (job.out / "promotion.json").write_text(json.dumps(promotion, indent=1))
    job.output["model"] = model
    return {"version": int(version), "champion": int("champion" in model["aliases"])}


def _unchanged_champion(job: Job, verdict: dict[str, Any]) -> dict[str, Any] | None:
    """The champion that the candidate was judged against, or the candidate itself where a try that was killed had crowned it.

    Raises EffirError if there is another one by now.
    """
    now = registry.champion(job.spec.name)
    judged = verdict["champion"]
    if now and now["digest"] == verdict["candidate"]["digest"]:
        return now
    if (now and now["version"]) != (judged and judged["version"]):
        raise EffirError(
            f"the champion of {job.spec.name} is {_called(now)} by now, and the candidate was judged against {_called(judged)}: "
            "it must be judged again, so trigger the run again"
        )
    return now


def _called(version: dict[str, Any] | None) -> str:
    return f"version {version['version']}" if version else "nobody"


def _register(job: Job, verdict: dict[str, Any]) -> str:
    manifest = job.manifest("candidate")
    if manifest.digest != verdict["candidate"]["digest"]:
        raise EffirError("the verdict is about another candidate than the one to be promoted: trigger the run again")
    uri = job.inputs["candidate"]
    run_id = job.run.get("mlflow_run_id")
    parts = job.manifest("prepare").parts
    if run_id:
        registry.log_datasets(run_id, parts)
    return registry.register(
        job.spec.name,
        uri.removesuffix(f"/{MANIFEST}"),
        run_id=run_id,
        digest=manifest.digest,
        manifest=uri,
        description=job.file("gate", "verdict.md").read_text(),
        tags=_tags(job, verdict, parts),
    )


def _tags(job: Job, verdict: dict[str, Any], parts: dict[str, str]) -> dict[str, Any]:
    """The figures that someone choosing a version wants to see next to it, and where it comes from."""
    numbers = job.manifest("candidate").numbers
    speed = json.loads(job.file("speed", "speed.json").read_text())
    metrics = json.loads(job.file("evaluate", "metrics.json").read_text()).get("candidate", {})
    tags = {
        "effir.verdict": verdict["verdict"],
        "effir.spec_digest": digest_of(job.spec.model_dump()),
        "effir.dag_run_id": job.run.get("id"),
        "effir.parameters": numbers.get("parameters"),
        "effir.parameters_non_embedding": numbers.get("parameters_non_embedding"),
        "effir.query_speedup": round(speed["query"]["ratio"], 4),
        "effir.document_speedup": round(speed["document"]["ratio"], 4),
    }
    tags |= {f"effir.ndcg_at_10.{name}": round(found["ndcg_at_10"], 6) for name, found in metrics.items()}
    return tags | {f"effir.data.{name}": uri.rsplit("/", 2)[1] for name, uri in parts.items()}
