"""`effir simulate-gate`: how often the gate errs on real per-query scores, as the tables of docs/gate.md."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir import populations
from effir.errors import BadInput, shown
from effir.judge.quality import Limits
from effir.judge.simulation import LAWS, Law, Pairs, by_query, most, pass_rate
from effir.spec import collection_name

COPIES = 5


@dataclass(frozen=True)
class Asked:
    """What is simulated: collections by source, pairs of systems, queries of a test collection, margins, draws, the gate's settings.

    documents: shrink every corpus to so many before the systems are scored; None: whole corpora.
    """

    collections: tuple[str, ...] = ("beir:scifact", "beir:nfcorpus")
    pairs: tuple[str, ...] = tuple(populations.PAIRS)
    queries: tuple[int, ...] = (25, 50, 100, 150, 300)
    margins: tuple[float, ...] = (0.02, 0.05)
    draws: int = 2000
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    documents: int | None = None


def numbers(text: str, kind: type) -> tuple[Any, ...]:
    """Numbers between commas. Raises BadInput for none, or one that does not parse or is not above 0.

    >>> numbers("25, 50", int)
    (25, 50)
    """
    try:
        found = tuple(kind(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < one < 1e6 for one in found):
        raise BadInput(f"{shown(text)} must be numbers above 0 between commas, such as 25,50")
    return found


def measure(asked: Asked, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Every rate: {settings, most: the largest share that agrees with the level, errors, power, clusters, together: rows}.

    A row of errors and power: {collection, pair, law, margin, shares: queries → share of draws that passed}. Clusters and
    collections together: with the first pair and the first margin.
    """
    if unknown := [pair for pair in asked.pairs if pair not in populations.PAIRS]:
        raise BadInput(f"there is no pair {shown(unknown[0])}; choose from: {', '.join(populations.PAIRS)}")
    tables = {source: populations.scores(source, asked.pairs, asked.documents, folder, say) for source in asked.collections}
    rows: dict[str, list[dict[str, Any]]] = {"errors": [], "power": []}
    for source, table in tables.items():
        for pair in asked.pairs:
            pairs = _pairs(table, pair)
            for law, make in LAWS.items():
                for margin in asked.margins:
                    about = {"collection": collection_name(source), "pair": pair, "law": law, "margin": margin}
                    for kind, target in (("errors", -margin), ("power", 0.0)):
                        if kind == "power" and law == "broken":
                            continue
                        shares = _shares(make(pairs, target), margin, asked)
                        rows[kind].append(about | {"shares": shares})
                        say(f"{kind}: {about} {shares}")
    return {
        "settings": asked.__dict__, "most": most(1 - asked.confidence, asked.draws), **rows,
        "clusters": _clusters(tables, asked), "together": _together(tables, asked),
    }  # fmt: skip


def _shares(law: Law, margin: float, asked: Asked) -> dict[int, float]:
    return {count: pass_rate({"x": law}, count, _limits(asked, margin, margin), asked.draws, asked.seed).share for count in asked.queries}


def _clusters(tables: dict[str, populations.Table], asked: Asked) -> list[dict[str, Any]]:
    """Queries that are copies of each other, told so and not: error at the first margin, the most queries."""
    rows = []
    for source, table in tables.items():
        law = LAWS["exchanged"](_pairs(table, asked.pairs[0]), -asked.margins[0])
        limits = _limits(asked, asked.margins[0], asked.margins[0])
        found = {
            name: pass_rate({"x": law}, COPIES * asked.queries[-1] // 2, limits, asked.draws, asked.seed, COPIES, told=told).share
            for name, told in (("clusters respected", True), ("clusters ignored", False))
        }
        rows.append({"collection": collection_name(source), "queries": COPIES * asked.queries[-1] // 2, "copies": COPIES} | found)
    return rows


def _together(tables: dict[str, populations.Table], asked: Asked) -> list[dict[str, Any]]:
    """All rules at once: one collection at the margin and the others equal, and the mean over them at its own margin."""
    margin, rows = asked.margins[0], []
    laws = {collection_name(source): _pairs(table, asked.pairs[0]) for source, table in tables.items()}
    for count in asked.queries:
        for worst in laws:
            given = {name: LAWS["exchanged"](pairs, -margin if name == worst else 0.0) for name, pairs in laws.items()}
            found = pass_rate(given, count, _limits(asked, margin, margin), asked.draws, asked.seed)
            rows.append({"what": f"{worst} at the margin, every rule", "queries": count, "share": found.share})
        given = {name: LAWS["exchanged"](pairs, -margin / 2) for name, pairs in laws.items()}
        found = pass_rate(given, count, _limits(asked, 1.0, margin / 2), asked.draws, asked.seed)
        rows.append({"what": "the mean at its margin (half of the other), its rule alone", "queries": count, "share": found.share})
    return rows


def _pairs(table: populations.Table, pair: str) -> Pairs:
    return by_query([table[name] for name in populations.PAIRS[pair]])


def _limits(asked: Asked, margin: float, margin_mean: float) -> Limits:
    return Limits((), (), margin, margin_mean, confidence=asked.confidence, resamples=asked.resamples)


def markdown(found: dict[str, Any]) -> str:
    """The tables of docs/gate.md. Shares in percent."""
    queries = found["settings"]["queries"]
    heads = " | ".join(f"n = {count}" for count in queries)
    lines = []
    for kind in ("errors", "power"):
        lines += ["", f"### {kind}", "", f"| collection | pair | law | δ | {heads} |", "|---|---|---|---:|" + "---:|" * len(queries)]
        for row in found[kind]:
            lines.append(f"| {row['collection']} | {row['pair']} | {row['law']} | {row['margin']:g} | {_cells(row['shares'].values())} |")
    lines += ["", "### clusters", "", "| collection | queries | copies | respected | ignored |", "|---|---:|---:|---:|---:|"]
    for row in found["clusters"]:
        shares = _cells([row["clusters respected"], row["clusters ignored"]])
        lines.append(f"| {row['collection']} | {row['queries']} | {row['copies']} | {shares} |")
    lines += ["", "### together", "", f"| what | {heads} |", "|---|" + "---:|" * len(queries)]
    for what in dict.fromkeys(row["what"] for row in found["together"]):
        lines.append(f"| {what} | {_cells([row['share'] for row in found['together'] if row['what'] == what])} |")
    return "\n".join([f"At most {100 * found['most']:.2f}% agree with the level.", *lines]) + "\n"


def _cells(shares: Sequence[float] | Any) -> str:
    return " | ".join(f"{100 * share:.1f}" for share in shares)
