from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effir.spec import NAME

TELL = """
dag = bag.dags["effir_rollback"]
form = {name: dag.params.get_param(name).schema for name in dag.params}
about = {"starts": [dag.schedule, sorted(dag.allowed_run_types)], "tasks": sorted(dag.task_ids), "doc": dag.doc_md}
print(json.dumps(about | {"form": form, "told": dag.on_failure_callback.__qualname__}))
"""
CALL = """
import rollback
calls = []
for params in ({"name": "search", "to": None, "why": ""}, {"name": "search", "to": 3, "why": "{{ 1 + 1 }} 'worse'"}):
    dag = rollback.rollback()
    task = dag.get_task("rollback")
    told = context("rollback")
    told["ti"].xcom_pull = lambda task_ids: None
    told["dag_run"] = types.SimpleNamespace(triggering_user_name="ada")
    task.render_template_fields(told | {"params": params})
    calls.append(task.call(told))
print(json.dumps(calls))
"""


@pytest.fixture(scope="module")
def told(parse_dags: Callable[..., Any]) -> dict[str, Any]:
    return parse_dags(TELL)


def test_only_a_person_starts_it_and_somebody_is_told_if_it_fails(told: dict[str, Any]) -> None:
    assert told["starts"] == [None, ["manual", "operator_triggered"]]
    assert (told["tasks"], told["told"]) == (["announce", "rollback"], "failed")
    assert "docs/promotion.md" in told["doc"]


def test_every_field_of_its_form_is_explained_and_bounded(told: dict[str, Any]) -> None:
    assert list(told["form"]) == ["name", "to", "why"]
    for field in told["form"].values():
        assert field["title"] and field["description_md"].endswith(".")
    assert told["form"]["name"]["pattern"] == NAME
    assert (told["form"]["to"]["type"], told["form"]["to"]["minimum"]) == (["integer", "null"], 1)
    assert told["form"]["why"]["maxLength"] == 1000


def test_the_form_reaches_the_phase_and_no_template_in_it_is_carried_out(in_airflow: Callable[..., Any], tmp_path: Path) -> None:
    usual, named = in_airflow(CALL)
    assert usual["spec"] == named["spec"] == {"name": "search"}
    assert usual["arguments"] == {"to": "", "why": ""}
    assert named["arguments"] == {"to": "3", "why": "{{ 1 + 1 }} 'worse'"}
    assert (named["run"]["by"], named["run"]["mlflow_run_id"]) == ("ada", None)
