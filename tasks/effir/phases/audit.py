"""audit: is the champion still what was crowned? Its files, its aliases, and what it computes."""

import json
from typing import Any

from effir.errors import BadInput
from effir.phases.job import Job
from effir.services import promotions, registry
from effir.services.rollback import sound

FRESH = True
FIELDS = ("name",)


def run(job: Job) -> dict[str, Any]:
    """Write audit.json; output: version (null without a champion), loaders {name: largest difference of the golden embeddings}.

    Raises BadInput where a file is missing or damaged, MLflow's alias names another version than the log, or an embedding differs.
    """
    name = job.spec.name
    champion = promotions.champion(job.store, name)
    found: dict[str, Any] = {"version": champion and champion["version"], "loaders": {}}
    if champion:
        named = registry.aliases(name).get("champion")
        if named != champion["version"]:
            raise BadInput(f"MLflow calls version {named} the champion of {name}, and the log version {champion['version']}")
        sound(job.store, name, champion)
        found["loaders"] = _recomputed(job, name, champion)
    else:
        job.say(f"{name} has no champion yet")
    (job.out / "audit.json").write_text(json.dumps(found, indent=1))
    job.output.update(found)
    return {"loaders": max(found["loaders"].values(), default=0.0)}


def _recomputed(job: Job, name: str, champion: dict[str, Any]) -> dict[str, float]:
    from effir.export.verify import verify

    folder = job.folder_at(champion["manifest"])
    job.say(f"version {champion['version']} of {name} has the files that were registered")
    return verify(folder)
