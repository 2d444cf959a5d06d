"""What SIGTERM does to a phase: outside a training loop it ends at once, inside one at the end of a step.

A manifest is written last, so whenever a phase ends, nothing half-written counts.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from effir.errors import Stopped
from effir.services import scratch

PROMPT = 5.0
SENTENCE = "stopped on request; what was checkpointed is kept, and a retry goes on from there"


@contextmanager
def at_once() -> Iterator[None]:
    """Within this context, which is the whole work of this process, SIGTERM raises Stopped; its scratch folders are gone afterwards.

    Where nothing comes of that for PROMPT seconds (one long call outside Python, threads that are busy copying), the process ends
    with Stopped's exit code all the same.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    handler, wakeup = signal.signal(signal.SIGTERM, _raise), signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(heard,), name="sigterm", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        os.close(told)
        scratch.remove_own()


@contextmanager
def at_next_step() -> Iterator[Callable[[], bool]]:
    """Within this context SIGTERM only makes the function true that this yields; raises Stopped at the end if nobody acted on it."""
    asked: list[int] = []
    handler = signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, handler)
    if asked:
        _raise()


def _raise(*_: Any) -> None:
    raise Stopped(SENTENCE)


def _watch(heard: int) -> None:
    """Python hears a signal only between two of its own instructions; the wake-up pipe is written to at once."""
    try:
        while number := os.read(heard, 1):
            if number[0] == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is _raise:
                if select.select([heard], [], [], PROMPT)[0]:
                    continue
                scratch.remove_own()
                print(f"effir: {SENTENCE}", file=sys.stderr, flush=True)
                os._exit(Stopped.exit_code)
    finally:
        os.close(heard)
