"""The embedded stack's processes, found by the mark EFFIR_STACK in their environment, whoever their parent is."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xmlrpc.client import ServerProxy

import psutil

STOP_SECONDS = 15


@contextmanager
def supervisor(sockets: Path) -> Iterator[Any]:
    """supervisord's remote procedure calls over its unix socket."""
    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport(None, None, f"unix://{sockets / 'supervisor.sock'}")
    try:
        yield ServerProxy("http://stack", transport=transport).supervisor
    finally:
        transport.close()


def of_stack(folder: Path) -> list[psutil.Process]:
    """Every living process that carries this stack's mark, this one and its ancestors excepted."""
    mark = str(folder)
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid not in ours and process.status() != psutil.STATUS_ZOMBIE and process.environ().get("EFFIR_STACK") == mark:
                found.append(process)
    return found


def end(folder: Path) -> None:
    """Ask supervisord to end its programs, then end whatever is still there."""
    with suppress(OSError, ValueError):
        leader = int((folder / "supervisord.pid").read_text())
        for process in of_stack(folder):
            if process.pid == leader:
                process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    while of_stack(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    while left := of_stack(folder):
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)


def memory(pid: int) -> int:
    """Resident bytes of a process and its children; 0 where there is none."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])
    return 0
