"""The queries on which two models differ most."""

from collections.abc import Sequence
from dataclasses import dataclass

from effir.judge.quality import Scores


@dataclass(frozen=True)
class Example:
    """A query, and the nDCG@10 (0 to 1) that the first and the second model have on it."""

    query: str
    before: float
    after: float


def largest(before: Scores, after: Scores, count: int = 5) -> dict[str, list[Example]]:
    """{"wins": …, "losses": …}: of each at most `count` queries, those that gain or lose most first; ties by query id.

    Queries that only one of the models has are left out.
    """
    known = dict(zip(before.queries, before.values.tolist(), strict=True))
    pairs = [
        Example(query, known[query], value) for query, value in zip(after.queries, after.values.tolist(), strict=True) if query in known
    ]
    return {"wins": _first(pairs, 1, count), "losses": _first(pairs, -1, count)}


def _first(pairs: Sequence[Example], sign: int, count: int) -> list[Example]:
    found = [one for one in pairs if sign * (one.after - one.before) > 0]
    return sorted(found, key=lambda one: (sign * (one.before - one.after), one.query))[:count]
