"""begin: the resolved spec, the run's record in MLflow, and the champion that stands now."""

import json
from typing import Any

from effir.phases.job import Job
from effir.services import promotions, registry
from effir.spec import RunSpec

FRESH = True
FIELDS = tuple(RunSpec.model_fields)


def run(job: Job) -> dict[str, Any]:
    """Write spec.json; output: spec, mlflow_run_id, mlflow (its page), champion (null or {version, manifest, digest})."""
    if job.spec.target_parameters is not None:
        from effir import planning

        planning.check_target(job.spec)
    spec = job.spec.model_dump()
    (job.out / "spec.json").write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n")
    crowned = promotions.champion(job.store, job.spec.name)
    champion = {name: crowned[name] for name in ("version", "manifest", "digest")} if crowned and crowned["manifest"] else None
    record = registry.begin_run(job.run, job.spec)
    job.output.update(spec=spec, mlflow_run_id=record, mlflow=registry.run_address(record), champion=champion)
    standing = f"version {champion['version']}" if champion else "none yet"
    job.say(f"{job.spec.name}: {job.spec.base_model} {job.spec.variant}, champion {standing}")
    return {}
