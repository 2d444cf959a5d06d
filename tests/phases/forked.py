"""Phases as several processes without an agent: `python forked.py COUNT FOLDER` reads a JSON list of command lines.

Each is carried out by COUNT processes that are told their places as an agent tells them; all inherit one import of torch. Prints a
JSON list of their exit codes; what they printed and left as their word is below FOLDER/<number>.
"""

import json
import os
import sys
from pathlib import Path

import sentence_transformers  # noqa: F401
import torch

from effir import cli
from effir.compress import slimming  # noqa: F401
from effir.export import writer  # noqa: F401
from effir.phases import execute  # noqa: F401
from effir.train import adapters  # noqa: F401


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


def main(count: int, folder: Path) -> None:
    ended = []
    for number, command in enumerate(json.load(sys.stdin)):
        shared = folder / str(number)
        (shared / "ends").mkdir(parents=True)
        children = []
        for rank in range(count):
            if not (child := os.fork()):
                one_rank(command, rank, count, shared)
            children.append(child)
        ended.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
    print(json.dumps(ended))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
