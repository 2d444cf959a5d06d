"""Phases in processes that inherit one import of torch: `python forked.py FOLDER` reads a JSON list of {command, count, room}.

Each command line is carried out by `count` processes, which are told their places as an agent tells them, and which the kernel gives
`room` more bytes of memory (null: any). Prints a JSON list of their exit codes; what they printed and left as their word is below
FOLDER/<number>.
"""

import json
import os
import re
import resource
import sys
from pathlib import Path

import sentence_transformers  # noqa: F401
import torch

from effir import cli
from effir.compress import slimming  # noqa: F401
from effir.export import writer  # noqa: F401
from effir.phases import execute  # noqa: F401
from effir.train import adapters  # noqa: F401


def limit(room: int) -> None:
    used = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + room, resource.RLIM_INFINITY))


def one_rank(command: list[str], rank: int, count: int, folder: Path) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_WORLD_SIZE": "1",
        "EFFIR_RANKS": str(folder), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    torch.set_num_threads(1)
    said = os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv = ["effir", *command]
    try:
        cli.main()
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code or 0)
    except BaseException:
        os._exit(1)


def main(folder: Path) -> None:
    ended = []
    for number, asked in enumerate(json.load(sys.stdin)):
        shared = folder / str(number)
        (shared / "ends").mkdir(parents=True)
        children = []
        for rank in range(asked["count"]):
            if not (child := os.fork()):
                if asked["room"]:
                    limit(asked["room"])
                one_rank(asked["command"], rank, asked["count"], shared)
            children.append(child)
        ended.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
    print(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
