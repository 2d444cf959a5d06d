"""One piece of training by one and by three processes: `python sharing.py FOLDER` leaves what each of them found.

A program of its own, so that it can fork before torch has made threads: a process a rank would import torch for seconds.
"""

import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from copy import deepcopy
from datetime import timedelta
from pathlib import Path

import sentence_transformers  # noqa: F401 - once, not in every rank
import torch
from safetensors.torch import save_file
from torch import distributed
from transformers import AutoModel, AutoTokenizer

from effir.errors import EffirError, PeerLost, Stopped
from effir.retrieve.collections import Document
from effir.retrieve.encode import Encoder
from effir.retrieve.settings import Settings
from effir.train import adapters, checkpoint, teacher
from effir.train import plan as plans
from effir.train.contrastive import Contrastive
from effir.train.examples import Example, TrainingSet, from_jsonl
from effir.train.loop import Schedule, fit
from effir.train.losses import Weights
from effir.train.ranks import Ranks

STEPS, BATCH, SEED = 4, 7, 3
COUNTS = (1, 3)


class Kept:
    """Checkpoints in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step, parameters, optimiser, state) -> None:
        checkpoint.save(self.folder, parameters, optimiser, state)

    def load(self, parameters, optimiser):
        return checkpoint.load(self.folder, parameters, optimiser) if (self.folder / "state.json").exists() else None


class Lesson:
    """A model with adapters and what it learns: hard negatives, a teacher's scores, regression and ranking onto another model.

    In float64, so that what differs beyond the last digits is a mistake.
    """

    def __init__(self, parts: "Parts", ranks: Ranks, micro_batch: int = 2, dropout: float = 0.0) -> None:
        plan = plans.lay_out(parts.training, BATCH, STEPS, 2, SEED)
        shared = plans.share(plan, ranks)
        torch.manual_seed(SEED)
        adapted, self.parameters = adapters.attach(deepcopy(parts.model), 4, 8.0, dropout)
        for name, value in self.parameters.items():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.02)
        encoder = parts.encoder(adapted.base_model.model)
        texts = plans.tokenise(encoder, parts.training, plan, shared)
        scores: dict[str, dict[str, float]] = {}
        for group in (group for groups in plan for group in groups):
            scores.setdefault(group.query_id, {}).update({one: sum(map(ord, one)) % 7 / 3 for one in group.documents})
        self.step = Contrastive(
            encoder, texts, plan, Weights(0.05, 0.3, kl=0.5, regression=2.0, ranking=0.7), teacher=scores,
            targets=plans.targets(parts.encoder(parts.other), texts, 512), micro_batch=micro_batch, batch_tokens=256, ranks=ranks,
        )  # fmt: skip
        self.tokens = ranks.total(plans.token_count(texts, shared))
        encoder.model.train()

    def fit(self, ranks: Ranks, folder: Path | None = None, stopping=lambda: False) -> list[dict[str, float]]:
        schedule = Schedule(STEPS, 3e-3, warmup_steps=2, checkpoint_every=100)
        return fit(self.parameters, self.step.step_loss, schedule, Kept(folder) if folder else None, None, stopping, ranks, SEED)


class Parts:
    """What every rank inherits."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parents[1] / "e2e" / "tiny.py")
        tiny = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tiny)
        tiny.write_model(folder / "model", layers=2, width=32)
        self.folder = folder
        self.training = from_jsonl(tiny.write_training(folder / "training.jsonl"))
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        self.model = AutoModel.from_pretrained(folder / "model", dtype=torch.float64)
        self.other = AutoModel.from_pretrained(folder / "model", dtype=torch.float64)
        with torch.no_grad():
            self.other.layers[0].mlp.down_proj.weight.mul_(1.5)

    def encoder(self, model) -> Encoder:
        return Encoder(model, self.tokenizer, Settings(pooling="mean", append_eos=False))


Act = Callable[[Parts, Ranks, dict, dict], None]


def gradients(parts: Parts, ranks: Ranks, told: dict, tensors: dict) -> None:
    """The gradient of the first step, with and without gradient caching."""
    for micro_batch in (0, 2):
        lesson = Lesson(parts, ranks, micro_batch)
        told[f"figures-{micro_batch}"] = lesson.step.step_loss(0)
        ranks.add_gradients(lesson.parameters.values())
        tensors |= {f"gradient-{micro_batch}.{name}": value.grad for name, value in lesson.parameters.items()}
    told["tokens"], told["texts"] = lesson.tokens, len(lesson.step.texts.documents)


