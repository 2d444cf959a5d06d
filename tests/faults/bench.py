"""What disturbed phases are held against, and how what came of them is counted."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from .proxy import Plan, Proxy
from .work import STEPS, Run, Step


@dataclass
class Row:
    """What came of one kind of fault. seconds: from each fault to the good end of what it disturbed; remarks: why lost, why wrong."""

    fault: str
    injected: int = 0
    recovered: int = 0
    lost: int = 0
    wrong: int = 0
    seconds: list[float] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, count: int, lost: list[str], wrong: list[str], seconds: float) -> None:
        """So many faults with this outcome."""
        self.injected += count
        self.recovered += count if not lost and not wrong else 0
        self.lost += count if lost else 0
        self.wrong += count if wrong else 0
        self.seconds += [seconds] * count
        self.remarks += lost + wrong


@dataclass
class Bench:
    """Where phases are disturbed: the undisturbed run, how many requests each of its phases makes, and the proxy."""

    base: Run
    proxy: Proxy
    requests: dict[str, int]
    chance: random.Random
    made: int = 0

    def fresh(self) -> Run:
        """A run with a store of its own, which finds the inputs that the undisturbed one made."""
        self.made += 1
        return Run(self.base.start, self.base.spec, f"{self.base.root}-{self.made}", self.base.s3, self.base)


def undisturbed(run: Run, proxy: Proxy, chance: random.Random) -> Bench:
    """Every phase once, through the proxy, which only counts."""
    requests: dict[str, int] = {}
    for step in STEPS:
        proxy.plan = Plan()
        ended = run.once(step, s3=proxy.url)
        if ended.code:
            raise RuntimeError(f"{step.label} ended with {ended.code} though nothing disturbed it:\n{ended.said[-2000:]}")
        run.done(step, ended)
        requests[step.label] = proxy.plan.requests
    return Bench(run, proxy, requests, chance)


def turns(bench: Bench, steps: tuple[Step, ...] = STEPS) -> Iterator[Step]:
    """Every phase in an order of chance, again and again."""
    while True:
        yield from bench.chance.sample(steps, len(steps))
