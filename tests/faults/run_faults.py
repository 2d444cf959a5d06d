"""Faults in whole runs through Airflow: its scheduler, MLflow or S3 is restarted, running phases are killed; the run is to end well."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from effir.errors import EffirError
from effir.manifest import MANIFEST, Manifest
from effir.services import local
from effir.services.airflow import Airflow
from effir.services.store import Store

from . import services
from .bench import Row
from .work import LOOSE, differs

DAG = "effir_compress"
POLL_SECONDS = 1.0
LONGEST_SECONDS = 1200
FRESH = LOOSE - {"assess", "speed"}


@dataclass(frozen=True)
class Fault:
    """What happens in the middle of a run: the row that counts it, and what is done; that returns False where it could not be done."""

    row: str
    act: Callable[[random.Random], bool | None]


def _restart(program: str) -> Callable[[random.Random], None]:
    def act(chance: random.Random) -> None:
        services.restart(program, chance)
        services.answers(program)

    return act


FAULTS = {
    "MLflow restart": Fault("MLflow restart", _restart("mlflow")),
    "scheduler restart": Fault("scheduler restart", _restart("scheduler")),
    "S3 restart": Fault("S3 restart", _restart("s3")),
    "kill -9": Fault("kill -9", lambda chance: services.kill_phase(signal.SIGKILL, chance)),
    "kill -TERM": Fault("kill -TERM", lambda chance: services.kill_phase(signal.SIGTERM, chance)),
}


@dataclass
class Whole:
    """One run of the DAG that is over. seconds: from its trigger; faults: (row, when, seconds until a task ended well after it)."""

    run_id: str
    state: str
    seconds: float
    manifests: dict[str, bytes] = field(default_factory=dict)
    faults: list[tuple[str, float]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class Runs:
    """Runs of effir_compress on one spec in the running stack."""

    def __init__(self, overrides: dict[str, Any], chance: random.Random, say: Callable[[str], None] = print) -> None:
        settings = local.client_environment()
        self.airflow = Airflow(settings["EFFIR_AIRFLOW_URL"], "admin", settings["EFFIR_AIRFLOW_PASSWORD"])
        self.store, self.overrides, self.chance, self.say, self.number = Store(), overrides, chance, say, 0

    def why(self, run_id: str) -> str:
        """What its failed tasks said last, and how often each was tried."""
        failed = [one for one in self.airflow.tasks(DAG, run_id) if one["state"] == "failed"]
        told = []
        for one in failed:
            logs = local.folder() / f"airflow/logs/dag_id={DAG}/run_id={run_id}/task_id={one['task_id']}"
            lines = [line for path in sorted(logs.rglob("*.log")) for line in path.read_text().splitlines() if "effir: " in line]
            told.append(
                f"{one['task_id']} {one['map_index']} after {one['try_number']} tries: {' / '.join(line[-300:] for line in lines[-4:])}"
            )
        return "; ".join(told) or "no task failed"

    def undisturbed(self) -> Whole:
        """A run in which nothing happens. Raises EffirError if it does not end well."""
        whole = self.run([])
        if whole.state != "success":
            raise EffirError(f"the run {whole.run_id} ended as {whole.state} though nothing disturbed it")
        return whole

    def disturbed(self, base: Whole, faults: list[Fault], rows: dict[str, Row]) -> Whole:
        """The same run again from nothing, with these faults at random moments; their rows are brought up to date."""
        self.store.delete([uri for uri, _ in self.store.list(f"{self.store.root}/artifacts")])
        at = sorted(self.chance.uniform(0.02, 0.9) * base.seconds for _ in faults)
        whole = self.run(list(zip(at, faults, strict=True)))
        lost = [] if whole.state == "success" else [f"the run {whole.run_id} ended as {whole.state}: {self.why(whole.run_id)}"]
        wrong = [f"{uri} is half an artifact" for uri in self.halves(whole)] + ([] if lost else self.others(base, whole))
        for row, seconds in whole.faults:
            rows[row].add(1, lost + whole.remarks, wrong, seconds)
        return whole

    def run(self, faults: list[tuple[float, Fault]]) -> Whole:
        """Trigger a run and follow it to its end; faults: (seconds from its trigger, what happens then)."""
        self.number += 1
        began, run_id = time.monotonic(), f"faults-{self.number}-{int(time.time())}"
        self.airflow.trigger(DAG, {"profile": "demo"} | self.overrides, run_id)
        whole, waiting, pending = Whole(run_id, "running", 0.0), list(faults), []
        while whole.state not in ("success", "failed") and time.monotonic() - began < LONGEST_SECONDS:
            if waiting and time.monotonic() - began > waiting[0][0]:
                at, seen = time.monotonic(), self.visible()
                if waiting[0][1].act(self.chance) is not False:
                    fault = waiting.pop(0)[1]
                    self.say(f"  {at - began:.0f} s: {fault.row}")
                    pending.append((fault.row, at, self.ended(run_id), seen))
            time.sleep(POLL_SECONDS)
            try:
                whole.state = self.airflow.run(DAG, run_id)["state"]
                done = self.ended(run_id)
            except EffirError:
                continue
            over = whole.state in ("success", "failed")
            for row, at, _, seen in [one for one in pending if over or done > one[2]]:
                whole.faults.append((row, time.monotonic() - at))
                whole.remarks += [f"{uri} was there and is not what it was" for uri in self.changed(seen)]
                pending = [one for one in pending if one[1] != at]
        whole.seconds, whole.manifests = time.monotonic() - began, self.visible()
        return whole

    def ended(self, run_id: str) -> int:
        """How many tasks of a run ended well."""
        return sum(task["state"] == "success" for task in self.airflow.tasks(DAG, run_id))

    def visible(self) -> dict[str, bytes]:
        """Every manifest that can be seen now."""
        uris = [uri for uri, _ in self.store.list(f"{self.store.root}/artifacts") if uri.endswith(f"/{MANIFEST}")]
        return {uri: self.store.get_bytes(uri) for uri in uris}

    def changed(self, seen: dict[str, bytes]) -> list[str]:
        """Manifests that were there and are not what they were: finished work that was done again."""
        now = self.visible()
        return [uri for uri, body in seen.items() if now.get(uri) != body]

    def halves(self, whole: Whole) -> list[str]:
        """Manifests whose files are not all there, with the right bytes."""
        found = {uri: Manifest.model_validate_json(body) for uri, body in whole.manifests.items()}
        return [uri for uri, one in found.items() if not self.store.intact(uri.removesuffix(f"/{MANIFEST}"), one.files)]

    def others(self, base: Whole, whole: Whole) -> list[str]:
        """Artifacts that are not what the undisturbed run made of the same."""
        wrong = []
        for uri, body in base.manifests.items():
            expected = Manifest.model_validate_json(body)
            if expected.phase in FRESH:
                continue
            if uri not in whole.manifests:
                wrong.append(f"{uri} is missing")
            elif told := differs(expected.phase, Manifest.model_validate_json(whole.manifests[uri]), expected):
                wrong.append(f"{uri} differs: {told}")
        return wrong
