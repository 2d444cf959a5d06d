"""The embedded stack: a real S3, MLflow and Airflow on loopback, run by supervisor, its state below `.effir/stack`.

`EFFIR_HOME` names another folder than `.effir`; `EFFIR_PORT_BASE` fixes the first of the stack's ports. Everything that
the stack starts carries EFFIR_STACK=<folder> in its environment, so that `down` finds every process, whoever its parent is.
"""

import base64
import fcntl
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from effir.errors import BadInput, EffirError
from effir.services import programs
from effir.services.programs import LOOPBACK, PORTS, TWIN_DISTANCE, TWINS, Layout

FIRST_PORT = 18_000
LAST_PORT = 22_000
START_SECONDS = 240
STOP_SECONDS = 15
LONGEST_SOCKET = 80
SAY = Callable[[str], None]


def home() -> Path:
    """The folder with effir's local state: EFFIR_HOME, or `.effir` here."""
    return Path(os.environ.get("EFFIR_HOME", ".effir")).resolve()


def folder() -> Path:
    """The folder with the stack's state."""
    return home() / "stack"


# What people do with it


def up(say: SAY = lambda _: None) -> dict[str, float]:
    """Start everything and wait until it answers; returns service → seconds.

    Raises BadInput where a stack already runs in this folder or a port is taken, EffirError where something does not start
    (nothing is left running then).
    """
    with _locked():
        if running():
            raise BadInput(f"a stack already runs in {folder()}: use it (`effir env` says how to reach it), or end it with `effir down`")
        began = time.monotonic()
        layout = _prepare()
        try:
            return _start(layout, began, say)
        except BaseException:
            _end(layout.sockets)
            raise


def down() -> int:
    """End every process of the stack; returns how many there were. Ending a stack that does not run is no error."""
    with _locked():
        count = len(_processes())
        _end(_sockets())
        return count


def status() -> dict[str, dict[str, Any]]:
    """Program → {state, pid, memory (bytes, with its children), url}; empty where nothing runs."""
    if not running():
        return {}
    layout = layout_of()
    urls = {"s3": layout.url("s3"), "mlflow": layout.url("mlflow"), "api-server": layout.url("airflow")}
    with _control(layout.sockets) as control:
        found = {info["name"]: info for info in control.getAllProcessInfo()}
    return {
        name: {"state": info["statename"].lower(), "pid": info["pid"], "memory": _memory(info["pid"]), "url": urls.get(name)}
        for name in programs.commands(layout)
        if (info := found[name])
    }


def running() -> bool:
    """Whether a process of this folder's stack is alive."""
    return bool(_processes())


def client_environment() -> dict[str, str]:
    """What a client needs to reach the running stack. Raises BadInput if none runs."""
    if not running():
        raise BadInput(f"no stack runs in {folder()}: start one with `effir up`")
    return programs.client_environment(layout_of())


def connect() -> dict[str, str]:
    """Client settings from the environment where EFFIR_AIRFLOW_URL is set there, otherwise the running stack's, put into os.environ."""
    if "EFFIR_AIRFLOW_URL" not in os.environ:
        os.environ.update(client_environment())
    return dict(os.environ)


def layout_of() -> Layout:
    """The layout of the stack in this folder. Raises BadInput if there never was one."""
    try:
        ports, keys = (json.loads((folder() / name).read_text()) for name in ("ports.json", "secrets.json"))
    except FileNotFoundError:
        raise BadInput(f"no stack runs in {folder()}: start one with `effir up`") from None
    return Layout(folder(), _sockets(), ports, keys)


# Preparing


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


