"""Is what the gate is shown about the models it judges? Digests say so: of every model, of every collection, of how vectors were made."""

from typing import TYPE_CHECKING, Any

from effir.errors import EffirError
from effir.manifest import MANIFEST
from effir.phases.job import Job
from effir.services import promotions

if TYPE_CHECKING:
    from effir.judge.quality import Scores

SAME = ("code", "libraries")


def check(job: Job) -> dict[str, str]:
    """Collection → digest of the data that every model was evaluated on.

    Raises EffirError where speed or vectors are of another model than the candidate or the reference at hand.
    """
    evaluated, timed = job.manifest("evaluate").output, job.manifest("speed").key.get("inputs", {})
    for model in ("reference", "candidate"):
        digest = job.manifest(model).digest
        for what, found in (("vectors", evaluated["models"].get(model, {}).get("digest")), ("speed", timed.get(model))):
            if found != digest:
                raise EffirError(f"the {what} of the {model} are of {found}, and the {model} is {digest}: trigger the run again")
    return evaluated["data"]


def has(job: Job, champion: dict[str, Any]) -> bool:
    """Whether the champion is among the models that this run evaluated."""
    return job.manifest("evaluate").output["models"].get("champion", {}).get("digest") == champion["digest"]


def elsewhere(job: Job, champion: dict[str, Any]) -> "dict[str, Scores] | None":
    """A champion's scores by collection, from the run in which it was crowned; None unless they are comparable with this run's.

    Comparable: the same data, evaluated by the same code, from vectors that were made with the same code and settings.
    """
    from effir.phases.gate import read_scores

    uri = _evaluation(job, champion)
    if uri is None:
        return None
    ours, theirs = job.manifest("evaluate"), job.manifest_at(uri)
    crowned, candidate = theirs.output["models"].get("candidate", {}), ours.output["models"]["candidate"]
    if crowned.get("digest") != champion["digest"] or crowned["encoding"] != candidate["encoding"]:
        return None
    if any(ours.key.get(name) != theirs.key.get(name) for name in SAME):
        return None
    if any(theirs.output["data"].get(name) != ours.output["data"].get(name) for name in job.spec.collection_names()):
        return None
    files = {"scores.parquet": theirs.files["scores.parquet"]}
    folder = job.store.download(uri.removesuffix(f"/{MANIFEST}"), files, job.scratch / "crowned" / theirs.digest)
    return read_scores(folder / "scores.parquet").get("candidate")


def _evaluation(job: Job, champion: dict[str, Any]) -> str | None:
    """The evaluation on which the champion was crowned last, if it is still stored."""
    for record in promotions.history(job.store, job.spec.name):
        if record["to"]["digest"] == champion["digest"] and record["verdict"]:
            uri = record["verdict"]["evaluation"]
            return uri if job.store.exists(uri) else None
    return None
