import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMPUTING = {
    "prepare", "teacher", "importance", "importance_of_reference", "depth", "slim", "narrow", "finetune_reference", "finetune_candidate",
    "encode", "evaluate", "speed", "verify", "gate",
}  # fmt: skip
OTHERS = {"begin", "encode_calls", "approval", "promote", "announce", "report"}
TELL = """
from airflow.serialization.serialized_objects import DagSerialization

def told(task):
    return {
        "pool": [task.pool, task.pool_slots], "at_once": task.max_active_tis_per_dag,
        "retries": task.retries, "rule": task.trigger_rule.value, "doc": task.doc_md, "upstream": sorted(task.upstream_task_ids),
        "outlets": [one.name for one in task.outlets], "inlets": [one.name for one in task.inlets],
    }

def starts(dag):
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag)).timetable
    condition = getattr(stored, "asset_condition", None)
    found = getattr(condition, "objects", [])
    return [type(condition).__name__, [type(one).__name__ for one in found], [getattr(one, "name", None) for one in found]]

dags = {
    name: {
        "starts": starts(dag),
        "tasks": {task.task_id: told(task) for task in dag.tasks}, "doc": dag.doc_md, "tags": sorted(dag.tags), "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs, "started": sorted(dag.allowed_run_types), "told": dag.on_failure_callback.__qualname__,
        "deadline": [[one.reference.reference_name, one.interval.total_seconds(), one.callback.path] for one in dag.deadline or []],
        "params": {one: dag.params[one] for one in dag.params},
        "schedule": getattr(dag.timetable, "expression", None),
    }
    for name, dag in bag.dags.items()
}
modules = sorted({one.partition(".")[0] for one in sys.modules})
print(json.dumps({"seconds": seconds, "errors": bag.import_errors, "dags": dags, "modules": modules}))
"""


