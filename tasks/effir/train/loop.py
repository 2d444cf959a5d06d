"""The training loop: gradient caching, schedule, checkpoints, and a clear stop where going on would be a waste.

Each step's batch is a pure function of (seed, step), so a resumed run sees what an uninterrupted one would have seen.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from effir.errors import EffirError, Stopped
from effir.train.checkpoint import random_states
from effir.train.ranks import ALONE, Ranks

Parts = dict[str, float]


class Checkpoints(Protocol):
    """Where a loop keeps its checkpoints."""

    def save(self, step: int, parameters: Mapping[str, torch.Tensor], optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Keep the state after `step` steps."""

    def load(self, parameters: Mapping[str, torch.Tensor], optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Put the newest checkpoint back, or return None."""


@dataclass(frozen=True)
class Schedule:
    """Optimiser settings: linear warm-up to `learning_rate`, then linear decay to zero (or constant)."""

    steps: int
    learning_rate: float
    warmup_steps: int = 0
    decay: bool = True
    weight_decay: float = 0.0
    clip: float | None = 1.0
    checkpoint_every: int = 50

    def factor(self, step: int) -> float:
        """Share of the learning rate at `step` (0-based)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if not self.decay:
            return 1.0
        return (self.steps - step) / max(1, self.steps - self.warmup_steps)


@dataclass
class Watch:
    """Notices training that has gone wrong: loss not a number, or vectors that all point one way and never learn to differ."""

    window: int = 25
    accuracy: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)

    def look(self, step: int, parts: Parts) -> None:
        """Raises EffirError if the loss is not finite, or if training has collapsed."""
        if not math.isfinite(parts["loss"]):
            raise EffirError(
                f"training stopped at step {step}: the loss is {parts['loss']}; lower learning_rate or check the teacher's scores"
            )
        if "accuracy" not in parts:
            return
        self.accuracy.append(parts["accuracy"] - 2 * parts.get("chance", 0.0))
        self.spread.append(parts.get("mean_cosine", 0.0))
        recent = slice(-self.window, None)
        enough = len(self.accuracy) >= 2 * self.window
        if enough and sum(self.accuracy[recent]) <= 0 and sum(self.spread[recent]) / self.window > 0.95:
            raise EffirError(
                f"training stopped at step {step}: it collapsed (in-batch accuracy at chance, mean cosine "
                f"{sum(self.spread[recent]) / self.window:.2f} over {self.window} steps); try mean pooling or another learning rate"
            )


def fit(
    parameters: Mapping[str, torch.nn.Parameter],
    step_loss: Callable[[int], Parts],
    schedule: Schedule,
    checkpoints: Checkpoints | None = None,
    report: Callable[[int, Parts], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
    seed: int = 0,
) -> list[Parts]:
    """Run `step_loss` (which accumulates gradients and returns figures) and AdamW for schedule.steps steps.

    Ranks accumulate parts of the gradient and all step with the sum; rank 0 saves checkpoints; their random numbers come from `seed`.
    Returns the figures of every step, those before a resume included. Raises EffirError on a loss that is not finite, on collapse
    and if ranks drift apart, and Stopped, after a checkpoint, once `stopping` says so on some rank.
    """
    optimiser = torch.optim.AdamW(
        list(parameters.values()), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, betas=(0.9, 0.999), eps=1e-8
    )
    watch = Watch()
    state = checkpoints.load(parameters, optimiser) if checkpoints else None
    history: list[Parts] = state["history"] if state else []
    for step, past in enumerate(history):
        watch.look(step, past)
    ranks.check(parameters.values(), len(history))
    for step in range(len(history), schedule.steps):
        ranks.seed(seed, step)
        parts = _step(step, parameters, optimiser, step_loss, schedule, watch, ranks)
        history.append(parts)
        if report:
            report(step, parts)
        stop = ranks.any(stopping())
        if stop or ((step + 1) % schedule.checkpoint_every == 0 and step + 1 < schedule.steps):
            ranks.check(parameters.values(), step + 1)
            if checkpoints and ranks.rank == 0:
                checkpoints.save(step + 1, parameters, optimiser, {"history": history})
        if stop:
            ranks.wait()
            raise Stopped(f"stopped on request after step {step + 1} of {schedule.steps}; a retry goes on from there")
    ranks.check(parameters.values(), len(history))
    return history


def _step(
    step: int,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    step_loss: Callable[[int], Parts],
    schedule: Schedule,
    watch: Watch,
    ranks: Ranks,
) -> Parts:
    for group in optimiser.param_groups:
        group["lr"] = schedule.learning_rate * schedule.factor(step)
    optimiser.zero_grad(set_to_none=True)
    parts = step_loss(step)
    watch.look(step, parts)
    ranks.add_gradients(parameters.values())
    if schedule.clip is not None:
        parts["gradient_norm"] = float(torch.nn.utils.clip_grad_norm_(list(parameters.values()), schedule.clip))
    optimiser.step()
    return parts


def cached_gradient(
    chunks: list[Any],
    embed: Callable[[Any], tuple[torch.Tensor, ...]],
    loss_of: Callable[..., tuple[torch.Tensor, Parts]],
    ranks: Ranks = ALONE,
) -> Parts:
    """Gradient of a loss over a whole batch, with one chunk in memory at a time (GradCache, Gao et al. 2021).

    embed(chunk) → tensors (n_i, d); loss_of(*the tensors concatenated over chunks) → scalar and figures. Gradients are accumulated
    in the parameters. Random states are replayed, so dropout is the same in both passes. Alone, one chunk takes the plain path.

    Ranks have chunks of their own. Their vectors are gathered, so every rank has the loss over the whole batch, and each passes back
    what flows through its own vectors: the gradient is the sum over ranks, which `fit` forms.
    """
    if len(chunks) == 1 and ranks.count == 1:
        loss, parts = loss_of(*embed(chunks[0]))
        loss.backward()
        return parts
    keep = len(chunks) == 1
    states, passes = [], []
    for chunk in chunks:
        states.append(random_states())
        with torch.set_grad_enabled(keep):
            passes.append(embed(chunk))
    gathered = [ranks.gather(torch.cat([vector.detach() for vector in column])) for column in zip(*passes, strict=True)]
    leaves = [vectors.requires_grad_() for vectors, _ in gathered]
    loss, parts = loss_of(*leaves)
    loss.backward()
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    starts = [own.start for _, own in gathered]
    for chunk, state, vectors in zip(chunks, states, passes, strict=True):
        if not keep:
            _restore(state)
            vectors = embed(chunk)
        ends = [start + len(vector) for start, vector in zip(starts, vectors, strict=True)]
        torch.autograd.backward(vectors, [gradient[start:end] for gradient, start, end in zip(gradients, starts, ends, strict=True)])
        starts = ends
    return parts


def _restore(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
