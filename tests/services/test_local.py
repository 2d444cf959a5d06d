import json
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from effir.errors import BadInput
from effir.services import access, layout, local, programs

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def marked(folder: Path) -> list[int]:
    """Processes whose environment names this stack, read from /proc."""
    mark = f"EFFIR_STACK={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def listening(pids: list[int]) -> set[tuple[str, int]]:
    """(address, port) of everything that these processes listen on."""
    found = set()
    for connection in psutil.net_connections("inet"):
        if connection.pid in pids and (
            connection.status == psutil.CONN_LISTEN or (connection.type == socket.SOCK_DGRAM and not connection.raddr)
        ):
            found.add((connection.laddr.ip, connection.laddr.port))
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which no stack ever ran."""
    monkeypatch.setenv("EFFIR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EFFIR_PORT_BASE", raising=False)
    return tmp_path / "home"


def test_everything_listens_on_loopback_alone(stack: Any) -> None:
    found = listening(marked(stack.home / "stack"))
    ports = json.loads((stack.home / "stack" / "ports.json").read_text())
    assert {port for _, port in found} >= set(ports.values())
    assert {address for address, _ in found} <= LOOPBACK


def test_nothing_listened_beyond_loopback_while_it_started(stack: Any) -> None:
    seen = json.loads((stack.home / "listened.json").read_text())
    assert len(seen) >= len(layout.PORTS)
    assert {address for address, _ in seen} <= LOOPBACK


def test_status_tells_of_every_program(stack: Any) -> None:
    found = local.status()
    assert set(found) == {"s3", "mlflow", "api-server", "scheduler", "dag-processor", "triggerer"}
    assert {about["state"] for about in found.values()} == {"running"}
    assert sum(about["memory"] for about in found.values()) < 12 * 2**30
    assert found["mlflow"]["url"] == stack.settings["MLFLOW_TRACKING_URI"]


def test_a_second_stack_in_the_same_folder_is_refused(stack: Any) -> None:
    with pytest.raises(BadInput, match=f"a stack already runs in {stack.home}"):
        local.up()


def test_a_port_of_another_stack_is_refused(stack: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = int(stack.settings["EFFIR_AIRFLOW_URL"].rpartition(":")[2])
    monkeypatch.setenv("EFFIR_HOME", str(home))
    monkeypatch.setenv("EFFIR_PORT_BASE", str(base))
    with pytest.raises(BadInput, match=f"port {base} is in use"):
        local.up()
    assert marked(home / "stack") == []
    assert not (home / "stack" / "ports.json").exists()


def test_secrets_are_private_and_in_no_log(stack: Any) -> None:
    folder = stack.home / "stack"
    files = sorted((folder / "credentials").iterdir())
    assert {path.stem for path in files} >= {"compute", "judge", "decide", "promote", "launch", "reader"}
    told = [line.partition("=")[2].strip() for path in files for line in path.read_text().splitlines() if "SECRET" in line.upper()]
    told += json.loads((folder / "mlflow-users.json").read_text()).values()
    secrets = [*json.loads((folder / "secrets.json").read_text()).values(), *told]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("secrets.json", "airflow-passwords.json", "s3.json", "mlflow-users.json", "mlflow-auth.ini", *files):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    public = [*folder.glob("logs/*"), *folder.glob("airflow/logs/**/*.log"), folder / "supervisord.conf"]
    assert len(public) > 7
    for path in public:
        text = path.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in text], path


def test_no_program_of_the_stack_carries_the_credentials_of_a_phase(stack: Any) -> None:
    """Airflow's own key to S3 is all that is in their environment; each phase finds its role's in a file."""
    place = layout.layout_of()
    folder = stack.home / "stack"
    environments = [(Path("/proc") / str(pid) / "environ").read_bytes().decode(errors="replace") for pid in marked(folder)]
    assert len(environments) > 6
    told = {path.stem: path.read_text() for path in (folder / "credentials").glob("*.env")}
    hidden = [
        line.partition("=")[2] for role, text in told.items() for line in text.splitlines() if role != "launch" and "KEY_ID" not in line
    ]
    hidden = [one for one in hidden if len(one) > 30] + [place.secrets["s3_secret"], access.mlflow_password(place, "operator")]
    assert len(hidden) > 8
    assert not [one for one in hidden if any(one in environment for environment in environments)]
    assert any(access.s3_key(place, "launch")[1] in environment for environment in environments)


def test_a_home_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EFFIR_HOME", str(tmp_path / "file"))
    with pytest.raises(BadInput, match="cannot be written"):
        local.up()


def test_without_dags_nothing_is_started(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFIR_DAGS", str(tmp_path))
    with pytest.raises(BadInput, match="there are no DAGs"):
        local.up()
    assert marked(home / "stack") == []


def test_one_up_at_a_time(home: Path) -> None:
    with local._locked(), pytest.raises(BadInput, match="another `effir up` or `effir down`"):
        local.up()


def test_where_no_stack_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EFFIR_AIRFLOW_URL", raising=False)
    assert local.down() == 0
    assert local.status() == {}
    for ask in (local.client_environment, local.connect, layout.layout_of):
        with pytest.raises(BadInput, match="start one with `effir up`"):
            ask()


def test_settings_of_the_caller_do_not_leak_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AIRFLOW__CORE__EXECUTOR", "MLFLOW_TRACKING_TOKEN", "EFFIR_STORE"):
        monkeypatch.setenv(name, "the caller's")
    runner = {"EFFIR_RUNNER": "kubernetes", "EFFIR_RUNNER_SETTINGS": "/etc/runner.json", "KUBECONFIG": "/etc/kubeconfig"}
    for name, value in runner.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EFFIR_DATA", "/data")
    place = layout.Layout(tmp_path, tmp_path, layout.block(20_000), layout.choose_secrets(tmp_path / "secrets.json"))
    found = programs.environment(place, tmp_path)
    assert "the caller's" not in found.values()
    assert found["EFFIR_DATA"] == "/data"
    assert found | runner == found
    assert found["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert found["DO_NOT_TRACK"] == "true"


@pytest.mark.last
def test_down_leaves_no_process_and_no_port(stack: Any, eventually: Callable[..., Any]) -> None:
    folder = stack.home / "stack"
    before = marked(folder)
    ports = [port for _, port in listening(before)]
    assert len(before) > 6
    assert len(ports) >= 12
    assert local.down() >= 7
    assert marked(folder) == []
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, port
    with pytest.raises(BadInput, match="no stack runs"):
        local.client_environment()
