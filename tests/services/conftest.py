import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from effir.services.programs import PORTS, TWIN_DISTANCE, Layout, client_environment, commands, environment
from effir.services.store import Store


def free_ports(count: int) -> list[int]:
    """Ports that are free together with their twins."""
    found: list[int] = []
    port = 21_000 + os.getpid() % 20_000
    while len(found) < count:
        port += 1
        with socket.socket() as one, socket.socket() as twin:
            try:
                one.bind(("127.0.0.1", port))
                twin.bind(("127.0.0.1", port + TWIN_DISTANCE))
            except OSError:
                continue
        found.append(port)
    return found


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The embedded stack's S3 and MLflow servers alone; the environment that reaches them is set meanwhile."""
    folder = tmp_path_factory.mktemp("services")
    secrets = {"s3_key": "test", "s3_secret": "test-secret"} | dict.fromkeys(
        ("airflow_password", "airflow_fernet", "airflow_secret", "airflow_jwt"), "unused"
    )
    layout = Layout(folder, folder, dict(zip(PORTS, free_ports(len(PORTS)), strict=True)), secrets)
    checks = {
        "s3": lambda: Store().exists("s3://effir/ready"),
        "mlflow": lambda: urllib.request.urlopen(f"{layout.url('mlflow')}/health").close(),
    }
    with pytest.MonkeyPatch.context() as patch, ExitStack() as started:
        for key, value in client_environment(layout).items():
            patch.setenv(key, value)
        for name, ready in checks.items():
            log = started.enter_context((folder / f"{name}.log").open("w"))
            process = subprocess.Popen(
                commands(layout)[name], env=environment(layout, folder), stdout=log, stderr=log, start_new_session=True
            )
            started.callback(process.wait)
            started.callback(os.killpg, process.pid, signal.SIGKILL)
            await_server(process, folder / f"{name}.log", ready)
        yield {"mlflow": layout.url("mlflow"), "s3": layout.url("s3")}


def await_server(process: "subprocess.Popen[bytes]", log: Path, ready: Callable[[], object]) -> None:
    """Return when `ready` raises no more; fail with the log's end when the process ended or three minutes are over."""
    for _ in range(720):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            ready()
        except Exception:
            time.sleep(0.25)
        else:
            return
    raise AssertionError(log.read_text()[-2000:])


@pytest.fixture
def store(services: dict[str, str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of its own for every test."""
    monkeypatch.setenv("EFFIR_STORE", f"s3://effir/{abs(hash(request.node.nodeid)):x}")
    return Store()
