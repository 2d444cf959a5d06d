"""Real services for tests: `s3` and `store` (SeaweedFS alone), `stack` (S3, MLflow and Airflow), started once a session."""

import http.server
import json
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import psutil
import pytest
import requests

from effir.services import access, layout, local, programs
from effir.services.airflow import Airflow
from effir.services.store import Store

CANARIES = {name: f"canary{secrets.token_hex(24)}" for name in ("HF_TOKEN", "alerts")}
"""Secrets that no part of the stack may tell on: a variable of its environment, and the password of the alerts' connection."""
ABSENT = {"collections": "/absent/seen", "in_domain": "", "margins": ""}
DEPLOYMENTS = [
    {"name": "every_minute", "profile": "demo", "cron": "* * * * *", "overrides": {"name": "scheduled"} | ABSENT},
    {
        "name": "on_data",
        "profile": "demo",
        "assets": ["effir/training-data"],
        "overrides": {"name": "asset"} | ABSENT,
        "deadline_hours": 0.0003,
    },
    {"name": "wrong", "profile": "absent", "cron": "@daily"},
]  # fmt: skip


def free_block(start: int = 23_000) -> dict[str, int]:
    """A free block of ports, as the embedded stack lays them out."""
    blocks = (layout.block(base) for base in range(start + os.getpid() % 300 * 10, 32_000, 10))
    return next(ports for ports in blocks if all(map(layout.is_free, layout.all_ports(ports))))


def pytest_configure() -> None:
    """A terminated session ends what it started, as an interrupted one does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What uses the session's stack is marked so; what ends it comes last."""
    for item in items:
        if "stack_home" in getattr(item, "fixturenames", ()):
            item.add_marker("stack")
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@contextmanager
def serving_s3(place: layout.Layout, own: dict[str, str]) -> Iterator[dict[str, str]]:
    """A real S3 server on loopback, with these variables of its own; the environment that reaches it as its operator."""
    settings = {
        name: value for name, value in programs.client_environment(place).items() if name.startswith(("AWS_", "EFFIR_STORE", "NO_"))
    }
    with (place.folder / "weed.log").open("a") as log:
        process = subprocess.Popen(programs.commands(place)["s3"], env=os.environ | settings | own, stdout=log, stderr=log)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            eventually(lambda: process.poll() is None and Store().exists("s3://effir/x") is False, seconds=60)
        yield settings
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(name="serving_s3", scope="session")
def serving_s3_fixture() -> Callable[..., Any]:
    return serving_s3


@pytest.fixture(scope="session")
def new_place(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], layout.Layout]:
    """Makes a folder, ports and keys for servers."""

    def make() -> layout.Layout:
        folder = tmp_path_factory.mktemp("servers")
        made = layout.Layout(folder, folder, free_block(), {"s3_key": "test", "s3_secret": "test-secret", "airflow_password": ""})
        access.write(made, local.dags_folder())
        return made

    return make


@pytest.fixture(scope="session")
def place(new_place: Callable[[], layout.Layout]) -> layout.Layout:
    """Folder, ports and keys of the servers that a session has beside the stack."""
    return new_place()


@pytest.fixture(scope="session")
def s3_server(place: layout.Layout) -> Iterator[dict[str, str]]:
    """A real S3 server as the stack starts it; the environment that reaches it as its operator."""
    with serving_s3(place, programs.variables(place)["s3"]) as settings:
        yield settings


