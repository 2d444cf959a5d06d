"""arms: a frontier's form as arms; the bases, teachers, references and importance scores that they share; the run's record in MLflow."""

import json
from collections.abc import Sequence
from typing import Any

from effir import studies
from effir.arms import BASE, Arm, arms, contrast_list
from effir.manifest import digest_of
from effir.phases import finetune, importance, teacher
from effir.phases.job import Job
from effir.services import registry
from effir.spec import WHOLE, RunSpec

FRESH = True
FIELDS = tuple(RunSpec.model_fields)
UNCUT = WHOLE | {"heal_steps": 0}


def run(job: Job) -> dict[str, Any]:
    """Output: spec, study ({name, question, published} or None), mlflow_run_id, and what `shared` finds.

    spec is what the data are prepared by: with as many hard negatives as any arm wants, and without the profile's own cut, which no
    arm need have.
    """
    found = arms(job.spec, job.arguments["variants"], job.arguments["seeds"])
    contrast_list(job.arguments.get("contrasts", ""), {one.name for one in found})
    name = job.arguments.get("study", "")
    study = studies.find(name).to_json(name) if name else None
    parts = shared(job.spec, found)
    prepared = job.spec.model_dump() | UNCUT | {"hard_negatives": max(one.spec.hard_negatives for one in found)}
    bases = [{"spec": prepared | one} for one in parts.pop("bases")]
    (job.out / "arms.json").write_text(json.dumps(parts["arms"], indent=1))
    run_id = registry.begin_run(job.run, job.spec)
    job.output.update(
        contrasts=job.arguments.get("contrasts", ""),
        study=study,
        spec=prepared,
        bases=bases,
        mlflow_run_id=run_id,
        mlflow=registry.run_address(run_id),
        champion=None,
        **parts,
    )
    counts = {"arms": len(found), "references": len(parts["references"])}
    job.say(f"{counts['arms']} arms, {counts['references']} references: " + ", ".join(dict.fromkeys(one.name for one in found)))
    return counts


def shared(spec: RunSpec, found: Sequence[Arm]) -> dict[str, list[dict[str, Any]]]:
    """bases [fields of a spec], teachers [{spec}], references [{name, caption, spec, teacher}], scores [{spec, base, reference}], arms.

    spec: the frontier's, whose base is the first and what references are made of
    An arm is {name, line (as it was written), caption, spec, cut, weights, base, teacher, reference, scores}.
    base, teacher, reference and scores are places in those lists; of a score, the reference whose sub-layers are scored (None: a base's).
    A reference is called `reference`, and where there are several ways of training the others `reference of` the first arm that has one.
    """
    own = {name: getattr(spec, name) for name in BASE}
    bases = {digest_of(own): own}
    teachers: dict[str, dict[str, Any]] = {}
    references: dict[str, dict[str, Any]] = {}
    ways: dict[str, str] = {}
    scores: dict[str, dict[str, Any]] = {}
    told = []
    for one in found:
        plain = one.spec.model_dump()
        theirs = {name: plain[name] for name in BASE}
        base = _place(bases, digest_of(theirs), theirs)
        taught = _place(teachers, _key(one.spec, teacher, {}, "seed"), {"spec": plain | own})
        way = f"{_key(one.spec, finetune, {'model': 'reference'}, 'seed')} {taught}"
        trained = {
            "name": ways.setdefault(way, f"reference of {one.name}" if ways else "reference"),
            "spec": plain | own,
            "teacher": taught,
        }
        trained["caption"] = {"seed": one.seed, "reference": len(references)}
        reference = _place(references, f"{way} {one.seed}", trained)
        of = reference if one.spec.importance_of == "reference" else None
        score = _place(scores, f"{_key(one.spec, importance, {})} {base} {of}", {"spec": plain, "base": base, "reference": of})
        caption = {"arm": one.name, "seed": one.seed, "reference": reference, "sibling": one.whole and base > 0}
        told.append(
            {"name": one.name, "line": one.line, "seed": one.seed, "caption": caption, "spec": plain, "cut": one.cut}
            | {"weights": one.weights, "base": base, "teacher": taught, "reference": reference, "scores": score}
        )
    lists = {"bases": bases, "teachers": teachers, "references": references, "scores": scores}
    return {name: list(one.values()) for name, one in lists.items()} | {"arms": told}


def _key(spec: RunSpec, phase: Any, arguments: dict[str, Any], *but: str) -> str:
    """What a phase's result depends on, some fields aside: arms of one key share it."""
    unused = phase.unused(spec, arguments) if hasattr(phase, "unused") else set()
    return digest_of({name: getattr(spec, name) for name in set(phase.FIELDS) - unused - set(but)})


def _place(known: dict[str, dict[str, Any]], key: str, value: dict[str, Any]) -> int:
    """Where the value that this key stands for is, or is put."""
    known.setdefault(key, value)
    return list(known).index(key)
