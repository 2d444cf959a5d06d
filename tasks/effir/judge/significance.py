"""How sure a difference between two models is: paired over queries, with queries of one cluster kept together.

Bootstrap: clusters are drawn with replacement, as many as there are, and the mean difference over the queries so drawn is
taken (a ratio of sums, since clusters differ in size). Bounds are BCa (Efron 1987; Davison and Hinkley 1997, section 5.3.2):
percentiles of the draws, moved for bias and skewness.
Randomisation (Smucker, Allan and Carterette 2007): under the null hypothesis the two models' scores may be exchanged, for
all queries of a cluster at once; all exchanges are enumerated where there are few enough.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np

CHUNK = 1 << 22
NORMAL = NormalDist()


@dataclass(frozen=True)
class Bootstrap:
    """A mean difference and how it varies.

    estimate:  candidate minus reference, mean over queries (or over collections)
    draws:     its value in every resample, sorted, shape (resamples,)
    influence: what each cluster contributes to the estimate's error, shape (clusters,), sums to 0 within a collection
    n:         number of queries
    """

    estimate: float
    draws: np.ndarray
    influence: np.ndarray
    n: int

    @property
    def clusters(self) -> int:
        """Number of clusters resampled."""
        return len(self.influence)

    def lower(self, confidence: float) -> float:
        """One-sided lower bound: the true difference lies above it with this confidence."""
        return self._quantile(1 - confidence)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided interval."""
        return self._quantile((1 - confidence) / 2), self._quantile((1 + confidence) / 2)

    def _quantile(self, probability: float) -> float:
        """BCa quantile: the percentile at Phi(z0 + (z0 + z) / (1 - a (z0 + z)))."""
        tolerance = 1e-12 * (1 + abs(self.estimate))
        below = np.searchsorted(self.draws, self.estimate - tolerance) + np.searchsorted(self.draws, self.estimate + tolerance, "right")
        resamples = len(self.draws)
        bias = NORMAL.inv_cdf(float(np.clip(below / 2 / resamples, 0.5 / resamples, 1 - 0.5 / resamples)))
        spread = float((self.influence**2).sum())
        skew = float((self.influence**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
        moved = bias + NORMAL.inv_cdf(probability)
        if skew * moved >= 1:
            return float(self.draws[-1])
        return float(np.quantile(self.draws, NORMAL.cdf(bias + moved / (1 - skew * moved))))


def paired_bootstrap(
    reference: Sequence[float] | np.ndarray,
    candidate: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int | Sequence[int] = 0,
) -> Bootstrap:
    """Bootstrap of mean(candidate - reference) over queries, clusters resampled as wholes.

    reference, candidate: per-query scores in one order, shape (n,); clusters: a label a query (None: each its own).
    Raises ValueError for no query, unequal lengths or a score that is not finite.
    """
    sums, counts = _by_cluster(reference, candidate, clusters)
    rng = np.random.default_rng(seed)
    groups = len(sums)
    equal = bool((counts == counts[0]).all())
    draws = np.empty(resamples)
    for start, stop in _chunks(resamples, groups):
        drawn = rng.integers(0, groups, (stop - start, groups))
        total = counts[0] * groups if equal else counts[drawn].sum(axis=1)
        draws[start:stop] = sums[drawn].sum(axis=1) / total
    estimate = sums.sum() / counts.sum()
    return Bootstrap(float(estimate), np.sort(draws), (sums - estimate * counts) / counts.sum(), int(counts.sum()))


def mean_over_collections(samples: Sequence[Bootstrap], seed: int | Sequence[int] = 0) -> Bootstrap:
    """The unweighted mean of several collections' differences, each resampled independently of the others.

    All must have as many draws. The sorted draws are shuffled again, each collection's on its own, before they are averaged.
    """
    rng = np.random.default_rng(seed)
    draws = np.mean([rng.permutation(sample.draws) for sample in samples], axis=0)
    influence = np.concatenate([sample.influence for sample in samples]) / len(samples)
    estimate = float(np.mean([sample.estimate for sample in samples]))
    return Bootstrap(estimate, np.sort(draws), influence, sum(sample.n for sample in samples))


def paired_randomisation(
    reference: Sequence[float] | np.ndarray,
    candidate: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int | Sequence[int] = 0,
) -> float:
    """One-sided p-value of "the candidate is not better than the reference", by exchanging scores cluster by cluster.

    Exact where there are at most `resamples` ways to exchange; otherwise (1 + hits) / (1 + resamples).
    Raises ValueError as `paired_bootstrap` does.
    """
    sums, _ = _by_cluster(reference, candidate, clusters)
    observed = sums.sum() - 1e-12 * (1 + np.abs(sums).sum())
    groups = len(sums)
    if 2**groups <= resamples:
        exchanged = (np.arange(2**groups)[:, None] >> np.arange(groups)) & 1
        return float(((1 - 2 * exchanged) @ sums >= observed).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for start, stop in _chunks(resamples, groups):
        exchanged = rng.integers(0, 2, (stop - start, groups), dtype=np.int8)
        hits += int((sums.sum() - 2 * (exchanged @ sums) >= observed).sum())
    return (1 + hits) / (1 + resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): reject where the adjusted value is at most the level.

    >>> [round(p, 6) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return [float(value) for value in adjusted]


def _by_cluster(
    reference: Sequence[float] | np.ndarray, candidate: Sequence[float] | np.ndarray, clusters: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of differences and number of queries of every cluster, in order of first appearance."""
    difference = np.asarray(candidate, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    if difference.ndim != 1 or not len(difference) or len(reference) != len(candidate):
        raise ValueError("paired scores must be two equally long, non-empty lists")
    if not np.isfinite(difference).all():
        raise ValueError("a score is not finite")
    if clusters is None:
        return difference, np.ones(len(difference))
    if len(clusters) != len(difference):
        raise ValueError("every query needs a cluster")
    place = {label: index for index, label in enumerate(dict.fromkeys(clusters))}
    labels = np.fromiter((place[label] for label in clusters), dtype=np.int64, count=len(difference))
    return np.bincount(labels, weights=difference), np.bincount(labels).astype(np.float64)


def _chunks(rows: int, columns: int) -> list[tuple[int, int]]:
    """Row ranges of at most CHUNK elements."""
    edges = [*range(0, rows, max(1, CHUNK // columns)), rows]
    return list(pairwise(edges))
