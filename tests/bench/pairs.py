"""Ours beside a peer, alternately: ratios with their spread."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class Pairs:
    """What came of a row. ratios: ours against the peer, one for each pair of runs, 1 for equal, above 1 for faster.

    limit: ours against the machine's measured limit (0 to 1), None where the row has none; told: figures beside it; unmet: what
    else the row asks for and does not get, in words.
    """

    ratios: list[float]
    limit: float | None = None
    told: dict[str, float | str] = field(default_factory=dict)
    unmet: str = ""

    @property
    def ratio(self) -> float:
        """The median pair."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest pair."""
        return min(self.ratios), max(self.ratios)


def seconds(act: Callable[[], object]) -> float:
    """How long it took."""
    return timed(act)[0]


def timed(act: Callable[[], T]) -> tuple[float, T]:
    """How long it took, in seconds, and what came of it."""
    began = time.perf_counter()
    made = act()
    return time.perf_counter() - began, made


def alternate(ours: Callable[[], object], peer: Callable[[], object], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each, after one of each that does not count; who goes first changes from round to round."""
    ours(), peer()
    return by_turns(lambda: seconds(ours), lambda: seconds(peer), rounds)


def by_turns(ours: Callable[[], T], peer: Callable[[], T], rounds: int) -> tuple[list[T], list[T]]:
    """What each gives in every round; who goes first changes from round to round."""
    found: tuple[list[T], list[T]] = ([], [])
    for number in range(rounds):
        for which in ((0, 1), (1, 0))[number % 2]:
            found[which].append((ours, peer)[which]())
    return found


def apart(module: str, *arguments: str) -> dict[str, Any]:
    """What a module of the bench prints as JSON, run in a process of its own."""
    command = [sys.executable, "-m", module, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def ratios(ours: list[float], peer: list[float]) -> list[float]:
    """The peer's seconds over ours, pair by pair."""
    return [theirs / mine for mine, theirs in zip(ours, peer, strict=True)]
