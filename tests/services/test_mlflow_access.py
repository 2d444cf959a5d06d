"""Who may do what in MLflow, asked of the real server over its REST API."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from mlflow.artifacts import download_artifacts

from effir.errors import BadInput
from effir.manifest import MANIFEST, Manifest
from effir.services import access, registry
from effir.services.layout import Layout
from effir.services.mlflow_access import GRANTS, users_of
from effir.services.mlflow_api import Api
from effir.services.store import Store
from effir.spec import RunSpec

API = "api/2.0/mlflow"
MODEL = "access-model"
CHANGES = [
    ("POST", "registered-models/create", {"name": "access-new"}),
    ("POST", "registered-models/create", {"name": "access-prompt", "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}]}),
    ("PATCH", "registered-models/update", {"name": MODEL, "description": "mine"}),
    ("POST", "registered-models/rename", {"name": MODEL, "new_name": "access-stolen"}),
    ("POST", "registered-models/set-tag", {"name": MODEL, "key": "a", "value": "b"}),
    ("DELETE", "registered-models/delete-tag", {"name": MODEL, "key": "effir.kept"}),
    ("POST", "registered-models/alias", {"name": MODEL, "alias": "champion", "version": "2"}),
    ("DELETE", "registered-models/alias", {"name": MODEL, "alias": "champion"}),
    ("POST", "model-versions/create", {"name": MODEL, "source": "s3://effir/evil"}),
    ("PATCH", "model-versions/update", {"name": MODEL, "version": "1", "description": "mine"}),
    ("POST", "model-versions/set-tag", {"name": MODEL, "version": "1", "key": "effir.digest", "value": "evil"}),
    ("DELETE", "model-versions/delete-tag", {"name": MODEL, "version": "1", "key": "effir.kept"}),
    ("POST", "model-versions/transition-stage", {"name": MODEL, "version": "1", "stage": "Production"}),
    ("DELETE", "model-versions/delete", {"name": MODEL, "version": "1"}),
    ("DELETE", "registered-models/delete", {"name": MODEL}),
]


@pytest.fixture
def asking(mlflow: str, place: Layout) -> Callable[..., requests.Response]:
    """Ask MLflow as a user."""
    session = requests.Session()

    def ask(user: str, method: str, path: str, body: dict[str, Any] | None = None) -> requests.Response:
        content = {"params": body} if method == "GET" else {"json": body}
        return session.request(method, f"{mlflow}/{path}", auth=(user, access.mlflow_password(place, user)), timeout=30, **content)

    return ask


@pytest.fixture
def registered(asking: Callable[..., requests.Response]) -> dict[str, Any]:
    """A model with two versions, the first of them its champion; as MLflow describes it."""
    asking("promote", "POST", f"{API}/registered-models/create", {"name": MODEL})
    versions = asking("reader", "GET", f"{API}/model-versions/search", {"filter": f"name = '{MODEL}'"}).json().get("model_versions", [])
    for _ in range(2 - len(versions)):
        made = asking("promote", "POST", f"{API}/model-versions/create", {"name": MODEL, "source": "s3://effir/artifacts/finetune/1f"})
        assert made.ok, made.text
    asking("promote", "POST", f"{API}/registered-models/alias", {"name": MODEL, "alias": "champion", "version": "1"})
    return described(asking)


def described(asking: Callable[..., requests.Response]) -> dict[str, Any]:
    found = asking("reader", "GET", f"{API}/registered-models/get", {"name": MODEL})
    assert found.ok, found.text
    return {name: value for name, value in found.json()["registered_model"].items() if name != "last_updated_timestamp"}


@pytest.mark.parametrize("user", ["log", "reader"])
def test_only_promote_changes_the_registry(asking: Callable[..., requests.Response], registered: dict[str, Any], user: str) -> None:
    for prefix in (API, "ajax-api/2.0/mlflow"):
        for method, path, body in CHANGES:
            answer = asking(user, method, f"{prefix}/{path}", body)
            assert answer.status_code == 403, (path, answer.text)
    assert described(asking) == registered
    for name in ("access-new", "access-prompt", "access-stolen"):
        assert asking("operator", "GET", f"{API}/registered-models/get", {"name": name}).status_code == 404


@pytest.mark.parametrize(
    "path", ["registered-models/create/", "registered-models//create", "./registered-models/create", "registered-models/%63reate"]
)
def test_no_other_way_of_writing_the_address_makes_a_model(asking: Callable[..., requests.Response], path: str) -> None:
    assert not asking("log", "POST", f"{API}/{path}", {"name": "access-sideways"}).ok
    assert asking("operator", "GET", f"{API}/registered-models/get", {"name": "access-sideways"}).status_code == 404


def test_promote_and_the_operator_change_it(asking: Callable[..., requests.Response], registered: dict[str, Any]) -> None:
    for user in ("promote", "operator"):
        name = f"access-{user}-{time.time_ns()}"
        assert asking(user, "POST", f"{API}/registered-models/create", {"name": name}).ok
        assert asking(user, "POST", f"{API}/registered-models/alias", {"name": MODEL, "alias": "previous", "version": "2"}).ok
        assert asking(user, "DELETE", f"{API}/registered-models/alias?name={MODEL}&alias=previous", {"name": MODEL, "alias": "previous"}).ok


def test_a_run_is_recorded_by_log_and_gone_on_with_by_promote(
    asking: Callable[..., requests.Response], place: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def become(user: str) -> None:
        for name, value in access.mlflow_variables(place, user).items():
            monkeypatch.setenv(name, value)

    become("log")
    run = {"id": f"manual__{time.time_ns()}", "airflow_url": "http://127.0.0.1:8080/run"}
    run["mlflow_run_id"] = registry.begin_run(run, RunSpec(name="access"))
    assert registry.by_alias("access-absent", "champion") is None
    for user in ("log", "promote"):
        become(user)
        with registry.phase_run(run, "promote", {}) as tracker:
            tracker.metric("champion", 1.0)
        registry.finish_run(run["mlflow_run_id"], {"effir.verdict": "promoted"}, {"champion": 1.0})
    become("reader")
    assert Api().get("runs/get", run_id=run["mlflow_run_id"])["run"]["info"]["status"] == "FINISHED"
    with pytest.raises(BadInput, match=r"does not let reader do runs/update: Permission denied .*docs/access.md"):
        Api().post("runs/update", run_id=run["mlflow_run_id"], status="FAILED")
    with pytest.raises(BadInput, match="does not let reader do registered-models/create: Permission denied: reader may not make"):
        Api().post("registered-models/create", name="access-by-reader")


def test_the_server_shows_what_a_report_left_in_s3(
    asking: Callable[..., requests.Response], place: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Written with the keys of `decide`, read by the server with its own, by a reader's login."""
    for name, value in (access.s3_variables(place, "decide") | access.mlflow_variables(place, "log")).items():
        monkeypatch.setenv(name, value)
    run_id = registry.begin_run({"id": f"manual__{time.time_ns()}"}, RunSpec(name="access"))
    (tmp_path / "report.html").write_text("<p>a report")
    assert registry.log_artifact(run_id, tmp_path / "report.html", Store()).startswith("s3://mlflow/")
    shown = asking("reader", "GET", "get-artifact", {"run_uuid": run_id, "path": "report.html"})
    assert (shown.status_code, shown.text) == (200, "<p>a report")
    assert asking("reader", "GET", f"{API}/artifacts/list", {"run_id": run_id}).json()["files"][0]["path"] == "report.html"


