"""Importance measures of sub-layers: several answers to one question, what is lost when a sub-layer goes.

A measure is a function (model, data, progress) → Importance. What its data is, `effir.compress.needs.IMPORTANCE` says: token
batches [(ids (n, t), mask (n, t)), …], contrastive batches, or nothing but a seed. The higher, the more important; the lowest
goes first. Costs count passes over all of the data; L is the number of layers. The model is to be in eval mode, and frozen
(`requires_grad_(False)`), lest its weights gather gradients.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.optimize import isotonic_regression

from effir.compress import importance, mask, surgery
from effir.compress.anatomy import anatomy_of, layers_of, sub_layers
from effir.compress.cut import Cut
from effir.compress.importance import tensor_of
from effir.compress.mask import SubLayer
from effir.compress.needs import LOOKS
from effir.compress.scores import KINDS, Importance
from effir.train.attention import written_out
from effir.train.contrastive import Contrastive
from effir.train.plan import token_count

Batches = Sequence[tuple[torch.Tensor, torch.Tensor]]
Progress = Callable[[int, int], None]
Scores = dict[str, list[np.ndarray]]
SUB_LAYERS = ("attention", "mlp")


def cosine(model: Any, batches: Batches, progress: Progress) -> Importance:
    """1 − cos(x, x + F(x)), mean over tokens: how much a sub-layer turns the residual stream.

    Source: Lei et al. 2026, Eq. 3; of whole blocks, Men et al. 2024 (ShortGPT). Cost: 1 forward pass.
    """
    return importance.measure(model, batches, lambda done: progress(done, len(batches)))


def l2(model: Any, batches: Batches, progress: Progress) -> Importance:
    """‖F(x)‖₂ / ‖x‖₂, mean over tokens: how far a sub-layer moves the residual stream, in lengths of that stream.

    Source: Lei et al. 2026 name it beside the cosine, without figures. Cost: 1 forward pass.
    """
    return importance.measure(model, batches, lambda done: progress(done, len(batches)), importance.relative_change)


def attended(model: Any, batches: Batches, progress: Progress) -> Importance:
    """1 − cos(x, x + F(x)), each token weighted by the attention that it receives: mean over layers, heads and the tokens that look.

    What a sub-layer does to a token that none looks at hardly counts; what it does to the first one, a sink of attention, counts most.
    Source: Eq. 3 with weights of our own; sinks: Xiao et al. 2024 (StreamingLLM). Cost: 1 forward pass, attention written out.
    """
    with written_out(model):
        return importance.measure(model, batches, lambda done: progress(done, len(batches)), attended=True)


def taylor(model: Any, pairs: Contrastive, progress: Progress) -> Importance:
    """|Σ ∂loss/∂F(x) · F(x)| over all elements of a batch, mean over batches; the loss is InfoNCE.

    To first order, how much the loss changes when the sub-layer is removed: the derivative by a gate on F that stands at 1.
    Source: Molchanov et al. 2017; gates on attention heads: Michel et al. 2019. Cost: 1 forward and 1 backward pass (2 forward
    where the micro-batch is smaller than the batch).
    """
    found: Scores = {kind: [] for kind in KINDS}
    for step in range(len(pairs.plan)):
        with first_order(model) as change:
            pairs.step_loss(step)
        for kind in KINDS:
            found[kind].append(np.abs(change[kind]))
        progress(step + 1, len(pairs.plan))
    return _over_batches(found, pairs)


def leave_one_out(model: Any, pairs: Contrastive, progress: Progress) -> Importance:
    """Loss without the sub-layer − loss of the whole model, mean over batches; InfoNCE. Below 0: better without it.

    Source: ablation one at a time, as of attention heads in Michel et al. 2019 and of blocks by perplexity in Kim et al. 2024
    (Shortened LLaMA). Cost: 3L + 1 forward passes: every attention, MLP and block, and the whole model.
    """
    layers = len(layers_of(model))
    steps = range(len(pairs.plan))
    total = (len(KINDS) * layers + 1) * len(steps)

    def losses(gone: Sequence[SubLayer], before: int) -> np.ndarray:
        found = []
        with without(model, gone):
            for step in steps:
                found.append(pairs.evaluate(step)["info_nce"])
                progress(before * len(steps) + step + 1, total)
        return np.array(found)

    whole = losses([], 0)
    found: Scores = {}
    for place, kind in enumerate(KINDS):
        parts = SUB_LAYERS if kind == "block" else (kind,)
        rises = [losses([(part, layer) for part in parts], place * layers + 1 + layer) - whole for layer in range(layers)]
        found[kind] = list(np.stack(rises, axis=1))
    return _over_batches(found, pairs)


def in_turn(model: Any, pairs: Contrastive, progress: Progress) -> Importance:
    """Rise of InfoNCE when a sub-layer goes after all those that are worth less for each of their weights; a block: both of its own.

    Greedy: turn by turn the sub-layer goes that costs the least loss per weight, given what has gone before, so that two that stand in
    for each other are not both called useless. Only the LOOKS that seemed cheapest before are looked at in a turn, since what a removal
    costs grows as others go (lazily, Minoux 1978). Scores per weight rise from turn to turn (`rising`), so a budget follows the order.
    Cost: 2L + 1 forward passes, and at most LOOKS more for each of 2L − 1 turns.
    """
    steps, weights = range(len(pairs.plan)), _sizes(model)
    most, passes = (1 + len(weights) + LOOKS * (len(weights) - 1)) * len(steps), 0

    def loss(gone: Sequence[SubLayer]) -> float:
        nonlocal passes
        with without(model, gone):
            found = [pairs.evaluate(step)["info_nce"] for step in steps]
        passes += len(steps)
        progress(passes, most)
        return float(np.mean(found))

    gone: list[SubLayer] = []
    prices: list[float] = []
    at, mean = [loss([])], {kind: np.zeros(len(layers_of(model))) for kind in KINDS}

    def price(one: SubLayer) -> float:
        return (loss([*gone, one]) - at[-1]) / weights[one]

    seemed = {one: price(one) for one in weights}
    while seemed:
        chosen, found = _cheapest(seemed, price) if gone else _least(seemed)
        at.append(at[-1] + found * weights[chosen])
        gone.append(chosen)
        prices.append(found)
        del seemed[chosen]
    for one, worth in zip(gone, rising(prices, [weights[one] for one in gone]), strict=True):
        mean[one[0]][one[1]] = worth * weights[one]
    mean["block"] = mean["attention"] + mean["mlp"]
    return Importance(mean, {kind: np.zeros_like(one) for kind, one in mean.items()}, token_count(pairs.texts, pairs.plan), len(steps))


def learned_mask(model: Any, pairs: Contrastive, progress: Progress) -> Importance:
    """Share of the weights, times the probability that the sub-layer's gate is open after training; a block: both of its own.

    A gate on what each sub-layer adds learns by InfoNCE, the weights frozen, while half of the weights are pressed shut; one update a
    batch, so it wants 50 batches and more. Source: Sheared-LLaMA (Xia et al. 2024), of its masks those of whole sub-layers; see
    `effir.compress.mask`. Cost: 1 forward and 1 backward pass (2 forward where the micro-batch is smaller than the batch).
    """
    gates, steps = mask.Gates(_sizes(model), pairs.encoder.device), len(pairs.plan)
    with mask.gated(model, gates), gradients(model):
        for step in range(steps):
            gates.draw()
            pairs.step_loss(step)
            gates.press(mask.target(step, steps))
            progress(step + 1, steps)
    mean = {kind: np.zeros(len(layers_of(model))) for kind in KINDS}
    for (kind, index), worth in gates.worth().items():
        mean[kind][index] = worth
    mean["block"] = mean["attention"] + mean["mlp"]
    return Importance(mean, {kind: np.zeros_like(one) for kind, one in mean.items()}, token_count(pairs.texts, pairs.plan), steps)


def depth(model: Any, seed: int, progress: Progress) -> Importance:
    """1 − l / L for layer l from 0: the later, the less important. No data, no standard error.

    Source: cutting the last layers, as L3Prune (2024) and Gromov et al. 2024 do. Cost: none.
    """
    layers = len(layers_of(model))
    return _prior({kind: 1 - np.arange(layers) / layers for kind in KINDS})


def at_random(model: Any, seed: int, progress: Progress) -> Importance:
    """Uniform in [0, 1), seeded: what any measure must beat. Cost: none."""
    dice = np.random.default_rng(seed)
    return _prior({kind: dice.random(len(layers_of(model))) for kind in KINDS})


MEASURES: dict[str, Callable[[Any, Any, Progress], Importance]] = {
    "cosine": cosine,
    "l2": l2,
    "attended": attended,
    "taylor": taylor,
    "leave_one_out": leave_one_out,
    "in_turn": in_turn,
    "learned_mask": learned_mask,
    "depth": depth,
    "random": at_random,
}


def rising(prices: Sequence[float], weights: Sequence[int]) -> np.ndarray:
    """Losses per weight, turn by turn, made to rise: the isotonic regression, whose steps slope as much as the prices in them scatter.

    A loss is as uncertain whatever goes, so a price counts by the square of its weights. The slope (a standard deviation to either side,
    and no further than a third of the way to the next step) keeps the order of the turns in a step, which would be worth the same.
    """
    given, squares = np.asarray(prices, dtype=np.float64), np.square(np.asarray(weights, dtype=np.float64))
    found = isotonic_regression(given, weights=squares)
    steps = [slice(start, end) for start, end in itertools.pairwise(found.blocks)]
    level = np.array([found.x[step][0] for step in steps])
    apart = np.concatenate([[np.inf], np.diff(level) / 3, [np.inf]])
    for step, before, after in zip(steps, apart[:-1], apart[1:], strict=True):
        scatter = np.sqrt(np.average((given[step] - found.x[step]) ** 2, weights=squares[step]))
        if (count := step.stop - step.start) > 1:
            found.x[step] += min(scatter, before, after) * np.linspace(-1, 1, count)
    return found.x


def _sizes(model: Any) -> dict[SubLayer, int]:
    """How many weights each sub-layer has."""
    anatomy = anatomy_of(model)
    return {
        (kind, index): sum(one.numel() for one in getattr(layer, getattr(anatomy, kind)).parameters()) or 1
        for index, layer in enumerate(layers_of(model))
        for kind in SUB_LAYERS
    }


def _least(seemed: dict[SubLayer, float]) -> tuple[SubLayer, float]:
    return min(seemed.items(), key=lambda item: (item[1], item[0]))


def _cheapest(seemed: dict[SubLayer, float], look: Callable[[SubLayer], float]) -> tuple[SubLayer, float]:
    """The sub-layer that costs the least now, of the LOOKS that seemed to before; what they cost is noted in `seemed`."""
    looked: dict[SubLayer, float] = {}
    while len(looked) < min(LOOKS, len(seemed)):
        one, _ = _least({key: value for key, value in seemed.items() if key not in looked})
        looked[one] = seemed[one] = look(one)
        others = [value for key, value in seemed.items() if key not in looked]
        if not others or min(looked.values()) <= min(others):
            break
    return _least(looked)


@contextmanager
def without(model: Any, gone: Sequence[SubLayer]) -> Iterator[None]:
    """Within this context these sub-layers are dropped as `surgery.drop` does it: they add nothing and cost nothing."""
    anatomy, layers = anatomy_of(model), layers_of(model)
    kept = []
    for kind, index in gone:
        names = (getattr(anatomy, kind), *getattr(anatomy, f"{kind}_norms"))
        kept.append((layers[index], {name: getattr(layers[index], name) for name in names}))
    attention, mlp = ([index for kind, index in gone if kind == wanted] for wanted in SUB_LAYERS)
    surgery.drop(model, Cut(len(layers), attention, mlp))
    try:
        yield
    finally:
        for layer, parts in kept:
            for name, part in parts.items():
                setattr(layer, name, part)


@contextmanager
def gradients(model: Any) -> Iterator[None]:
    """Within this context hidden states carry gradients, although the weights are frozen."""
    hook = model.get_input_embeddings().register_forward_hook(lambda _module, _args, output: output.requires_grad_())
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def first_order(model: Any) -> Iterator[dict[str, np.ndarray]]:
    """Gathers Σ ∂loss/∂F(x) · F(x) of every sub-layer and block while a loss is computed and sent back: kind → (layers,), float64.

    A block's F(x) is all that it adds to x. Passes without gradients are passed over, so gradient caching counts once.
    """
    layers = layers_of(model)
    change = {kind: np.zeros(len(layers)) for kind in KINDS}

    def follow(kind: str, index: int, states: torch.Tensor, before: torch.Tensor | None = None) -> None:
        if states.requires_grad:
            added = states.detach().float() - (0 if before is None else before.detach().float())

            def add(gradient: torch.Tensor) -> None:
                change[kind][index] += (gradient.float() * added).sum(dtype=torch.float64).item()

            states.register_hook(add)

    def block(index: int) -> Callable[..., None]:
        return lambda _module, args, kwargs, output: follow("block", index, tensor_of(output), args[0] if args else kwargs["hidden_states"])

    def sub_layer(kind: str, index: int) -> Callable[..., None]:
        return lambda _module, _args, output: follow(kind, index, tensor_of(output))

    hooks = [layer.register_forward_hook(block(index), with_kwargs=True) for index, layer in enumerate(layers)]
    for index, layer in enumerate(sub_layers(model)):
        hooks += [module.register_forward_hook(sub_layer(kind, index)) for kind, module in layer.items()]
    try:
        with gradients(model):
            yield change
    finally:
        for hook in hooks:
            hook.remove()


def _over_batches(found: Scores, pairs: Contrastive) -> Importance:
    """Mean and its standard error over batches, each of which gave (layers,) per kind."""
    count = len(pairs.plan)
    mean = {kind: np.mean(rows, axis=0) for kind, rows in found.items()}
    error = {
        kind: np.std(rows, axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.zeros_like(mean[kind]) for kind, rows in found.items()
    }
    return Importance(mean, error, token_count(pairs.texts, pairs.plan), count)


def _prior(scores: dict[str, np.ndarray]) -> Importance:
    return Importance(scores, {kind: np.zeros_like(one) for kind, one in scores.items()}, 0, 0)
