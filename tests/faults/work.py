"""The phases of a tiny run, each a process with its real S3 and MLflow, and what a disturbed one is held against."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effir.manifest import MANIFEST, Manifest
from effir.phases.compute import INDEX
from effir.services.store import Store

HERE = Path(__file__).parent
MODELS, SHARDS = ("base", "reference", "candidate"), (0, 1)
LOOSE = {"begin", "speed", "gate", "promote", "report", "assess"}
"""Phases that measure time or tell what stands in the registry: every try gives other bytes, undisturbed ones too."""
SPEC = {
    "checkpoint_every": 3, "reference_steps": 12, "steps": 9, "slim_steps": 9, "speed_seconds": 0.3, "shard_documents": 30,
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A phase of the run: where its inputs come from (labels of steps, of parts, or `STEP PART`), and its arguments."""

    label: str
    phase: str
    inputs: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)


def _steps() -> tuple[Step, ...]:
    def named(*names: str) -> dict[str, str]:
        return {name: name for name in names}

    lesson = named("base", "training", "teacher")
    both = named("reference", "candidate")
    encodes = {model: [f"encode {model} {shard}" for shard in SHARDS] for model in MODELS}
    evidence = both | named("evaluate", "speed", "verify")
    return (
        Step("begin", "begin"),
        Step("prepare", "prepare"),
        Step("teacher", "teacher", named("training")),
        Step("importance", "importance", named("base", "calibration", "training")),
        Step("depth", "depth", named("base", "importance")),
        Step("slim", "slim", named("base", "calibration", "training") | {"cut": "depth cut"}),
        Step("narrow", "narrow", named("base", "importance", "slim") | {"cut": "depth cut"}),
        Step("reference", "finetune", lesson, {"model": "reference"}),
        Step("candidate", "finetune", lesson | named("reference") | {"cut": "narrow cut"}, {"model": "candidate"}),
        *(
            Step(label, "encode", {"model": model, "collection": "seen"}, {"model": model, "collection": "seen", "shard": shard})
            for model in MODELS
            for shard, label in zip(SHARDS, encodes[model], strict=True)
        ),
        Step("evaluate", "evaluate", {"encodes": [one for model in MODELS for one in encodes[model]], "collections": ["seen"]}),
        Step("speed", "speed", both | {"collections": ["seen"]}),
        Step("verify", "verify", {"candidate": "candidate", "encodes": encodes["candidate"], "collections": ["seen"]}),
        Step("gate", "gate", evidence),
        Step("promote", "promote", evidence | named("gate", "prepare", "importance", "depth", "slim", "narrow")),
        Step("report", "report", evidence | named("gate", "prepare", "promote", "importance", "narrow") | {"cut": "narrow cut"}),
        Step("assess", "assess", {"model": "candidate", "reference": "reference", "collections": ["seen"]}, {"model": "candidate"}),
    )


STEPS = _steps()


@dataclass
class Ended:
    """A process that is over: its exit code (below 0 the signal), what it printed, how long it took in seconds."""

    code: int
    said: str
    seconds: float


