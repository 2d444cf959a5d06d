from collections.abc import Callable
from typing import Any

import pytest

SCRIPT = """
import launch, links, telling

PAGE = "http://mlflow/#/experiments/1/runs/parent"

class Instance(types.SimpleNamespace):
    def xcom_pull(self, task_ids):
        return {"output": {"mlflow": PAGE}} if task_ids == "begin" and known else None

def found(phase, result, task_id=None):
    task = launch.Phase(task_id=task_id or phase, phase=phase)
    task.result = result
    return {link.name: link.get_link(task, ti_key=Instance(task_id=task.task_id)) for link in task.operator_extra_links}

result = {
    "phase": "depth", "cached": False, "seconds": 1.25, "forward_passes": 12345, "numbers": {"share": 0.12345678, "layers": 4},
    "manifest": "s3://store/below/artifacts/depth/abc/manifest.json", "mlflow_run_id": "child", "output": {},
}
known = True
told = {
    "computed": found("depth", result),
    "fresh": found("gate", result | {"mlflow_run_id": None}),
    "report": found("report", result | {"output": {"report": "s3://store/artifacts/report/def/report.html"}}),
    "begin": found("arms", result | {"mlflow_run_id": None, "output": {"mlflow": PAGE + "2"}}, "begin"),
    "failed": found("depth", None),
}
known = False
told["without MLflow"] = found("depth", result)
given = {"model": "candidate", "begun": {"output": {}}}
call = {"arguments": given, "inputs": {"base": "s3://a/manifest.json", "encodes": ["s3://b", "s3://c"], "none": []}}
told["opening"] = list(telling.opening("Cuts.", call, ["phase", "depth"]))
told["closing"] = list(telling.closing(result))
told["cached"] = list(telling.closing(result | {"cached": True, "output": {"headline": "Promoted"}}))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(in_airflow: Callable[..., Any]) -> dict[str, Any]:
    return in_airflow(SCRIPT, EFFIR_S3_BROWSER="http://s3/{bucket}/{key}/")


def test_a_phase_links_to_its_own_run_and_its_artifact(told: dict[str, Any]) -> None:
    assert told["computed"] == {
        "MLflow": "http://mlflow/#/experiments/1/runs/child",
        "S3 artifact": "http://s3/store/below/artifacts/depth/abc/",
    }


def test_a_phase_without_a_run_of_its_own_links_to_the_whole_one(told: dict[str, Any]) -> None:
    assert told["fresh"]["MLflow"] == "http://mlflow/#/experiments/1/runs/parent"
    assert told["begin"]["MLflow"] == "http://mlflow/#/experiments/1/runs/parent2"


def test_the_report_links_to_its_page_and_no_other_phase_does(told: dict[str, Any]) -> None:
    assert told["report"]["Report"] == "http://mlflow/#/experiments/1/runs/parent/artifacts/report.html"
    assert "Report" not in told["computed"]


def test_what_is_not_known_is_no_link(told: dict[str, Any]) -> None:
    assert told["failed"] == {"MLflow": "http://mlflow/#/experiments/1/runs/parent", "S3 artifact": ""}
    assert told["without MLflow"]["MLflow"] == ""


def test_a_log_opens_with_what_is_to_be_done_and_ends_with_what_was(told: dict[str, Any]) -> None:
    assert told["opening"] == [
        "About to do: Cuts.", "  model: candidate", "  from base: s3://a/manifest.json", "  from encodes: s3://b and 1 more",
        "  from none: nothing", "  by: effir phase depth",
    ]  # fmt: skip
    assert told["closing"] == [
        "depth: done, in 1.2 s, with 12,345 forward passes", "  share: 0.123457", "  layers: 4",
        "  artifact: s3://store/below/artifacts/depth/abc",
    ]  # fmt: skip
    assert told["cached"][:2] == ["depth: found what was done before, in 1.2 s, with 12,345 forward passes", "  Promoted"]
