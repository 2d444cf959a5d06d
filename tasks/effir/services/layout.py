"""Where the embedded stack keeps its state, which ports it has, and its secrets.

`EFFIR_HOME` names another folder than `.effir`; `EFFIR_PORT_BASE` fixes the first of the stack's ports.
"""

import base64
import json
import os
import secrets
import socket
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from effir.errors import BadInput

LOOPBACK = "127.0.0.1"
PORTS = ("airflow", "mlflow", "s3", "master", "volume", "filer", "admin")
TWINS = ("s3", "master", "volume", "filer", "admin")
TWIN_DISTANCE = 10_000
FIRST_PORT = 18_000
LAST_PORT = 22_000
HIGHEST_BASE = 65_535 - TWIN_DISTANCE - len(PORTS)
LONGEST_PATH = 80


@dataclass(frozen=True)
class Layout:
    """folder: the stack's state; sockets: a folder with a short path; ports: service → port; secrets: name → key."""

    folder: Path
    sockets: Path
    ports: dict[str, int]
    secrets: dict[str, str]

    def url(self, service: str) -> str:
        """Address of airflow, mlflow or s3."""
        return f"http://{LOOPBACK}:{self.ports[service]}"


def home() -> Path:
    """The folder with effir's local state: EFFIR_HOME, or `.effir` here."""
    return Path(os.environ.get("EFFIR_HOME", ".effir")).resolve()


def folder() -> Path:
    """The folder with the stack's state."""
    return home() / "stack"


def layout_of() -> Layout:
    """The layout of the stack in this folder. Raises BadInput if there never was one."""
    try:
        ports, keys = (json.loads((folder() / name).read_text()) for name in ("ports.json", "secrets.json"))
    except FileNotFoundError:
        raise BadInput(f"no stack runs in {folder()}: start one with `effir up`") from None
    return Layout(folder(), sockets(), ports, keys)


def prepare() -> Layout:
    """Folders, ports and secrets for a start; what an earlier one left is kept, its logs excepted."""
    root = folder()
    for name in ("logs", "s3", "airflow/plugins", "airflow/logs"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for log in (root / "logs").iterdir():
        log.unlink()
    sockets().mkdir(mode=0o700, parents=True, exist_ok=True)
    if sockets().stat().st_uid != os.getuid():
        raise BadInput(f"{sockets()} belongs to another user: set EFFIR_HOME to a folder with a shorter path")
    layout = Layout(root, sockets(), choose_ports(root / "ports.json"), choose_secrets(root / "secrets.json"))
    write_private(root / "airflow-passwords.json", json.dumps({"admin": layout.secrets["airflow_password"]}))
    return layout


def sockets() -> Path:
    """Where sockets lie: their paths must be short."""
    root = folder()
    if len(str(root)) <= LONGEST_PATH:
        return root
    return Path(tempfile.gettempdir()) / f"effir-{os.getuid()}-{zlib.crc32(str(root).encode()):08x}"


def choose_ports(path: Path) -> dict[str, int]:
    """EFFIR_PORT_BASE and the ports after it, or the ones this folder had before, or a free block.

    Raises BadInput if a port that was asked for is in use.
    """
    if fixed := os.environ.get("EFFIR_PORT_BASE"):
        if not fixed.isdigit() or not 1024 <= int(fixed) <= HIGHEST_BASE:
            raise BadInput(f"EFFIR_PORT_BASE is {fixed!r}: it must be a number from 1024 to {HIGHEST_BASE}")
        ports = block(int(fixed))
        if taken := [port for port in all_ports(ports) if not is_free(port)]:
            raise BadInput(f"port {taken[0]} is in use by another program: free it, or set EFFIR_PORT_BASE to another start")
    else:
        blocks = range(FIRST_PORT, LAST_PORT, 10)
        start = zlib.crc32(str(path).encode())
        candidates = [json.loads(path.read_text())] if path.exists() else []
        candidates += [block(blocks[(start + step) % len(blocks)]) for step in range(50)]
        ports = next((one for one in candidates if all(map(is_free, all_ports(one)))), {})
        if not ports:
            raise BadInput(f"no free ports from {FIRST_PORT} to {LAST_PORT}: set EFFIR_PORT_BASE to the start of a free block")
    path.write_text(json.dumps(ports))
    return ports


def block(base: int) -> dict[str, int]:
    """Service → port, from `base` on."""
    return {name: base + offset for offset, name in enumerate(PORTS)}


def all_ports(ports: dict[str, int]) -> list[int]:
    """The ports with their twins."""
    return [*ports.values(), *(ports[name] + TWIN_DISTANCE for name in TWINS)]


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def choose_secrets(path: Path) -> dict[str, str]:
    """Random keys, made once; the file is readable by its owner alone."""
    if not path.exists():
        made = {name: secrets.token_hex(32) for name in ("s3_key", "s3_secret", "airflow_password", "airflow_secret", "airflow_jwt")}
        write_private(path, json.dumps(made | {"airflow_fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}))
    return json.loads(path.read_text())


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody but its owner may read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)
