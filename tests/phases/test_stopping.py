import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from effir.errors import Stopped
from effir.phases import stopping

START = """
import hashlib, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from effir.phases import stopping
from effir.services import scratch
stopping.PROMPT, tempfile.tempdir = 0.5, sys.argv[1]
with stopping.at_once(), scratch.folder("depth") as own:
    (own / "half").write_text("written")
    print("ready", flush=True)
    {work}
"""


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def ended(work: str, folder: Path) -> tuple[int, str, float]:
    """Exit code, what was said, and how long after SIGTERM, of a program that does this work."""
    process = subprocess.Popen(
        [sys.executable, "-c", START.format(work=work), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said, time.monotonic() - asked


WRITING = """
    while True:
        try:
            for number in range(10**9):
                (own / str(number)).write_text("written")
                time.sleep(0.001)
        except (stopping.Stopped, OSError): pass
"""


@pytest.mark.parametrize(
    "work",
    [
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
        "with ThreadPoolExecutor() as pool: list(pool.map(time.sleep, [600, 600]))",
        WRITING,
    ],
    ids=["in C", "in threads", "still writing"],
)
def test_what_does_not_listen_is_cut_off_and_leaves_nothing(work: str, tmp_path: Path) -> None:
    code, said, seconds = ended(work, tmp_path)
    assert (code, said) == (75, f"effir: {stopping.SENTENCE}\n")
    assert 0.4 < seconds < 20
    assert list(tmp_path.iterdir()) == []


def test_what_listens_ends_in_its_own_way(tmp_path: Path) -> None:
    code, said, _ = ended("time.sleep(600)", tmp_path)
    assert code == 1
    assert said.splitlines()[-1].startswith("effir.errors.Stopped: stopped on request")
    assert tmp_path.exists()


def test_outside_a_loop_it_raises_and_all_is_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="a retry goes on from there"), stopping.at_once():
        ask()
    assert signal.getsignal(signal.SIGTERM) is before
    for _ in range(100):
        if not [one for one in threading.enumerate() if one.name == "sigterm"]:
            return
        time.sleep(0.05)
    raise AssertionError("the watcher goes on")


def test_within_a_loop_it_waits_for_the_step() -> None:
    heard = []

    def loop() -> None:
        with stopping.at_next_step() as asked:
            heard.append(asked())
            ask()
            heard.append(asked())
            raise Stopped("at its step")

    with stopping.at_once(), pytest.raises(Stopped, match="at its step"):
        loop()
    assert heard == [False, True]


def test_a_loop_that_was_over_does_not_swallow_it() -> None:
    with stopping.at_once():
        with pytest.raises(Stopped, match="on request"), stopping.at_next_step():
            ask()
        with pytest.raises(Stopped):
            ask()
