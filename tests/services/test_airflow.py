import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from effir.errors import BadInput, OutOfReach
from effir.services.airflow import Airflow
from effir.spec import RunSpec

FORM = "effir_compress_on_data"
BEYOND = {"minimum": -1, "exclusiveMinimum": 0, "maximum": 1, "exclusiveMaximum": 0}
AT = {"minimum": 0, "maximum": 0}


@pytest.fixture(scope="module")
def details(stack_home: Any, eventually: Callable[..., Any]) -> dict[str, Any]:
    """A DAG's details as the running Airflow shows them."""
    from effir.services import local

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFIR_HOME", str(stack_home))
        settings = local.client_environment()
    airflow = Airflow(settings["EFFIR_AIRFLOW_URL"], "admin", settings["EFFIR_AIRFLOW_PASSWORD"])
    return eventually(lambda: airflow.dag(FORM), 120)


@pytest.fixture
def paused(stack: Any, details: dict[str, Any]) -> Iterator[Airflow]:
    """Airflow, while it starts none of this DAG's runs."""
    stack.airflow.pause(FORM)
    yield stack.airflow
    for run in stack.airflow.runs(FORM):
        stack.airflow.forget(FORM, run["dag_run_id"])
    stack.airflow.pause(FORM, False)


def shown(details: dict[str, Any]) -> dict[str, Any]:
    return {name: param["schema"] for name, param in details["params"].items()}


def test_the_api_shows_every_field(details: dict[str, Any]) -> None:
    assert set(shown(details)) == {"profile", *RunSpec.model_fields}
    assert shown(details)["lora_rank"]["minimum"] == 1
    assert details["params"]["collections"]["value"] == "/absent/seen"
    assert details["doc_md"]


def test_what_is_out_of_bounds_is_refused(paused: Airflow, details: dict[str, Any]) -> None:
    wrong = [(name, schema[bound] + step) for name, schema in shown(details).items() for bound, step in BEYOND.items() if bound in schema]
    wrong += [("profile", "absent"), ("pooling", "first"), ("variant", "half of it"), ("lora_rank", 2.5), ("lora_rank", "many")]
    assert len(wrong) > 60
    for name, value in wrong:
        with pytest.raises(BadInput, match=name):
            paused.trigger(FORM, {name: value})
    assert not [run for run in paused.runs(FORM) if run["run_type"] == "manual"]


def test_what_is_at_its_bounds_is_accepted(paused: Airflow, details: dict[str, Any]) -> None:
    for bound in AT:
        conf = {name: schema[bound] for name, schema in shown(details).items() if bound in schema}
        run_id = paused.trigger(FORM, conf, f"at-{bound}")
        assert paused.run(FORM, run_id)["conf"].items() >= conf.items()


def test_the_pool_has_one_slot_which_a_deferred_task_keeps(stack: Any) -> None:
    pool = stack.airflow._call("GET", "pools/compute")
    assert (pool["slots"], pool["include_deferred"]) == (1, True)
    stack.airflow.ensure_pool("compute", 7, "again")
    assert stack.airflow._call("GET", "pools/compute")["slots"] == 1


def test_what_is_absent(stack: Any) -> None:
    assert stack.airflow.dag("effir_absent") is None
    assert stack.airflow.xcom("effir_compress", "absent", "begin") is None
    with pytest.raises(BadInput, match="not found"):
        stack.airflow.run("effir_compress", uuid.uuid4().hex)
    with pytest.raises(BadInput, match="knows no asset"):
        stack.airflow.asset_event("effir/absent")


def test_a_wrong_password_is_said(stack: Any) -> None:
    with pytest.raises(BadInput, match="check EFFIR_AIRFLOW_USER and EFFIR_AIRFLOW_PASSWORD"):
        Airflow(stack.airflow.url, "admin", "wrong").dag("effir_compress")


def test_nothing_answers() -> None:
    with pytest.raises(OutOfReach, match=r"Airflow at http://127\.0\.0\.1:9 is not reachable") as caught:
        Airflow("http://127.0.0.1:9", "admin", "").dag("effir_compress")
    assert type(caught.value) is OutOfReach
