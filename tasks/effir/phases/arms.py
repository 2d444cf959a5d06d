"""arms: a frontier's form as arms, the teachers, references and importance scores that they share, and the run's record in MLflow."""

import json
from collections.abc import Sequence
from typing import Any

from effir import studies
from effir.arms import Arm, arms, contrast_list
from effir.manifest import digest_of
from effir.phases import finetune, importance, teacher
from effir.phases.job import Job
from effir.services import registry
from effir.spec import RunSpec

FRESH = True
FIELDS = tuple(RunSpec.model_fields)


def run(job: Job) -> dict[str, Any]:
    """Output: spec, study ({name, question, published} or None), mlflow_run_id, and what `shared` finds.

    spec is what the data are prepared by: with as many hard negatives as any arm wants.
    """
    found = arms(job.spec, job.arguments["variants"], job.arguments["seeds"])
    contrast_list(job.arguments.get("contrasts", ""), {one.name for one in found})
    name = job.arguments.get("study", "")
    study = studies.find(name).to_json(name) if name else None
    parts = shared(found)
    (job.out / "arms.json").write_text(json.dumps(parts["arms"], indent=1))
    run_id = registry.begin_run(job.run, job.spec)
    job.output.update(
        contrasts=job.arguments.get("contrasts", ""),
        study=study,
        spec=job.spec.model_dump() | {"hard_negatives": max(one.spec.hard_negatives for one in found)},
        mlflow_run_id=run_id,
        mlflow=registry.run_address(run_id),
        champion=None,
        **parts,
    )
    counts = {"arms": len(found), "references": len(parts["references"])}
    job.say(f"{counts['arms']} arms, {counts['references']} references: " + ", ".join(dict.fromkeys(one.name for one in found)))
    return counts


def shared(found: Sequence[Arm]) -> dict[str, list[dict[str, Any]]]:
    """teachers [{spec}], references [{name, caption, spec, teacher}], scores [{spec, reference}] and arms.

    An arm is {name, line (as it was written), seed, spec, cut, weights, teacher, reference, scores}.
    teacher, reference and scores are places in those lists; of a score, the reference whose sub-layers are scored (None: the base's).
    A reference is called `reference`, and where there are several ways of training the others `reference of` the first arm that has one.
    """
    teachers: dict[str, dict[str, Any]] = {}
    references: dict[str, dict[str, Any]] = {}
    ways: dict[str, str] = {}
    scores: dict[str, dict[str, Any]] = {}
    told = []
    for one in found:
        plain = one.spec.model_dump()
        taught = _place(teachers, _key(one.spec, teacher, {}, "seed"), {"spec": plain})
        way = f"{_key(one.spec, finetune, {'model': 'reference'}, 'seed')} {taught}"
        trained = {"name": ways.setdefault(way, f"reference of {one.name}" if ways else "reference"), "spec": plain, "teacher": taught}
        caption = {"seed": one.seed, "reference": len(references)}
        reference = _place(references, f"{way} {one.seed}", trained | {"caption": caption})
        of = reference if one.spec.importance_of == "reference" else None
        score = _place(scores, f"{_key(one.spec, importance, {})} {of}", {"spec": plain, "reference": of})
        told.append(
            {"name": one.name, "line": one.line, "seed": one.seed, "spec": plain}
            | {"cut": one.cut, "weights": one.weights, "teacher": taught, "reference": reference, "scores": score}
        )
    return {"teachers": list(teachers.values()), "references": list(references.values()), "scores": list(scores.values()), "arms": told}


def _key(spec: RunSpec, phase: Any, arguments: dict[str, Any], *but: str) -> str:
    """What a phase's result depends on, some fields aside: arms of one key share it."""
    unused = phase.unused(spec, arguments) if hasattr(phase, "unused") else set()
    return digest_of({name: getattr(spec, name) for name in set(phase.FIELDS) - unused - set(but)})


def _place(known: dict[str, dict[str, Any]], key: str, value: dict[str, Any]) -> int:
    """Where the value that this key stands for is, or is put."""
    known.setdefault(key, value)
    return list(known).index(key)
