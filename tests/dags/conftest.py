import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .fake_kubernetes import Cluster, End, cluster, kubeconfig

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "dags"
PARSE = """
import json, sys, time

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "mlflow", "effir", "numpy"}:
            raise ImportError(f"{name} is out of reach here")

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
import airflow.sdk
began = time.process_time()
try:
    import compress
except Exception as error:
    print(error, file=sys.stderr)
seconds = time.process_time() - began

from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
"""


def parse(script: str, **environment: str) -> Any:
    """What a fresh interpreter prints as JSON after it parsed the DAGs with torch and the like out of reach."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "EFFIR"))}
    with tempfile.TemporaryDirectory() as home:
        env = kept | {"AIRFLOW_HOME": home} | environment
        done = subprocess.run([sys.executable, "-c", PARSE + script, str(DAGS)], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def parse_dags() -> Callable[..., Any]:
    """Parse the DAGs in a fresh interpreter: a script that prints JSON, and settings by name."""
    return parse


STANDS_IN = """
import datetime, json, os, sys, time, types
sys.path.insert(0, sys.argv[1])

class Store(dict):
    set = dict.__setitem__

class Task(types.SimpleNamespace):
    def xcom_push(self, key, value):
        self.pushed[key] = value

    def xcom_pull(self, task_ids):
        return {"output": {"spec": {"seed": 7}, "mlflow_run_id": "m"}}

DAG = f"effir_test_{os.getpid()}"

def context(task_id="depth", map_index=-1, try_number=1, rescheduled=0):
    began = datetime.datetime.now(datetime.UTC)
    ti = Task(dag_id=DAG, task_id=task_id, map_index=map_index, try_number=try_number, start_date=began, pushed={})
    return {
        "ti": ti, "run_id": "manual__2026-10-01T00:00:00+00:00", "dag": types.SimpleNamespace(dag_id=DAG),
        "task_state_store": Store(), "task_reschedule_count": rescheduled,
    }
"""


@pytest.fixture(scope="session")
def in_airflow() -> Callable[..., Any]:
    """Run a script that prints JSON beside the DAGs' modules, in an Airflow of its own without a database.

    `context(…)` stands in for what a worker hands to a task; test_runners.py has the real one.
    """

    def run(script: str, **environment: str) -> Any:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "EFFIR"))}
        with tempfile.TemporaryDirectory() as home:
            env = kept | {"AIRFLOW_HOME": home} | environment
            command = [sys.executable, "-c", STANDS_IN + textwrap.dedent(script), str(DAGS)]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return json.loads(done.stdout.strip().splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def airflow_s3(s3_server: dict[str, str]) -> Callable[[], dict[str, str]]:
    """The environment of an Airflow whose connection `effir_s3` reaches a real S3 server; an empty store at each call."""

    def environment() -> dict[str, str]:
        about = {"endpoint_url": s3_server["AWS_ENDPOINT_URL_S3"], "region_name": s3_server["AWS_DEFAULT_REGION"]}
        login = {"login": s3_server["AWS_ACCESS_KEY_ID"], "password": s3_server["AWS_SECRET_ACCESS_KEY"]}
        given = json.dumps({"conn_type": "aws", "extra": about} | login)
        return s3_server | {"AIRFLOW_CONN_EFFIR_S3": given, "EFFIR_STORE": f"s3://effir/{time.time_ns()}"}

    return environment


FOLLOW = """
import asyncio, pod
from airflow.sdk.exceptions import TaskDeferred

def follow(phase="depth", told=None):
    told = told or context(phase)
    task = pod.PodPhase(task_id=phase, phase=phase)
    try:
        return task.launch(task.command(told), told)
    except TaskDeferred as deferred:
        while True:
            assert deferred.method_name == "resume"
            event = asyncio.run(anext(deferred.trigger.run())).payload
            try:
                return task.follow([], lambda pod: pod.trigger_reentry(told, event))
            except TaskDeferred as again:
                deferred = again
"""


@pytest.fixture(scope="session")
def in_cluster(in_airflow: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Cluster]]:
    """Run a script whose pods, on the fake, end like this; what it prints, and what was asked of the fake."""

    def run(
        script: str,
        settings: dict[str, Any],
        ends: list[End],
        well: Callable[[list[str]], None] = lambda arguments: None,
        **environment: str,
    ) -> tuple[Any, Cluster]:
        folder = tmp_path_factory.mktemp("cluster")
        (folder / "settings.json").write_text(json.dumps(settings))
        with cluster() as found:
            found.ends, found.well = list(ends), well
            (folder / "kubeconfig").write_text(kubeconfig(found.url))
            names = {"EFFIR_RUNNER_SETTINGS": str(folder / "settings.json"), "KUBECONFIG": str(folder / "kubeconfig")}
            return in_airflow(FOLLOW + script, EFFIR_RUNNER="kubernetes", **names, **environment), found

    return run
