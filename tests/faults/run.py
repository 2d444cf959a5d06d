"""`make faults`: disturb phases and whole runs on the real embedded stack in every way, and say what came of it.

`python -m tests.faults.run [--seed N] [--only NAME,NAME] [--share 0.1]`. Writes .effir/faults.json:
{rows: [{fault, injected, recovered, lost, wrong, seconds}], seed, minutes, remarks}. Ends with 1 if anything was lost or wrong.
"""

import argparse
import datetime
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tests.e2e import tiny

from effir.services import local

from . import phase_faults, proxy, work
from .bench import Bench, Row, turns, undisturbed
from .run_faults import FAULTS, Runs

KILLS = {"kill -9": (signal.SIGKILL, 34), "kill -TERM": (signal.SIGTERM, 20)}
MEMORY, DISK, EACH_S3, RATE = 10, 6, 20, 0.12
WHOLE_RUNS = 5
IN_A_RUN = {"MLflow restart": 2, "scheduler restart": 2, "S3 restart": 1, "kill -9": 1, "kill -TERM": 1}
ORDER = ("kill -9", "kill -TERM", "out of memory", "disk full", *(f"S3: {kind}" for kind in proxy.KINDS), *list(IN_A_RUN)[:3])


class Suite:
    """The faults that are asked for. share: of the full numbers, at least one of each."""

    def __init__(self, seed: int, share: float, only: list[str], say: Any) -> None:
        self.chance, self.share, self.only, self.say = random.Random(seed), share, only, say
        self.rows = {name: Row(name) for name in ORDER}

    def wanted(self, name: str) -> bool:
        """Whether this row is asked for."""
        return not self.only or name in self.only

    def some(self, count: int) -> int:
        """The share of a number."""
        return max(1, round(count * self.share))

    def phases(self, bench: Bench) -> None:
        """Everything that befalls single phases."""
        steps = turns(bench)
        for name, (number, count) in KILLS.items():
            for step in islice(steps, self.some(count) if self.wanted(name) else 0):
                phase_faults.killed(bench, self.rows[name], step, number)
            self.tell(name)
        heavy = turns(bench, phase_faults.HEAVY)
        for step in islice(heavy, self.some(MEMORY) if self.wanted("out of memory") else 0):
            phase_faults.short_of_memory(bench, self.rows["out of memory"], step)
        self.tell("out of memory")
        for step in islice(heavy, self.some(DISK) if self.wanted("disk full") else 0):
            if not phase_faults.short_of_disk(bench, self.rows["disk full"], step):
                self.say("disk full: NOT INJECTED, for no small disk can be mounted here (that takes root)")
                break
        self.tell("disk full")
        for kind in proxy.KINDS:
            self.s3(bench, kind)

    def s3(self, bench: Bench, kind: str) -> None:
        """One kind of fault of S3."""
        row = self.rows[f"S3: {kind}"]
        if not self.wanted(row.fault):
            return
        if kind == "stale list":
            phase_faults.stale_lists(bench, row, self.some(EACH_S3))
        while row.injected < self.some(EACH_S3) and not row.lost:
            phase_faults.s3_fault(bench, row, kind, RATE, most=self.some(EACH_S3))
        self.tell(row.fault)

    def runs(self, overrides: dict[str, Any]) -> None:
        """Everything that befalls whole runs."""
        chosen = {name: count for name, count in IN_A_RUN.items() if self.wanted(name)}
        if not chosen:
            return
        runs = Runs(overrides, self.chance, self.say)
        base = runs.undisturbed()
        self.say(f"an undisturbed run took {base.seconds:.0f} s")
        for number in range(self.some(WHOLE_RUNS)):
            faults = [FAULTS[name] for name, count in chosen.items() for _ in range(count)]
            self.chance.shuffle(faults)
            whole = runs.disturbed(base, faults, self.rows)
            self.say(f"run {number + 1}: {whole.state} after {whole.seconds:.0f} s with {len(whole.faults)} faults {whole.remarks or ''}")

    def tell(self, name: str) -> None:
        """Say what came of a kind of fault."""
        row = self.rows[name]
        if row.injected:
            self.say(f"{name}: {row.injected} injected, {row.recovered} recovered, {row.lost} lost, {row.wrong} wrong {row.remarks or ''}")


@contextmanager
def stack(folder: Path) -> Iterator[str]:
    """An embedded stack of the suite's own, which ends with it however it ends; the address of its S3."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(EFFIR_HOME=str(folder))
    for name in ("EFFIR_PORT_BASE", "EFFIR_AIRFLOW_URL"):
        os.environ.pop(name, None)
    local.up()
    try:
        os.environ.update(local.client_environment())
        yield os.environ["AWS_ENDPOINT_URL_S3"]
    finally:
        local.down()


def main() -> int:
    """Run the suite; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    home, console, began = local.home(), Console(stderr=True, highlight=False, markup=False), time.monotonic()
    suite = Suite(asked.seed, asked.share, [name for name in asked.only.split(",") if name], console.print)
    with tempfile.TemporaryDirectory(prefix="faults-") as made, stack(Path(made) / "home") as s3:
        folder = Path(made)
        spec = tiny.overrides(folder / "data", name="faults", **work.SPEC)
        if not asked.only or set(suite.only) - {"MLflow restart", "scheduler restart", "S3 restart"}:
            with proxy.started(s3) as between, work.warm(folder / "warm") as start:
                suite.phases(undisturbed(work.Run(start, spec, "s3://effir/phases/run", s3), between, suite.chance))
        suite.runs(spec | {"name": "whole"})
    return report(suite, home, time.monotonic() - began, asked.seed)


def report(suite: Suite, home: Path, seconds: float, seed: int) -> int:
    """Print the table and write faults.json."""
    rows = [row for row in suite.rows.values() if row.injected]
    shown = [
        {name: getattr(row, name) for name in ("fault", "injected", "recovered", "lost", "wrong")}
        | {"seconds": round(statistics.median(row.seconds), 1)}
        for row in rows
    ]
    table = Table(*("fault", "injected", "recovered", "lost", "wrong", "seconds to recover (median)"), box=None)
    for one in shown:
        table.add_row(*map(str, one.values()))
    Console().print(table)
    remarks = [remark for row in rows for remark in row.remarks]
    print(*remarks, sep="\n", file=sys.stderr)
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    home.mkdir(parents=True, exist_ok=True)
    told = {"rows": shown, "at": at, "seed": seed, "minutes": round(seconds / 60, 1), "remarks": remarks}
    (home / "faults.json").write_text(json.dumps(told, indent=1) + "\n")
    print(f"{sum(one['injected'] for one in shown)} faults in {seconds / 60:.1f} min; {home / 'faults.json'}", file=sys.stderr)
    return int(any(row.lost or row.wrong for row in rows))


if __name__ == "__main__":
    sys.exit(main())
