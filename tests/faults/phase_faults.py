"""Faults that befall one phase (killed, out of memory or disk, an S3 that does it wrong); then it is started again until it is done."""

import os
import random
import signal
import threading
import time
from contextlib import suppress

from safetensors.torch import load

from effir.manifest import MANIFEST

from . import services
from .bench import Bench, Row
from .proxy import Plan
from .work import STEPS, Ended, Run, Step, differs

BAD_INPUT, STOPPED, OUT_OF_MEMORY, NO_RIGHT = 2, 75, 76, 99
SHRINKING = {"finetune", "slim"}
TRAININGS = [step for step in STEPS if step.phase in SHRINKING]
HEAVY = tuple(step for step in STEPS if step.phase in {"prepare", "importance", "slim", "finetune", "encode", "speed", "verify", "assess"})
WEIGHTS = {"finetune": "model/model.safetensors", "slim": "scores.safetensors"}
TOLERANCE = 1e-5
TRIES = 6
MOST_KEPT = 3
DRAWS = 6


# Killed


def killed(bench: Bench, row: Row, step: Step, number: signal.Signals) -> None:
    """Kill a phase at a random moment, or at a random request to S3, just before or just after the server does it; then go on."""
    for _ in range(DRAWS):
        run = bench.fresh()
        ended, at = _kill(bench, run, step, number)
        if ended.code and at:
            again(bench, run, row, step, at[0], ended)
            break
        run.forget()


def _kill(bench: Bench, run: Run, step: Step, number: signal.Signals) -> tuple[Ended, list[float]]:
    """How it ended, and when it was killed (nothing where it was over before)."""
    chance = bench.chance
    if chance.random() < 0.5:
        return _kill_at_request(bench, run, step, Plan(), chance.randint(1, bench.requests[step.label]), chance.random() < 0.5, number)
    moment, at, over = chance.uniform(0.0, bench.base.seconds[step.label]), [], threading.Event()

    def kill(pid: int) -> None:
        if not over.wait(moment):
            _send(pid, number, at)

    bench.proxy.plan = Plan()
    ended = run.once(step, s3=bench.proxy.url, meanwhile=kill, over=over.set)
    return ended, at


def _kill_at_request(
    bench: Bench, run: Run, step: Step, plan: Plan, request: int, answered: bool, number: signal.Signals = signal.SIGKILL
) -> tuple[Ended, list[float]]:
    """The same, at its so-manieth request to S3: before the server does it, or afterwards but before the phase hears of it."""
    pids, at = [], []
    started = threading.Event()

    def kill(pid: int) -> None:
        pids.append(pid)
        started.set()

    def look(count: int, done: bool) -> None:
        if (count, done) == (request, answered) and started.wait(10):
            _send(pids[0], number, at)

    plan.on_request = look
    bench.proxy.plan = plan
    ended = run.once(step, s3=bench.proxy.url, meanwhile=kill)
    plan.on_request = None
    return ended, at


def _send(pid: int, number: signal.Signals, at: list[float]) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        at.append(time.monotonic())


def again(bench: Bench, run: Run, row: Row, step: Step, began: float, ended: Ended, halvings: int = 0) -> None:
    """Start a phase that ended badly again until it is done, and judge what came of it."""
    before, newest = run.visible(), run.checkpointed()
    wrong = [f"{uri} is half an artifact" for uri in run.halves()]
    lost = [f"{run.kept()} checkpoints lie there"] if run.kept() > MOST_KEPT * max(1, run.spec.get("slim_seeds", 2)) else []
    finished = f"{run.store.artifact(step.phase, bench.base.manifest(step.label).digest)}/{MANIFEST}" in before
    if ended.code == BAD_INPUT:
        lost.append(f"{step.label} took it for bad input, which nobody retries: {ended.said.splitlines()[-1:]}")
    if ended.code == STOPPED and "after step" in ended.said and not newest:
        lost.append("it was stopped in its loop and kept no checkpoint")
    said = ""
    for _ in range(TRIES):
        ended = run.once(step, halvings)
        said += ended.said
        if ended.code == 0:
            break
    seconds = time.monotonic() - began
    if ended.code:
        lost.append(f"{step.label} ended with {ended.code} for good: {ended.said.splitlines()[-1:]}")
    else:
        run.done(step, ended)
        wrong += _result(bench, run, step, halvings)
        if finished and not run.result(step)["cached"]:
            lost.append(f"{step.label} was finished, and done again")
        if newest and not finished and f"resuming after step {newest}" not in said:
            lost.append(f"{step.label} was at step {newest}, and did not go on from there")
    after = run.visible()
    lost += [f"{uri} was there and is not what it was" for uri, body in before.items() if after.get(uri) != body]
    row.add(1, lost, wrong, seconds)
    if not lost and not wrong:
        run.forget()


