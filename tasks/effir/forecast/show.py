"""A forecast as a person reads it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

CLOSE = 0.3
STEPS = ("", "k", "M", "G", "T", "P")


def table(found: Mapping[str, Any]) -> Table:
    """A row for each phase, totals below."""
    hardware, totals = found["hardware"], found["totals"]
    title = f"{found['spec']['base_model']} {found['spec']['variant']} on {hardware['name']}"
    shown = Table(title=title, title_justify="left", box=None, header_style="bold")
    for column in ("phase", "tasks", "tokens", "wall", found["unit"], "computing", "memory", "from S3", "to S3", "stored", "cost"):
        shown.add_column(column, justify="left" if column == "phase" else "right")
    for row in found["phases"]:
        memory = size(row["memory"]) + ("" if row["fits"] else " !") if row["memory"] else ""
        shown.add_row(
            row["phase"], f"{row['tasks']:,}", size(row["tokens"], ""), span(row["wall"]), f"{row['device_hours']:,.2f}",
            f"{row['busy']:.0%}", memory, *(size(row[name]) for name in ("read", "written", "stored")), f"{row['cost']:,.2f}",
        )  # fmt: skip
    shown.add_section()
    shown.add_row(
        "together", f"{totals['tasks']:,}", size(totals["tokens"], ""), span(totals["wall"]), f"{totals['device_hours']:,.2f}", "", "",
        *(size(totals[name]) for name in ("read", "written", "stored")), f"{totals['cost']:,.2f}",
    )  # fmt: skip
    return shown


def remarks(found: Mapping[str, Any]) -> Iterator[str]:
    """The chain that decides the wall time, the cost of keeping the machine, and what does not fit."""
    hardware, totals = found["hardware"], found["totals"]
    walls = {row["phase"]: row["wall"] for row in found["phases"]}
    chain = [f"{name} {span(walls[name])}" for name in dict.fromkeys(found["critical"]) if walls[name] >= 0.02 * totals["wall"]]
    yield f"The wall time is that of: {', '.join(chain)}."
    price = f"{hardware['price']:g} an hour for each of {hardware['devices']}"
    yield f"Keeping the machine from start to end costs {totals['kept']:,.2f}, at {price}."
    if large := [row["phase"] for row in found["phases"] if not row["fits"]]:
        yield (
            f"! {', '.join(large)}: more than fits into {size(hardware['memory'])}; set micro_batch (for training) or batch_tokens "
            "(for encoding) lower."
        )


def comparison(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Predicted beside measured seconds."""
    close = sum(abs(row["ratio"] - 1) <= CLOSE for row in rows)
    total = {name: sum(row[name] for row in rows) for name in ("predicted", "measured")}
    shown = Table(title="Seconds of each phase", title_justify="left", box=None, header_style="bold", caption_justify="left")
    shown.caption = f"{close} of {len(rows)} within {CLOSE:.0%}"
    for column in ("phase", "predicted", "measured", "ratio", ""):
        shown.add_column(column, justify="left" if column == "phase" else "right")
    for row in rows:
        far = "" if abs(row["ratio"] - 1) <= CLOSE else "!"
        shown.add_row(row["name"], f"{row['predicted']:,.1f}", f"{row['measured']:,.1f}", f"{row['ratio']:.2f}", far)
    shown.add_section()
    shown.add_row(
        "together", f"{total['predicted']:,.1f}", f"{total['measured']:,.1f}", f"{total['predicted'] / total['measured']:.2f}", ""
    )
    return shown


def size(amount: float, unit: str = "B") -> str:
    """An amount in steps of a thousand.

    >>> size(201.9e9), size(2964e6, ""), size(0)
    ('202 GB', '2.96 G', '')
    """
    if not amount:
        return ""
    step = 0
    while amount >= 999.5 and step < len(STEPS) - 1:
        amount, step = amount / 1000, step + 1
    return f"{amount:.3g} {STEPS[step]}{unit}".strip()


def span(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> span(7.25), span(600), span(18_700)
    ('7.2 s', '10 min', '5.2 h')
    """
    if seconds < 99.5:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
