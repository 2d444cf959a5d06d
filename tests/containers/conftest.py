"""A real Docker engine for tests: the one in use where there is one, otherwise one of the session's own; and the images, built anew.

The tests run in two processes, file by file (pytest-xdist), which share the engine and the images: whoever needs them first makes them.
EFFIR_TEST_IMAGES=built takes the images that `docker/build` made (with REPOSITORY before their names, where that is set), and leaves
them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SECONDS = 900
STRAY = (".env", "tasks/effir/__pycache__/stray.pyc", ".venv/stray", "dags/.ruff_cache/stray", "stray.pem")
REVISION = "0123456789abcdef"
SHARED = "EFFIR_TEST_CONTAINERS"
# The longest first, and the one beside the build of the images that begins without them.
ORDER = ("test_compose", "test_pods", "test_endings", "test_images", "test_pods_api", "test_engine")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What lies here needs an engine, and minutes: `make test` leaves it out."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("containers")
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(SECONDS))
    items.sort(key=lambda item: ORDER.index(item.path.stem) if HERE in item.path.parents else -1)


def pytest_configure(config: pytest.Config) -> None:
    """The folder by which the processes of a session share what they made; `pytest_unconfigure` of the first one ends that."""
    if not hasattr(config, "workerinput"):
        os.environ[SHARED] = tempfile.mkdtemp(prefix="effir-containers-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the engine that this session started, or remove the images that it built on another; nothing may be left."""
    if hasattr(config, "workerinput"):
        return
    folder = Path(os.environ.pop(SHARED))
    try:
        built = read(folder / "images")
        if built and not read(folder / "engine", {}).get("ours"):
            subprocess.run([client(), "rmi", "--force", *built.values()], check=True, capture_output=True)
        if (folder / "state").exists():
            subprocess.run([ROOT / "docker" / "engine", "down", folder / "state"], check=True)
            assert not (folder / "state").exists()
            assert str(folder) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read(path: Path, absent: Any = None) -> Any:
    """What lies in a JSON file."""
    return json.loads(path.read_text()) if path.exists() else absent


def once(name: str, make: Callable[[Path], Any]) -> Any:
    """What `make` gives, made by the first process that asks for it."""
    folder = Path(os.environ[SHARED])
    with FileLock(folder / f"{name}.lock"):
        if not (folder / name).exists():
            (folder / name).write_text(json.dumps(make(folder)))
        return read(folder / name)


@dataclass(frozen=True)
class Engine:
    """A Docker engine and the client that speaks to it; DOCKER_HOST is set for everything that the test starts."""

    client: str

    def __call__(self, *command: str, check: bool = True, **settings: Any) -> subprocess.CompletedProcess[str]:
        """`docker COMMAND…`; fails with what it said."""
        done = subprocess.run([self.client, *command], text=True, **({"capture_output": True} | settings))
        assert done.returncode == 0 or not check, f"docker {' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def run(self, image: str, *command: str, settings: tuple[str, ...] = (), **more: Any) -> subprocess.CompletedProcess[str]:
        """A command in a container that may do as little as can be: read-only but for /tmp, no network, no capability."""
        confined = ("--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
        return self("run", "--rm", *confined, *settings, image, *command, **more)


def client() -> str:
    """Debian's client first: a newer one without its plugins may stand earlier on PATH, and cannot build."""
    return shutil.which("docker", path="/usr/bin") or shutil.which("docker") or "docker"


def answers() -> bool:
    """Whether an engine is in use here."""
    return bool(shutil.which(client())) and subprocess.run([client(), "version"], capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine that DOCKER_HOST or the usual socket reaches; where none answers, one that `docker/engine up` starts."""
    found = once("engine", start)
    if "impossible" in found:
        pytest.skip(f"NO DOCKER ENGINE HERE, nothing is tested in containers: {found['impossible']}")
    os.environ.update(found.get("environment", {}))
    return Engine(client())


def start(folder: Path) -> dict[str, Any]:
    """Whether the engine is this session's own, and how it is reached; or why there can be none."""
    if answers():
        return {"ours": False}
    done = subprocess.run([ROOT / "docker" / "engine", "up", folder / "state"], capture_output=True, text=True)
    print(done.stderr, file=sys.stderr)
    if done.returncode == 2:
        return {"impossible": done.stderr.splitlines()[-1]}
    assert done.returncode == 0, done.stderr
    return {"ours": True, "environment": dict([done.stdout.strip().split("=", 1)])}


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files as they stand, without what git ignores, and with files beside them that belong in no image."""
    target = tmp_path_factory.mktemp("context")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in (*listed.stdout.splitlines(), *STRAY):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if name in STRAY:
            (target / name).write_text("stray")
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, target / name)
    return target


@pytest.fixture(scope="session")
def images(engine: Engine, request: pytest.FixtureRequest) -> dict[str, str]:
    """The images task, airflow and mlflow by these names, built under names of the session's own."""
    if os.environ.get("EFFIR_TEST_IMAGES") == "built":
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        return {name: f"{os.environ.get('REPOSITORY', '')}effir-{name}:{version}" for name in ("task", "airflow", "mlflow")}
    return once("images", lambda _: build(request.getfixturevalue("context")))


def build(context: Path) -> dict[str, str]:
    """Name → tag of every image that a context makes."""
    place = f"effir-test-{os.getpid()}/"
    settings = os.environ | {"REPOSITORY": place, "REVISION": REVISION}
    done = subprocess.run([context / "docker" / "build"], env=settings, capture_output=True, text=True)
    print(done.stdout, file=sys.stderr)
    assert done.returncode == 0, done.stderr[-5000:]
    tags = [line.split()[0] for line in done.stdout.splitlines()]
    return {tag.removeprefix(f"{place}effir-").partition(":")[0]: tag for tag in tags}
