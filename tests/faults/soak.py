"""`make soak`: whole runs in a row in one embedded stack, and what the stack holds after each of them.

`python -m tests.faults.soak [--runs 25]`. Every run has another seed, so that nothing is found done before. Writes
.effir/soak.json: {rows: [{run, seconds, processes, files, ports, temporary, memory: {program: bytes}}], growth: [sentence]}. Ends with 1
where something grows: processes, open files, ports or temporary files after the fifth run, memory by more than 5% after it.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from tests.e2e import tiny

from effir.services import layout, local, processes

from .run import stack
from .work import SPEC

COUNTS = ("processes", "files", "ports", "temporary")
SETTLED, MOST_MEMORY, LAST = 5, 1.05, 3
QUIET_SECONDS = 60
CHEAP = {"reference_steps": 3, "steps": 3, "slim_steps": 3, "checkpoint_every": 2, "shard_documents": 60, "speed_seconds": 0.2}


def held(temporary: Path) -> dict[str, Any]:
    """What the stack's processes hold now: {processes, files, ports, temporary, memory}."""
    found = processes.of_stack(layout.folder())
    files = ports = 0
    for one in found:
        with suppress(psutil.Error):
            files += one.num_fds()
            ports += sum(connection.status == psutil.CONN_LISTEN for connection in one.net_connections("inet"))
    memory = {name: about["memory"] for name, about in local.status().items()}
    return {
        "processes": len(found),
        "files": files,
        "ports": ports,
        "temporary": sum(1 for _ in temporary.rglob("*")),
        "memory": memory,
    }


def settled(temporary: Path) -> dict[str, Any]:
    """The same once nothing changes any more: connections are closed some time after a run."""
    deadline, before = time.monotonic() + QUIET_SECONDS, held(temporary)
    while time.monotonic() < deadline:
        time.sleep(3)
        now = held(temporary)
        if all(now[name] == before[name] for name in COUNTS):
            return now
        before = now
    return before


def growth(rows: list[dict[str, Any]]) -> list[str]:
    """What grows after the SETTLED-th run: any count, and memory by more than MOST_MEMORY of it; medians of LAST runs at either end."""
    if len(rows) <= SETTLED:
        return []
    early, late = rows[SETTLED - 1 : SETTLED - 1 + LAST], rows[-LAST:]
    found = []
    for name in COUNTS:
        before, after = max(row[name] for row in early), min(row[name] for row in late)
        if after > before:
            found.append(f"{name}: {before} after run {SETTLED}, {after} after run {len(rows)}")
    for program in rows[0]["memory"]:
        before, after = (statistics.median(row["memory"][program] for row in some) for some in (early, late))
        if after > MOST_MEMORY * before:
            found.append(
                f"memory of {program}: {before / 2**20:.0f} MiB after run {SETTLED}, {after / 2**20:.0f} MiB after run {len(rows)}"
            )
    return found


def one_run(overrides: dict[str, Any], seed: int) -> float:
    """A run with this seed, to its end; returns how many seconds it took. Raises EffirError if it fails."""
    from effir.services import follow

    began = time.monotonic()
    follow.run(local.client_environment(), "demo", overrides | {"seed": seed}, say=lambda _: None)
    return time.monotonic() - began


def shown(rows: list[dict[str, Any]]) -> Table:
    """A row a run."""
    table = Table("run", "seconds", *COUNTS, *(f"{name} MiB" for name in rows[0]["memory"]), box=None)
    for row in rows:
        memory = [f"{size / 2**20:.0f}" for size in row["memory"].values()]
        table.add_row(str(row["run"]), f"{row['seconds']:.0f}", *(str(row[name]) for name in COUNTS), *memory)
    return table


def main() -> int:
    """Run the soak; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=25)
    asked, home, rows = parser.parse_args(), local.home(), []
    with tempfile.TemporaryDirectory(prefix="soak-") as made:
        temporary = Path(made) / "temporary"
        temporary.mkdir()
        os.environ["TMPDIR"] = str(temporary)
        overrides = tiny.overrides(Path(made) / "data", name="soak", **SPEC | CHEAP)
        with stack(Path(made) / "home"):
            for number in range(1, asked.runs + 1):
                seconds = one_run(overrides, number)
                rows.append({"run": number, "seconds": round(seconds, 1)} | settled(temporary))
                print(f"run {number}: {seconds:.0f} s, {', '.join(f'{rows[-1][name]} {name}' for name in COUNTS)}", file=sys.stderr)
    found = growth(rows)
    Console().print(shown(rows))
    print(*(found or ["nothing grows"]), sep="\n", file=sys.stderr)
    home.mkdir(parents=True, exist_ok=True)
    (home / "soak.json").write_text(json.dumps({"rows": rows, "growth": found}, indent=1) + "\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
