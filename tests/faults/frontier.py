"""A frontier of eight variants of a tiny model on a real embedded stack: killed in the middle, triggered again, then one variant changed.

`python -m tests.faults.frontier`. Ends with 1 if the second one did anything again that was finished when the first was killed, or if the
third computed anything for a variant that was not changed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
from tests.e2e import tiny

from effir.services.airflow import Airflow
from effir.services.store import Store

from .run import stack

DAG = "effir_frontier"
VARIANTS = ["1A", "2A", "1M", "2M", "last1B", "last1M", "1M-25%", "-25%"]
CHANGED = "-50%"
KILLED_AFTER = 3
"""Finished trainings, the reference's among them."""
ANEW = {"arms", "frontier"}
"""Phases that every frontier does anew."""


def main() -> int:
    """Run it; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="frontier-") as made, stack(Path(made) / "home"):
        given = tiny.overrides(Path(made) / "data", name="frontier", reference_steps=4, speed_seconds=0.5)
        spec = {name: value for name, value in given.items() if value is not None and name not in {"variant", "keep_ratio"}}
        airflow = Airflow(*(os.environ[f"EFFIR_AIRFLOW_{name}"] for name in ("URL", "USER", "PASSWORD")))
        before = killed(spec, airflow)
        print(f"killed when {len(before)} phases were finished", flush=True)
        second = whole(spec, VARIANTS)
        after = finished()
        computed = done_now(second)
        written = {uri for uri in before if after.get(uri) != before[uri]}
        print(f"triggered again: {len(second['phases'])} phases, {len(computed)} computed, {len(after) - len(before)} new results")
        third = whole(spec, [*VARIANTS[:-1], CHANGED])
        others = done_now(third)
        print(f"{VARIANTS[-1]} became {CHANGED}: computed {', '.join(others)}")
        again = len(computed) != len(after) - len(before) or bool(written)
        strangers = [name for name in others if CHANGED not in name]
        print(f"done twice: {sorted(written) or 'nothing'}; computed for others: {strangers or 'nothing'}")
        return int(again or bool(strangers) or not others or len(second["rows"]) < len(VARIANTS))


def killed(spec: dict[str, Any], airflow: Airflow) -> dict[str, bytes]:
    """Start a frontier, and kill it: client, phases and run. Returns what was finished then."""
    with subprocess.Popen(command(spec, VARIANTS), stdout=subprocess.DEVNULL) as client:
        while sum("/finetune/" in uri for uri in finished()) < KILLED_AFTER:
            if client.poll() is not None:
                raise SystemExit(f"the frontier ended with {client.returncode} before it could be killed")
            time.sleep(0.5)
        run = airflow.runs(DAG)[0]["dag_run_id"]
        client.kill()
    airflow._call("PATCH", f"dags/{DAG}/dagRuns/{quote(run)}", json={"state": "failed"})
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "phase" in process.cmdline() and any(part.endswith("/effir") for part in process.cmdline()):
                process.kill()
    while airflow.unfinished():
        time.sleep(1)
    return finished()


def whole(spec: dict[str, Any], variants: list[str]) -> dict[str, Any]:
    """Run a frontier to its end; returns what last-frontier.json holds. Raises CalledProcessError where it fails."""
    subprocess.run(command(spec, variants), check=True, stdout=subprocess.DEVNULL)
    return json.loads((Path(os.environ["EFFIR_HOME"]) / "last-frontier.json").read_text())


def done_now(found: dict[str, Any]) -> list[str]:
    """The names of the phases that a frontier computed, those aside that every frontier does anew."""
    return [phase["name"] for phase in found["phases"] if not phase["cached"] and phase["name"].split()[0] not in ANEW]


def command(spec: dict[str, Any], variants: list[str]) -> list[str]:
    """What a person types."""
    settings = [part for name, value in spec.items() for part in ("--set", f"{name}={value}")]
    return [sys.executable, "-m", "effir.cli", "frontier", "--profile", "demo", "--variants", ",".join(variants), *settings]


def finished() -> dict[str, bytes]:
    """The manifest of every finished phase, by its address, those that every frontier does anew aside."""
    store = Store()
    every = [uri for uri, _ in store.list("s3://effir/artifacts") if uri.endswith("/manifest.json")]
    return {uri: store.get_bytes(uri) for uri in every if uri.split("/artifacts/")[1].split("/")[0] not in ANEW}


if __name__ == "__main__":
    sys.exit(main())
