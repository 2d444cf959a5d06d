"""rollback: a former champion takes its place again."""

import json
from typing import Any

from effir.errors import BadInput
from effir.phases.job import Job
from effir.services import promotions
from effir.services.rollback import rollback

FRESH = True
FIELDS = ("name",)


def run(job: Job) -> dict[str, Any]:
    """Write promotion.json, the log's record; output: model {name, version, aliases}, record. Arguments: `to` (a version), `why`.

    Done once for each run: tried again after a crash, it mends what was left and goes back no further.
    """
    name, store = job.spec.name, job.store
    to, why = (str(job.arguments.get(one) or "").strip() for one in ("to", "why"))
    if to and not to.isdecimal():
        raise BadInput(f"{to!r} is no version of {name}: write its number, or leave it empty for the champion before")
    promotions.settle(store, name)
    record = _done(job) or rollback(store, name, to or None, why, who=promotions.author(job.run), run=job.run)
    (job.out / "promotion.json").write_text(json.dumps(record, indent=1))
    job.say(promotions.sentence(record))
    job.output.update(model={"name": name, "version": record["to"]["version"], "aliases": ["champion"]}, record=record)
    return {"version": int(record["to"]["version"]), "n": record["n"]}


def _done(job: Job) -> dict[str, Any] | None:
    """What this run did in an earlier try."""
    ours = (one for one in promotions.history(job.store, job.spec.name) if one["run"] and one["run"]["dag_run_id"] == job.run.get("id"))
    return next((one for one in ours if one["action"] == "rollback"), None)
