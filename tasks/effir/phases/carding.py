"""What a run knows for a model's card: before it was judged, and after."""

import json
import shlex
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from effir.judge.quality import compare
from effir.phases.gate import limits_of, read_scores
from effir.phases.job import Job
from effir.reading import read_json
from effir.spec import RunSpec, profile_names, resolve

if TYPE_CHECKING:
    from effir.export.card import Origin

README = "model/README.md"


def origin(job: Job, steps: int) -> "Origin":
    """Base model, data and training of the model that is being fine-tuned. A local folder goes by its name alone."""
    from effir.export.card import Origin

    spec, about = job.spec, read_json(job.folder("training") / "dataset.json")
    base = f"{named(spec.base_model)} (revision {spec.base_revision})" if spec.base_revision else named(spec.base_model)
    return Origin(
        base=base, data=named(about.get("source") or about.get("name") or spec.training_data), licence=about.get("licence") or "",
        steps=steps, batch=spec.batch, learning_rate=spec.learning_rate, teacher=named(spec.teacher), seed=spec.seed,
    )  # fmt: skip


def whole(job: Job) -> Callable[[str], str]:
    """A verdict's word → the candidate's card with what was measured; of a candidate without a card, that alone.

    All is read here, so that what cannot be read is noticed before anybody is crowned.
    """
    from effir.export.card import Quality, judged

    before = job.file("candidate", README).read_text() if README in job.manifest("candidate").files else ""
    scores, limits = read_scores(job.file("evaluate", "scores.parquet")), limits_of(job.spec)
    qualities = []
    for name in limits.collections:
        sample = compare(scores, "reference", "candidate", name, limits)
        if not isinstance(sample, str):
            reference, candidate = (float(scores[model][name].values.mean()) for model in ("reference", "candidate"))
            low, high = sample.interval()
            qualities.append(Quality(name, _licence(job, name), reference, candidate, sample.estimate, (low, high)))
    speed = json.loads(job.file("speed", "speed.json").read_text())
    return partial(judged, before, qualities, speed, command(job.spec), job.run.get("id"))


def command(spec: RunSpec) -> str:
    """What a person types for the same spec: the profile that needs the fewest other fields, and those.

    A field cannot be emptied on the command line, so a profile that sets what the spec leaves open comes last.
    """
    asked = spec.model_dump()
    apart = {}
    for name in profile_names():
        given = resolve(name).model_dump()
        apart[name] = {key: value for key, value in asked.items() if value != given[key]}
    nearest = min(apart, key=lambda name: (None in apart[name].values(), len(apart[name]), name))
    return shlex.join(["effir", "run", "--profile", nearest, *(part for key, value in apart[nearest].items() for part in _set(key, value))])


def named(source: str) -> str:
    """A source as a stranger may read it: of a path, the last part."""
    return source.rstrip("/").rsplit("/", 1)[-1] if source.startswith(("/", ".", "~", "s3://")) else source


def _set(key: str, value: Any) -> tuple[str, str]:
    return "--set", f"{key}={value}"


def _licence(job: Job, name: str) -> str:
    """The licence of a test collection, as prepare stored it; empty where nobody said."""
    uri = job.manifest("prepare").parts.get(name)
    if uri is None or "collection.json" not in job.manifest_at(uri).files:
        return ""
    manifest = job.manifest_at(uri)
    folder = job.scratch / "licences" / manifest.digest
    job.store.download(uri.rsplit("/", 1)[0], {"collection.json": manifest.files["collection.json"]}, folder)
    return str(read_json(folder / "collection.json").get("licence") or "")
