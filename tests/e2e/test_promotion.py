"""The champion's later life in the real Airflow: taken back by a run, and found damaged by another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effir.manifest import MANIFEST, Manifest, content_of, digest_of
from effir.services import promotions, registry
from effir.services.store import Store, split

ROLLBACK, VERIFY = "effir_rollback", "effir_verify"


def crown(name: str, count: int, folder: Path) -> list[str]:
    """So many champions of a model, one after another; where their files lie."""
    store, before, places = Store(), None, []
    for number in range(1, count + 1):
        here = folder / name / str(number)
        here.mkdir(parents=True)
        (here / "weights").write_text(f"{name} {number}")
        empty = {"key": {}, "files": {}, "numbers": {}, "seconds": 1, "forward_passes": 0, "created": "now"}
        manifest = store.publish(Manifest(phase="finetune", digest=digest_of({"name": name, "number": number}), **empty), here)
        source = store.artifact("finetune", manifest.digest)
        to = {"digest": manifest.digest, "manifest": f"{source}/{MANIFEST}", "source": source, "files": content_of(manifest.files)}
        tags = {"effir.files": to["files"]}
        about = {"run_id": None, "digest": to["digest"], "manifest": to["manifest"], "description": "", "tags": tags}
        to["version"] = registry.register(name, source, **about)
        before = promotions.record(store, name, "promote", before, to, why=[], who="test", code="c")["to"]
        places.append(source)
    promotions.settle(store, name)
    return places


def ended(stack: Any, eventually: Callable[..., Any], dag: str, form: dict[str, Any]) -> dict[str, Any]:
    """A run of a DAG, triggered with this form, once it is over."""
    eventually(lambda: stack.airflow.dag(dag), 120)
    run_id = stack.airflow.trigger(dag, form)
    return eventually(lambda: (run := stack.airflow.run(dag, run_id))["state"] in {"success", "failed"} and run, 240)


@pytest.mark.timeout(600)
def test_a_run_takes_the_champion_back_and_goes_no_further(stack: Any, eventually: Callable[..., Any], tmp_path: Path) -> None:
    crown("shelf", 2, tmp_path)
    run = ended(stack, eventually, ROLLBACK, {"name": "shelf", "why": "users complain"})
    assert run["state"] == "success"
    assert registry.aliases("shelf") == {"champion": "1"}
    record = promotions.latest(Store(), "shelf")
    assert (record["action"], record["why"]) == ("rollback", ["users complain"])
    assert record["who"] == f"admin (Airflow run {run['dag_run_id']})"
    assert {"name": "shelf", "version": "1", "aliases": ["champion"]} in stack.events("effir/champion")

    refused = ended(stack, eventually, ROLLBACK, {"name": "shelf"})
    assert refused["state"] == "failed"
    told = stack.airflow.xcom(ROLLBACK, refused["dag_run_id"], "rollback", "error")
    assert told["exit_code"] == 2
    assert told["sentence"].startswith("no champion of shelf before version 1 is known")
    (task,) = [one for one in stack.airflow.tasks(ROLLBACK, refused["dag_run_id"]) if one["task_id"] == "rollback"]
    assert task["try_number"] == 1
    assert promotions.latest(Store(), "shelf")["n"] == 3


@pytest.mark.timeout(600)
def test_a_champion_that_is_damaged_later_is_noticed(stack: Any, eventually: Callable[..., Any], tmp_path: Path) -> None:
    (place,) = crown("scheduled", 1, tmp_path)
    bucket, key = split(f"{place}/weights")
    Store().client.put_object(Bucket=bucket, Key=key, Body=b"others")
    run = ended(stack, eventually, VERIFY, {})
    assert run["state"] == "failed"
    states = {one["task_id"]: one["state"] for one in stack.airflow.tasks(VERIFY, run["dag_run_id"])}
    assert states == {"audit_every_minute": "failed", "audit_on_data": "success"}
    told = stack.airflow.xcom(VERIFY, run["dag_run_id"], "audit_every_minute", "error")
    assert told["sentence"] == f"version 1 of scheduled is damaged: weights in {place} is not as registered"
    (alert,) = eventually(lambda: [one for one in stack.alerts if one["run_id"] == run["dag_run_id"]], 60)
    assert (alert["event"], alert["task"], alert["error"]) == ("run_failed", "audit_every_minute", told["sentence"])