def weights(parts: Parts, ranks: Ranks, told: dict, tensors: dict) -> None:
    """A whole training; the same, stopped after step 2 because the last rank asks for it."""
    lesson, seen = Lesson(parts, ranks), []
    told["history"] = lesson.fit(ranks)
    tensors |= {f"final.{name}": value.detach() for name, value in lesson.parameters.items()}
    try:
        Lesson(parts, ranks).fit(
            ranks, parts.folder / f"stopped-by-{ranks.count}",
            lambda: bool(seen.append(1)) or (len(seen) >= 2 and ranks.rank == ranks.count - 1),
        )  # fmt: skip
    except Stopped as error:
        told["stopped"] = str(error)


def resumed(parts: Parts, ranks: Ranks, told: dict, tensors: dict) -> None:
    """The rest of every training that was stopped, in other micro-batches."""
    for count in COUNTS:
        lesson = Lesson(parts, ranks, micro_batch=3)
        lesson.fit(ranks, parts.folder / f"stopped-by-{count}")
        tensors |= {f"resumed-from-{count}.{name}": value.detach() for name, value in lesson.parameters.items()}


def with_dropout(parts: Parts, ranks: Ranks, told: dict, tensors: dict) -> None:
    """A training with dropout, in one go and stopped once."""
    lesson, kept, seen = Lesson(parts, ranks, dropout=0.3), parts.folder / f"dropout-{ranks.count}", []
    lesson.fit(ranks)
    tensors |= {f"dropout.{name}": value.detach() for name, value in lesson.parameters.items()}
    try:
        Lesson(parts, ranks, dropout=0.3).fit(ranks, kept, lambda: bool(seen.append(1)) or len(seen) >= 2)
    except Stopped:
        torch.manual_seed(99)
    lesson = Lesson(parts, ranks, dropout=0.3)
    lesson.fit(ranks, kept)
    tensors |= {f"dropout-again.{name}": value.detach() for name, value in lesson.parameters.items()}
    ranks.seed(SEED, 0)
    tensors["dice"] = torch.rand(4)


def scores(parts: Parts, ranks: Ranks, told: dict, tensors: dict) -> None:
    """A teacher's scores of more texts than go into one batch, and of fewer than there are ranks."""
    for size in (10, 200):
        examples = [
            Example(f"q{number}", f"the {number}th question", [f"d{number}"], [f"d{(number + 1) % size}"]) for number in range(size)
        ]
        training = TrainingSet(examples, {f"d{number}": Document("", f"an answer, the {number}th") for number in range(size)})
        told[f"scores-{size}"], told[f"passes-{size}"] = teacher.score(training, "minilm", "cpu", ranks=ranks)


def drift(parts: Parts, ranks: Ranks, told: dict, tensors: dict) -> None:
    """One rank's parameters differ by the least that can be."""
    parameter = torch.ones(3)
    ranks.check([parameter], 5)
    if ranks.rank == 1:
        parameter[2] = torch.nextafter(parameter[2], torch.tensor(2.0))
    try:
        ranks.check([parameter], 6)
    except EffirError as error:
        told["drift"] = str(error)


def loss(parts: Parts, ranks: Ranks, told: dict, tensors: dict) -> None:
    """The last rank goes away."""
    if ranks.count > 1 and ranks.rank == ranks.count - 1:
        return
    try:
        while ranks.count > 1:
            ranks.wait()
    except PeerLost as error:
        told["lost"] = str(error)


def one_rank(parts: Parts, ranks: Ranks, label: str, acts: Sequence[Act]) -> None:
    told, tensors = {}, {}
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    if ranks.count > 1:
        store = f"file://{parts.folder}/store-{label}"
        distributed.init_process_group("gloo", store, rank=ranks.rank, world_size=ranks.count, timeout=timedelta(minutes=2))
    for act in acts:
        act(parts, ranks, told, tensors)
    name = f"{label}-{ranks.count}-{ranks.rank}"
    save_file({key: value.contiguous() for key, value in tensors.items()}, parts.folder / f"{name}.safetensors")
    (parts.folder / f"{name}.json").write_text(json.dumps(told))


def together(parts: Parts, count: int, label: str, *acts: Act) -> None:
    """Have these acts done by `count` processes."""
    children = []
    for rank in range(count):
        if not (child := os.fork()):
            try:
                one_rank(parts, Ranks(rank, count, count), label, acts)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        sys.exit(f"{label}: with {count} ranks the exit codes are {codes}")


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    shared = Parts(Path(sys.argv[1]))
    for number in COUNTS:
        together(shared, number, "first", gradients, weights, with_dropout, scores, drift, loss)
    for number in COUNTS:
        together(shared, number, "second", resumed)
