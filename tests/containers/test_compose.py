"""One machine's stack: what its files say, and a whole tiny run on it, started and ended as a person does."""

import importlib.util
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from effir.services.airflow import Airflow

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
STACK = DOCKER / "stack"
OURS = "label=com.docker.compose.project=effir"
SERVICES = {"postgres", "s3", "mlflow", "init", "api-server", "scheduler", "dag-processor", "triggerer"}
ONCE = {"init", "gpu"}
USER = 10001


def load(path: Path) -> Any:
    """A module by its file."""
    given = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(given)
    given.loader.exec_module(module)
    return module


def composes() -> list[list[str]]:
    """Every Compose on this machine: v2 as the client's plugin, v1 as a program."""
    plugin = shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    return [*([["docker", "compose"]] if plugin else []), *([["docker-compose"]] if shutil.which("docker-compose") else [])]


@pytest.fixture(scope="module", params=[("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")], ids=["cpu", "gpu"])
def rendered(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The services as every Compose here reads them, and as the files are written."""
    if not composes():
        pytest.skip("NO DOCKER COMPOSE HERE: install docker-compose or its plugin")
    files = [part for name in request.param for part in ("--file", str(DOCKER / name))]
    done = [subprocess.run([*compose, *files, "config"], capture_output=True, text=True) for compose in composes()]
    assert all(one.returncode == 0 and "WARN" not in one.stderr for one in done), [one.stderr for one in done]
    return [yaml.safe_load(one.stdout)["services"] for one in done]


def test_every_service_is_confined(rendered: list[dict[str, Any]]) -> None:
    for services in rendered:
        assert set(services) - {"gpu"} == SERVICES
        for name, service in services.items():
            assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["restart"] == ("no" if name in ONCE else "unless-stopped"), name
            assert ("healthcheck" in service) is (name not in ONCE), name
            assert name == "gpu" or (service["mem_limit"] and service["cpus"]), name
            assert all("127.0.0.1" in json.dumps(port) for port in service.get("ports", [])), name
            assert ("docker.sock" in json.dumps(service.get("volumes", []))) is (name == "scheduler"), name


def test_no_secret_is_in_the_files(rendered: list[dict[str, Any]]) -> None:
    for services in rendered:
        for name, service in services.items():
            for variable, value in (service.get("environment") or {}).items():
                secret = re.search("PASSWORD|SECRET(?!S__)|KEY|TOKEN|SQL_ALCHEMY_CONN", variable)
                assert not secret or variable.endswith(("_FILE", "_CMD")), f"{name}: {variable}"
                assert "/run/secrets/" in str(value) or not secret or variable.endswith("PASSWORDS_FILE"), f"{name}: {variable}"


def test_only_what_asks_for_gpus_reserves_them(rendered: list[dict[str, Any]]) -> None:
    for services in rendered:
        asking = {name for name, service in services.items() if "devices" in json.dumps(service.get("deploy", {}))}
        assert asking == set(services) & {"gpu"}
        assert set(services["init"]["depends_on"]) == {"postgres"} | asking


@pytest.mark.parametrize("name", ["runner.json", "runner.gpu.json"])
def test_the_runner_settings_hold_for_this_version(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    settings = load(ROOT / "dags" / "settings.py").parse(json.loads((DOCKER / name).read_text()), name, "docker")
    phases = json.loads((ROOT / "dags" / "phases.json").read_text())
    gpus = {phase for phase in phases if settings.of(phase).resources.gpus}
    assert gpus == (
        {"teacher", "importance", "slim", "narrow", "finetune", "encode", "speed", "verify", "assess"} if "gpu" in name else set()
    )
    assert settings.image == f"effir-task:{version}{'-cuda' if gpus else ''}"
    ours = re.findall(r"effir-\w+:([\w.]+)", (DOCKER / "compose.yaml").read_text() + (DOCKER / "compose.gpu.yaml").read_text())
    assert set(ours) == {version}
    assert settings.secrets == ()
    for phase in phases:
        role = next(name for name, one in json.loads((ROOT / "dags" / "roles.json").read_text()).items() if phase in one["phases"])
        assert settings.access_of(phase).mounts == (f"effir-credentials-{role}:/run/secrets:ro",), phase


@dataclass
class Stack:
    """The running stack: the environment that started it, and what `docker/stack env` says."""

    engine: Any
    settings: dict[str, str]
    seconds: float = 0
    client: dict[str, str] = field(default_factory=dict)

    def __call__(self, verb: str) -> "subprocess.CompletedProcess[str]":
        """`docker/stack VERB`."""
        return subprocess.run([STACK, verb], env=os.environ | self.settings, capture_output=True, text=True)

    def secrets(self) -> list[str]:
        """What nobody may see."""
        folder = Path(self.settings["STACK_SECRETS"])
        return sorted(set(re.findall(r"[0-9a-f]{64}|[\w-]{43}=", "\n".join(path.read_text() for path in folder.iterdir()))))

    def containers(self) -> list[dict[str, Any]]:
        """Its containers as the engine describes them."""
        names = self.engine("ps", "--all", "--quiet", "--filter", OURS).stdout.split()
        return json.loads(self.engine("inspect", *names).stdout)


def made(engine: Any) -> dict[str, set[str]]:
    """Names of the stack's containers and of what they are attached to, and the phases' containers."""
    ours = engine("ps", "--all", "--quiet", "--filter", OURS).stdout.split()
    described = json.loads(engine("inspect", *ours).stdout)
    return {
        "container": set(ours) | set(engine("ps", "--all", "--quiet", "--filter", "network=effir").stdout.split()),
        "network": {name for one in described for name in one["NetworkSettings"]["Networks"]},
        "volume": {mount["Name"] for one in described for mount in one["Mounts"] if mount["Type"] == "volume"},
    }


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A folder that containers may read, and the fields of the spec for a run on it, as they see it at /data."""
    folder = tmp_path_factory.mktemp("data")
    written = load(ROOT / "tests" / "e2e" / "tiny.py").overrides(folder, shard_documents=50)
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    seen = {name: value.replace(str(folder), "/data") if isinstance(value, str) else value for name, value in written.items()}
    return {"folder": folder, "fields": {name: value for name, value in seen.items() if value is not None}}


@pytest.fixture(scope="module")
def stack(engine: Any, images: dict[str, str], tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, with secrets and ports of the test's own."""
    if engine("ps", "--all", "--quiet", "--filter", OURS).stdout:
        pytest.skip("A STACK RUNS ON THIS ENGINE ALREADY: it is left alone, and nothing is tested")
    folder = tmp_path_factory.mktemp("compose")
    runner = json.loads((DOCKER / "runner.json").read_text())
    runner |= {"image": images["task"], "mounts": [*runner["mounts"], f"{tiny['folder']}:/data:ro"]}
    (folder / "runner.json").write_text(json.dumps(runner))
    (folder / "runner.json").chmod(0o644)
    ports = dict(zip(("STACK_AIRFLOW_PORT", "STACK_MLFLOW_PORT", "STACK_S3_PORT"), map(str, free_ports(3)), strict=True))
    own = {"STACK_AIRFLOW_IMAGE": images["airflow"], "STACK_MLFLOW_IMAGE": images["mlflow"], "STACK_RUNNER": str(folder / "runner.json")}
    given = {"effir_alerts": {"conn_type": "http", "host": "http://127.0.0.1:9", "password": secrets.token_hex(32)}}
    own |= {"STACK_SECRETS": str(folder / "secrets"), "STACK_AIRFLOW_CONNECTIONS": json.dumps(given)}
    stack = Stack(engine, ports | own)
    began = time.monotonic()
    try:
        done = stack("up")
        stack.seconds = time.monotonic() - began
        assert done.returncode == 0, done.stderr[-5000:]
        print(f"the stack was up after {stack.seconds:.0f} s", file=sys.stderr)
        lines = [shlex.split(line)[1].partition("=") for line in stack("env").stdout.splitlines()]
        stack.client = {name: value for name, _, value in lines}
        yield stack
    finally:
        assert stack("down").returncode == 0


def test_without_an_engine_it_says_so(tmp_path: Path) -> None:
    absent = os.environ | {"DOCKER_HOST": f"unix://{tmp_path}/absent.sock", "STACK_SECRETS": str(tmp_path / "secrets")}
    done = subprocess.run([STACK, "up"], env=absent, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "absent.sock" in done.stderr and not (tmp_path / "secrets").exists()


@pytest.mark.timeout(900)
def test_everything_runs_confined(stack: Stack) -> None:
    found = {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in stack.containers()}
    assert set(found) == SERVICES
    for name, one in found.items():
        assert one["HostConfig"]["ReadonlyRootfs"] and one["HostConfig"]["Memory"], name
        assert one["State"]["Status"] == "exited" if name == "init" else one["State"]["Health"]["Status"] == "healthy", name
        assert name == "init" or (users(stack.engine, one["Id"]) and "root" not in users(stack.engine, one["Id"])), name
        for port in filter(None, one["NetworkSettings"]["Ports"].values()):
            assert {binding["HostIp"] for binding in port} == {"127.0.0.1"}, name
    assert stack.client["EFFIR_AIRFLOW_URL"] == f"http://127.0.0.1:{stack.settings['STACK_AIRFLOW_PORT']}"


def users(engine: Any, container: str) -> set[str]:
    """Whom the processes of a container belong to, while it runs."""
    rows = engine("top", container, "-eo", "user,pid", check=False).stdout.splitlines()[1:]
    return {row.split()[0] for row in rows}


@pytest.mark.timeout(900)
def test_secrets_are_made_once_and_for_their_owner_alone(stack: Stack) -> None:
    folder = Path(stack.settings["STACK_SECRETS"])
    assert folder.stat().st_mode & 0o777 == 0o700
    kept = [path for path in folder.iterdir() if path.name.startswith(("s3_key_", "mlflow_"))]
    assert len(kept) == 13 and len(stack.secrets()) == 20, "seven roles and MLflow's four users beside the nine of the services"
    assert (folder / "airflow_connections").read_text() == stack.settings["STACK_AIRFLOW_CONNECTIONS"]
    before = {path.name: path.read_text() for path in folder.iterdir()}
    again = stack("up")
    assert again.returncode == 0, again.stderr[-3000:]
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


@dataclass
class Watch:
    """The phases whose containers an engine started meanwhile; of those that it could look at in time, description and owners."""

    engine: Any
    phases: list[str] = field(default_factory=list)
    described: list[dict[str, Any]] = field(default_factory=list)
    owners: set[str] = field(default_factory=set)

    def __enter__(self) -> "Watch":
        told = '{{.ID}} {{index .Actor.Attributes "effir.task"}}'
        command = [self.engine.client, "events", "--filter", "event=start", "--filter", "label=effir.task", "--format", told]
        self.events = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def look(self) -> None:
        with self.events.stdout as lines:
            for line in lines:
                container, phase = line.split()
                self.phases.append(phase)
                self.described += json.loads(self.engine("inspect", container, check=False).stdout or "[]")
                self.owners |= users(self.engine, container)

    def __exit__(self, *_: object) -> None:
        self.events.terminate()
        self.thread.join()
        self.events.wait()


@pytest.fixture(scope="module")
def run(stack: Stack, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Watch]:
    """The summary of a whole tiny run, and its containers."""
    fields = [part for name, value in tiny["fields"].items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "effir.cli", "run", "--profile", "demo", "--json", *fields]
    environment = os.environ | stack.client | {"EFFIR_HOME": str(tmp_path_factory.mktemp("home"))}
    began = time.monotonic()
    with Watch(stack.engine) as watch:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(f"the run took {time.monotonic() - began:.0f} s", file=sys.stderr)
    assert done.returncode in {0, 3}, done.stderr[-5000:]
    return json.loads(done.stdout), watch


def airflow(stack: Stack) -> Airflow:
    """Its Airflow, as `docker/stack env` says how to reach it."""
    return Airflow(*(stack.client[f"EFFIR_AIRFLOW_{name}"] for name in ("URL", "USER", "PASSWORD")))


@pytest.mark.timeout(1800)
def test_a_run_ends_with_a_verdict_and_each_phase_in_a_container(run: tuple[dict[str, Any], Watch], stack: Stack) -> None:
    summary, watch = run
    assert summary["verdict"] in {"promoted", "rejected"} and summary["reasons"]
    tasks = airflow(stack).tasks("effir_compress", summary["dag_run_id"])
    phases = {
        task["task_id"] if task["map_index"] < 0 else f"{task['task_id']}-{task['map_index']}"
        for task in tasks
        if task["operator"] == "DockerPhase" and task["state"] != "skipped"
    }
    assert len(phases) > 15
    assert set(watch.phases) == phases
    assert watch.owners == {str(USER)}
    assert len(watch.described) > len(phases) / 2
    for one in watch.described:
        assert one["Config"]["User"] == f"{USER}:{USER}"
        assert one["HostConfig"]["ReadonlyRootfs"] and one["HostConfig"]["NetworkMode"] == "effir"


@pytest.mark.timeout(1800)
def test_no_secret_is_to_be_seen(run: tuple[dict[str, Any], Watch], stack: Stack) -> None:
    summary, watch = run
    hidden = stack.secrets()
    described = json.dumps([*watch.described, *stack.containers()])
    logs = "".join(said.stdout + said.stderr for said in (stack.engine("logs", one["Id"]) for one in stack.containers()))
    server = airflow(stack)
    tasks = server.tasks("effir_compress", summary["dag_run_id"])
    path = "dags/effir_compress/dagRuns/{dag_run_id}/taskInstances/{task_id}/logs/1?map_index={map_index}"
    told = json.dumps([server._call("GET", path.format(**task)) for task in tasks if task["operator"] == "DockerPhase"])
    assert "effir-credentials-promote" in described and "done before" not in told and "documents" in told
    for secret in hidden:
        assert secret not in described and secret not in logs and secret not in told


@pytest.mark.timeout(900)
def test_down_leaves_nothing(stack: Stack) -> None:
    before = made(stack.engine)
    assert len(before["container"]) == len(SERVICES) and before["network"] == {"effir", "effir_database"}
    assert before["volume"] >= {"effir_logs", "effir_postgres", "effir_s3", "effir-credentials-promote"}
    done = stack("down")
    assert done.returncode == 0, done.stderr
    for kind, names in before.items():
        assert [name for name in names if stack.engine(kind, "inspect", name, check=False).returncode == 0] == []
    assert not Path(stack.settings["STACK_SECRETS"]).exists()
    assert stack("env").returncode == 2
    assert stack("down").stderr == "effir: no stack was here\n"
