import math

import pytest
import torch

from effir.errors import EffirError, Stopped
from effir.train import checkpoint
from effir.train.loop import Schedule, Watch, fit


class Kept:
    """Checkpoints in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.saved = []

    def save(self, step, parameters, optimiser, state):
        checkpoint.save(self.folder, parameters, optimiser, state)
        self.saved.append(step)

    def load(self, parameters, optimiser):
        return checkpoint.load(self.folder, parameters, optimiser) if (self.folder / "state.json").exists() else None


def problem(seed=0):
    torch.manual_seed(seed)
    weight = torch.nn.Parameter(torch.randn(3))

    def step_loss(step):
        loss = ((weight + torch.randn(3)) * torch.rand(3)).pow(2).sum()
        loss.backward()
        return {"loss": loss.item()}

    return {"weight": weight}, step_loss


def test_a_resumed_run_ends_bit_equal(tmp_path):
    schedule = Schedule(10, 0.1, warmup_steps=2, checkpoint_every=3)
    straight, step_loss = problem()
    history = fit(straight, step_loss, schedule)

    kept = Kept(tmp_path)
    broken, step_loss = problem()

    def dies(step):
        if step == 7:
            raise RuntimeError("killed")
        return step_loss(step)

    with pytest.raises(RuntimeError, match="killed"):
        fit(broken, dies, schedule, kept)
    assert kept.saved == [3, 6]
    again, step_loss = problem(seed=99)
    resumed = fit(again, step_loss, schedule, kept)
    assert torch.equal(straight["weight"], again["weight"])
    assert resumed == history


def test_a_stop_on_request_leaves_a_checkpoint(tmp_path):
    schedule = Schedule(10, 0.1, checkpoint_every=100)
    straight, step_loss = problem()
    fit(straight, step_loss, schedule)
    kept = Kept(tmp_path)
    parameters, step_loss = problem()
    with pytest.raises(Stopped, match="after step 5 of 10"):
        fit(parameters, step_loss, schedule, kept, stopping=lambda: len(seen) >= 5, report=lambda step, parts: seen.append(step)) if (
            seen := []
        ) is not None else None
    again, step_loss = problem(seed=7)
    fit(again, step_loss, schedule, kept)
    assert torch.equal(straight["weight"], again["weight"])


def test_warm_up_and_decay():
    schedule = Schedule(10, 1.0, warmup_steps=4)
    assert [schedule.factor(step) for step in (0, 3, 4, 9)] == [0.25, 1.0, 1.0, pytest.approx(1 / 6)]
    assert Schedule(10, 1.0, decay=False).factor(9) == 1.0


def test_a_loss_that_is_not_a_number_stops_the_training():
    parameters, _ = problem()
    with pytest.raises(EffirError, match="at step 0: the loss is nan"):
        fit(parameters, lambda step: {"loss": math.nan}, Schedule(3, 0.1))


def test_collapse_is_noticed_and_slow_learning_is_not_mistaken_for_it():
    collapsed, learning = Watch(window=5), Watch(window=5)
    for step in range(9):
        collapsed.look(step, {"loss": 1.0, "accuracy": 0.05, "chance": 0.05, "mean_cosine": 0.99})
        learning.look(step, {"loss": 1.0, "accuracy": 0.3, "chance": 0.05, "mean_cosine": 0.99})
    with pytest.raises(EffirError, match="collapsed"):
        collapsed.look(9, {"loss": 1.0, "accuracy": 0.05, "chance": 0.05, "mean_cosine": 0.99})
    learning.look(9, {"loss": 1.0, "accuracy": 0.3, "chance": 0.05, "mean_cosine": 0.99})
