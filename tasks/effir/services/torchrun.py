"""torchrun's agent: it starts the processes that share a phase on this machine, and this says how they ended.

On one machine nothing listens beyond loopback: the processes meet in a file. Between machines the agents meet at a TCP store, which
the one that HOST names keeps open on every interface, without a password: a network policy is to shield it.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from effir.errors import BadInput, EffirError, OutOfMemory, PeerLost, Stopped

FOLDER, AGENT = "EFFIR_RANKS", "EFFIR_RANKS_AGENT"
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
GRACE_SECONDS = 600
MEETING_SECONDS = 1800
SHOWN_LINES = 40
DIE_WITH_PARENT = 1


@dataclass(frozen=True)
class World:
    """So many processes on each of so many nodes, which meet at HOST:PORT under the same run_id."""

    processes: int
    nodes: int = 1
    rendezvous: str = ""
    run_id: str = "alone"


@dataclass(frozen=True)
class End:
    """How the process with this local rank ended: its exit code, below 0 the signal that killed it, and what it said."""

    rank: int
    code: int
    sentence: str = ""
    lost: bool = False


def run(name: str, arguments: Sequence[str], world: World, folder: Path) -> None:
    """Start `python ARGUMENTS`, called `name`, as this machine's processes, join those of the other nodes, and wait for the end of all.

    SIGTERM is handed on to them, and they get GRACE_SECONDS (a runner that is less patient kills this process). Rank 0 writes to this
    process's output, the others below `folder`. Raises what is to be said of an end that is not good (see `verdict`).
    """
    kills = memory_kills()
    settings = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(GRACE_SECONDS)} | (LOOPBACK if world.nodes == 1 else {})
    (folder / "ends").mkdir()
    with _environment(settings | os.environ | {FOLDER: str(folder), AGENT: str(os.getpid())}):
        codes = _launch(name, arguments, world, folder)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ends = [_end(folder, rank, codes) for rank in range(world.processes)]
    if (error := verdict(name, ends, memory_kills() > kills)) is not None:
        _show(folder, ends)
        raise error


def verdict(name: str, ends: Sequence[End], short_of_memory: bool) -> EffirError | None:
    """What many ends come to: the worst one is what happened, the others followed from it. None: all is well.

    Bad input comes before memory, memory before any other failure, and that before a stop, since whoever loses a peer stops.
    A process killed by SIGKILL while the kernel killed for want of memory counts as that.
    """
    worst = min(ends, key=lambda end: _gravity(end, short_of_memory))
    if worst.code == 0:
        return None
    kinds = {2: BadInput, OutOfMemory.exit_code: OutOfMemory, Stopped.exit_code: PeerLost if worst.lost else Stopped}
    if worst.code > 0:
        return kinds.get(worst.code, EffirError)(worst.sentence or f"process {worst.rank} of {name} ended with {worst.code}")
    by = signal.Signals(-worst.code).name
    if worst.code == -signal.SIGKILL and short_of_memory:
        return OutOfMemory(f"process {worst.rank} of {name} was killed for want of memory; a retry holds fewer queries in memory at once")
    if worst.code in {-signal.SIGKILL, -signal.SIGTERM}:
        return Stopped(f"process {worst.rank} of {name} was killed ({by}); a retry goes on from the last checkpoint")
    return EffirError(f"process {worst.rank} of {name} died of {by}")


def _gravity(end: End, short_of_memory: bool) -> int:
    order = [2, OutOfMemory.exit_code, 1, -signal.SIGKILL, Stopped.exit_code, -signal.SIGTERM, 0]
    if end.code == -signal.SIGKILL and short_of_memory:
        return order.index(OutOfMemory.exit_code)
    place = order.index(end.code if end.code in order else 1)
    return 2 * place + end.lost


# Inside such a process


def folder() -> Path | None:
    """What the processes of this machine share, if this is one of them."""
    return Path(os.environ[FOLDER]) if FOLDER in os.environ else None


def meeting_place() -> str:
    """Where the processes find each other, for torch's init_process_group."""
    shared = folder()
    return f"file://{shared}/store" if shared and os.environ.get("GROUP_WORLD_SIZE") == "1" else "env://"


