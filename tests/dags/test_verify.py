import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

TELL = """
found = {}
if dag := bag.dags.get("effir_verify"):
    found = {"cron": getattr(dag.timetable, "expression", None), "told": dag.on_failure_callback.__qualname__, "catchup": dag.catchup}
    found["tasks"] = {task.task_id: [task.phase, task.form, task.pool] for task in dag.tasks}
print(json.dumps(found))
"""
CALL = """
import verify
task = verify.verify(verify.deployments()[0]).get_task("audit_nightly")
print(json.dumps(task.call(context("audit_nightly"))))
"""
ENTRIES = [
    {"name": "nightly", "profile": "demo", "cron": "0 3 * * *", "overrides": {"name": "search"}},
    {"name": "on_data", "profile": "demo", "assets": ["effir/training-data"]},
]


def deployed(folder: Path, entries: Any) -> str:
    (folder / "deployments.json").write_text(json.dumps(entries))
    return str(folder / "deployments.json")


def test_every_deployment_s_champion_is_looked_at_at_the_set_time(parse_dags: Callable[..., Any], tmp_path: Path) -> None:
    found = parse_dags(TELL, EFFIR_DEPLOYMENTS=deployed(tmp_path, ENTRIES), EFFIR_VERIFY_CRON="0 6 * * *")
    assert found == {
        "cron": "0 6 * * *",
        "told": "failed",
        "catchup": False,
        "tasks": {
            "audit_nightly": ["audit", {"profile": "demo", "name": "search"}, "compute"],
            "audit_on_data": ["audit", {"profile": "demo"}, "compute"],
        },
    }


def test_it_starts_by_itself_only_if_asked_to_and_is_not_there_without_deployments(parse_dags: Callable[..., Any], tmp_path: Path) -> None:
    assert parse_dags(TELL, EFFIR_DEPLOYMENTS=deployed(tmp_path, ENTRIES))["cron"] is None
    assert parse_dags(TELL, EFFIR_DEPLOYMENTS=deployed(tmp_path, [])) == {}


def test_the_phase_is_told_the_deployment(in_airflow: Callable[..., Any], tmp_path: Path) -> None:
    call = in_airflow(CALL, EFFIR_DEPLOYMENTS=deployed(tmp_path, ENTRIES))
    assert (call["profile"], call["overrides"], call["arguments"]) == ("demo", {"name": "search"}, {})
