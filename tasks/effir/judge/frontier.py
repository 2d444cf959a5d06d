"""Many models side by side: quality against measured speed, each with its interval, and which of them no other one beats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from effir.judge.quality import Limits, Scores, compare, p_of_mean
from effir.judge.significance import Bootstrap, mean_over_collections

KINDS = ("query", "document")


@dataclass(frozen=True)
class Entry:
    """One assessed model: an arm with one seed, or a landmark (reference: which reference it is compared with, or is, as a landmark).

    scores: collection → per-query nDCG@10; speed: what speed.json holds, None where it was not timed;
    cosine: mean cosine between two queries, -1 to 1, mean over the collections; the higher, the less isotropic (appendix A.6);
    sibling: whether it is another base model, of which nothing is cut.
    """

    arm: str
    scores: Mapping[str, Scores]
    seed: int | None = None
    reference: int | None = None
    landmark: bool = False
    speed: Mapping[str, Any] | None = None
    parameters: int | None = None
    parameters_non_embedding: int | None = None
    cosine: float | None = None
    sibling: bool = False

    @property
    def is_reference(self) -> bool:
        """Whether arms are compared with it."""
        return self.landmark and self.reference is not None


@dataclass(frozen=True)
class Row:
    """An arm over its seeds. Scores 0 to 1; quality: collection → mean nDCG@10; spread: standard deviation of the mean over seeds.

    difference and interval: mean over the collections, arm minus reference, paired bootstrap over queries (seeds averaged a query);
    speedup: kind → (ratio, low, high), the geometric mean over seeds and the widest of their intervals; bound: of the FLOPs;
    cosine: between two queries, mean over seeds.
    """

    arm: str
    seeds: tuple[int, ...]
    landmark: bool
    quality: Mapping[str, float]
    mean: float
    spread: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    speedup: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    bound: Mapping[str, float] = field(default_factory=dict)
    parameters: int | None = None
    parameters_non_embedding: int | None = None
    cosine: float | None = None
    sibling: bool = False
    best: bool = False


def rows(entries: Sequence[Entry], limits: Limits) -> list[Row]:
    """A row for each arm in the order given; `best` marks what no other timed model beats in both quality and document speed."""
    references = {entry.reference: entry for entry in entries if entry.is_reference}
    grouped: dict[str, list[Entry]] = {}
    for entry in entries:
        grouped.setdefault(entry.arm, []).append(entry)
    found = [_row(group, references, limits) for group in grouped.values()]
    return [replace(row, best=not any(_beats(other, row) for other in found) and bool(row.speedup)) for row in found]


@dataclass(frozen=True)
class Contrast:
    """Arm `after` minus arm `before` on the mean over the collections, over the seeds that both have; or why there is none.

    interval: 95%, paired bootstrap over queries; p: two-sided, paired randomisation.
    """

    before: str
    after: str
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    problem: str | None = None


def contrasts(entries: Sequence[Entry], pairs: Sequence[tuple[str, str]], limits: Limits) -> list[Contrast]:
    """Every pair compared."""
    return [_contrast(entries, before, after, limits) for before, after in pairs]


def _contrast(entries: Sequence[Entry], before: str, after: str, limits: Limits) -> Contrast:
    pair = [[entry for entry in entries if entry.arm == name] for name in (before, after)]
    seeds = {entry.seed for entry in pair[0]} & {entry.seed for entry in pair[1]}
    if not seeds:
        return Contrast(before, after, problem=f"{before} and {after} have no seed in common")
    first, second = (_averaged([entry for entry in group if entry.seed in seeds]) for group in pair)
    sample = _mean_difference(first, second, limits)
    if isinstance(sample, str):
        return Contrast(before, after, problem=sample)
    return Contrast(
        before, after, sample.estimate, sample.interval(), p_of_mean({"before": first, "after": second}, "before", "after", limits)
    )


def _row(group: list[Entry], references: Mapping[int | None, Entry], limits: Limits) -> Row:
    first = group[0]
    table = _averaged(group)
    quality = {name: float(one.values.mean()) for name, one in table.items()}
    means = [float(np.mean([one.values.mean() for one in entry.scores.values()])) for entry in group]
    cosines = [entry.cosine for entry in group if entry.cosine is not None]
    row = Row(
        arm=first.arm,
        seeds=tuple(entry.seed for entry in group if entry.seed is not None),
        landmark=first.landmark,
        quality=quality,
        mean=float(np.mean(list(quality.values()))),
        spread=float(np.std(means, ddof=1)) if len(means) > 1 else None,
        parameters=first.parameters,
        parameters_non_embedding=first.parameters_non_embedding,
        cosine=float(np.mean(cosines)) if cosines else None,
        sibling=first.sibling,
    )
    if first.is_reference:
        return replace(row, speedup=dict.fromkeys(KINDS, (1.0, 1.0, 1.0)), bound=dict.fromkeys(KINDS, 1.0))
    beside = [references[entry.reference] for entry in group if entry.reference in references]
    if beside and len(beside) == len(group):
        sample = _mean_difference(_averaged(beside), table, limits)
        if not isinstance(sample, str):
            row = replace(row, difference=sample.estimate, interval=sample.interval())
    timed = [entry.speed for entry in group if entry.speed]
    if timed:
        row = replace(row, speedup={kind: _speed(timed, kind) for kind in KINDS}, bound={kind: timed[0][kind]["bound"] for kind in KINDS})
    return row


def _averaged(group: Sequence[Entry]) -> dict[str, Scores]:
    """Each query's score averaged over the entries (seeds); only queries and collections that all of them have."""
    found = {}
    for name, first in group[0].scores.items():
        others = [entry.scores[name] for entry in group[1:] if name in entry.scores]
        tables = [dict(zip(one.queries, one.values, strict=True)) for one in (first, *others)]
        kept = [place for place, query in enumerate(first.queries) if all(query in table for table in tables)]
        values = np.array([np.mean([table[first.queries[place]] for table in tables]) for place in kept])
        found[name] = Scores(tuple(first.queries[place] for place in kept), tuple(first.clusters[place] for place in kept), values)
    return found


def _mean_difference(before: Mapping[str, Scores], after: Mapping[str, Scores], limits: Limits) -> Bootstrap | str:
    samples = []
    for name in after:
        sample = compare({"before": before, "after": after}, "before", "after", name, limits)
        if isinstance(sample, str):
            return sample
        samples.append(sample)
    return mean_over_collections(samples, limits.seed)


def _speed(timed: Sequence[Mapping[str, Any]], kind: str) -> tuple[float, float, float]:
    ratio = float(np.exp(np.mean([np.log(one[kind]["ratio"]) for one in timed])))
    return ratio, min(one[kind]["interval"][0] for one in timed), max(one[kind]["interval"][1] for one in timed)


def _beats(other: Row, row: Row) -> bool:
    """At least as good in both, better in one."""
    if other.arm == row.arm or not other.speedup or not row.speedup:
        return False
    pairs = ((other.mean, row.mean), (other.speedup["document"][0], row.speedup["document"][0]))
    return all(one >= two for one, two in pairs) and any(one > two for one, two in pairs)
