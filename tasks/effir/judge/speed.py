"""How much faster one model is than another: measured by turns in one process, and what arithmetic alone would allow."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Layer:
    """Matrix widths of a layer: query and key/value projections (0: attention dropped), MLP neurons (0: MLP dropped)."""

    query: int
    key_value: int
    neurons: int


@dataclass(frozen=True)
class Shape:
    """What decides a backbone's arithmetic."""

    hidden: int
    layers: tuple[Layer, ...]
    causal: bool = True


def shape_of(model: Any) -> Shape:
    """Shape of a loaded backbone, cut or not. Raises BadInput for an architecture that is not supported."""
    from effir.compress.anatomy import anatomy_of, layers_of, widths

    anatomy = anatomy_of(model)
    both = zip(layers_of(model), widths(model), strict=True)
    layers = tuple(Layer(*anatomy.attention_widths(layer), neurons) for layer, neurons in both)
    return Shape(model.config.hidden_size, layers, anatomy.causal)


def flops(shape: Shape, lengths: Sequence[int]) -> int:
    """Matmul operations (2 a multiply-add) to encode texts of these lengths in tokens, without padding and LM head.

    Projections q, k, v, o; scores and weighted sums over the n(n+1)/2 pairs of causal attention, or all n² where it is not causal;
    the three matrices of a gated MLP. Local attention counts as if global: exact for texts within its window, too much beyond.
    """
    tokens = sum(lengths)
    pairs = sum(length * (length + 1) // 2 if shape.causal else length**2 for length in lengths)
    total = 0
    for layer in shape.layers:
        total += 2 * tokens * shape.hidden * (2 * layer.query + 2 * layer.key_value + 3 * layer.neurons)
        total += 2 * 2 * pairs * layer.query
    return total


def interleaved(
    reference: Callable[[], Any],
    candidate: Callable[[], Any],
    seconds: float,
    min_rounds: int = 8,
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[float, float]]:
    """Run both by turns (reference candidate, candidate reference, …) for so many seconds, and at least so many rounds.

    One untimed run of each comes first. Returns (reference seconds, candidate seconds) of every round.
    """
    reference()
    candidate()
    rounds: list[tuple[float, float]] = []
    began = clock()
    while len(rounds) < min_rounds or clock() - began < seconds:
        if len(rounds) % 2:
            second = _timed(candidate, clock)
            rounds.append((_timed(reference, clock), second))
        else:
            first = _timed(reference, clock)
            rounds.append((first, _timed(candidate, clock)))
    return rounds


def ratio_of_medians(
    rounds: Sequence[tuple[float, float]], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """median(reference) / median(candidate) and its percentile bootstrap interval, rounds resampled as pairs."""
    times = np.asarray(rounds, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(times), (resamples, len(times)))
    medians = np.median(times[drawn], axis=1)
    low, high = np.quantile(medians[:, 0] / medians[:, 1], [(1 - confidence) / 2, (1 + confidence) / 2])
    ratio = statistics.median(times[:, 0]) / statistics.median(times[:, 1])
    return float(ratio), (float(low), float(high))


def summary(rounds: Sequence[tuple[float, float]], bound: float, seed: int = 0) -> dict[str, Any]:
    """One entry of speed.json: seconds of every round, the ratio of medians with its 95% interval, and its share of the bound."""
    ratio, interval = ratio_of_medians(rounds, seed=seed)
    return {
        "reference": [first for first, _ in rounds],
        "candidate": [second for _, second in rounds],
        "ratio": ratio,
        "interval": list(interval),
        "bound": bound,
        "of_bound": ratio / bound,
    }


def spread_over_lengths(tokens: Sequence[Sequence[int]], count: int) -> list[Sequence[int]]:
    """`count` of the texts, evenly over their lengths, so that few stand for all.

    >>> spread_over_lengths([[1] * n for n in (5, 1, 4, 2, 3)], 2)
    [[1, 1], [1, 1, 1, 1]]
    """
    ordered = sorted(tokens, key=len)
    if count >= len(ordered):
        return ordered
    return [ordered[int((place + 0.5) * len(ordered) / count)] for place in range(count)]


def _timed(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    began = clock()
    run()
    return clock() - began