def _result(bench: Bench, run: Run, step: Step, halvings: int = 0) -> list[str]:
    """What is wrong with a result, held against the undisturbed one."""
    wrong = [f"{uri} is half an artifact" for uri in run.halves()]
    if halvings and step.phase in SHRINKING:
        worst = _distance(bench.base, run, step)
        return wrong + ([f"{step.label} differs by {worst:.1e} after a smaller micro-batch"] if worst > TOLERANCE else [])
    difference = differs(step.label, run.manifest(step.label), bench.base.manifest(step.label))
    return wrong + ([f"{step.label} differs: {difference}"] if difference else [])


def _distance(one: Run, other: Run, step: Step) -> float:
    """The largest relative difference of a tensor."""
    ours, theirs = (load(run.store.get_bytes(run.uris[step.label].replace(MANIFEST, WEIGHTS[step.phase]))) for run in (one, other))
    return max(float((value - theirs[name]).norm() / value.norm().clamp_min(1e-30)) for name, value in ours.items())


# Out of memory, out of disk


def short_of_memory(bench: Bench, row: Row, step: Step) -> None:
    """The kernel gives a phase less memory than it needs; a retry holds half as much at once, where it trains, and gets enough."""
    room = bench.chance.uniform(20, 27)
    for less in range(DRAWS):
        run, began = bench.fresh(), time.monotonic()
        bench.proxy.plan = Plan()
        ended = run.once(step, room=int(2 ** (room - less)), s3=bench.proxy.url)
        if ended.code:
            shrinks = ended.code == OUT_OF_MEMORY and step.phase in SHRINKING
            again(bench, run, row, step, began + ended.seconds, ended, int(shrinks))
            return
        run.forget()


def short_of_disk(bench: Bench, row: Row, step: Step) -> bool:
    """A phase's temporary files find no room: it says so, and a retry with room ends well. False where no small disk can be made here."""
    for power in range(18, 12, -1):
        run, began = bench.fresh(), time.monotonic()
        ended = run.once(step, disk=1 << power)
        if ended.code == NO_RIGHT:
            return False
        if ended.code:
            told = ended.said.splitlines()[-1:]
            if not any("disk is full" in line for line in told):
                row.remarks.append(f"{step.label} did not say that the disk is full: {told}")
            again(bench, run, row, step, began + ended.seconds, ended)
            return True
        run.forget()
    return True


# A program of the stack, or S3


def without(bench: Bench, row: Row, step: Step, program: str) -> None:
    """A program of the stack is restarted at a random moment of a phase; the phase is done in the end, started again if need be."""
    run, chance, at = bench.fresh(), bench.chance, []

    def meanwhile(_: int) -> None:
        time.sleep(chance.uniform(0.0, bench.base.seconds[step.label]))
        at.append(time.monotonic())
        services.restart(program, chance)
        services.answers(program)

    ended = run.once(step, meanwhile=meanwhile)
    again(bench, run, row, step, at[0], ended)


def s3_fault(bench: Bench, row: Row, kind: str, rate: float, steps: tuple[Step, ...] = STEPS, most: int = 10**9) -> None:
    """One phase after the other with an S3 that does so many of its answers wrong; a phase that fails is started again."""
    run = bench.fresh()
    for step in steps:
        if row.injected >= most:
            break
        plan = bench.proxy.plan = Plan(kind, rate, random.Random(bench.chance.random()))
        began = time.monotonic()
        for _ in range(TRIES):
            ended = run.once(step, s3=bench.proxy.url)
            if ended.code in (0, BAD_INPUT):
                break
        if ended.code:
            row.add(plan.injected, [f"{step.label} ended with {ended.code}: {ended.said.splitlines()[-1:]}"], [], time.monotonic() - began)
            break
        run.done(step, ended)
        if plan.injected:
            extra = max(0.0, time.monotonic() - began - bench.base.seconds[step.label])
            row.add(plan.injected, [], _result(bench, run, step), extra / plan.injected)
    run.forget()


def stale_lists(bench: Bench, row: Row, most: int) -> None:
    """Every listing is an old one or empty, while trainings are killed and go on."""
    while row.injected < most:
        for step in TRAININGS:
            run, plan = bench.fresh(), Plan("stale list", 1.0, bench.chance)
            request = bench.chance.randint(bench.requests[step.label] // 3, bench.requests[step.label])
            ended, at = _kill_at_request(bench, run, step, plan, request, answered=True)
            whole = Row(row.fault)
            if ended.code:
                run.s3 = bench.proxy.url
                again(bench, run, whole, step, at[0] if at else time.monotonic(), ended)
            else:
                run.done(step, ended)
                whole.add(1, [], _result(bench, run, step), 0.0)
            row.add(plan.injected, whole.remarks if whole.lost else [], whole.remarks if whole.wrong else [], whole.seconds[-1])