def _prepare() -> Layout:
    root = folder()
    for name in ("logs", "s3", "airflow/plugins", "airflow/logs"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for log in (root / "logs").iterdir():
        log.unlink()
    _sockets().mkdir(mode=0o700, parents=True, exist_ok=True)
    layout = Layout(root, _sockets(), _choose_ports(root / "ports.json"), _secrets(root / "secrets.json"))
    _write_private(root / "airflow-passwords.json", {"admin": layout.secrets["airflow_password"]})
    (root / "supervisord.conf").write_text(programs.supervisor_configuration(layout))
    return layout


def _sockets() -> Path:
    """Where sockets lie: their paths must be short."""
    root = folder()
    if len(str(root)) <= LONGEST_SOCKET:
        return root
    return Path(tempfile.gettempdir()) / f"effir-{os.getuid()}-{zlib.crc32(str(root).encode()):08x}"


def _choose_ports(path: Path) -> dict[str, int]:
    """EFFIR_PORT_BASE and the ports after it, or the ones this folder had before, or a free block."""
    if fixed := os.environ.get("EFFIR_PORT_BASE"):
        if not fixed.isdigit() or not 1024 <= int(fixed) <= 65_535 - TWIN_DISTANCE - len(PORTS):
            raise BadInput(f"EFFIR_PORT_BASE is {fixed!r}: it must be a number from 1024 to {65_535 - TWIN_DISTANCE - len(PORTS)}")
        ports = _block(int(fixed))
        if taken := [port for port in _all_ports(ports) if not _free(port)]:
            raise BadInput(f"port {taken[0]} is in use by another program: free it, or set EFFIR_PORT_BASE to another start")
    else:
        start = zlib.crc32(str(path).encode())
        blocks = range(FIRST_PORT, LAST_PORT, 10)
        candidates = [json.loads(path.read_text())] if path.exists() else []
        candidates += [_block(blocks[(start + step) % len(blocks)]) for step in range(50)]
        ports = next((one for one in candidates if all(map(_free, _all_ports(one)))), {})
        if not ports:
            raise BadInput(f"no free ports from {FIRST_PORT} to {LAST_PORT}: set EFFIR_PORT_BASE to the start of a free block")
    path.write_text(json.dumps(ports))
    return ports


def _block(base: int) -> dict[str, int]:
    return {name: base + offset for offset, name in enumerate(PORTS)}


def _all_ports(ports: dict[str, int]) -> list[int]:
    return [*ports.values(), *(ports[name] + TWIN_DISTANCE for name in TWINS)]


def _free(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def _secrets(path: Path) -> dict[str, str]:
    """Random keys, made once; the file is readable by its owner alone."""
    if not path.exists():
        made = {name: secrets.token_hex(32) for name in ("s3_key", "s3_secret", "airflow_password", "airflow_secret", "airflow_jwt")}
        _write_private(path, made | {"airflow_fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()})
    return json.loads(path.read_text())


def _write_private(path: Path, value: dict[str, str]) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(value, stream)


def dags_folder() -> Path:
    """The folder of DAGs: EFFIR_DAGS, or `dags` beside the source tree. Raises BadInput if it is not there."""
    found = Path(os.environ.get("EFFIR_DAGS") or Path(__file__).parents[3] / "dags").resolve()
    if not (found / "compress.py").is_file():
        raise BadInput(f"there are no DAGs in {found}: set EFFIR_DAGS to the folder with compress.py")
    return found


# Starting


def _start(layout: Layout, began: float, say: SAY) -> dict[str, float]:
    env = programs.environment(layout, dags_folder())
    supervisord = [sys.executable, "-m", "supervisor.supervisord", "-c", str(layout.folder / "supervisord.conf")]
    started = subprocess.run(supervisord, env=env, cwd=layout.folder, capture_output=True, text=True)
    if started.returncode:
        raise EffirError(f"supervisord did not start: {_last_line(started.stderr + started.stdout)}")
    _migrate(layout, env)
    with _control(layout.sockets) as control:
        for name in programs.AIRFLOW_PROGRAMS:
            control.startProcess(f"stack:{name}", False)
        return _await(layout, control, began, say)


def _migrate(layout: Layout, env: dict[str, str]) -> None:
    """Make Airflow's tables, once per version of Airflow."""
    from importlib.metadata import version

    stamp = layout.folder / "airflow" / "migrated"
    if stamp.exists() and stamp.read_text() == version("apache-airflow"):
        return
    log = layout.folder / "logs" / "migrate.log"
    with log.open("w") as stream:
        done = subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, cwd=layout.folder, stdout=stream, stderr=stream)
    if done.returncode:
        raise EffirError(f"Airflow's database could not be made: {_last_line(log.read_text())} (all of it is in {log})")
    stamp.write_text(version("apache-airflow"))


def _await(layout: Layout, control: Any, began: float, say: SAY) -> dict[str, float]:
    from effir.services import health

    waiting = dict(health.checks(layout))
    ready: dict[str, float] = {}
    while waiting:
        for name in [name for name, check in waiting.items() if check()]:
            ready[name] = round(time.monotonic() - began, 1)
            say(f"{name} is ready ({ready[name]:.0f} s)")
            del waiting[name]
        dead = [info["name"] for info in control.getAllProcessInfo() if info["statename"] in {"FATAL", "BACKOFF", "EXITED"}]
        if dead:
            raise EffirError(f"{dead[0]} did not start: {_log_line(layout, dead[0])}")
        if waiting and time.monotonic() - began > START_SECONDS:
            raise EffirError(f"{', '.join(waiting)} did not answer within {START_SECONDS} s: the logs are in {layout.folder / 'logs'}")
        time.sleep(0.2)
    return ready


def _log_line(layout: Layout, name: str) -> str:
    log = layout.folder / "logs" / f"{name}.log"
    return f"{_last_line(log.read_text(errors='replace') if log.exists() else '')} (all of it is in {log})"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


# Processes


@contextmanager
def _control(sockets: Path) -> Iterator[Any]:
    """supervisord's remote procedure calls over its unix socket."""
    from xmlrpc.client import ServerProxy

    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport(None, None, f"unix://{sockets / 'supervisor.sock'}")
    try:
        yield ServerProxy("http://stack", transport=transport).supervisor
    finally:
        transport.close()


def _processes() -> list[Any]:
    """Every living process that carries this stack's mark, this one and its ancestors excepted."""
    import psutil

    mark = str(folder())
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid not in ours and process.status() != psutil.STATUS_ZOMBIE and process.environ().get("EFFIR_STACK") == mark:
                found.append(process)
    return found


def _end(sockets: Path) -> None:
    """Ask supervisord to end its programs, then end whatever is still there."""
    import psutil

    with suppress(OSError, ValueError):
        if running():
            psutil.Process(int((folder() / "supervisord.pid").read_text())).terminate()
    deadline = time.monotonic() + STOP_SECONDS
    while running() and time.monotonic() < deadline:
        time.sleep(0.2)
    while left := _processes():
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)
    if sockets != folder():
        shutil.rmtree(sockets, ignore_errors=True)


def _memory(pid: int) -> int:
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])
    return 0