@pytest.fixture(scope="module")
def parsed(parse_dags: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("deployments") / "deployments.json"
    entries = [
        {"name": "nightly", "profile": "demo", "cron": "0 3 * * *", "overrides": {"lora_rank": 8}, "deadline_hours": 6},
        {"name": "on_data", "profile": "demo", "assets": ["effir/training-data", "effir/base-model", "warehouse/clicks"]},
    ]
    path.write_text(json.dumps(entries))
    return parse_dags(TELL, EFFIR_DEPLOYMENTS=str(path))


def test_parses_in_under_a_second_without_torch(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert parsed["seconds"] < 1
    assert not {"torch", "mlflow", "effir", "transformers"} & set(parsed["modules"])


def test_every_task_has_retries_a_doc_and_a_pool_where_it_computes(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["effir_compress"]["tasks"]
    assert set(tasks) == COMPUTING | OTHERS
    for name, task in tasks.items():
        assert task["retries"] == 2, name
        assert task["doc"] and task["doc"].endswith("."), name
        assert task["pool"] == ["compute" if name in COMPUTING - {"evaluate"} else "default_pool", 1], name
    assert {name: task["at_once"] for name, task in tasks.items() if task["at_once"]} == {"encode": 16}


def test_the_dag_says_what_it_is(parsed: dict[str, Any]) -> None:
    dag = parsed["dags"]["effir_compress"]
    assert "verdict" in dag["doc"] and dag["tags"] == ["effir"]
    assert dag["catchup"] is False and dag["max_active_runs"] == 1
    assert dag["params"]["profile"] == "demo"
    assert all(value is None for name, value in dag["params"].items() if name != "profile")


def test_assets(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["effir_compress"]["tasks"]
    assert {name: task["outlets"] for name, task in tasks.items() if task["outlets"]} == {
        "finetune_candidate": ["effir/candidate"],
        "announce": ["effir/champion"],
    }
    assert parsed["dags"]["effir_rollback"]["tasks"]["announce"]["outlets"] == ["effir/champion"]
    assert tasks["prepare"]["inlets"] == ["effir/training-data", "effir/base-model"]


def test_deployments_make_scheduled_dags(parsed: dict[str, Any]) -> None:
    ours = {"effir_frontier", "effir_rollback", "effir_verify"}
    assert set(parsed["dags"]) == {"effir_compress", "effir_compress_nightly", "effir_compress_on_data"} | ours
    assert parsed["dags"]["effir_compress_nightly"]["schedule"] == "0 3 * * *"
    assert parsed["dags"]["effir_compress_nightly"]["params"]["lora_rank"] == 8
    assert parsed["dags"]["effir_compress_on_data"]["params"]["lora_rank"] is None


def test_any_asset_of_a_deployment_starts_it(parsed: dict[str, Any]) -> None:
    kind, leaves, names = parsed["dags"]["effir_compress_on_data"]["starts"]
    assert kind == "SerializedAssetAny"
    assert names == ["effir/training-data", "effir/base-model", "warehouse/clicks"]
    assert leaves == ["SerializedAsset", "SerializedAsset", "SerializedAssetNameRef"]


def test_promote_waits_for_the_answer_and_runs_where_nobody_is_asked(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["effir_compress"]["tasks"]
    assert "approval" in tasks["promote"]["upstream"]
    assert {"begin", "gate"} <= set(tasks["approval"]["upstream"])
    assert tasks["promote"]["rule"] == "none_failed_min_one_success"


def test_sub_layers_of_the_base_or_of_the_reference_are_scored_and_what_follows_takes_either(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["effir_compress"]["tasks"]
    assert "finetune_reference" not in tasks["importance"]["upstream"]
    assert "finetune_reference" in tasks["importance_of_reference"]["upstream"]
    takes_either = {name for name, task in tasks.items() if "importance" in task["upstream"]}
    assert takes_either == {"depth", "narrow", "promote", "report"}
    other = {name: task["rule"] for name, task in tasks.items() if task["rule"] != "all_success"}
    assert other == dict.fromkeys(takes_either, "none_failed_min_one_success")


def test_nothing_is_backfilled(parsed: dict[str, Any]) -> None:
    for name, dag in parsed["dags"].items():
        assert not {"backfill", "asset_materialization"} & set(dag["started"]), name
        assert dag["catchup"] is False and dag["max_active_runs"] == 1, name


def test_somebody_is_told_of_failures_and_of_missed_deadlines(parsed: dict[str, Any]) -> None:
    assert {name: dag["told"] for name, dag in parsed["dags"].items()} == dict.fromkeys(parsed["dags"], "failed")
    (alert,) = parsed["dags"]["effir_compress_nightly"]["deadline"]
    assert alert == ["DagRunQueuedAtDeadline", 6 * 3600, "alerts.late"]
    assert all(not dag["deadline"] for name, dag in parsed["dags"].items() if name != "effir_compress_nightly")


def test_phases_take_as_many_slots_as_they_have_gpus(parse_dags: Callable[..., Any], tmp_path: Path) -> None:
    told = {"image": "effir-task:0.1.0", "resources": {"gpus": 1}}
    told["phases"] = {"finetune": {"gpus": 8, "processes": 8}, "prepare": {"gpus": 0}}
    (tmp_path / "settings.json").write_text(json.dumps(told))
    script = """
import os, pools
found = {dag: {task.task_id: [task.pool, task.pool_slots] for task in bag.dags[dag].tasks} for dag in ("effir_compress", "effir_frontier")}
found["at_once"] = bag.dags["effir_compress"].get_task("encode").max_active_tis_per_dag
os.environ["EFFIR_RUNNER"] = "docker"
found["docker"] = pools.slots("finetune")
print(json.dumps(found))
"""
    settings = {"EFFIR_RUNNER_SETTINGS": str(tmp_path / "settings.json"), "EFFIR_SHARDS_AT_ONCE": "64"}
    found = parse_dags(script, EFFIR_RUNNER="kubernetes", **settings)
    compress, frontier = found["effir_compress"], found["effir_frontier"]
    assert compress["finetune_reference"] == compress["finetune_candidate"] == ["compute", 8]
    assert frontier["references"] == frontier["arm.finetune"] == ["compute", 8]
    assert compress["prepare"] == compress["encode"] == compress["speed"] == frontier["landmarks"] == ["compute", 1]
    assert compress["evaluate"] == compress["begin"] == ["default_pool", 1]
    assert found["docker"] == 1
    assert found["at_once"] == 64


def test_an_unknown_runner_is_an_import_error(parse_dags: Callable[..., Any]) -> None:
    errors = parse_dags("print(json.dumps(list(bag.import_errors.values())))", EFFIR_RUNNER="donkey")
    assert len(errors) == 3
    assert all("EFFIR_RUNNER is 'donkey': choose one of process" in error for error in errors)
