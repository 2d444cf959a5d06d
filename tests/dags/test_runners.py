"""What all runners have in common, and the way of a run on Kubernetes through a real Airflow: deferred, mapped, tried again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effir.services.store import Store

from .fake_kubernetes import Cluster, End

SETTINGS = {"image": "effir-task:0.1.0", "phases": {"finetune": {"nodes": 2}}}
PARSE = """
import airflow.sdk
PROVIDERS = ("docker", "kubernetes", "airflow.providers.docker.hooks", "airflow.providers.cncf.kubernetes.operators")
found = {}
for runner in ("process", "docker", "kubernetes"):
    os.environ["EFFIR_RUNNER"] = runner
    for name in ("compress", "frontier", "form", "launch", "settings", "process", "container", "pod"):
        sys.modules.pop(name, None)
    began = time.process_time()
    import compress, frontier
    seconds = time.process_time() - began
    found[runner] = {
        "seconds": seconds,
        "tasks": sorted({type(task).__name__ for task in compress.compress("one").tasks} - {"_PythonDecoratedOperator", "Approval"}),
        "loaded": sorted(name for name in sys.modules if name.startswith(PROVIDERS)),
    }
print(json.dumps(found))
"""
DAG = """
import datetime
from airflow.sdk import dag, task
from launch import mapped_phase, phase

SOON = {"retries": 1, "retry_delay": datetime.timedelta(0)}

@dag(dag_id="small", params={"profile": "demo"}, default_args=SOON)
def small():
    begun = phase("begin")

    @task
    def calls(begun):
        return [{"inputs": {"collection": begun["manifest"]}, "arguments": {"shard": shard}} for shard in range(2)]

    encoded = mapped_phase("encode", calls(begun), map_index_template="shard {{ task.arguments['shard'] }}")
    phase("finetune", inputs={"encodes": encoded})

small()
"""
RUN = """
from airflow.utils.db import initdb
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

initdb()
bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
DagBundlesManager().sync_bundles_to_db()
sync_bag_to_db(bag, "dags-folder", None)
run = bag.dags["small"].test()
tasks = {f"{one.task_id} {one.map_index}": [one.state, one.try_number] for one in run.get_task_instances()}
print(json.dumps({"state": run.state, "run": run.run_id, "tasks": tasks, "errors": bag.import_errors}))
"""


def test_every_runner_parses_at_once_and_without_its_provider(in_airflow: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"image": "effir-task:0.1.0"}))
    found = in_airflow(PARSE, EFFIR_RUNNER_SETTINGS=str(path))
    assert {runner: told["tasks"] for runner, told in found.items()} == {
        "process": ["MappedOperator", "ProcessPhase"],
        "docker": ["DockerPhase", "MappedOperator"],
        "kubernetes": ["MappedOperator", "PodPhase"],
    }
    for told in found.values():
        assert told["loaded"] == []
        assert told["seconds"] < 1


def test_wrong_settings_are_an_import_error(parse_dags: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"image": "effir-task:0.1.0", "phases": {"finetun": {}}}))
    errors = parse_dags("print(json.dumps(list(bag.import_errors.values())))", EFFIR_RUNNER="docker", EFFIR_RUNNER_SETTINGS=str(path))
    assert len(errors) == 3
    assert all("phases: there is no phase 'finetun'" in error for error in errors)


@pytest.fixture(scope="module")
def ran(
    in_cluster: Callable[..., Any], airflow_s3: Callable[[], dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Cluster, dict[str, Any]]:
    """How a run on the fake went, what was asked of the fake, and the calls in its store."""
    folder = tmp_path_factory.mktemp("dags")
    (folder / "small.py").write_text(DAG)
    environment = airflow_s3()
    airflow = {"AIRFLOW__CORE__DAGS_FOLDER": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "false"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        store = Store()

        def well(arguments: list[str]) -> None:
            result = {
                "phase": arguments[1], "manifest": arguments[5], "parts": {}, "output": {"spec": {}, "mlflow_run_id": None},
                "cached": False, "seconds": 1.0, "forward_passes": 0, "numbers": {},
            }  # fmt: skip
            store.put_json(arguments[5], result)

        ends = [End(), End(75, log="effir: stopped\n"), End(1, log="effir: no\n"), End(), End(), End(137, reason="OOMKilled"), End(1)]
        told, asked = in_cluster(RUN, SETTINGS, ends, well, **environment, **airflow)
        place = f"{store.root}/runs/{told['run']}/calls"
        calls = {name: store.get_json(f"{place}/{name}.json") for name in ("encode-0", "encode-1", "finetune")}
        return told, asked, calls


def test_a_run_succeeds(ran: Any) -> None:
    told, asked, _ = ran
    assert told["errors"] == {}
    assert told["state"] == "success"
    assert asked.pods == {} and asked.jobs == {}


def test_only_a_failure_takes_a_retry(ran: Any) -> None:
    tasks = ran[0]["tasks"]
    tries = [tasks.pop("encode 0"), tasks.pop("encode 1")]
    assert sorted(tries) == [["success", 1], ["success", 2]], "one was stopped, one failed"
    assert tasks == {"begin -1": ["success", 1], "calls -1": ["success", 1], "finetune -1": ["success", 1]}, "one ran out of memory"
    assert len(ran[1].made) == 7


def test_mapped_calls_and_halvings_reach_the_phase(ran: Any) -> None:
    calls = ran[2]
    assert [calls[f"encode-{shard}"]["arguments"] for shard in range(2)] == [{"shard": 0}, {"shard": 1}]
    assert calls["finetune"]["halvings"] == 1
    assert "halvings" not in calls["encode-0"] | calls["encode-1"]
    assert [one.rsplit("/", 1)[1] for one in calls["finetune"]["inputs"]["encodes"]] == ["encode-0.json", "encode-1.json"]
