"""Whole runs on a tiny model, started as a person starts them."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from effir.services.airflow import Airflow


def effir(*arguments: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command as a person would."""
    return subprocess.run([sys.executable, "-m", "effir.cli", *arguments], capture_output=True, text=True, input=text, timeout=1800)


def run(overrides: dict[str, Any], **changes: Any) -> "subprocess.CompletedProcess[str]":
    given = {name: value for name, value in (overrides | changes).items() if value is not None}
    return effir("run", "--profile", "demo", "--json", *(part for name, value in given.items() for part in ("--set", f"{name}={value}")))


def approve(home: Path) -> dict[str, Any]:
    """Answer what Airflow asks next with yes; returns what was shown.

    Not at once: an answer that comes before the scheduler has noticed that the task waits costs a try, and the question is asked anew.
    """
    ports, secrets = (json.loads((home / "stack" / name).read_text()) for name in ("ports.json", "secrets.json"))
    airflow = Airflow(f"http://127.0.0.1:{ports['airflow']}", "admin", secrets["airflow_password"])
    runs, deadline = "dags/effir_compress/dagRuns", time.monotonic() + 1500
    while time.monotonic() < deadline:
        asked = airflow._call("GET", f"{runs}/~/hitlDetails?response_received=false")["hitl_details"]
        for shown in (one for one in asked if one["task_instance"]["state"] == "awaiting_input"):
            time.sleep(5)
            place = f"{runs}/{shown['task_instance']['dag_run_id']}/taskInstances/approval/-1/hitlDetails"
            airflow._call("PATCH", place, json={"chosen_options": ["Approve"], "params_input": {}})
            return shown
        time.sleep(1)
    raise AssertionError("nobody was asked")


def outcome(home: Path, code: int, overrides: dict[str, Any]) -> dict[str, Any]:
    """The summary of a run that ends with this exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFIR_HOME", str(home))
        patch.delenv("EFFIR_AIRFLOW_URL", raising=False)
        done = run(overrides)
    assert done.returncode == code, done.stderr[-3000:]
    assert json.loads((home / "last-run.json").read_text()) == json.loads(done.stdout)
    return json.loads(done.stdout)
