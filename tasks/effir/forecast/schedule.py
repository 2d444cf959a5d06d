"""When tasks begin and end: dependencies, the pool's slots, and cores that are shared."""

import heapq
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

NOTHING = 1e-9
CROWDED = 0.7
"""Share of its fair speed that a task keeps while another one runs on the same cores: parallel regions wait for one another."""


@dataclass(frozen=True)
class Job:
    """A task that is to be placed.

    wait: seconds before it works, on nobody's core; serial, parallel: seconds that it then takes alone, on one core and on all of them
    (or on its devices); slots: of the pool, 0: it does not ask for one
    """

    name: str
    after: tuple[str, ...]
    slots: int
    wait: float
    serial: float
    parallel: float


@dataclass(frozen=True)
class Span:
    """When a task was started and ended, in seconds from the beginning of the run, and how long it worked."""

    start: float
    seconds: float
    end: float


@dataclass
class _Plan:
    jobs: Sequence[Job]
    free: int
    asking: list[int] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    running: dict[int, list[float]] = field(default_factory=dict)
    began: dict[int, float] = field(default_factory=dict)

    def admit(self, number: int) -> None:
        """A task whose predecessors have ended."""
        heapq.heappush(self.asking if self.jobs[number].slots else self.ready, number)

    def start(self, now: float) -> None:
        """Start what asks for no slot, and what fits into the pool; nobody overtakes the first that does not fit."""
        begun = [heapq.heappop(self.ready) for _ in range(len(self.ready))]
        while self.asking and self.jobs[self.asking[0]].slots <= self.free:
            begun.append(heapq.heappop(self.asking))
            self.free -= self.jobs[begun[-1]].slots
        for number in begun:
            job = self.jobs[number]
            self.began[number], self.running[number] = now, [job.wait, job.serial, job.parallel]


def place(jobs: Sequence[Job], slots: int, cores: int, shared: bool) -> dict[str, Span]:
    """Start every task as soon as those before it have ended and there are slots, in the order given; name → span.

    shared: all tasks run on the same cores; then each works at the rate that demand leaves it (a serial part wants one core, a
    parallel part all of them). No task may ask for more slots than there are.
    """
    numbers = {job.name: number for number, job in enumerate(jobs)}
    waiting = [len(job.after) for job in jobs]
    children: dict[str, list[int]] = defaultdict(list)
    for number, job in enumerate(jobs):
        for parent in job.after:
            children[parent].append(number)
    plan, spans, now = _Plan(jobs, slots), {}, 0.0
    for number in numbers.values():
        if not waiting[number]:
            plan.admit(number)
    plan.start(now)
    while plan.running:
        rates = _rates(plan.running, cores, shared)
        step = min(_left(parts) / rates[number] for number, parts in plan.running.items())
        now += step
        for number in [number for number, parts in plan.running.items() if _advance(parts, step * rates[number])]:
            job, start = jobs[number], plan.began[number]
            del plan.running[number]
            spans[job.name] = Span(start, now - start - job.wait, now)
            plan.free += job.slots
            for child in children[job.name]:
                waiting[child] -= 1
                if not waiting[child]:
                    plan.admit(child)
        plan.start(now)
    return spans


def critical(jobs: Sequence[Job], spans: Mapping[str, Span]) -> list[str]:
    """The chain of tasks that ends last, each of which the next one waited for: for what it made, or for its slots."""
    by_name = {job.name: job for job in jobs}
    ending = sorted(spans, key=lambda name: spans[name].end)
    ends = [spans[name].end for name in ending]
    chain = [ending[-1]]
    while by_name[chain[-1]].after:
        start = spans[chain[-1]].start
        parent = max(by_name[chain[-1]].after, key=lambda name: spans[name].end)
        if spans[parent].end < start - NOTHING:
            parent = ending[bisect_right(ends, start) - 1]
        chain.append(parent)
    return chain[::-1]


def _rates(running: Mapping[int, Sequence[float]], cores: int, shared: bool) -> dict[int, float]:
    """Share of its full speed that each task works at."""
    if not shared:
        return dict.fromkeys(running, 1.0)
    demand = {number: 0 if parts[0] > NOTHING else 1 if parts[1] > NOTHING else cores for number, parts in running.items()}
    working = sum(wanted > 0 for wanted in demand.values())
    fair = min(1.0, cores / max(sum(demand.values()), 1)) * (CROWDED if working > 1 else 1.0)
    return {number: fair if wanted else 1.0 for number, wanted in demand.items()}


def _left(parts: Sequence[float]) -> float:
    """Seconds until a task goes on to its next part."""
    return next((part for part in parts if part > NOTHING), 0.0)


def _advance(parts: list[float], seconds: float) -> bool:
    """Work on the first part that is left; whether the task is done."""
    number = next((number for number, part in enumerate(parts) if part > NOTHING), None)
    if number is not None:
        parts[number] -= seconds
    return all(part <= NOTHING for part in parts)
