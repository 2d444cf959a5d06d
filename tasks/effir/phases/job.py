"""What a phase is handed: its part of the spec, its inputs as local folders, a place to write, and ways to report."""

import datetime
import fcntl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effir.errors import BadInput
from effir.manifest import MANIFEST, Manifest, describe, digest_of
from effir.services.store import Store
from effir.spec import RunSpec
from effir.train.ranks import ALONE, Ranks


@dataclass
class Job:
    """One execution of a phase.

    inputs:    name → manifest URI, or a list of them (a mapped phase's results)
    arguments: what distinguishes mapped executions: {"model": "candidate", "collection": "scifact", "shard": 0}
    run:       {"id": dag run id, "mlflow_run_id": parent run or None, …}, for phases that register or report
    ranks:     this process among those that execute the phase together; rank 0 alone reports and publishes
    downloads: where inputs are put, if not in scratch; the ranks of a machine share it
    halvings:  how often the phase ran out of memory before; held: queries it now holds in memory at once, where it trains
    """

    phase: str
    digest: str
    spec: RunSpec
    inputs: dict[str, Any]
    arguments: dict[str, Any]
    run: dict[str, Any]
    store: Store
    out: Path
    scratch: Path
    tracker: Any = None
    progress_uri: str | None = None
    downloads: Path | None = None
    ranks: Ranks = ALONE
    halvings: int = 0
    held: int | None = None
    forward_passes: int = 0
    parts: dict[str, str] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    afterwards: list[Callable[[], None]] = field(default_factory=list)
    _manifests: dict[str, Manifest] = field(default_factory=dict, repr=False)
    _told: float = field(default=0.0, repr=False)
    _first: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), repr=False)

    def manifest(self, name: str) -> Manifest:
        """Manifest of the input called `name`."""
        return self.manifest_at(self._uri(name))

    def folder(self, name: str) -> Path:
        """The input called `name` as a local folder, every digest checked."""
        return self.folder_at(self._uri(name))

    def manifest_at(self, uri: str) -> Manifest:
        """Manifest at a URI, fetched once: a manifest never changes. Raises BadInput if there is none, or it leads out of its artifact."""
        if uri not in self._manifests:
            self._manifests[uri] = self.store.manifest(uri)
        return self._manifests[uri]

    def folder_at(self, uri: str) -> Path:
        """The artifact whose manifest is at `uri` as a local folder (downloaded once, by one rank of this machine)."""
        manifest = self.manifest_at(uri)
        target = (self.downloads or self.scratch / "inputs") / manifest.phase / manifest.digest
        with _locked(target):
            if not target.exists():
                part = target.with_name(f"{target.name}.part")
                part.mkdir(exist_ok=True)
                self.store.download(uri.removesuffix(f"/{MANIFEST}"), manifest.files, part).rename(target)
        return target

    def file(self, name: str, path: str) -> Path:
        """One file of the input called `name`, its digest checked, without the rest of the artifact."""
        uri = self._uri(name)
        manifest = self.manifest_at(uri)
        if path not in manifest.files:
            raise BadInput(f"the input {name!r} of phase {self.phase} has no file {path}")
        target = self.scratch / "files" / manifest.phase / manifest.digest
        if not (target / path).exists():
            self.store.download(uri.removesuffix(f"/{MANIFEST}"), {path: manifest.files[path]}, target)
        return target / path

    def publish_part(self, name: str, kind: str, folder: Path) -> str:
        """Publish a folder as an artifact of its own, named by its content; returns its manifest's URI.

        Later phases then depend on this part alone and not on everything this phase made.
        """
        content = {path: file.sha256 for path, file in describe(folder).items()}
        digest = digest_of({"kind": kind, "files": content})
        manifest = self.store.publish(
            Manifest(
                phase=kind, digest=digest, key={"files": content}, files={}, numbers={}, seconds=0, forward_passes=0,
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            ),
            folder,
        )  # fmt: skip
        self.parts[name] = f"{self.store.artifact(kind, manifest.digest)}/{MANIFEST}"
        return self.parts[name]

    def after_publishing(self, act: Callable[[], None]) -> None:
        """Have something done once the artifact is in place (such as removing checkpoints)."""
        self.afterwards.append(act)

    def has(self, name: str) -> bool:
        """Whether this input was given."""
        return bool(self.inputs.get(name))

    def say(self, text: str) -> None:
        """A line for the log."""
        if self.ranks.rank == 0:
            print(text, flush=True)

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """A number for MLflow (and nothing where there is no MLflow run)."""
        if self.tracker is not None:
            self.tracker.metric(name, float(value), step)

    def progress(self, done: float, total: float, figure: str = "") -> None:
        """Tell how far the work is; shown in the log and to whoever follows the run.

        The ETA counts from the first call with this total, not from the phase's beginning: loading a model says nothing of its steps.
        """
        now = time.monotonic()
        if total != self._first[2] or done < self._first[1]:
            self._first = now, done, total
        if self.ranks.rank or (now - self._told < 5 and done < total):
            return
        self._told = now
        began, first, _ = self._first
        eta = (now - began) * (total - done) / (done - first) if first < done < total else None
        left = "" if eta is None else f", {eta:.0f} s left"
        print(f"{self.phase}: {done:g} of {total:g}{left}{', ' + figure if figure else ''}", flush=True)
        if self.progress_uri:
            self.store.put_json(self.progress_uri, {"phase": self.phase, "done": done, "total": total, "eta": eta, "figure": figure})

    def warn(self, text: str) -> None:
        """A line for the log that should not be overlooked."""
        if self.ranks.rank == 0:
            print(f"warning: {text}", file=sys.stderr, flush=True)

    def _uri(self, name: str) -> str:
        uri = self.inputs.get(name)
        if not isinstance(uri, str):
            raise BadInput(f"phase {self.phase} needs the input {name!r}, a manifest URI; the call gives {uri!r}")
        return uri


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Within this context no other process that asks for the same lock goes on."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
