"""arms: a frontier's form as arms, the references and importance scores that they share, and the run's record in MLflow."""

import json
from typing import Any

from effir.arms import Arm, arms, contrast_list
from effir.manifest import digest_of
from effir.phases import finetune, importance
from effir.phases.job import Job
from effir.services import registry
from effir.spec import RunSpec

FRESH = True
FIELDS = tuple(RunSpec.model_fields)


def run(job: Job) -> dict[str, Any]:
    """Output: spec, mlflow_run_id, references [{caption, spec}], scores [{spec, reference}], arms.

    An arm is {name, line (as it was written), seed, spec, cut, reference, scores}.
    reference and scores are places in those lists; of a score, the reference whose sub-layers are scored (None: the base's).
    """
    found = arms(job.spec, job.arguments["variants"], job.arguments["seeds"])
    contrast_list(job.arguments.get("contrasts", ""), {one.name for one in found})
    references: dict[str, dict[str, Any]] = {}
    scores: dict[str, dict[str, Any]] = {}
    told = []
    for one in found:
        reference = _place(
            references, _reference_key(one), {"caption": {"seed": one.seed, "reference": len(references)}, "spec": one.spec.model_dump()}
        )
        of = reference if one.spec.importance_of == "reference" else None
        score = _place(scores, _score_key(one, of), {"spec": one.spec.model_dump(), "reference": of})
        told.append(
            {"name": one.name, "line": one.line, "seed": one.seed, "spec": one.spec.model_dump()}
            | {"cut": one.cut, "reference": reference, "scores": score}
        )
    (job.out / "arms.json").write_text(json.dumps(told, indent=1))
    run_id = registry.begin_run(job.run, job.spec)
    job.output.update(
        contrasts=job.arguments.get("contrasts", ""),
        spec=job.spec.model_dump(),
        mlflow_run_id=run_id,
        mlflow=registry.run_address(run_id),
        champion=None,
        arms=told,
        references=list(references.values()),
        scores=list(scores.values()),
    )
    job.say(f"{len(told)} arms, {len(references)} references: " + ", ".join(dict.fromkeys(one.name for one in found)))
    return {"arms": len(told), "references": len(references)}


def _reference_key(one: Arm) -> str:
    """Arms whose references are trained alike share one."""
    return _key(one.spec, finetune, {"model": "reference"})


def _score_key(one: Arm, reference: int | None) -> str:
    return f"{_key(one.spec, importance, {})} {reference}"


def _key(spec: RunSpec, phase: Any, arguments: dict[str, Any]) -> str:
    return digest_of({name: getattr(spec, name) for name in set(phase.FIELDS) - phase.unused(spec, arguments)})


def _place(known: dict[str, dict[str, Any]], key: str, value: dict[str, Any]) -> int:
    """Where the value that this key stands for is, or is put."""
    known.setdefault(key, value)
    return list(known).index(key)
