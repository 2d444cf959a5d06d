"""torchrun's agent with small programs for processes, and what many ends come to."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from effir.errors import BadInput, EffirError, OutOfMemory, PeerLost, Stopped
from effir.services import torchrun
from effir.services.torchrun import End, World, verdict

START = "import os, signal, sys, time\nfrom effir.services import torchrun\nrank = int(os.environ['RANK'])\n"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
MEMORY = Path("/sys/fs/cgroup/memory")
pytestmark = pytest.mark.filterwarnings(  # torch's agent leaves its log files to the garbage collector
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Runs a program as two processes; what the agent does to signals is undone."""
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def run(program: str, **settings) -> None:
        (tmp_path / "program.py").write_text(START + program)
        torchrun.run("work", [str(tmp_path / "program.py")], World(**{"processes": 2} | settings), tmp_path)

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("ends", "kind", "said"),
    [
        ([End(0, 0), End(1, 0)], None, ""),
        ([End(0, 75, "lost", lost=True), End(1, 2, "wrong")], BadInput, "wrong"),
        ([End(0, 76, "full"), End(1, -15)], OutOfMemory, "full"),
        ([End(0, 1, "failed"), End(1, 2, "wrong"), End(2, 76, "full")], BadInput, "wrong"),
        ([End(0, 1, "failed"), End(1, 76, "full")], OutOfMemory, "full"),
        ([End(0, 75, "stopped"), End(1, 1, "failed")], EffirError, "failed"),
        ([End(0, 75, "lost", lost=True), End(1, 75, "stopped")], Stopped, "stopped"),
        ([End(0, 75, "lost", lost=True), End(1, 75, "lost", lost=True)], PeerLost, "lost"),
        ([End(0, 75, "lost", lost=True), End(1, -9)], Stopped, "process 1 of work was killed (SIGKILL); a retry goes on"),
        ([End(0, -15), End(1, 75, "stopped")], Stopped, "stopped"),
        ([End(0, 75, "lost", lost=True), End(1, -11)], EffirError, "process 1 of work died of SIGSEGV"),
        ([End(0, 75, "lost", lost=True), End(1, 3)], EffirError, "process 1 of work ended with 3"),
    ],
)
def test_the_worst_end_is_what_happened(ends: list[End], kind: type[EffirError] | None, said: str) -> None:
    for order in (ends, ends[::-1]):
        found = verdict("work", order, short_of_memory=False)
        assert type(found) is (kind or type(None))
        assert str(found or "").startswith(said)


def test_a_kill_while_the_kernel_kills_for_memory_is_want_of_memory() -> None:
    ends = [End(0, 75, "lost", lost=True), End(1, -9)]
    assert type(verdict("work", ends, short_of_memory=True)) is OutOfMemory
    assert type(verdict("work", [End(0, 75, "stopped"), End(1, 75)], short_of_memory=True)) is Stopped


def test_processes_know_their_place_and_only_the_first_is_heard(
    start: Callable[..., None], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = dict(os.environ)
    start(
        "print('here', rank, os.environ['WORLD_SIZE'], os.environ['LOCAL_WORLD_SIZE'], os.environ['GLOO_SOCKET_IFNAME'], flush=True)\n"
        "assert torchrun.meeting_place() == f'file://{torchrun.folder()}/store'\n"
        "torchrun.record(0)"
    )
    assert capfd.readouterr().out == "here 0 2 2 lo\n"
    assert next(tmp_path.glob("logs/*/attempt_0/1/stdout.log")).read_text() == "here 1 2 2 lo\n"
    assert dict(os.environ) == before
    torchrun.leave(2, "this is not one of them, and goes on")


def test_one_process_fails_and_the_others_are_ended(start: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match=r"^this is wrong$"):
        start("if rank == 1:\n torchrun.leave(2, 'this is wrong')\ntime.sleep(60)")
    assert "signal" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("1 // 0", "process 1 of work ended with 1"),
        ("try: 1 // 0\n except Exception: torchrun.leave(1, 'as it was')", "as it was"),
    ],
)
def test_a_failure_that_nobody_foresaw_is_shown(
    start: Callable[..., None], capfd: pytest.CaptureFixture[str], program: str, said: str
) -> None:
    with pytest.raises(EffirError, match=said):
        start(f"if rank == 1:\n {program}\ntime.sleep(60)")
    assert "process 1: ZeroDivisionError" in capfd.readouterr().err


def test_a_stop_reaches_all_and_they_get_the_time_they_need(start: Callable[..., None], tmp_path: Path) -> None:
    program = (
        "def stop(*_):\n time.sleep(1 + rank)\n torchrun.record(75, f'stopped {rank}')\n sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, stop)\nopen(f'{torchrun.folder()}/{rank}.ready', 'w')\ntime.sleep(60)"
    )
    ready = [tmp_path / f"{rank}.ready" for rank in range(2)]

    def terminate() -> None:
        while not all(path.exists() for path in ready):
            threading.Event().wait(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    with pytest.raises(Stopped, match=r"^stopped 0$"):
        start(program)
    assert len(list((tmp_path / "ends").iterdir())) == 2


def test_processes_do_not_outlive_a_killed_agent(tmp_path: Path, eventually: Callable[..., None]) -> None:
    (tmp_path / "program.py").write_text(START + "torchrun.end_with_agent()\nopen(f'{torchrun.folder()}/{rank}.pid', 'w')\ntime.sleep(60)")
    agent = (
        f"import pathlib; from effir.services import torchrun; folder = pathlib.Path({str(tmp_path)!r})\n"
        "torchrun.run('work', [str(folder / 'program.py')], torchrun.World(2), folder)"
    )
    process = subprocess.Popen([sys.executable, "-c", agent])
    eventually(lambda: all((tmp_path / f"{rank}.pid").exists() for rank in range(2)), seconds=90)
    ours = [one for one in psutil.process_iter(["cmdline"]) if str(tmp_path / "program.py") in (one.info["cmdline"] or [])]
    assert len(ours) == 2
    process.kill()
    process.wait()
    assert psutil.wait_procs(ours, timeout=20)[1] == []


@pytest.mark.skipif(not os.access(MEMORY, os.W_OK), reason="NO WRITABLE MEMORY CGROUP (v1) HERE: the kernel cannot be made to kill")
def test_the_kernel_kills_for_want_of_memory(start: Callable[..., None]) -> None:
    group = MEMORY / f"effir-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text("60M")
        with pytest.raises(OutOfMemory, match="process 1 of work was killed for want of memory"):
            start(
                f"if rank == 1:\n open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
                " hold = bytearray(200_000_000)\ntime.sleep(60)"
            )
    finally:
        group.rmdir()


def test_nodes_that_do_not_meet_are_a_stop(start: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchrun, "MEETING_SECONDS", 1)
    with pytest.raises(Stopped, match=r"the 2 nodes of work did not meet at 127\.0\.0\.1:\d+: is each of them running"):
        start("", nodes=2, processes=1, rendezvous="127.0.0.1:29517")
