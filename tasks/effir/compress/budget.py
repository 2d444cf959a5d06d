"""What to cut so that a model meets a target and loses the least: a multiple-choice knapsack, solved exactly by scipy's HiGHS."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from effir.compress import shapes
from effir.compress.costs import CostModel
from effir.compress.cut import Cut
from effir.compress.shapes import Backbone
from effir.errors import BadInput, EffirError

KINDS = ("attention", "mlp", "width")
MOST_OPTIONS = 100_000
NODES = 500
SCALE = 1e3


@dataclass(frozen=True)
class Utility:
    """What each part is worth, higher is worth more: the loss that its removal is expected to cost.

    attention, mlp: shape (layers,), on one scale. neurons: layer → score of each neuron, shape (width,), used within its layer only.
    """

    attention: np.ndarray
    mlp: np.ndarray
    neurons: Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Target:
    """What the cut model must meet: at least this predicted speed-up, at most so many parameters (LM head excluded), or both."""

    speedup: float | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class Choice:
    """A cut that meets the target. widths: neurons left in every layer, (layers,), 0: MLP dropped.

    utility_kept and utility_bound are shares of the whole model's: what stays, and what no choice within the target exceeds.
    flop_bound: ratio of matmul operations at the cost model's lengths.
    """

    cut: Cut
    widths: list[int]
    speedup: float
    parameters: int
    flop_bound: float
    utility_kept: float
    utility_bound: float


class _Option(NamedTuple):
    """One way to leave a layer: with or without its attention, and with an MLP of this width (0: none)."""

    layer: int
    attention: bool
    width: int
    utility: float
    cost: float
    parameters: int


def choose(
    utility: Utility,
    costs: CostModel,
    backbone: Backbone,
    target: Target,
    multiple: int = 64,
    allow: Collection[str] = KINDS,
    gap: float = 2e-4,
) -> Choice:
    """The cut that keeps the most utility within the target.

    For every layer attention is kept or dropped and the MLP has one of the widths 0, multiple, 2·multiple, …, full; an MLP keeps its
    neurons of highest score (ties by index), worth `curve` times its own utility. allow: what may be done, of attention and mlp
    (dropping them) and width (narrowing). At least one sub-layer stays. gap: how far below the best, relatively, the solver may stop; it
    also stops after NODES branches with the best found, whose distance from the best possible is in the result.

    Raises BadInput if the target is out of reach, with the nearest that is within, or the arguments do not fit each other.
    """
    _check(utility, backbone, target, allow)
    options = _options(utility, costs, backbone, multiple, allow)
    solved = _solve(options, [-one.utility for one in options], _limits(target, costs, backbone), gap)
    if solved is None:
        raise _out_of_reach(options, costs, backbone, target, multiple, allow)
    picked, least = solved
    left = _left(backbone, picked)
    whole = float(np.sum(utility.attention) + np.sum(utility.mlp)) or 1.0
    return Choice(
        cut=_cut(utility, backbone, picked),
        widths=[one.width for one in picked],
        speedup=costs.speedup(backbone.shape, left.shape),
        parameters=shapes.count(left)[0],
        flop_bound=shapes.flops(backbone.shape, costs.lengths) / shapes.flops(left.shape, costs.lengths),
        utility_kept=sum(one.utility for one in picked) / whole,
        utility_bound=-least / whole,
    )


def check_reach(
    utility: Utility, costs: CostModel, backbone: Backbone, target: Target, multiple: int = 64, allow: Collection[str] = KINDS
) -> None:
    """Raises BadInput, as `choose` does, if no cut meets the target; quicker, for nothing is made as good as it can be."""
    options = _options(utility, costs, backbone, multiple, allow)
    if _solve(options, [0.0] * len(options), _limits(target, costs, backbone), 1.0) is None:
        raise _out_of_reach(options, costs, backbone, target, multiple, allow)


def curve(scores: np.ndarray) -> np.ndarray:
    """Share of an MLP's utility that its w best neurons keep, for w = 0 … width: shape (width + 1,), from 0 to 1.

    Scores below 0 count as 0; if all do, every neuron counts alike.
    """
    best_first = np.sort(np.maximum(np.asarray(scores, dtype=np.float64), 0))[::-1]
    if not best_first.sum():
        best_first = np.ones(len(best_first))
    return np.concatenate([[0.0], np.cumsum(best_first) / best_first.sum()])


def widths_of(full: int, multiple: int, allow: Collection[str]) -> list[int]:
    """Widths that an MLP of `full` neurons may have, ascending."""
    narrow = list(range(multiple, full, multiple)) if "width" in allow else []
    return sorted({*([0] if "mlp" in allow or not full else []), *narrow, full})


def _check(utility: Utility, backbone: Backbone, target: Target, allow: Collection[str]) -> None:
    layers = backbone.shape.layers
    if target.speedup is None and target.parameters is None:
        raise BadInput("a budget needs a target: a speed-up, a number of parameters, or both")
    if unknown := sorted(set(allow) - set(KINDS)):
        raise BadInput(f"a budget cannot allow {', '.join(unknown)}: choose among {', '.join(KINDS)}")
    if not len(utility.attention) == len(utility.mlp) == len(layers):
        raise BadInput(f"utilities are given for {len(utility.attention)} attentions and {len(utility.mlp)} MLPs of {len(layers)} layers")
    if not (np.isfinite(utility.attention).all() and np.isfinite(utility.mlp).all()):
        raise BadInput("the utility of a sub-layer is not a finite number: measure the importance again")
    for index, layer in enumerate(layers):
        if layer.neurons and len(utility.neurons.get(index, ())) != layer.neurons:
            raise BadInput(f"layer {index} has {layer.neurons} neurons, and scores for {len(utility.neurons.get(index, ()))}")


def _options(utility: Utility, costs: CostModel, backbone: Backbone, multiple: int, allow: Collection[str]) -> list[_Option]:
    """Every way to leave every layer."""
    layers = backbone.shape.layers
    if sum(2 * len(widths_of(layer.neurons, multiple, allow)) for layer in layers) > MOST_OPTIONS:
        raise BadInput(f"widths in steps of {multiple} give over {MOST_OPTIONS:,} choices: take a larger multiple")
    options = []
    for index, layer in enumerate(layers):
        shares = curve(utility.neurons[index]) if layer.neurons else np.zeros(1)
        for attention in {bool(layer.query), bool(layer.query) and "attention" not in allow}:
            for width in widths_of(layer.neurons, multiple, allow):
                worth = float(utility.attention[index] * attention + utility.mlp[index] * shares[width])
                cost = costs.attention * attention + costs.of_mlp(width) + costs.layer * bool(attention or width)
                size = backbone.attention_parameters(layer) * attention + backbone.mlp_parameters(width)
                options.append(_Option(index, attention, width, worth, cost, size))
    return options


def _limits(target: Target, costs: CostModel, backbone: Backbone) -> list[tuple[str, float]]:
    """(field of an option, what it may sum up to) for each part of the target."""
    limits: list[tuple[str, float]] = []
    if target.speedup is not None:
        limits.append(("cost", costs.cost(backbone.shape) / target.speedup - costs.fixed))
    if target.parameters is not None:
        nothing = shapes.cut(backbone, range(len(backbone.shape.layers)), [0] * len(backbone.shape.layers))
        limits.append(("parameters", target.parameters - shapes.count(nothing)[0]))
    return limits


def _solve(
    options: list[_Option], objective: Sequence[float], limits: list[tuple[str, float]], gap: float
) -> tuple[list[_Option], float] | None:
    """The option of each layer whose objectives sum up to the least, and a bound below that sum; None if the limits allow nothing.

    Not all layers may go. Every row is scaled so that the solver's tolerance (1e-6) is small beside a sub-layer.
    """
    layers = np.array([one.layer for one in options])
    one_each = [layers == layer for layer in range(layers.max() + 1)]
    empty = np.array([not (one.attention or one.width) for one in options])
    rows, lower, upper = [*one_each, empty], [1.0] * len(one_each) + [0.0], [1.0] * len(one_each) + [len(one_each) - 1.0]
    for name, limit in limits:
        sizes = np.array([getattr(one, name) for one in options], dtype=np.float64)
        rows.append(SCALE * sizes / (sizes.max() or 1.0))
        lower.append(-math.inf)
        upper.append(SCALE * limit / (sizes.max() or 1.0))
    weights = np.asarray(objective, dtype=np.float64)
    scale = np.abs(weights).max() or 1.0
    found = milp(
        weights / scale,
        integrality=np.ones(len(options)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(csr_array(np.array(rows, dtype=np.float64)), lower, upper),
        options={"mip_rel_gap": gap, "node_limit": NODES},
    )
    if found.x is None and "infeasible" in found.message.lower():
        return None
    if found.x is None:
        raise EffirError(f"the budget's solver ended without a choice: {found.message}")
    return [one for one, chosen in zip(options, found.x > 0.5, strict=True) if chosen], float(found.mip_dual_bound * scale)


def _left(backbone: Backbone, picked: list[_Option]) -> Backbone:
    return shapes.cut(backbone, {one.layer for one in picked if not one.attention}, [one.width for one in picked])


def _cut(utility: Utility, backbone: Backbone, picked: list[_Option]) -> Cut:
    had = backbone.shape.layers
    neurons = {
        one.layer: np.sort(np.argsort(-utility.neurons[one.layer], kind="stable")[: one.width]).astype(np.int64)
        for one in picked
        if 0 < one.width < had[one.layer].neurons
    }
    attention = [one.layer for one in picked if not one.attention]
    return Cut(len(had), attention, [one.layer for one in picked if not one.width], neurons)


def _out_of_reach(
    options: list[_Option], costs: CostModel, backbone: Backbone, target: Target, multiple: int, allow: Collection[str]
) -> BadInput:
    how = f"with {', '.join(one for one in KINDS if one in allow) or 'nothing'} to cut and widths in steps of {multiple}"
    said = []
    if target.speedup is not None:
        fastest = costs.speedup(backbone.shape, _least(options, "cost", backbone).shape)
        if fastest < target.speedup:
            said.append(f"a speed-up of {target.speedup:g} is out of reach: {how} the nearest is {math.floor(100 * fastest) / 100:.2f}")
    if target.parameters is not None:
        smallest, _ = shapes.count(_least(options, "parameters", backbone))
        if smallest > target.parameters:
            said.append(f"{target.parameters:,} parameters are out of reach: {how} the nearest is {smallest:,}")
    return BadInput("; ".join(said) or f"a speed-up of {target.speedup} with {target.parameters} parameters is out of reach: ask for less")


def _least(options: list[_Option], name: str, backbone: Backbone) -> Backbone:
    """The backbone that the cut with the least cost, or the fewest parameters, leaves."""
    picked, _ = _solve(options, [getattr(one, name) for one in options], [], 0.0) or ([], 0.0)
    return _left(backbone, picked)
