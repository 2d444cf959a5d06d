"""Temporary folders that tell whether the process that made them still lives: what a killed one leaves, whoever comes next removes."""

import fcntl
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = re.compile(r"effir-at-work-[a-z-]+-[a-z0-9_]{8}")
REMOVALS = 20
SETTLE_SECONDS = 5
"""A folder is made before it is locked: one that was written to just now is left alone."""


OWN: set[Path] = set()
"""The folders of this process, there or about to be."""


@contextmanager
def folder(kind: str) -> Iterator[Path]:
    """A folder for this process, called after what it is for (letters and dashes), and gone afterwards.

    It is locked meanwhile, and the kernel gives up the lock of a process that dies, whatever it dies of. Its name is known before it is
    made: a signal whose handler raises may come between any two instructions.
    """
    path = Path(tempfile.gettempdir()) / f"effir-at-work-{kind}-{secrets.token_hex(4)}"
    try:
        OWN.add(path)
        path.mkdir(mode=0o700)
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield path
        finally:
            os.close(handle)
    finally:
        _remove(path)
        OWN.discard(path)


def remove_own() -> None:
    """Remove every folder of this process, for one that is about to end, however it does."""
    while OWN:
        _remove(OWN.pop())


def abandoned() -> list[Path]:
    """Folders of ours, of this user, in the folder for temporary files, whose process is dead."""
    return sorted(path for path in Path(tempfile.gettempdir()).glob("effir-at-work-*") if NAME.fullmatch(path.name) and _dead(path))


def sweep() -> int:
    """Remove the folders of dead processes; returns how many there were."""
    found = abandoned()
    for path in found:
        _remove(path)
    return len(found)


def _remove(path: Path) -> None:
    """Another thread may be writing into it, and a folder that is not empty cannot be removed: so more than once."""
    for _ in range(REMOVALS):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return


def _dead(path: Path) -> bool:
    try:
        about = path.lstat()
        if about.st_uid != os.getuid() or time.time() - about.st_mtime < SETTLE_SECONDS or not path.is_dir() or path.is_symlink():
            return False
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
