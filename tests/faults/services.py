"""The embedded stack's programs, ended and started again while a run is under way."""

import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import requests

from effir.errors import EffirError
from effir.services import layout, processes

ANSWER_SECONDS = 180


def restart(program: str, chance: random.Random) -> None:
    """End a program of the stack (half of the time at once, by SIGKILL) and start it again; returns when supervisor says that it runs."""
    place = layout.layout_of()
    with processes.supervisor(place.sockets) as control:
        name = f"stack:{program}"
        if chance.random() < 0.5:
            before = control.getProcessInfo(name)["pid"]
            control.signalProcess(name, "KILL")
            _until(lambda: (info := control.getProcessInfo(name))["statename"] == "RUNNING" and info["pid"] != before)
        else:
            control.stopProcess(name, True)
            control.startProcess(name, True)


def answers(program: str) -> None:
    """Wait until a server of the stack answers again."""
    place = layout.layout_of()
    page = {"mlflow": f"{place.url('mlflow')}/health", "s3": f"{place.url('s3')}/healthz"}.get(program)
    if page:
        _until(lambda: requests.get(page, timeout=2).ok)


def phases() -> list[psutil.Process]:
    """Processes of this stack that execute a phase."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            command = one.cmdline()
            if "phase" in command and "--spec" in command and one.environ().get("EFFIR_STACK") == str(layout.folder()):
                found.append(one)
    return found


def kill_phase(number: signal.Signals, chance: random.Random) -> bool:
    """Kill a phase that is at work; False where none is."""
    found = phases()
    if not found:
        return False
    with suppress(psutil.NoSuchProcess):
        chance.choice(found).send_signal(number)
        return True
    return False


def _until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        with suppress(requests.RequestException, EffirError, OSError):
            if check():
                return
        time.sleep(0.1)
    raise EffirError(f"a program of the stack did not come back within {ANSWER_SECONDS} s")