@pytest.fixture
def s3(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment reaches a real S3 server during the test."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def store(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """An empty store of the test's own."""
    monkeypatch.setenv("EFFIR_STORE", f"s3://effir/{tmp_path.name}-{time.time_ns()}")
    return Store()


@pytest.fixture(scope="session")
def mlflow_server(place: layout.Layout, s3_server: dict[str, str]) -> Iterator[dict[str, str]]:
    """A real MLflow server beside the S3 server; the environment that reaches it as its operator."""
    settings = {name: value for name, value in programs.client_environment(place).items() if name.startswith("MLFLOW_")}
    environment = os.environ | programs.addresses(place) | programs.variables(place)["mlflow"]
    with (place.folder / "mlflow.log").open("w") as log:
        process = subprocess.Popen(programs.commands(place)["mlflow"], env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        eventually(lambda: requests.get(f"{place.url('mlflow')}/health", timeout=2).ok, seconds=180)
        yield settings
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def mlflow(mlflow_server: dict[str, str], store: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment reaches a real MLflow server, and `store`, during the test; its address."""
    for name, value in mlflow_server.items():
        monkeypatch.setenv(name, value)
    return mlflow_server["MLFLOW_TRACKING_URI"]


@contextmanager
def listening(folder: Path) -> Iterator[set[tuple[str, int]]]:
    """Every (address, port) that processes of the stack in this folder listen on meanwhile."""
    seen: set[tuple[str, int]] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(1):
            ours: dict[int | None, bool] = {}
            for one in psutil.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN and ours.setdefault(one.pid, _of_stack(one.pid, folder)):
                    seen.add((one.laddr.ip, one.laddr.port))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _of_stack(pid: int | None, folder: Path) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).environ().get("EFFIR_STACK") == str(folder)
    return False


@dataclass
class Stack:
    """The running embedded stack."""

    home: Path
    settings: dict[str, str]
    airflow: Airflow
    alerts: list[dict[str, Any]]

    def events(self, asset: str) -> list[dict[str, Any]]:
        """What was told with each event of an asset, newest first. Airflow 3.3 does not answer while a run that one started is queued."""
        found = eventually(lambda: self.airflow._call("GET", "assets/events?limit=100&order_by=-timestamp"))["asset_events"]
        return [event["extra"] for event in found if event["name"] == asset]


class Webhook(http.server.BaseHTTPRequestHandler):
    """Keeps the alerts that it is sent."""

    alerts: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self.alerts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def webhook() -> Iterator[str]:
    """The address of a webhook on loopback."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def command_lines() -> Iterator[set[bytes]]:
    """Command lines of all processes on this machine, as far as they are there twice a second."""
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    seen.add(path.read_bytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    yield seen
    over.set()
    watcher.join()


@pytest.fixture(scope="session")
def stack_home(tmp_path_factory: pytest.TempPathFactory, webhook: str, command_lines: set[bytes]) -> Iterator[Path]:
    """The folder of a whole embedded stack that runs for the session."""
    home = tmp_path_factory.mktemp("stack")
    (home / "deployments.json").write_text(json.dumps(DEPLOYMENTS))
    (home / "indexes.json").write_text(json.dumps([{"name": "reindexed", "collections": str(home / "faq"), "shard_documents": 30}]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_EFFIR_ALERTS", json.dumps({"conn_type": "http", "host": webhook, "password": CANARIES["alerts"]}))
        patch.setenv("EFFIR_HOME", str(home))
        patch.setenv("EFFIR_DEPLOYMENTS", str(home / "deployments.json"))
        patch.setenv("EFFIR_INDEXES", str(home / "indexes.json"))
        patch.delenv("EFFIR_PORT_BASE", raising=False)
        with listening(home / "stack") as seen, pytest.MonkeyPatch.context() as planted:
            planted.setenv("HF_TOKEN", CANARIES["HF_TOKEN"])
            local.up()
        (home / "listened.json").write_text(json.dumps(sorted(seen)))
        reached = local.client_environment()
        airflow = Airflow(reached["EFFIR_AIRFLOW_URL"], "admin", reached["EFFIR_AIRFLOW_PASSWORD"])
        try:
            eventually(lambda: airflow.pause("effir_compress_every_minute") or True, 120)  # until the test that waits for it
            yield home
        finally:
            patch.setenv("EFFIR_HOME", str(home))
            local.down()


@pytest.fixture
def stack(stack_home: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """The whole embedded stack; the environment reaches it during the test."""
    monkeypatch.setenv("EFFIR_HOME", str(stack_home))
    settings = local.client_environment()
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    airflow = Airflow(settings["EFFIR_AIRFLOW_URL"], "admin", settings["EFFIR_AIRFLOW_PASSWORD"])
    return Stack(stack_home, settings, airflow, Webhook.alerts)


@pytest.fixture
def idle(stack: Stack) -> Iterator[Airflow]:
    """The stack's Airflow while no run is under way, and none starts."""
    dags = stack.airflow._call("GET", "dags?dag_id_pattern=effir_%25&limit=100")["dags"]
    awake = [dag["dag_id"] for dag in dags if not dag["is_paused"]]
    for dag in awake:
        stack.airflow.pause(dag)
    for run in stack.airflow.unfinished():
        place = f"dags/{run['dag_id']}/dagRuns/{quote(run['dag_run_id'])}"
        stack.airflow._call("PATCH", f"{place}?update_mask=state", json={"state": "failed"})  # a run under way cannot be deleted
        stack.airflow.forget(run["dag_id"], run["dag_run_id"])
    yield stack.airflow
    for dag in awake:
        stack.airflow.pause(dag, False)


def eventually(check: Callable[[], Any], seconds: float = 60, every: float = 0.25) -> Any:
    """What `check` returns once that is true; fails when it was not within `seconds`."""
    deadline = time.monotonic() + seconds
    problem: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if found := check():
                return found
        except Exception as error:
            problem = error
        time.sleep(every)
    raise AssertionError(f"nothing came of it within {seconds} s") from problem


@pytest.fixture(scope="session")
def canaries() -> dict[str, str]:
    """Secrets that were planted in the stack, by name."""
    return CANARIES


@pytest.fixture(name="eventually", scope="session")
def _eventually() -> Callable[..., Any]:
    return eventually
