"""A run as a person starts it: Airflow's form, the finished run, its report, and the model in MLflow."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.stack, pytest.mark.timeout(1800)]
WIDTH, HEIGHT = 1400, 1000
TOLD = "parameters outside the embeddings"


@pytest.fixture(scope="module")
def clicks(load: Callable[[str], Any]) -> Any:
    return load("browser/clicks.py")


@pytest.fixture(scope="module")
def fields(load: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is typed into the form for a tiny run; an emptied field would keep the profile's value, so margins are given."""
    given = load("e2e/tiny.py").overrides(tmp_path_factory.mktemp("tiny"), margins="seen=0.9")
    return {name: value for name, value in given.items() if value not in (None, "")}


@pytest.fixture
def airflow(window: Any, stack: Any, clicks: Any) -> Any:
    """A window that is signed in to Airflow."""
    opened = window(WIDTH, height=HEIGHT)
    clicks.sign_in(opened, stack.settings["EFFIR_AIRFLOW_URL"], stack.settings["EFFIR_AIRFLOW_PASSWORD"])
    return opened


ended: dict[str, str] = {}


def test_a_run_is_started_by_the_form(airflow: Any, stack: Any, clicks: Any, fields: dict[str, Any], eventually: Any) -> None:
    from effir.spec import RunSpec

    sections = {name: field.json_schema_extra["section"] for name, field in RunSpec.model_fields.items()}
    eventually(lambda: stack.airflow.dag("effir_compress"), seconds=120)
    clicks.fill_in(airflow, stack.airflow.url, fields, sections)
    airflow.picture("form.png", HEIGHT)
    run_id = clicks.trigger(airflow)
    assert airflow.errors == []
    asked = stack.airflow.run("effir_compress", run_id)["conf"]
    assert {name: asked[name] for name in fields} == fields
    assert {value for name, value in asked.items() if name not in (*fields, "profile")} == {None}
    ended["run"] = run_id
    state = eventually(lambda: over(stack.airflow.run("effir_compress", run_id)["state"]), seconds=1200, every=2)
    assert state == "success"


def over(state: str) -> str | None:
    """A run's state once it will not change any more."""
    return state if state in {"success", "failed"} else None


def test_the_finished_run_shows_its_verdict_and_leads_to_the_report(airflow: Any, stack: Any, clicks: Any) -> None:
    airflow.open(clicks.run_page(stack.airflow.url, ended["run"]), TOLD)
    airflow.picture("run.png", HEIGHT)
    airflow.open(f"{clicks.run_page(stack.airflow.url, ended['run'])}/tasks/report/details", "S3 artifact")
    for name in ("MLflow", "S3 artifact", "Report"):
        assert airflow.page.get_by_role("link", name=name, exact=True).get_attribute("href").startswith("http://127.0.0.1:")
    assert airflow.errors == []


@pytest.fixture
def mlflow(window: Any, stack: Any) -> Any:
    """A window that is signed in to MLflow by its basic authentication."""
    login = {"username": stack.settings["MLFLOW_TRACKING_USERNAME"], "password": stack.settings["MLFLOW_TRACKING_PASSWORD"]}
    return window(WIDTH, height=HEIGHT, http_credentials=login)


def test_mlflow_shows_the_model_and_the_runs(mlflow: Any, stack: Any, fields: dict[str, Any]) -> None:
    mlflow.open(f"{stack.settings['MLFLOW_TRACKING_URI']}/#/models/{fields['name']}", "Version 1")
    mlflow.picture("mlflow.png", 800)
    assert mlflow.errors == []
    links = stack.airflow._call("GET", f"dags/effir_compress/dagRuns/{ended['run']}/taskInstances/report/links")["extra_links"]
    mlflow.page.goto("about:blank")
    mlflow.open(links["Report"].partition("/artifacts/")[0], TOLD)
    mlflow.picture("mlflow-run.png", HEIGHT)
    assert mlflow.errors == []


def test_the_report_of_the_run_is_accessible(window: Any, stack: Any, tmp_path: Any) -> None:
    from effir.services.store import Store

    store = Store()
    report = store.get_json(f"{store.root}/runs/{ended['run']}/results/report.json")["output"]["report"]
    (tmp_path / "report.html").write_bytes(store.get_bytes(report))
    for width, scheme in ((1200, "light"), (1200, "dark"), (360, "light")):
        shown = window(width, scheme)
        shown.page.goto((tmp_path / "report.html").as_uri())
        assert shown.findings() == [] and shown.errors == []
        assert shown.page.evaluate("document.documentElement.scrollWidth") == width
