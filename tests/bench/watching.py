"""How much memory a process has of its own while something goes on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

EVERY = 0.02


@contextmanager
def watched() -> Iterator[Callable[[], int]]:
    """Yields what gives the most bytes that this process has had in the context beyond what it began with; pages of files aside."""
    before, most, over = own_bytes(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(EVERY):
            most[0] = max(most[0], own_bytes() - before)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield lambda: max(most[0], own_bytes() - before)
    finally:
        over.set()


def own_bytes() -> int:
    """Memory of this process that is no page of a file."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
