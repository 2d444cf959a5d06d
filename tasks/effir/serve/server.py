"""`effir serve`, from an address to the last answer."""

import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from effir.errors import BadInput
from effir.manifest import machine
from effir.serve.app import build
from effir.serve.limits import Limits
from effir.serve.metrics import Metrics
from effir.serve.watching import Watcher

DEVICES = ("auto", "cpu", "cuda")
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(source: str, host: str, port: int, poll: float, limits: Limits, device: str, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; then nothing new is accepted, and what was is answered.

    Standard output has one line, the server's address, once it answers. Raises BadInput where the address cannot be had, before the model
    is fetched, and what loading the model raises.
    """
    if device not in DEVICES:
        raise BadInput(f"--device is {device!r}: choose one of {', '.join(DEVICES)}")
    with listening(host, port) as listener:
        watcher = Watcher(source, machine(device, 0)["device"], Metrics(), say)
        listener.listen(2048)
        at = f"[{host}]" if ":" in host else host
        say(f"{watcher.served.version} answers; no key is asked for: whoever reaches {host} may ask")
        print(f"http://{at}:{listener.getsockname()[1]}", flush=True)
        for one in SIGNALS:  # uvicorn raises what ended it once more, when it has finished
            signal.signal(one, _over)
        settings: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False, "timeout_keep_alive": 75}
        uvicorn.Server(uvicorn.Config(build(watcher, limits, poll), **settings)).run([listener])


def listening(host: str, port: int) -> socket.socket:
    """A socket of this address, which does not listen yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise BadInput(f"{host}:{port} cannot be served on ({error.strerror or error}): choose another --host or --port") from None
    return listener


def _over(*_: Any) -> None:
    pass
