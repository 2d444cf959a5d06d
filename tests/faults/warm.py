"""Phases in processes that inherit one import of the heavy libraries; each is a process of its own, to be killed like any other.

Reads a JSON line {command, environment, log, room, disk} at a time: the command line after `effir`, what the environment has besides, the
file that it prints to, and how many more bytes of memory the kernel gives it and how many its folder for temporary files holds (null: any).
Prints {"pid"} when it runs and {"code"} when it ended.
"""

import ctypes
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet  # noqa: F401
import sentence_transformers  # noqa: F401
import torch

from effir import cli
from effir.compress import slimming  # noqa: F401
from effir.export import loading, writer  # noqa: F401
from effir.phases import execute  # noqa: F401
from effir.train import adapters  # noqa: F401

NEW_MOUNTS = 0x20000
NO_RIGHT = 99


def limit(room: int) -> None:
    """The kernel refuses memory beyond what is used now and this many bytes."""
    used = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + room, resource.RLIM_INFINITY))


def small_disk(size: int) -> None:
    """For this process alone the folder for temporary files is a disk of its own, so small. Needs root."""
    folder = tempfile.gettempdir()
    if ctypes.CDLL(None).unshare(NEW_MOUNTS):
        os._exit(NO_RIGHT)
    for command in (["mount", "--make-rprivate", "/"], ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder]):
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
            os._exit(NO_RIGHT)


def carry_out(asked: dict) -> None:
    """Be the command, to the end."""
    said = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ.update(asked["environment"])
    torch.set_num_threads(1)
    tempfile.tempdir = None
    if asked["disk"]:
        small_disk(asked["disk"])
    if asked["room"]:
        limit(asked["room"])
    sys.argv = ["effir", *asked["command"]]
    try:
        cli.main()
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code or 0)
    except BaseException:
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    """Until there is no more to be read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        if not (child := os.fork()):
            carry_out(json.loads(line))
        print(json.dumps({"pid": child}), flush=True)
        print(json.dumps({"code": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}), flush=True)


if __name__ == "__main__":
    main()
