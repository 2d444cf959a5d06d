"""`make bench`: every row runs ours and a peer alternately, here and now, and says by how much and with what spread."""

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from effir.manifest import machine

from . import encoding, serving
from .material import Material, Missing
from .pairs import Pairs


class Row(NamedTuple):
    """A comparison. at_least: the aim for the ratio; of_limit: the share of the machine's limit that will do in its place, None: none."""

    name: str
    run: Callable[[Material, int], Pairs]
    against: str
    at_least: float
    of_limit: float | None
    rounds: int

    def met(self, found: Pairs) -> bool:
        """Whether the aim is reached."""
        return found.ratio >= self.at_least or bool(self.of_limit and found.limit and found.limit >= self.of_limit)


ROWS = [
    Row("encode-documents", encoding.documents, "SentenceTransformer.encode", 1.5, 0.85, 5),
    Row("encode-queries", encoding.queries, "SentenceTransformer.encode", 1.5, 0.85, 7),
    Row("encode-one-query", encoding.single_queries, "SentenceTransformer.encode", 1.2, None, 7),
    Row("serve", serving.serving, "the same server with SentenceTransformer", 1.0, None, 5),
]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="", help="some of the rows, with commas")
    given = parser.parse_args()
    asked = given.rows.split(",") if given.rows else [row.name for row in ROWS]
    if unknown := set(asked) - {row.name for row in ROWS}:
        sys.exit(f"no row is called {', '.join(sorted(unknown))}: choose from {', '.join(row.name for row in ROWS)}")
    material, rows, skipped = Material(Path(".effir/bench")), [], []
    for row in (row for row in ROWS if row.name in asked):
        print(f"{row.name}: {(row.run.__doc__ or '').splitlines()[0]}", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            found = row.run(material, row.rounds)
        except Missing as error:
            skipped.append({"name": row.name, "why": str(error)})
            continue
        rows.append(line(row, found) | {"took": round(time.monotonic() - began, 1)})
    made = {"machine": machine("cpu", 0), "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "rows": rows, "skipped": skipped}
    Path(".effir/bench.json").write_text(json.dumps(made, indent=1) + "\n")
    Console().print(table(rows, skipped))


def line(row: Row, found: Pairs) -> dict[str, Any]:
    """A row as .effir/bench.json has it."""
    told = {name: value if isinstance(value, str) else float(f"{value:.4g}") for name, value in found.told.items()}
    return {
        "name": row.name, "against": row.against, "ratio": round(found.ratio, 3), "spread": [round(end, 3) for end in found.spread],
        "limit_ratio": found.limit and round(found.limit, 3), "aim": row.at_least, "aim_of_limit": row.of_limit, "met": row.met(found),
        "pairs": len(found.ratios), "told": told,
    }  # fmt: skip


def table(rows: list[dict[str, Any]], skipped: list[dict[str, Any]]) -> Table:
    """For a person."""
    shown = Table(title="ours against the peer: above 1 is faster", title_justify="left", box=None)
    for column in ("row", "against", "ratio", "pairs from to", "of the limit", "aim", ""):
        shown.add_column(column)
    for row in rows:
        aim = f"≥ {row['aim']:g}" + (f" or ≥ {row['aim_of_limit']:g} of the limit" if row["aim_of_limit"] else "")
        limit = "–" if row["limit_ratio"] is None else f"{row['limit_ratio']:.2f}"
        ends = f"{row['spread'][0]:.2f} to {row['spread'][1]:.2f}"
        shown.add_row(row["name"], row["against"], f"{row['ratio']:.2f}×", ends, limit, aim, "met" if row["met"] else "missed")
    for one in skipped:
        shown.add_row(one["name"], one["why"], "", "", "", "", "skipped")
    return shown


if __name__ == "__main__":
    main()
