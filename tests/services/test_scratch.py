import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from effir.services import scratch

HOLD = """
import sys, tempfile, time
from effir.services import scratch
tempfile.tempdir = sys.argv[1]
with scratch.folder("finetune-ranks") as own:
    (own / "half").write_text("written")
    print(own, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that is the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def holder(here: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A process with a folder, and that folder, last written to a while ago."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(here)], stdout=subprocess.PIPE, text=True)
    try:
        own = Path(process.stdout.readline().strip())
        old = time.time() - 60
        os.utime(own, (old, old))
        yield process, own
    finally:
        process.kill()
        process.communicate()


@contextmanager
def interrupted_after(count: int) -> Iterator[None]:
    """Raises InterruptedError before the instruction after so many of Python's own; counts until the context that follows is entered."""
    left = iter(range(count))

    def interrupt(frame: FrameType, event: str, _: object) -> Callable[..., object]:
        frame.f_trace_opcodes = True
        if event == "opcode" and next(left, None) is None:
            raise InterruptedError
        return interrupt

    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        yield
    finally:
        sys.settrace(before)


def test_what_a_killed_process_leaves_is_found_and_removed_and_what_a_living_one_has_stays(here: Path) -> None:
    with holder(here) as (dead, left), holder(here) as (_, used):
        assert scratch.abandoned() == []
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert scratch.abandoned() == [left]
        assert scratch.sweep() == 1
        assert (left.exists(), used.exists()) == (False, True)


def test_a_folder_is_gone_after_its_use(here: Path) -> None:
    with scratch.folder("depth") as own:
        assert own.name.startswith("effir-at-work-depth-") and own.stat().st_mode & 0o077 == 0
    assert list(here.iterdir()) == []


def test_interrupted_at_any_instruction_it_leaves_nothing(here: Path) -> None:
    """As by a signal whose handler raises: an exception at the first instruction of making the folder, at the second, and so on."""
    for count in range(10**4):
        try:
            with interrupted_after(count), scratch.folder("depth"):
                return
        except InterruptedError:
            scratch.remove_own()
            assert list(here.iterdir()) == [], f"after {count} instructions"


def test_what_others_made_is_left_alone(here: Path) -> None:
    old = time.time() - 60
    for name in ("effir-finetune-abcdefgh", "effir-0-1a2b3c4d", "effir-at-work-notes", "effir-at-work-depth-abcdefgh.txt"):
        (here / name).mkdir()
        os.utime(here / name, (old, old))
    (here / "elsewhere").mkdir()
    (here / "effir-at-work-depth-abcdefgh").symlink_to(here / "elsewhere")
    assert scratch.abandoned() == []
    (here / "effir-at-work-depth-abcdefgx").mkdir()
    assert scratch.abandoned() == [], "it was made just now, and may not be locked yet"
    os.utime(here / "effir-at-work-depth-abcdefgx", (old, old))
    assert [path.name for path in scratch.abandoned()] == ["effir-at-work-depth-abcdefgx"]
