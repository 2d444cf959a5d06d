"""`make bench`: every row is measured here and now, ours and a peer alternately, and says what it came to and with what spread.

`python -m tests.bench.run [--rows NAME,NAME] [--quick] [--record]`. Writes .effir/bench.json. Ends with 1 where two sides do not give the
same, and with --quick where a row fell behind what tests/bench/recorded.json holds, which --record replaces.
"""

import argparse
import datetime
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from effir.manifest import machine

from .material import Material, Missing
from .pairs import Pairs
from .rows import ELSEWHERE, ROWS, Row
from .running import Stack

RECORDED = Path(__file__).with_name("recorded.json")
QUICK_ROUNDS = 3
SLACK = 1.15
"""How far a ratio may lie outside the recorded pairs before it counts as moved: those are of another day."""


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="", help="some of the rows, with commas")
    parser.add_argument("--quick", action="store_true", help="a few rows, a few rounds, compared with what is recorded")
    parser.add_argument("--record", action="store_true", help="let later quick ones compare with this")
    given = parser.parse_args()
    asked = given.rows.split(",") if given.rows else [row.name for row in ROWS if (row.quick if given.quick else not row.alone)]
    if unknown := set(asked) - {row.name for row in ROWS}:
        sys.exit(f"no row is called {', '.join(sorted(unknown))}: choose from {', '.join(row.name for row in ROWS)}")
    if given.quick and not RECORDED.exists():
        sys.exit("nothing was recorded to compare with: `python -m tests.bench.run --record` does, where nothing else runs")
    chosen = [row._replace(rounds=QUICK_ROUNDS) if given.quick else row for row in ROWS if row.name in asked]
    made = {"machine": machine("cpu", 0), "date": datetime.datetime.now(datetime.UTC).date().isoformat()} | measure(chosen)
    if not given.rows and not given.quick:
        made["skipped"] += [{"name": name, "why": why} for name, why in ELSEWHERE.items()]
    Path(".effir/bench.json").write_text(json.dumps(made, indent=1) + "\n")
    Console().print(table(made))
    if given.record:
        RECORDED.write_text(json.dumps(made, indent=1) + "\n")
    behind = moved(made["rows"], json.loads(RECORDED.read_text())["rows"]) if given.quick else []
    print(*behind, sep="\n")
    return int(bool(made["failed"]) or any(sentence.endswith("slower") for sentence in behind))


def measure(chosen: list[Row]) -> dict[str, list[dict[str, Any]]]:
    """{rows, skipped: those that cannot be run here, failed: those whose two sides do not give the same}."""
    made: dict[str, list[dict[str, Any]]] = {"rows": [], "skipped": [], "failed": []}
    with ExitStack() as open_:
        material = Material(Path(".effir/bench"), Stack(open_))
        for row in chosen:
            print(f"{row.name}: {(row.run.__doc__ or '').splitlines()[0]}", file=sys.stderr, flush=True)
            began = time.monotonic()
            try:
                found = line(row, row.run(material, row.rounds))
            except Missing as error:
                made["skipped"].append({"name": row.name, "why": str(error)})
            except AssertionError as error:
                made["failed"].append({"name": row.name, "why": str(error)})
            else:
                made["rows"].append(found | {"took": round(time.monotonic() - began, 1)})
    return made


def line(row: Row, found: Pairs) -> dict[str, Any]:
    """A row as .effir/bench.json has it."""
    told = {name: value if isinstance(value, str) else float(f"{value:.4g}") for name, value in found.told.items()}
    return {
        "name": row.name, "what": row.what, "ratio": round(found.ratio, 3), "spread": [round(end, 3) for end in found.spread],
        "limit_ratio": found.limit and round(found.limit, 3), "aim": row.aim(), "met": row.met(found), "unmet": found.unmet,
        "pairs": len(found.ratios), "told": told,
    }  # fmt: skip


def table(made: dict[str, Any]) -> Table:
    """For a person."""
    shown = Table(title="ours against the peer: above 1 is faster", title_justify="left", box=None)
    for column in ("row", "against, or in", "found", "from to", "of the limit", "aim", ""):
        shown.add_column(column)
    for row in made["rows"]:
        limit = "–" if row["limit_ratio"] is None else f"{row['limit_ratio']:.2f}"
        ends = f"{row['spread'][0]:.2f} to {row['spread'][1]:.2f}"
        verdict = "–" if row["aim"] == "–" else "met" if row["met"] else " ".join(part for part in ("missed", row["unmet"]) if part)
        shown.add_row(row["name"], row["what"], f"{row['ratio']:.2f}", ends, limit, row["aim"], verdict)
    for kind in ("failed", "skipped"):
        for one in made[kind]:
            shown.add_row(one["name"], one["why"], "", "", "", "", kind)
    return shown


def moved(rows: list[dict[str, Any]], recorded: list[dict[str, Any]]) -> list[str]:
    """A sentence for each row whose ratio lies outside the pairs recorded for it, by more than SLACK."""
    before = {row["name"]: row for row in recorded}
    found = []
    for row in rows:
        then = before.get(row["name"])
        if then and not then["spread"][0] / SLACK <= row["ratio"] <= then["spread"][1] * SLACK:
            how = "faster" if row["ratio"] > then["ratio"] else "slower"
            found.append(f"{row['name']}: {row['ratio']:.2f}, recorded {then['spread'][0]:.2f} to {then['spread'][1]:.2f}: {how}")
    return found


if __name__ == "__main__":
    sys.exit(main())
