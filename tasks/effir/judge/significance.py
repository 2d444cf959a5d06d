"""How sure a difference between two models is: paired over queries, with queries of one cluster kept together.

Bounds: Bayesian bootstrap (Rubin 1981) with one cluster more than there is, on which the candidate loses everything (for a lower
bound) or gains everything (for an upper one): every cluster's weight is drawn from a flat Dirichlet distribution, and the bound is
a quantile of the weighted mean. For independent queries with scores in 0 to 1 this is Gaffke's bound for the mean of a bounded
variable (2005; Learned-Miller and Thomas 2020), which is Clopper and Pearson's exact one where differences are all or nothing.
It does not trust a sample to have shown the rare total losses that would decide: see docs/gate.md.
Randomisation (Smucker, Allan and Carterette 2007): under the null hypothesis the two models' scores may be exchanged, for
all queries of a cluster at once; all exchanges are enumerated where there are few enough.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 22


@dataclass(frozen=True)
class Bootstrap:
    """A mean difference and how it varies.

    estimate: candidate minus reference, mean over queries (or over collections)
    low:      its value in every resample, with a cluster more in which all is lost, sorted, shape (resamples,)
    high:     the same with a cluster more in which all is gained
    n:        number of queries; clusters: of independent groups of them
    """

    estimate: float
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: int
    clusters: int

    def lower(self, confidence: float) -> float:
        """One-sided lower bound: the true difference lies above it with this confidence."""
        return float(np.quantile(self.low, 1 - confidence))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided interval."""
        return float(np.quantile(self.low, (1 - confidence) / 2)), float(np.quantile(self.high, (1 + confidence) / 2))


def paired_bootstrap(
    reference: Sequence[float] | np.ndarray,
    candidate: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int | Sequence[int] = 0,
) -> Bootstrap:
    """Bootstrap of mean(candidate - reference) over queries, clusters weighted as wholes; the cluster that is added has the mean size.

    reference, candidate: per-query scores from 0 to 1 in one order, shape (n,); clusters: a label a query (None: each its own).
    Raises ValueError for no query, unequal lengths, a score that is not finite, or a difference beyond 1.
    """
    sums, counts = _by_cluster(reference, candidate, clusters)
    if not (np.abs(sums) <= counts).all():
        raise ValueError("two scores differ by more than 1")
    rng = np.random.default_rng(seed)
    columns = np.stack([sums, counts], axis=1).astype(np.float32)
    found = np.empty((2, resamples))
    for start, stop in _chunks(resamples, len(sums) + 1):
        weights = rng.standard_exponential((stop - start, len(sums) + 1), dtype=np.float32)
        total, size = (weights[:, :-1] @ columns).T.astype(np.float64)
        added = weights[:, -1] * counts.mean()
        found[:, start:stop] = np.stack([total - added, total + added]) / (size + added)
    low, high = np.sort(found)
    return Bootstrap(float(sums.sum() / counts.sum()), low, high, int(counts.sum()), len(sums))


def mean_over_collections(samples: Sequence[Bootstrap], seed: int | Sequence[int] = 0) -> Bootstrap:
    """The unweighted mean of several collections' differences, each resampled independently of the others.

    All must have as many draws. The sorted draws are shuffled again, each collection's on its own, before they are averaged.
    """
    rng = np.random.default_rng(seed)
    low, high = (np.sort(np.mean([rng.permutation(getattr(one, end)) for one in samples], axis=0)) for end in ("low", "high"))
    estimate = float(np.mean([sample.estimate for sample in samples]))
    return Bootstrap(estimate, low, high, sum(one.n for one in samples), sum(one.clusters for one in samples))


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
