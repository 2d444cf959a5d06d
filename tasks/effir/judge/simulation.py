"""How often the gate errs: test collections drawn from real per-query scores, with a true difference that is set exactly.

A law is what queries are drawn from: pairs of scores with probabilities, made from two real systems' scores so that the mean
of candidate minus reference is what was asked for. Every draw is put before the rules of `quality` as a run's scores are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from effir.judge.quality import Limits, Scores, complete, not_inferior

STEPS = 200


@dataclass(frozen=True)
class Pairs:
    """Two systems' nDCG@10 on the same queries, 0 to 1, shape (queries,) each."""

    reference: NDArray[np.float64]
    candidate: NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """Where queries are drawn from: score pairs, shape (k,) each, and how likely each is, shape (k,), sum 1."""

    reference: NDArray[np.float64]
    candidate: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def difference(self) -> float:
        """The true mean of candidate minus reference."""
        return float(self.weights @ (self.candidate - self.reference))


@dataclass(frozen=True)
class Rate:
    """How many of the draws passed."""

    passed: int
    draws: int

    @property
    def share(self) -> float:
        """Their share, 0 to 1."""
        return self.passed / self.draws

    def within(self, level: float) -> bool:
        """Whether the share is at most `level` and two standard errors of the simulation."""
        return self.share <= most(level, self.draws)


def most(level: float, draws: int) -> float:
    """The largest share of so many draws that agrees with a true rate of `level`: two standard errors above it."""
    return level + 2 * float(np.sqrt(level * (1 - level) / draws))


def shifted(pairs: Pairs, target: float) -> Law:
    """The candidate's scores moved by one constant and kept within 0 to 1: differences keep their spread, most ties break.

    Raises ValueError if no constant gives this mean difference.
    """
    low, high = -1.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        above = np.clip(pairs.candidate + middle, 0, 1).mean() - pairs.reference.mean() > target
        low, high = (low, middle) if above else (middle, high)
    law = _uniform(pairs.reference, np.clip(pairs.candidate + low, 0, 1))
    return _checked(law, target)


def exchanged(pairs: Pairs, target: float) -> Law:
    """Scores exchanged at random, which makes the mean 0 and keeps ties; then, on a random share of queries, the candidate finds nothing.

    Raises ValueError for a target above 0, or below what losing every query gives.
    """
    first = np.concatenate([pairs.reference, pairs.candidate])
    return _losing(first, np.concatenate([pairs.candidate, pairs.reference]), target)


def broken(pairs: Pairs, target: float) -> Law:
    """The candidate equals the reference, but on a random share of the queries it finds nothing: all ties, and rare total losses.

    Raises ValueError as `exchanged` does.
    """
    return _losing(pairs.reference, pairs.reference, target)


LAWS: Mapping[str, Callable[[Pairs, float], Law]] = {"shifted": shifted, "exchanged": exchanged, "broken": broken}


def pass_rate(
    laws: Mapping[str, Law],
    queries: int,
    limits: Limits,
    draws: int,
    seed: int = 0,
    copies: int = 1,
    told: bool = True,
    rules: Callable[[Mapping[str, Mapping[str, Scores]], Limits], bool] | None = None,
) -> Rate:
    """How many of the draws hold every rule that compares candidate and reference.

    laws: collection → law; queries: how many each has, in clusters of `copies` equal ones, which the gate is `told` of or not.
    limits.seed is another one in every draw, so that one stream of resamples does not decide them all. `rules` takes the place
    of the gate's own (for tests).
    """
    judge = rules or holds
    found = 0
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        table: dict[str, dict[str, Scores]] = {"reference": {}, "candidate": {}}
        for name, law in laws.items():
            for model, scores in zip(table, drawn(law, queries, copies, rng, told), strict=True):
                table[model][name] = scores
        found += judge(table, replace(limits, collections=tuple(laws), seed=draw))
    return Rate(found, draws)


def holds(scores: Mapping[str, Mapping[str, Scores]], limits: Limits) -> bool:
    """Whether the gate's rules on completeness and non-inferiority to the reference all hold."""
    return all(rule.passed for rule in (*complete(scores, limits), *not_inferior("reference", scores, limits)))


def drawn(law: Law, queries: int, copies: int, rng: np.random.Generator, told: bool = True) -> tuple[Scores, Scores]:
    """Reference's and candidate's scores on queries drawn from a law, each drawn one `copies` times and these a cluster."""
    groups = -(-queries // copies)
    picked = np.repeat(rng.choice(len(law.weights), groups, p=law.weights), copies)[:queries]
    names = tuple(f"q{number}" for number in range(queries))
    clusters = tuple(f"c{number // copies}" for number in range(queries)) if told else names
    return Scores(names, clusters, law.reference[picked]), Scores(names, clusters, law.candidate[picked])


def _losing(reference: NDArray[np.float64], candidate: NDArray[np.float64], target: float) -> Law:
    """These pairs, on average equal, mixed with ones in which the candidate has nothing."""
    share = -target / reference.mean() if target else 0.0
    if not 0 <= share <= 1:
        raise ValueError(f"a mean difference of {target} cannot be had by losing queries that score {reference.mean():.3f} on average")
    ones = np.full(len(reference), 1 / len(reference))
    law = Law(
        np.concatenate([reference, reference]),
        np.concatenate([candidate, np.zeros(len(reference))]),
        np.concatenate([(1 - share) * ones, share * ones]),
    )
    return _checked(law, target)


def _uniform(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> Law:
    return Law(reference, candidate, np.full(len(reference), 1 / len(reference)))


def _checked(law: Law, target: float) -> Law:
    if abs(law.difference - target) > 1e-9:
        raise ValueError(f"a mean difference of {target} cannot be had: {law.difference:.4f} is the nearest")
    return law


def by_query(found: Sequence[Mapping[str, float]]) -> Pairs:
    """Two systems' scores by query as pairs, in the order of the first."""
    reference, candidate = found
    return Pairs(np.array([reference[query] for query in reference]), np.array([candidate[query] for query in reference]))
