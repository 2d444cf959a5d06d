"""Text from a form, a run's conf or an earlier phase is never rendered as a template, by Airflow's own renderer."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from effir.errors import BadInput
from effir.services.store import Store

DAGS = Path(__file__).parents[2] / "dags"
HOSTILE = "{{ 7*7 }}{% set x = 1 %}{{ var.value.secret }}{{ conn.effir_s3.password }}{# c #}"
RENDER = """
import datetime, json, sys, types
sys.path.insert(0, sys.argv[1])
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.definitions.param import process_params

HOSTILE = sys.argv[2]
CONF = {"profile": "demo", "query_template": HOSTILE + "{text}", "base_model": HOSTILE, "collections": HOSTILE, "variants": HOSTILE}
TEXTS = {name: HOSTILE for name in ("model", "collection", "shard", "arm", "seed", "manifest")}

class Task(types.SimpleNamespace):
    '''Stands in for a worker's task instance: whatever is pulled is hostile through and through.'''

    def xcom_pull(self, task_ids=None, **_):
        call = {name: TEXTS | {"place": 0} for name in ("inputs", "arguments", "caption")}
        call |= {"spec": {"query_template": HOSTILE, "deep": [TEXTS]}}
        if task_ids in self.calls:
            names = self.calls[task_ids]
            return [{name: call.get(name, HOSTILE) for name in names}]
        return {"output": call | {"mlflow_run_id": HOSTILE}, "parts": TEXTS, "manifest": HOSTILE, "arguments": TEXTS}

    def get_relevant_upstream_map_indexes(self, **_):
        return None

NAMES = {
    "encode_calls": ("inputs", "arguments"), "teacher_calls": ("inputs", "spec", "caption"), "base_calls": ("spec", "caption"),
    "reference_calls": ("inputs", "spec", "caption"), "score_calls": ("inputs", "spec", "caption"),
    "landmark_calls": ("inputs", "arguments", "caption"),
    "arm_calls": ("spec", "caption", "base", "teacher", "weights", "reference", "scores"),
}

def context_of(dag, task):
    ti = Task(dag_id=dag.dag_id, task_id=task.task_id, map_index=0, task=task, calls=NAMES)
    run = types.SimpleNamespace(conf={name: value for name, value in CONF.items() if name in dag.params})
    about = {"ti": ti, "run_id": "r", "dag": dag, "dag_run": run, "task": task, "task_reschedule_count": 0}
    return about | {"params": process_params(dag, task, run.conf, suppress_exception=False)}

bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
told = {}
for dag in bag.dags.values():
    for task in dag.tasks:
        context = context_of(dag, task)
        task.render_template_fields(context)
        done = context["task"]
        names = ("inputs", "arguments", "spec", "caption", "op_args", "op_kwargs")
        fields = {name: getattr(done, name) for name in names if hasattr(done, name)}
        label = done.map_index_template and dag.get_template_env().from_string(done.map_index_template).render(context)
        kind = type(done).__name__
        told[f"{dag.dag_id} {task.task_id}"] = {"kind": kind, "fields": fields, "label": label}
        if task.task_id == "begin":
            told[f"{dag.dag_id} call"] = {"kind": "call", "fields": done.call(context), "label": None}
