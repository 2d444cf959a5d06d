"""Running: what Airflow adds to a phase, and how long a run takes of which everything was done before."""

import datetime
import statistics
import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .material import Material
from .pairs import Pairs

OVERHEAD_SECONDS, CACHED_SECONDS = 3.0, 45.0


class Stack:
    """An embedded stack with one finished run of a tiny model, started once for all rows that want it; `open` ends it."""

    def __init__(self, open_: ExitStack) -> None:
        self.open = open_

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The run's spec; with it the stack is up and the first run done."""
        from tests.e2e import tiny
        from tests.faults.run import stack

        folder = Path(self.open.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self.open.enter_context(stack(folder / "home"))
        spec = tiny.overrides(folder / "data", name="bench")
        self.first = self.run(spec)
        return spec

    def run(self, spec: dict[str, Any]) -> Any:
        """Run the DAG to its end; returns what follow.run does."""
        from effir.services import follow, local

        return follow.run(local.client_environment(), "demo", spec, say=lambda _: None)


def task_overhead(material: Material, _: int) -> Pairs:
    """Seconds from queued to the phase's first line, and from its last one to success, of every phase of a run that computes everything."""
    from effir.services import local

    assert material.stack.spec
    env = local.client_environment()
    found = _overheads(env, material.stack.first.summary["dag_run_id"])
    return Pairs(found, None, {"tasks": len(found), "mean": statistics.mean(found)})


def _overheads(env: dict[str, str], run_id: str) -> list[float]:
    from effir.services.airflow import Airflow
    from effir.services.follow import COMPRESS

    airflow = Airflow(env["EFFIR_AIRFLOW_URL"], env["EFFIR_AIRFLOW_USER"], env["EFFIR_AIRFLOW_PASSWORD"])
    found = []
    for task in airflow.tasks(COMPRESS, run_id):
        lines = [_moment(line["timestamp"]) for line in _log(airflow, COMPRESS, run_id, task) if line.get("logger") == "task.stdout"]
        if lines and task["state"] == "success":
            waited = min(lines) - _moment(task["queued_when"])
            ended = _moment(task["end_date"]) - max(lines)
            found.append((waited + ended).total_seconds())
    return found


def _log(airflow: Any, dag: str, run_id: str, task: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of a task's last try: {timestamp, event, logger, …}."""
    path = f"dags/{dag}/dagRuns/{quote(run_id)}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
    found = airflow._call("GET", f"{path}?map_index={task['map_index']}&full_content=true")
    return [line for line in found["content"] if line.get("timestamp")]


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def cached_run(material: Material, rounds: int) -> Pairs:
    """Seconds of a whole run, triggered and followed, in which every phase finds its result; no forward pass."""
    found = []
    for _ in range(rounds):
        outcome = material.stack.run(material.stack.spec)
        if passes := sum(phase["forward_passes"] for phase in outcome.summary["phases"]):
            raise AssertionError(f"a run of which everything was done before took {passes} forward passes")
        found.append(outcome.seconds)
    return Pairs(found, None, {"phases": len(outcome.summary["phases"])})
