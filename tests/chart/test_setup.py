"""The script of the setup job, as the chart carries it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests

from .installs import SOURCE, Chart, pick

TIMEOUT = 150
POOLS = [{"name": "chart test", "slots": 3, "description": "from the chart"}]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chart_setup", SOURCE / "files" / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_connection_to_s3_holds_keys_only_where_there_are_some(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    by_account = script.s3_connection()
    assert (by_account["connection_id"], by_account["conn_type"], by_account["login"], by_account["password"]) == (
        "effir_s3",
        "aws",
        None,
        None,
    )
    assert json.loads(by_account["extra"]) == {"region_name": "eu-west-1"}
    for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_ENDPOINT_URL_S3": "http://s3:8333"}.items():
        monkeypatch.setenv(name, value)
    by_key = script.s3_connection()
    assert (by_key["login"], by_key["password"]) == ("key", "hidden")
    assert json.loads(by_key["extra"])["endpoint_url"] == "http://s3:8333"


def test_more_connections_are_files(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "CONNECTIONS", tmp_path)
    assert script.more_connections() == []
    (tmp_path / "secret" / "..data").mkdir(parents=True)
    (tmp_path / "secret" / "effir_git").write_text('{"conn_type": "git", "host": "https://git.example.com", "extra": {"a": 1}}')
    (found,) = script.more_connections()
    assert found == {"connection_id": "effir_git", "conn_type": "git", "host": "https://git.example.com", "extra": '{"a": 1}'}
    for wrong in ("git://user:pass@host", '{"host": "x"}', "[]", "null"):
        (tmp_path / "secret" / "effir_git").write_text(wrong)
        with pytest.raises(script.Refused, match="effir_git is no JSON like"):
            script.more_connections()


def test_nobody_waits_for_ever(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(script, "PAUSE", 0)
    monkeypatch.setenv("AIRFLOW_URL", "http://127.0.0.1:9")
    with pytest.raises(SystemExit, match=r"effir: Airflow at http://127.0.0.1:9 does not answer: .*refused"):
        script.patiently(lambda: script.call("GET", "http://127.0.0.1:9/api"), 0)


def test_airflow_is_set_up_again_and_again(chart: Chart, stack: Any, tmp_path: Path) -> None:
    airflow = Job(chart, stack, tmp_path)
    code, told = airflow.run()
    assert (code, told.splitlines()[-3:]) == (0, ["pool chart test is set", "connection effir_s3 is set", "connection effir_git is set"])
    pool = airflow.get("pools/chart%20test")
    assert (pool["slots"], pool["include_deferred"], pool["description"]) == (3, True, "from the chart")
    s3 = airflow.get("connections/effir_s3")
    assert (s3["conn_type"], s3["login"], json.loads(s3["extra"])["endpoint_url"]) == ("aws", "key", "http://s3:8333")
    airflow.pools(5)
    assert airflow.run()[0] == 0
    assert airflow.get("pools/chart%20test")["slots"] == 5
    assert airflow.get("connections/effir_git")["host"] == "https://git.example.com"


def test_a_wrong_user_is_told_and_not_tried_again(chart: Chart, stack: Any, tmp_path: Path) -> None:
    airflow = Job(chart, stack, tmp_path)
    (tmp_path / "user" / "password").write_text("wrong")
    code, told = airflow.run()
    assert code == 1
    assert "effir: Airflow refuses POST" in told
    assert "401" in told
    (tmp_path / "user" / "password").unlink()
    assert airflow.run() == (1, "effir: the Secret in setup.existingSecret has no key password: give it username and password, or token\n")


class Job:
    """The setup job's container as a process: the chart's ConfigMap and Secrets are folders."""

    def __init__(self, chart: Chart, stack: Any, folder: Path) -> None:
        self.folder = folder
        self.url, password = stack.settings["EFFIR_AIRFLOW_URL"], stack.settings["EFFIR_AIRFLOW_PASSWORD"]
        manifests = chart.render(
            values={"setup": {"pools": POOLS, "airflowUrl": self.url, "timeoutSeconds": 60}, "s3": {"endpoint": "http://s3:8333"}}
        )
        for name, content in pick(manifests, "ConfigMap", "effir-setup")["data"].items():
            (folder / name).write_text(content)
        (container,) = pick(manifests, "Job", "effir-setup")["spec"]["template"]["spec"]["containers"]
        self.environment = {one["name"]: one["value"] for one in container["env"]}
        for name, content in {"user/username": "admin", "user/password": password, "connections/more/effir_git": GIT}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        answer = requests.post(f"{self.url}/auth/token", json={"username": "admin", "password": password}, timeout=TIMEOUT)
        self.headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def pools(self, slots: int) -> None:
        """The same pools with another number of slots."""
        (self.folder / "pools.json").write_text(json.dumps([one | {"slots": slots} for one in POOLS]))

    def run(self) -> tuple[int, str]:
        """Exit code and output."""
        mine = {"USER_FOLDER": str(self.folder / "user"), "CONNECTIONS_FOLDER": str(self.folder / "connections")}
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hidden", "PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-I", str(self.folder / "setup.py")]
        ended = subprocess.run(command, env=self.environment | keys | mine, capture_output=True, text=True, timeout=TIMEOUT)
        assert "hidden" not in ended.stdout + ended.stderr
        return ended.returncode, ended.stdout + ended.stderr

    def get(self, place: str) -> Any:
        """What Airflow's REST API says of a thing."""
        answer = requests.get(f"{self.url}/api/v2/{place}", headers=self.headers, timeout=TIMEOUT)
        assert answer.ok, answer.text
        return answer.json()


GIT = '{"conn_type": "git", "host": "https://git.example.com"}'
