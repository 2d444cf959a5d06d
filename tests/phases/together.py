"""Commands at once: `python together.py` reads a JSON list of command lines of effir, carries each out in a process of its own, which all
begin at the same moment with everything imported, and prints a JSON list of {code, said}, said: what went to standard error."""

import json
import os
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet  # noqa: F401
import scipy.stats  # noqa: F401

from effir import cli
from effir.phases import execute, promote  # noqa: F401
from effir.services import rollback  # noqa: F401


def carry_out(command: list[str], log: Path, begin: int) -> None:
    out, err = (os.open(log.with_suffix(end), os.O_WRONLY | os.O_CREAT) for end in (".out", ".err"))
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.argv = ["effir", *command]
    os.read(begin, 1)
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    commands = json.load(sys.stdin)
    begin, start = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(number) for number in range(len(commands))]
        children = []
        for command, log in zip(commands, logs, strict=True):
            if not (child := os.fork()):
                os.close(start)
                carry_out(command, log, begin)
            children.append(child)
        os.close(start)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps([{"code": code, "said": log.with_suffix(".err").read_text()} for code, log in zip(codes, logs, strict=True)]))


if __name__ == "__main__":
    main()
