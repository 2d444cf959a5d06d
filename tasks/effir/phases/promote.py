"""promote: the candidate becomes a model version by reference to its S3 folder, and the champion if the verdict says so."""

import json
from typing import Any

from effir.errors import EffirError
from effir.judge.verdict import Rule, Verdict
from effir.manifest import MANIFEST, code_version, content_of, digest_of
from effir.phases import carding, gate
from effir.phases.job import Job
from effir.services import promotions, registry

FRESH = True
CHOSE = ("importance", "depth", "slim", "narrow")
FIELDS = (*gate.FIELDS, "approval", "approval_hours")


def run(job: Job) -> dict[str, Any]:
    """Write promotion.json and the verdict that counted; output: model {name, version, aliases}, verdict, reasons.

    Raises promotions.Overtaken where another champion stands by now and the candidate cannot be compared with it here.
    """
    name, store = job.spec.name, job.store
    promotions.settle(store, name)
    (verdict, told), again, record = _given(job), False, None
    card = carding.whole(job)
    while True:
        before = promotions.champion(store, name)
        if before and before["digest"] == verdict.candidate["digest"]:
            version = before["version"]
            job.say(f"version {version} of {name} is this candidate and the champion already")
            if verdict.verdict != "promoted":
                job.say(f"it stays the champion, though this run's rules do not all hold; `effir rollback {name}` takes it back")
            break
        if not promotions.same(before, verdict.champion):
            job.say(f"the champion is {promotions.called(before)} by now, not {promotions.called(verdict.champion)}: judging again")
            (verdict, told), again = gate.decide(job), True
            continue
        verdict = _approved(job, verdict, again)
        version = _register(job, verdict)
        if verdict.verdict != "promoted":
            job.say(f"version {version} of {name} is a challenger, and rejected: {'; '.join(verdict.reasons)}")
            break
        try:
            record = _record(job, verdict, version, again)
            job.say(f"version {version} of {name} is the champion (promotion {record['n']})")
            break
        except promotions.Overtaken:
            registry.tag(name, version, "effir.verdict", "overtaken")
    (job.out / "README.md").write_text(card(verdict.verdict))
    promotions.settle(store, name)
    return _tell(job, verdict, told, version, before, record)


def _given(job: Job) -> tuple[Verdict, dict[str, Any]]:
    """The gate's verdict, and what else it told. Raises EffirError if it is about other bytes than those to be registered."""
    told = json.loads(job.file("gate", "verdict.json").read_text())
    verdict, manifest = Verdict.from_json(told), job.manifest("candidate")
    if manifest.digest != verdict.candidate["digest"]:
        raise EffirError("the verdict is about another candidate than the one to be promoted: trigger the run again")
    if content_of(manifest.files) != told["files"]:
        raise EffirError("the candidate's files are not those that were judged: trigger the run again")
    return verdict, {name: told[name] for name in ("data", "files", "code")}


def _approved(job: Job, verdict: Verdict, again: bool) -> Verdict:
    """The same verdict, with what the person said who was asked. Without their yes nothing is crowned."""
    if not job.spec.approval or verdict.verdict != "promoted":
        return verdict
    answer = job.arguments.get("approval") or {}
    by, yes = answer.get("by"), bool(answer.get("approved"))
    text = f"approved by {by}" if yes else f"turned down by {by}" if by else f"nobody approved it within {job.spec.approval_hours:g} hours"
    if yes and again:
        yes, text = False, f"{text} in comparison with another champion than the one that stands by now: trigger the run again"
    return verdict.but(Rule("approved", yes, text))


def _register(job: Job, verdict: Verdict) -> str:
    """The candidate as a version with the alias `challenger`."""
    manifest, uri, name = job.manifest("candidate"), job.inputs["candidate"], job.spec.name
    run_id = job.run.get("mlflow_run_id")
    parts = job.manifest("prepare").parts
    if run_id:
        registry.log_datasets(run_id, parts)
    version = registry.register(
        name,
        uri.removesuffix(f"/{MANIFEST}"),
        run_id=run_id,
        digest=manifest.digest,
        manifest=uri,
        description=verdict.to_markdown(),
        tags=_tags(job, verdict, parts),
    )
    registry.point(name, "challenger", version)
    return version


def _record(job: Job, verdict: Verdict, version: str, again: bool) -> dict[str, Any]:
    """Decide: the candidate takes the place of the champion that it was compared with."""
    manifest, uri = job.manifest("candidate"), job.inputs["candidate"]
    to = {"version": version, "digest": manifest.digest, "manifest": uri, "source": uri.removesuffix(f"/{MANIFEST}")}
    ruling = f"{job.store.artifact('promote', job.digest)}/{MANIFEST}" if again else job.inputs["gate"]
    return promotions.record(
        job.store, job.spec.name, "promote", verdict.champion, to | {"files": content_of(manifest.files)},
        why=verdict.reasons, who=promotions.author(job.run), code=code_version("effir.phases.promote"), run=job.run,
        verdict={"verdict": verdict.verdict, "artifact": ruling, "evaluation": job.inputs["evaluate"]},
    )  # fmt: skip


def _tell(
    job: Job, verdict: Verdict, told: dict[str, Any], version: str, before: dict[str, Any] | None, record: dict[str, Any] | None
) -> dict[str, Any]:
    name = job.spec.name
    aliases = sorted(alias for alias, bearer in registry.aliases(name).items() if bearer == version)
    model = {"name": name, "version": version, "aliases": aliases}
    promotion = {"verdict": verdict.verdict, "model": model, "before": before, "record": record}
    (job.out / "promotion.json").write_text(json.dumps(promotion, indent=1))
    gate.write(job, verdict, told)
    job.output.update(model=model, verdict=verdict.verdict, reasons=verdict.reasons)
    return {"version": int(version), "champion": int("champion" in aliases)}


def _tags(job: Job, verdict: Verdict, parts: dict[str, str]) -> dict[str, Any]:
    """The figures that someone choosing a version wants to see next to it, and where it comes from."""
    manifest = job.manifest("candidate")
    speed = json.loads(job.file("speed", "speed.json").read_text())
    metrics = json.loads(job.file("evaluate", "metrics.json").read_text()).get("candidate", {})
    tags = {
        "effir.verdict": verdict.verdict,
        "effir.card": f"{job.store.artifact('promote', job.digest)}/README.md",
        "effir.files": content_of(manifest.files),
        "effir.spec_digest": digest_of(job.spec.model_dump()),
        "effir.dag_run_id": job.run.get("id"),
        "effir.parameters": manifest.numbers.get("parameters"),
        "effir.parameters_non_embedding": manifest.numbers.get("parameters_non_embedding"),
        "effir.query_speedup": round(speed["query"]["ratio"], 4),
        "effir.document_speedup": round(speed["document"]["ratio"], 4),
    }
    tags |= {f"effir.ndcg_at_10.{name}": round(found["ndcg_at_10"], 6) for name, found in metrics.items()}
    tags |= {f"effir.made.{name}": job.inputs[name] for name in CHOSE if job.has(name)}
    return tags | {f"effir.data.{name}": uri.rsplit("/", 2)[1] for name, uri in parts.items()}