def end_with_agent() -> None:
    """Linux sends this process SIGTERM when its agent dies, even of SIGKILL: a retry never meets the processes before it."""
    if AGENT not in os.environ:
        return
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)
    if os.getppid() != int(os.environ[AGENT]):
        os.kill(os.getpid(), signal.SIGTERM)


def record(code: int, sentence: str = "", lost: bool = False) -> None:
    """Leave word of how this process ends; nothing where no agent wants to know."""
    shared, rank = folder(), int(os.environ.get("LOCAL_RANK", "0"))
    if shared:
        (shared / "ends" / f"{rank}.json").write_text(json.dumps(asdict(End(rank, code, sentence, lost))))


def leave(code: int, sentence: str, lost: bool = False) -> None:
    """Within an except clause: leave word and end this process on the spot; nothing where no agent wants to know.

    On the spot, since what is left of a process group may wait for processes that are gone.
    """
    if folder() is None:
        return
    if not issubclass(sys.exc_info()[0] or EffirError, EffirError):
        traceback.print_exc()
    record(code, sentence, lost)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


# The agent


def _launch(name: str, arguments: Sequence[str], world: World, folder: Path) -> dict[int, int] | None:
    """Exit codes of the processes that failed, by local rank; None if it is not known how they ended."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError, RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    logs = folder / "logs"
    began = time.monotonic()
    while True:
        config = _config(world, folder, logs)
        try:
            with _quiet():
                elastic_launch(config, sys.executable)(*arguments)
            return {}
        except ChildFailedError as error:
            return {failure.local_rank: failure.exitcode for failure in error.failures.values()}
        except SignalException:
            return None
        except RendezvousError as error:
            if any(logs.iterdir()):
                return None
            if isinstance(error, RendezvousConnectionError) and time.monotonic() - began < MEETING_SECONDS:
                continue
            where = f"the {world.nodes} nodes of {name} did not meet at {world.rendezvous}"
            raise Stopped(f"{where}: is each of them running, and HOST one of them?") from None


def _config(world: World, folder: Path, logs: Path) -> Any:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    alone = world.nodes == 1
    return LaunchConfig(
        min_nodes=world.nodes,
        max_nodes=world.nodes,
        nproc_per_node=world.processes,
        run_id=world.run_id,
        rdzv_backend="c10d",
        rdzv_endpoint=str(folder / "rendezvous") if alone else world.rendezvous,
        rdzv_configs={"store_type": "file"} if alone else {"join_timeout": MEETING_SECONDS},
        max_restarts=0,
        local_addr=_loopback(world.rendezvous),
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=dict.fromkeys(range(1, world.processes), Std.ALL)),
    )


def _loopback(rendezvous: str) -> str | None:
    """The address under which this machine is known to the others, where that cannot be its host name."""
    host = rendezvous.rpartition(":")[0].strip("[]")
    try:
        return host if ip_address(host).is_loopback else None
    except ValueError:
        return None


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Within this context the environment, which the agent hands on to its processes, is this one."""
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the agent's own report, which repeats what the processes say."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _end(folder: Path, rank: int, codes: dict[int, int] | None) -> End:
    told = folder / "ends" / f"{rank}.json"
    if told.exists():
        return End(**json.loads(told.read_text()))
    return End(rank, -signal.SIGKILL if codes is None else codes.get(rank, 0))


def _show(folder: Path, ends: Sequence[End]) -> None:
    """The last lines of processes other than local rank 0 that failed without a sentence of their own."""
    for end in ends:
        if end.rank and end.code and end.code != Stopped.exit_code:
            for path in sorted((folder / "logs").glob(f"*/attempt_0/{end.rank}/stderr.log")):
                for line in path.read_text(errors="replace").splitlines()[-SHOWN_LINES:]:
                    print(f"process {end.rank}: {line}", file=sys.stderr, flush=True)


def memory_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
