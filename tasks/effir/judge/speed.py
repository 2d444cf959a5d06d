"""How much faster one model is than another: measured by turns in one process, and what arithmetic alone would allow."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from effir.compress.shapes import Layer, Shape, flops

__all__ = ["Layer", "Shape", "flops", "interleaved", "ratio_of_medians", "shape_of", "spread_over_lengths", "summary"]


def shape_of(model: Any) -> Shape:
    """Shape of a loaded backbone, cut or not. Raises BadInput for an architecture that is not supported."""
    from effir.compress.anatomy import anatomy_of, layers_of, widths

    anatomy = anatomy_of(model)
    both = zip(layers_of(model), widths(model), strict=True)
    layers = tuple(Layer(*anatomy.attention_widths(layer), neurons) for layer, neurons in both)
    return Shape(model.config.hidden_size, layers, anatomy.causal)


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


def spread_over_lengths(lengths: Sequence[int], count: int) -> list[int]:
    """Places of `count` of the texts, evenly over their lengths, so that few stand for all.

    >>> spread_over_lengths([5, 1, 4, 2, 3], 2)
    [3, 2]
    """
    ordered = sorted(range(len(lengths)), key=lengths.__getitem__)
    if count >= len(ordered):
        return ordered
    return [ordered[int((place + 0.5) * len(ordered) / count)] for place in range(count)]


def _timed(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    began = clock()
    run()
    return clock() - began
