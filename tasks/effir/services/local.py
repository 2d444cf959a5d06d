"""The embedded stack: a real S3, MLflow and Airflow on loopback, run by supervisor, its state below `.effir/stack`."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from effir.errors import BadInput, EffirError
from effir.services import access, layout, processes, programs
from effir.services.layout import Layout, folder, home

START_SECONDS = 240
SAY = Callable[[str], None]

__all__ = ["client_environment", "connect", "down", "folder", "home", "running", "status", "up"]


def up(say: SAY = lambda _: None) -> dict[str, float]:
    """Start everything and wait until it answers; returns service → seconds.

    Raises BadInput where a stack already runs in this folder or a port is taken, EffirError where something does not start
    (nothing is left running then).
    """
    with _locked():
        if running():
            raise BadInput(f"a stack already runs in {folder()}: use it (`effir env` says how to reach it), or end it with `effir down`")
        began, dags, place = time.monotonic(), dags_folder(), layout.prepare()
        try:
            return _start(place, dags, began, say)
        except BaseException:
            _end()
            raise


def down() -> int:
    """End every process of the stack; returns how many there were. Ending a stack that does not run is no error."""
    with _locked():
        count = len(processes.of_stack(folder()))
        _end()
        return count


def status() -> dict[str, dict[str, Any]]:
    """Program → {state, pid, memory (bytes, with its children), url}; empty where nothing runs."""
    if not running():
        return {}
    place = layout.layout_of()
    urls = {"s3": place.url("s3"), "mlflow": place.url("mlflow"), "api-server": place.url("airflow")}
    with processes.supervisor(place.sockets) as control:
        found = {info["name"]: info for info in control.getAllProcessInfo()}
    return {
        name: {"state": info["statename"].lower(), "pid": info["pid"], "memory": processes.memory(info["pid"]), "url": urls.get(name)}
        for name in programs.commands(place)
        if (info := found[name])
    }


def running() -> bool:
    """Whether a process of this folder's stack is alive."""
    return bool(processes.of_stack(folder()))


def client_environment() -> dict[str, str]:
    """What the running stack's operator needs to reach it. Raises BadInput if none runs."""
    if not running():
        raise BadInput(f"no stack runs in {folder()}: start one with `effir up`")
    return programs.client_environment(layout.layout_of())


def connect(*named: str) -> dict[str, str]:
    """Client settings from the environment where one of these is set there, otherwise the running stack's, put into os.environ."""
    if not set(named or ("EFFIR_AIRFLOW_URL",)) & set(os.environ):
        os.environ.update(client_environment())
    return dict(os.environ)


def dags_folder() -> Path:
    """The folder of DAGs: EFFIR_DAGS, or `dags` beside the source tree. Raises BadInput if it is not there."""
    found = Path(os.environ.get("EFFIR_DAGS") or Path(__file__).parents[3] / "dags").resolve()
    if not (found / "compress.py").is_file():
        raise BadInput(f"there are no DAGs in {found}: set EFFIR_DAGS to the folder with compress.py")
    return found


@contextmanager
def _locked() -> Iterator[None]:
    """One `up` or `down` at a time in a folder."""
    try:
        folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        stream = (folder() / "lock").open("w")
    except OSError as error:
        raise BadInput(f"{folder()} cannot be written ({error.strerror}): set EFFIR_HOME to a folder that can") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"another `effir up` or `effir down` is at work in {folder()}: wait for it to end") from None
        yield


def _start(place: Layout, dags: Path, began: float, say: SAY) -> dict[str, float]:
    access.write(place, dags)
    env = programs.environment(place, dags)
    configuration = place.folder / "supervisord.conf"
    configuration.write_text(programs.supervisor_configuration(place))
    supervisord = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)]
    started = subprocess.run(supervisord, env=env, cwd=place.folder, capture_output=True, text=True)
    if started.returncode:
        raise EffirError(f"supervisord did not start: {_last_line(started.stderr + started.stdout)}")
    _migrate(place, env)
    with processes.supervisor(place.sockets) as control:
        for name in programs.AIRFLOW_PROGRAMS:
            control.startProcess(f"stack:{name}", False)
        return _await(place, control, began, say)


def _migrate(place: Layout, env: dict[str, str]) -> None:
    """Make Airflow's tables, once per version of Airflow."""
    stamp = place.folder / "airflow" / "migrated"
    if stamp.exists() and stamp.read_text() == version("apache-airflow"):
        return
    log = place.folder / "logs" / "migrate.log"
    with log.open("w") as stream:
        done = subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, cwd=place.folder, stdout=stream, stderr=stream)
    if done.returncode:
        raise EffirError(f"Airflow's database could not be made: {_last_line(log.read_text())} (all of it is in {log})")
    stamp.write_text(version("apache-airflow"))


def _await(place: Layout, control: Any, began: float, say: SAY) -> dict[str, float]:
    from effir.services import health

    waiting = dict(health.checks(place))
    ready: dict[str, float] = {}
    while waiting:
        for name in [name for name, check in waiting.items() if check()]:
            ready[name] = round(time.monotonic() - began, 1)
            say(f"{name} is ready ({ready[name]:.0f} s)")
            del waiting[name]
        dead = [info["name"] for info in control.getAllProcessInfo() if info["statename"] in {"FATAL", "BACKOFF", "EXITED"}]
        if dead:
            log = place.folder / "logs" / f"{dead[0]}.log"
            raise EffirError(f"{dead[0]} did not start: {_last_line(log.read_text(errors='replace'))} (all of it is in {log})")
        if waiting and time.monotonic() - began > START_SECONDS:
            raise EffirError(f"{', '.join(waiting)} did not answer within {START_SECONDS} s: the logs are in {place.folder / 'logs'}")
        time.sleep(0.2)
    return ready


def _end() -> None:
    processes.end(folder())
    if layout.sockets() != folder():
        shutil.rmtree(layout.sockets(), ignore_errors=True)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
