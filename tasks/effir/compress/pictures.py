"""Two pictures: how much each sub-layer matters, and how wide each layer is left."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from effir.compress.scores import Importance

AXES = {
    "cosine": "1 − cos(x, x + F(x))",
    "l2": "‖F(x)‖ / ‖x‖",
    "attended": "1 − cos(x, x + F(x)), by attention",
    "taylor": "|Σ ∂loss/∂F(x) · F(x)|",
    "leave_one_out": "rise of InfoNCE without it",
    "in_turn": "rise of InfoNCE when its turn comes",
    "learned_mask": "expected share of the weights",
    "depth": "1 − layer / layers",
    "random": "dice",
}
BLUE, ORANGE, GREY = "#2563eb", "#d97706", "#cbd5e1"


def layer_scores(found: Importance, measure: str, path: Path) -> None:
    """Importance of attention and MLP per layer with standard errors, as PNG."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    layers = np.arange(len(found.mean["mlp"]))
    for kind, colour in (("attention", ORANGE), ("mlp", BLUE)):
        axes.errorbar(layers, found.mean[kind], yerr=found.error[kind], color=colour, marker="o", markersize=3, linewidth=1, label=kind)
    positive = min(found.mean["attention"].min(), found.mean["mlp"].min()) > 0
    over = f" over {found.tokens:,} tokens" if found.tokens else ""
    axes.set(xlabel="layer", ylabel=AXES[measure], yscale="log" if positive else "linear", title=f"Importance by {measure}{over}")
    axes.legend(frameon=False)
    _save(figure, path)


def layer_widths(full: list[int], left: list[int], dropped_attention: list[int], path: Path) -> None:
    """MLP width per layer before and after, dropped attention marked, as PNG."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    layers = np.arange(len(full))
    axes.bar(layers, full, color=GREY, label="MLP before")
    axes.bar(layers, left, color=BLUE, label="MLP after")
    if dropped_attention:
        axes.plot(dropped_attention, [max(full) * 1.04] * len(dropped_attention), "x", color=ORANGE, label="attention dropped")
    axes.set(xlabel="layer", ylabel="neurons", title="What is left of each layer")
    axes.legend(frameon=False, loc="lower left")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(path)
