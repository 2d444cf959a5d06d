"""A training loop of a phase: checkpoints in S3, a stop at the end of a step, progress, and a metric for every figure."""

from collections.abc import Callable, Mapping

import torch

from effir.phases import stopping
from effir.phases.compute import StoredCheckpoints, ready
from effir.phases.job import Job
from effir.train.loop import Parts, Schedule, fit

MAIN = "main"


def train(
    job: Job,
    model: torch.nn.Module,
    parameters: Mapping[str, torch.nn.Parameter],
    step_loss: Callable[[int], Parts],
    schedule: Schedule,
    seed: int,
    name: str = MAIN,
) -> list[Parts]:
    """Train `parameters` of `model`; returns the figures of every step, those before a resume included. Raises what `fit` raises.

    name: of a loop that is not the phase's only one; its checkpoints lie under it, and it stands before its metrics. Checkpoints go
    once the phase's artifact is in place.
    """
    shown = "" if name == MAIN else f"{name}/"

    def tell(number: int, parts: Parts) -> None:
        accuracy = f", in-batch accuracy {parts['accuracy']:.2f}" if "accuracy" in parts else ""
        job.progress(number + 1, schedule.steps, f"{shown}loss {parts['loss']:.3f}{accuracy}")
        for figure, value in parts.items():
            job.metric(f"{shown}{figure}", value, number)

    checkpoints = StoredCheckpoints(job, name)
    ready(job.spec, seed, job.ranks)
    model.train()
    with stopping.at_next_step() as asked:
        history = fit(parameters, step_loss, schedule, checkpoints, tell, asked, job.ranks, seed)
    job.after_publishing(checkpoints.clear)
    return history