def test_a_reader_loads_a_model_that_promote_registered(
    mlflow: str, place: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By effir and by the mlflow package, each with the keys of one role alone."""

    def become(role: str) -> Store:
        user = "reader" if role == "reader" else "promote"
        for name, value in (access.s3_variables(place, role) | access.mlflow_variables(place, user)).items():
            monkeypatch.setenv(name, value)
        return Store("s3://effir")

    (tmp_path / "made" / "model").mkdir(parents=True)
    (tmp_path / "made" / "model" / "config.json").write_text("{}")
    digest, empty = f"{time.time_ns():064x}", {"key": {}, "files": {}, "numbers": {}, "seconds": 0, "forward_passes": 0, "created": "now"}
    store = become("compute")
    store.publish(Manifest.model_validate(empty | {"phase": "finetune", "digest": digest}), tmp_path / "made")
    source = store.artifact("finetune", digest)
    become("promote")
    name = f"access-{digest[-16:]}"
    version = registry.register(name, source, run_id=None, digest=digest, manifest=f"{source}/{MANIFEST}", description="why", tags={})
    become("reader")
    assert (registry.download_model(f"models:/{name}/{version}", tmp_path / "read") / "config.json").read_text() == "{}"
    assert (Path(download_artifacts(f"models:/{name}/{version}", dst_path=str(tmp_path / "mlflow"))) / "model" / "config.json").exists()
    with pytest.raises(BadInput, match="does not let reader do"):
        registry.point(name, "challenger", version)


def test_nobody_without_a_login_and_no_user_makes_another(asking: Callable[..., requests.Response], mlflow: str) -> None:
    assert requests.get(f"{mlflow}/{API}/registered-models/search", timeout=10).status_code == 401
    assert requests.get(f"{mlflow}/{API}/registered-models/search", auth=("operator", "password1234"), timeout=10).status_code == 401
    assert requests.get(f"{mlflow}/health", timeout=10).ok
    for user in ("promote", "log", "reader"):
        assert asking(user, "POST", f"{API}/users/create", {"username": "mallory", "password": "mallory-mallory"}).status_code == 403
        more = {"username": user, "resource_type": "registered_model", "resource_id": "*", "permission": "MANAGE"}
        assert asking(user, "POST", "api/3.0/mlflow/users/permissions/grant", more).status_code == 403
        assert asking(user, "PATCH", f"{API}/users/update-admin", {"username": user, "is_admin": True}).status_code == 403


def test_passwords_are_on_no_command_line_and_in_no_other_users_file(mlflow: str, place: Layout) -> None:
    passwords = [access.mlflow_password(place, user) for user in GRANTS]
    assert len(set(passwords)) == len(GRANTS)
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)]
    assert not [one for one in passwords for line in lines if one.encode() in line]
    for path in (access.mlflow_users(place), access.s3_configuration(place), place.folder / "mlflow-auth.ini", access.tracking_keys(place)):
        assert path.stat().st_mode & 0o777 == 0o600, path


def readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


def test_who_kills_what_was_started_kills_the_server(mlflow: str, place: Layout) -> None:
    listening = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    (server,) = {one.pid for one in listening if one.laddr.port == place.ports["mlflow"]}
    assert psutil.Process(server).ppid() == os.getpid()


@pytest.mark.parametrize("told", ["{", "[]", '{"operator": "long-enough-password"}', json.dumps(dict.fromkeys(GRANTS, "short"))])
def test_a_file_of_users_that_is_wrong_is_refused_in_a_sentence(tmp_path: Path, told: str) -> None:
    (tmp_path / "users.json").write_text(told)
    with pytest.raises(SystemExit, match=r"^effir: .*users\.json should .*passwords?"):
        users_of(tmp_path / "users.json")


def test_the_server_says_what_it_misses(tmp_path: Path) -> None:
    (tmp_path / "users.json").write_text(json.dumps(dict.fromkeys(GRANTS, "long-enough-password")))
    command = [sys.executable, "-m", "effir.services.mlflow_access", str(tmp_path / "users.json")]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "effir: MLFLOW_AUTH_CONFIG_PATH is not set\n")


ROTATE = """
import json, os, sys
from pathlib import Path
from effir.services import mlflow_access
folder, database = Path(sys.argv[1]), f"sqlite:///{sys.argv[1]}/100%25.db"
mlflow_access.write_settings(folder / "auth.ini", database)
first = {user: f"{user}-first-password" for user in mlflow_access.GRANTS}
mlflow_access.make_users(first, database)
mlflow_access.make_users(first | {"promote": "promote-second-password"}, database)
from mlflow.server.auth import auth_config, store
let_in = [store.authenticate_user(user, f"{user}-{which}-password") for which in ("first", "second") for user in ("log", "promote")]
users = [one.username for one in store.list_users()]
print(json.dumps([let_in, auth_config.database_uri == database, auth_config.authorization_function, users]))
"""


def test_a_password_that_changed_in_the_file_changes_at_the_next_start(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    env |= {"MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini")}
    done = subprocess.run([sys.executable, "-c", ROTATE, str(tmp_path)], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    let_in, same_database, function, users = json.loads(done.stdout.splitlines()[-1])
    assert let_in == [True, False, False, True]
    assert (same_database, function) == (True, "effir.services.mlflow_access:authenticate")
    assert users == list(GRANTS), "nobody else can log in"
