"""What a person reads at the end of a run."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

METRICS = {"ndcg_at_10": "nDCG@10", "recall_at_100": "Recall@100"}


def show(summary: dict[str, Any], overview: dict[str, Any], links: dict[str, str], console: Console | None = None) -> None:
    """Print the scores of every model, the comparison, the verdict with its reasons, and where to look. Scores times 100."""
    console = console or Console()
    console.print(_scores(overview))
    console.print(_comparison(summary["quality"]))
    console.print(_sizes(summary))
    console.print(f"\n[bold]{summary['verdict']}[/bold]  {summary['model']['name']} version {summary['model']['version']}", highlight=False)
    for reason in summary["reasons"]:
        console.print(f"  · {reason}", highlight=False, markup=False)
    console.print()
    for label, address in links.items():
        console.print(f"{label:<14}{address}", highlight=False, markup=False, soft_wrap=True)


def frontier(outcome: dict[str, Any], console: Console | None = None) -> None:
    """Print what a frontier found: scores times 100, differences from the reference, measured speed-ups, contrasts, orders."""
    rows = outcome["rows"]
    table = Table(title="Quality (nDCG@10 times 100) against speed; * no other arm is better and faster", title_justify="left", box=None)
    for column in ("arm", *rows[0]["quality"], "mean", "difference", "95% interval", "query", "document", "95% interval", "M params"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for row in rows:
        document = row["speedup"].get("document")
        table.add_row(
            row["arm"] + (" *" if row["best"] else ""),
            *(f"{100 * value:.1f}" for value in (*row["quality"].values(), row["mean"])),
            "–" if row["difference"] is None else f"{100 * row['difference']:+.1f}",
            "–" if not row["interval"] else "{:+.1f} to {:+.1f}".format(*(100 * end for end in row["interval"])),
            f"{row['speedup']['query'][0]:.2f}×" if document else "–",
            f"{document[0]:.2f}×" if document else "–",
            f"{document[1]:.2f} to {document[2]:.2f}" if document else "–",
            f"{row['parameters'] / 1e6:.1f}" if row["parameters"] else "–",
        )
    console = console or Console()
    console.print(table)
    for one in outcome["contrasts"]:
        low, high = (100 * end for end in one["interval"] or (0, 0))
        told = one["problem"] or f"{100 * one['difference']:+.1f} ({low:+.1f} to {high:+.1f}), p = {one['p']:.2g}"
        console.print(f"{one['after']} against {one['before']}: {told}", highlight=False, markup=False)
    for one in outcome["orders"]:
        alike = ", ".join(f"{name} {one[kind]:.2f}" for kind, name in (("attention", "attention"), ("mlp", "MLP")) if one[kind] is not None)
        told = f"{alike}; of {one['few']} MLPs {one['same']} are the same"
        console.print(f"order by {one['second']} beside {one['first']}: {told}", highlight=False, markup=False)


def comparison(found: dict[str, Any], console: Console | None = None) -> None:
    """Print two runs side by side: what judge.comparison found."""
    console, runs = console or Console(), found["runs"]
    about = Table(title="Two runs", title_justify="left", box=None, header_style="bold")
    for column in ("", "first", "second"):
        about.add_column(column, overflow="fold")
    about.add_row("run", *(run["dag_run_id"] for run in runs))
    about.add_row("base model", *(escape(str(run["base_model"])) for run in runs))
    about.add_row("verdict", *(f"{run['verdict']}, {run['model']['name']} version {run['model']['version']}" for run in runs))
    about.add_row("parameters", *(f"{run['params']['candidate']:,}" for run in runs))
    for kind in ("query", "document"):
        told = ["{:.2f}× ({:.2f} to {:.2f})".format(run["speedup"][kind], *run["speedup"][f"{kind}_interval"]) for run in runs]
        about.add_row(f"{kind} speed-up", *told)
    for name, values in found["settings"].items():
        about.add_row(name, *(escape(str(value)) for value in values))
    console.print(about)
    quality = Table(title="\nnDCG@10 (times 100), second minus first", title_justify="left", box=None, header_style="bold")
    for column in ("collection", "first", "second", "difference", "95% interval", "p"):
        quality.add_column(column, justify="left" if column == "collection" else "right")
    for name, one in found["collections"].items():
        means = ["–" if one[label] is None else f"{100 * one[label]:.1f}" for label in ("first", "second")]
        quality.add_row(name, *means, *([escape(one["problem"])] if "problem" in one else [*_difference(one), f"{one['p']:.2g}"]))
    if found["mean"]:
        quality.add_row(f"mean of {found['mean']['collections']}", "", "", *_difference(found["mean"]), "")
    console.print(quality)
    console.print(found["method"], style="dim", highlight=False, markup=False)


def _difference(one: dict[str, Any]) -> list[str]:
    return [f"{100 * one['difference']:+.2f}", "{:+.2f} to {:+.2f}".format(*(100 * end for end in one["interval"]))]


def _scores(overview: dict[str, Any]) -> Table:
    table = Table(title="Quality (times 100)", title_justify="left", box=None, header_style="bold")
    table.add_column("model")
    for name in overview["collections"]:
        for label in METRICS.values():
            table.add_column(f"{name}\n{label}", justify="right")
    for model in overview["models"]:
        row = [overview["collections"][name].get(model, {}).get(metric) for name in overview["collections"] for metric in METRICS]
        table.add_row(model, *("–" if value is None else f"{100 * value:.1f}" for value in row))
    return table


def _comparison(quality: dict[str, Any]) -> Table:
    table = Table(title="\nCandidate against reference, nDCG@10 (times 100)", title_justify="left", box=None, header_style="bold")
    for column in ("collection", "reference", "candidate", "difference", "95% interval"):
        table.add_column(column, justify="left" if column == "collection" else "right")
    for name, found in quality.items():
        low, high = found["interval"]
        table.add_row(
            name, f"{100 * found['reference']:.1f}", f"{100 * found['candidate']:.1f}", f"{100 * found['difference']:+.2f}",
            f"{100 * low:+.2f} to {100 * high:+.2f}",
        )  # fmt: skip
    return table


def _sizes(summary: dict[str, Any]) -> Table:
    params, speed = summary["params"], summary["speedup"]
    table = Table(title="\nSize and speed", title_justify="left", box=None, show_header=False)
    table.add_column()
    table.add_column()
    for label, key in (("parameters", ""), ("without embeddings", "_non_embedding")):
        before, after = params[f"reference{key}"], params[f"candidate{key}"]
        table.add_row(label, f"{before:,} → {after:,} ({100 * (after / before - 1):+.1f}%)")
    for kind in ("query", "document"):
        low, high = speed[f"{kind}_interval"]
        table.add_row(f"{kind} speed-up", f"{speed[kind]:.2f}× (95% interval {low:.2f} to {high:.2f})")
    return table