from airflow.providers.standard.operators.python import PythonOperator
live = PythonOperator(task_id="live", python_callable=print, op_args=["{{ 7*7 }}"])
live.render_template_fields({})
told["live"] = live.op_args[0]
print(json.dumps(told, default=lambda value: f"<{type(value).__name__}>"))
"""


@pytest.fixture(scope="module")
def rendered() -> dict[str, Any]:
    """DAG and task → the fields that Airflow renders of it, where everything that comes in from outside is hostile."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "EFFIR"))}
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-c", RENDER, str(DAGS), HOSTILE]
        done = subprocess.run(command, env=kept | {"AIRFLOW_HOME": home}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def texts(value: Any) -> list[str]:
    """Every text within."""
    if isinstance(value, dict):
        return [one for inner in value.values() for one in texts(inner)]
    return [one for inner in value for one in texts(inner)] if isinstance(value, list) else [value] if isinstance(value, str) else []


def test_the_renderer_is_the_real_one(rendered: dict[str, Any]) -> None:
    assert rendered.pop("live") == "49"
    assert {"effir_compress encode", "effir_frontier begin", "effir_frontier arm.assess", "effir_frontier references"} < set(rendered)


def test_no_text_that_comes_in_is_rendered(rendered: dict[str, Any]) -> None:
    seen = 0
    for name, told in rendered.items():
        if name == "live":
            continue
        for text in [*texts(told["fields"]), told["label"] or ""]:
            assert "49" not in text, name
            seen += HOSTILE in text
            assert ("7*7" in text) == (HOSTILE in text), name
    assert seen > 100


@pytest.mark.parametrize("task", ["effir_compress encode", "effir_frontier arm.depth", "effir_frontier landmarks"])
def test_labels_show_it_as_it_is(task: str, rendered: dict[str, Any]) -> None:
    label = rendered[task]["label"]
    assert label is None or HOSTILE in label
    assert any(HOSTILE in text for text in texts(rendered[task]["fields"]))


def test_the_form_arrives_as_it_was_written(rendered: dict[str, Any]) -> None:
    compress, frontier = rendered["effir_compress call"]["fields"], rendered["effir_frontier call"]["fields"]
    assert compress["overrides"]["query_template"] == HOSTILE + "{text}"
    assert compress["overrides"]["collections"] == compress["overrides"]["base_model"] == HOSTILE
    assert frontier["arguments"]["variants"] == HOSTILE
    assert "variants" not in frontier["overrides"]


@pytest.mark.timeout(300)
def test_the_running_airflow_hands_it_on_as_it_was_written(stack: Any, eventually: Any) -> None:
    eventually(lambda: stack.airflow.dag("effir_frontier"), seconds=120)
    run = stack.airflow.trigger("effir_frontier", {"profile": "demo", "variants": HOSTILE, "query_template": HOSTILE + "{text}"})
    eventually(lambda: stack.airflow.run("effir_frontier", run)["state"] == "failed", seconds=240)
    call = Store().get_json(f"s3://effir/runs/{run}/calls/begin.json")
    assert call["arguments"]["variants"] == HOSTILE
    assert call["overrides"]["query_template"] == HOSTILE + "{text}"
    assert HOSTILE[:60] in stack.airflow.xcom("effir_frontier", run, "begin", key="error")["sentence"]


@pytest.mark.parametrize("run_id", ["../other", "a/b", "{{ 7*7 }}", "<script>", "a b", "a'b", "..", "a\x00b"])
def test_a_run_s_id_that_is_no_name_is_refused(run_id: str, stack: Any) -> None:
    with pytest.raises(BadInput, match="Airflow refused"):
        stack.airflow.trigger("effir_compress", {}, run_id)


GUARD = """
import json, sys, types
sys.path.insert(0, sys.argv[1])
import launch
from airflow.sdk.exceptions import AirflowFailException
said = []
for run_id in json.loads(sys.argv[2]):
    context = {"run_id": run_id, "ti": types.SimpleNamespace(task_id="depth", map_index=-1)}
    try:
        said.append(launch.address(context, "calls"))
    except AirflowFailException as error:
        said.append("refused: " + str(error))
print(json.dumps(said))
"""


def test_what_an_administrator_s_wider_pattern_lets_in_still_reaches_no_other_key() -> None:
    right = ["manual__2026-10-01T00:00:00.1+00:00", "a~b"]
    wrong = ["..", "../x", "a/b", "a b", "{{ 7*7 }}", "a\n", "", "x" * 300]
    with tempfile.TemporaryDirectory() as home:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "EFFIR"))} | {"AIRFLOW_HOME": home}
        command = [sys.executable, "-c", GUARD, str(DAGS), json.dumps(right + wrong)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said[: len(right)] == [f"s3://effir/runs/{one}/calls/depth.json" for one in right]
    assert all(one.startswith("refused: the run id ") for one in said[len(right) :])
