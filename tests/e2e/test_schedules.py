"""Deployments fire by themselves in the real Airflow, and somebody is told of what fails and what is late."""

from collections.abc import Callable
from typing import Any

import pytest

from effir.errors import BadInput

CRON, ASSET = "effir_compress_every_minute", "effir_compress_on_data"


def test_a_cron_deployment_fires_by_itself(stack: Any, eventually: Callable[..., Any]) -> None:
    stack.airflow.pause(CRON, False)
    run = eventually(lambda: [one for one in stack.airflow.runs(CRON) if one["run_type"] == "scheduled"], 150)[-1]
    eventually(lambda: stack.airflow.run(CRON, run["dag_run_id"])["state"] == "failed", 120)
    stack.airflow.pause(CRON)
    spec = stack.airflow.xcom(CRON, run["dag_run_id"], "begin")["output"]["spec"]
    assert spec["name"] == "scheduled"
    told = stack.airflow.xcom(CRON, run["dag_run_id"], "prepare", "error")
    assert told["exit_code"] == 2
    assert "absent" in told["sentence"]


def test_a_backfill_is_refused(stack: Any) -> None:
    days = {"from_date": "2026-01-01T00:00:00Z", "to_date": "2026-01-02T00:00:00Z"}
    with pytest.raises(BadInput, match="backfill"):
        stack.airflow._call("POST", "backfills", json={"dag_id": CRON} | days)


def test_a_wrong_deployment_is_shown_and_stops_no_other(stack: Any, eventually: Callable[..., Any]) -> None:
    (error,) = eventually(stack.airflow.import_errors, 60)
    assert error.startswith("deployments_check.py: ")
    assert "entry 3 (wrong), profile is wrong: 'absent'" in error
    assert not stack.airflow.dag("effir_compress")["has_import_errors"]


def test_an_asset_deployment_fires_on_its_event_and_tells_of_its_end(stack: Any, eventually: Callable[..., Any]) -> None:
    eventually(lambda: stack.airflow.dag(ASSET), 120)
    before = {run["dag_run_id"] for run in stack.airflow.runs(ASSET)}
    stack.airflow.asset_event("effir/training-data", {"name": "new"})
    (fired,) = eventually(lambda: [run for run in stack.airflow.runs(ASSET) if run["dag_run_id"] not in before], 60)
    assert fired["run_type"] == "asset_triggered"
    eventually(lambda: stack.airflow.run(ASSET, fired["dag_run_id"])["state"] == "failed", 120)
    assert stack.airflow.xcom(ASSET, fired["dag_run_id"], "begin")["output"]["spec"]["name"] == "asset"
    sentence = stack.airflow.xcom(ASSET, fired["dag_run_id"], "prepare", "error")["sentence"]

    ours = {"dag_id": ASSET, "run_id": fired["dag_run_id"]}
    eventually(lambda: len([one for one in stack.alerts if one | ours == one]) == 2, 30)
    late, failed = [one for one in stack.alerts if one | ours == one]
    assert (late["event"], late["task"]) == ("deadline_missed", None)
    assert (failed["event"], failed["task"], failed["error"]) == ("run_failed", "prepare", sentence)
    assert failed["url"].startswith(stack.airflow.url)