class Warm:
    """Starts phases as processes that have the heavy imports behind them, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.temporary = folder, folder / "temporary"
        self.temporary.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "warm.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        )  # fmt: skip
        assert self._told() == {"ready": True}

    def __call__(
        self,
        command: list[str],
        environment: dict[str, str],
        meanwhile: Callable[[int], None] | None = None,
        over: Callable[[], None] | None = None,
        room: int | None = None,
        disk: int | None = None,
    ) -> Ended:
        """Carry out what follows `effir`; `meanwhile` is called with its process id in a thread of its own, and may kill it;
        `over` is called once it is gone.

        room, disk: bytes of memory and of temporary files that it gets.
        """
        log, began = self.folder / "said.log", time.monotonic()
        asked = {"command": command, "environment": environment, "log": str(log), "room": room, "disk": disk}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        pid = self._told()["pid"]
        thread = threading.Thread(target=meanwhile, args=(pid,)) if meanwhile else None
        if thread:
            thread.start()
        code = self._told()["code"]
        if over:
            over()
        if thread:
            thread.join()
        return Ended(code, log.read_text(errors="replace"), time.monotonic() - began)

    def _told(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process that phases are forked from is gone")
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


@contextmanager
def warm(folder: Path) -> Iterator[Warm]:
    """A `Warm` for a while."""
    folder.mkdir(parents=True, exist_ok=True)
    one = Warm(folder)
    try:
        yield one
    finally:
        one.close()


class Run:
    """One run of the phases in a store of its own. uris: label → manifest; seconds: label → how long it took; spec: as in a call."""

    def __init__(self, start: Warm, spec: dict[str, Any], root: str, s3: str, given: "Run | None" = None) -> None:
        self.start, self.spec, self.root, self.s3 = start, spec, root, s3
        self.store = Store(root)
        self.uris: dict[str, str] = dict(given.uris) if given else {}
        self.mlflow_run_id: str | None = given.mlflow_run_id if given else None
        self.seconds: dict[str, float] = {}

    def call(self, step: Step, halvings: int = 0) -> list[str]:
        """Write the call; what follows `effir`."""
        inputs = {name: [self.uris[one] for one in at] if isinstance(at, list) else self.uris[at] for name, at in step.inputs.items()}
        run = {"id": self.root.rsplit("/", 1)[1], "mlflow_run_id": self.mlflow_run_id, "airflow_url": None}
        told = {"run": run, "inputs": inputs, "arguments": step.arguments, "halvings": halvings}
        spec = {"profile": "demo", "overrides": self.spec} if step.phase == "begin" else {"spec": self.spec}
        places = [f"{self.root}/runs/{run['id']}/{kind}/{step.label.replace(' ', '-')}.json" for kind in ("calls", "results")]
        self.store.put_json(places[0], told | spec)
        return ["phase", step.phase, "--spec", places[0], "--result", places[1]]

    def result(self, step: Step) -> dict[str, Any]:
        """What the phase handed back."""
        return self.store.get_json(self.call(step)[-1])

    def once(self, step: Step, halvings: int = 0, s3: str | None = None, **how: Any) -> Ended:
        """Start a phase and wait until it is over."""
        environment = {"EFFIR_STORE": self.root, "AWS_ENDPOINT_URL_S3": s3 or self.s3, "TMPDIR": str(self.start.temporary)}
        return self.start(self.call(step, halvings), environment, **how)

    def done(self, step: Step, ended: Ended) -> None:
        """Take note of a phase that ended well."""
        result = self.result(step)
        self.uris[step.label] = result["manifest"]
        self.uris |= result["parts"] | {f"{step.label} {name}": uri for name, uri in result["parts"].items()}
        self.seconds[step.label] = ended.seconds
        if step.phase == "begin":
            self.mlflow_run_id = result["output"]["mlflow_run_id"]

    def all(self) -> "Run":
        """Every phase in order, undisturbed."""
        for step in STEPS:
            ended = self.once(step)
            if ended.code:
                raise RuntimeError(f"{step.label} ended with {ended.code} though nothing disturbed it:\n{ended.said[-2000:]}")
            self.done(step, ended)
        return self

    def manifest(self, label: str) -> Manifest:
        """The manifest of a step that is done."""
        return Manifest.model_validate(self.store.get_json(self.uris[label]))

    def visible(self) -> dict[str, bytes]:
        """Every manifest of an artifact that can be seen now."""
        uris = [uri for uri, _ in self.store.list(f"{self.root}/artifacts") if uri.endswith(f"/{MANIFEST}")]
        return {uri: self.store.get_bytes(uri) for uri in uris}

    def halves(self) -> list[str]:
        """Manifests whose files are not all there, with the right bytes."""
        found = {uri: Manifest.model_validate_json(body) for uri, body in self.visible().items()}
        return [uri for uri, one in found.items() if not self.store.intact(uri.removesuffix(f"/{MANIFEST}"), one.files)]

    def checkpointed(self) -> int:
        """The newest step of a training that is kept, or 0."""
        indices = [uri for uri, _ in self.store.list(f"{self.root}/checkpoints") if uri.endswith(f"/{INDEX}")]
        return max((int(step) for uri in indices for step in self.store.get_json_or_none(uri) or []), default=0)

    def kept(self) -> int:
        """How many checkpoints lie there, whole or not."""
        places = [uri.rsplit("/", 1)[0] for uri, _ in self.store.list(f"{self.root}/checkpoints") if not uri.endswith(f"/{INDEX}")]
        return len(set(places))

    def forget(self) -> None:
        """Remove everything of this run from S3."""
        self.store.delete([uri for uri, _ in self.store.list(self.root)])


def differs(label: str, one: Manifest, other: Manifest) -> str:
    """What tells two results of the same phase apart, or nothing."""
    if label in LOOSE:
        same = set(one.files) == set(other.files) and set(one.numbers) == set(other.numbers)
        return "" if same else "its files are others"
    changed = [name for name in sorted({*one.files, *other.files}) if one.files.get(name) != other.files.get(name)]
    parts = [uri.rsplit("/", 2)[1] for uri in one.parts.values()] != [uri.rsplit("/", 2)[1] for uri in other.parts.values()]
    numbers = one.numbers != other.numbers
    return ", ".join([*changed, *(["parts"] if parts else []), *(["numbers"] if numbers else [])])
