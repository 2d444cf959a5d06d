"""What nobody needs any more (`effir gc`): found by asking the registry, the promotion log and Airflow, removed only on request."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effir.errors import BadInput
from effir.manifest import MANIFEST
from effir.services import roots, scratch
from effir.services.airflow import Airflow
from effir.services.store import Store, plain_errors, split

DURATION = re.compile(r"(\d+)([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
KINDS = {
    "artifacts": "no model version and no promotion needs them; a later run computes them again",
    "unfinished": "files of artifacts without a manifest, left by phases that were killed",
    "checkpoints": "of phases that are finished, or of runs that are long over",
    "runs": "calls, results and progress of runs that are over",
    "uploads": "multipart uploads that nobody ended",
    "scratch": "temporary folders here, whose process is dead",
}
OURS = "effir_"


@dataclass
class Garbage:
    """One thing that can go: its kind, where it lies, and for what lies in S3 its objects. bytes: how much room that gives."""

    kind: str
    place: str
    bytes: int = 0
    newest: float = 0.0
    objects: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Limits:
    """How long things are left alone, in seconds since they were written last. grace: anything; runs: what is left of runs."""

    grace: float
    runs: float


def seconds_of(text: str) -> float:
    """Seconds of 90s, 30m, 24h, 30d. Raises BadInput for anything else."""
    if not (found := DURATION.fullmatch(text.strip())):
        raise BadInput(f"{text!r} is no length of time: write a number with s, m, h or d, such as 24h")
    return float(int(found[1]) * SECONDS[found[2]])


def airflow_of(settings: dict[str, str]) -> Airflow:
    """Airflow as these settings reach it, asked once: raises EffirError where it does not answer."""
    airflow = Airflow(
        settings["EFFIR_AIRFLOW_URL"], settings.get("EFFIR_AIRFLOW_USER", "admin"), settings.get("EFFIR_AIRFLOW_PASSWORD", "")
    )
    airflow.unfinished()
    return airflow


def find(store: Store, airflow: Airflow, limits: Limits) -> list[Garbage]:
    """What can go. Raises EffirError where Airflow, MLflow or S3 cannot be asked: nothing is guessed.

    While runs of ours are under way no artifact goes, since a run may find any of them done before, and no checkpoint but those of
    finished phases.
    """
    now = time.time()
    running = under_way(store, airflow)
    artifacts = _folders(store, "artifacts", 2)
    needed = roots.needed(store, artifacts)
    found = [*_runs(store, running, now - limits.runs), *_uploads(store, now - limits.grace)]
    found += _checkpoints(store, now - limits.grace, now - limits.runs if not running else 0)
    if not running:
        found += _artifacts(artifacts, needed, now - limits.grace)
    return sorted(found + _scratch(), key=lambda one: (list(KINDS).index(one.kind), one.place))


def remove(store: Store, airflow: Airflow, found: list[Garbage]) -> list[Garbage]:
    """Remove these; returns what was removed. Artifacts are left from the moment on at which a run of ours begins."""
    removed = []
    for one in found:
        if one.kind in ("artifacts", "unfinished") and under_way(store, airflow):
            continue
        if one.kind == "scratch":
            shutil.rmtree(one.place, ignore_errors=True)
        elif one.kind == "uploads":
            _abort(store, one)
        else:
            store.delete(sorted(one.objects, key=lambda uri: not uri.endswith(f"/{MANIFEST}")))
        removed.append(one)
    return removed


def under_way(store: Store, airflow: Airflow) -> set[str]:
    """Ids of the runs that are not over: those of our DAGs, and those of others that have a folder in the store."""
    unfinished = airflow.unfinished()
    folders = _names(store, f"{store.root}/runs/") if unfinished else set()
    return {one["dag_run_id"] for one in unfinished if one["dag_id"].startswith(OURS) or one["dag_run_id"] in folders}


def rows(found: list[Garbage]) -> list[dict[str, Any]]:
    """A row a kind: {kind, count, bytes, why, places}."""
    by_kind: dict[str, list[Garbage]] = {kind: [] for kind in KINDS}
    for one in found:
        by_kind[one.kind].append(one)
    return [
        {
            "kind": kind,
            "count": len(ones),
            "bytes": sum(one.bytes for one in ones),
            "why": KINDS[kind],
            "places": [one.place for one in ones],
        }
        for kind, ones in by_kind.items()
    ]


def _folders(store: Store, kind: str, depth: int) -> dict[str, Garbage]:
    """Everything below a folder of the store, put together by the first `depth` names: address → what lies there."""
    prefix = f"{store.root}/{kind}/"
    found: dict[str, Garbage] = {}
    for uri, size, written in store.dated(prefix):
        names = uri.removeprefix(prefix).split("/")
        if len(names) <= depth:
            continue
        place = prefix + "/".join(names[:depth])
        one = found.setdefault(place, Garbage(kind, place))
        one.objects.append(uri)
        one.bytes += size
        one.newest = max(one.newest, written)
    return found


def _artifacts(folders: dict[str, Garbage], needed: set[str], before: float) -> Iterator[Garbage]:
    for place, one in folders.items():
        if place not in needed and one.newest < before:
            one.kind = "artifacts" if f"{place}/{MANIFEST}" in one.objects else "unfinished"
            yield one


def _checkpoints(store: Store, before: float, abandoned_before: float) -> Iterator[Garbage]:
    for place, one in _folders(store, "checkpoints", 2).items():
        finished = store.exists(f"{place.replace('/checkpoints/', '/artifacts/')}/{MANIFEST}")
        if one.newest < (before if finished else abandoned_before):
            yield one


def _runs(store: Store, running: set[str], before: float) -> Iterator[Garbage]:
    for place, one in _folders(store, "runs", 1).items():
        if place.rsplit("/", 1)[1] not in running and one.newest < before:
            yield one


def _scratch() -> list[Garbage]:
    def size(folder: Path) -> int:
        total = 0
        for path in folder.rglob("*"):
            with suppress(OSError):
                total += path.lstat().st_size
        return total

    return [Garbage("scratch", str(path), size(path)) for path in scratch.abandoned()]


def _uploads(store: Store, before: float) -> Iterator[Garbage]:
    bucket, prefix = split(f"{store.root}/")
    with plain_errors(store.root):
        for page in store.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
            for one in page.get("Uploads", []):
                if one["Initiated"].timestamp() < before:
                    parts = store.client.list_parts(Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"]).get("Parts", [])
                    yield Garbage("uploads", f"s3://{bucket}/{one['Key']}", sum(part["Size"] for part in parts), objects=[one["UploadId"]])


def _abort(store: Store, one: Garbage) -> None:
    bucket, key = split(one.place)
    for upload in one.objects:
        with plain_errors(one.place):
            store.client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)


def _names(store: Store, prefix: str) -> set[str]:
    return {uri.removeprefix(prefix).partition("/")[0] for uri, _ in store.list(prefix)}


def collect(settings: dict[str, str], limits: Limits, delete: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """What `effir gc` does; returns {deleted, rows, under_way}."""
    store, airflow = Store(), airflow_of(settings)
    found = find(store, airflow, limits)
    running = sorted(under_way(store, airflow))
    if running:
        say(f"artifacts stay, since runs are under way that may use them: {', '.join(running)}")
    if delete:
        found = remove(store, airflow, found)
    return {"deleted": delete, "rows": rows(found), "under_way": running}


def table(told: dict[str, Any]) -> Iterator[str]:
    """The lines that a person reads."""
    for row in told["rows"]:
        yield f"{row['kind']:<13}{row['count']:>7}{row['bytes'] / 2**20:>12.1f} MiB  {row['why']}"
    total = sum(row["bytes"] for row in told["rows"])
    yield f"{'together':<13}{sum(row['count'] for row in told['rows']):>7}{total / 2**20:>12.1f} MiB"
    yield "removed" if told["deleted"] else "nothing was removed: `effir gc --delete` removes it"
