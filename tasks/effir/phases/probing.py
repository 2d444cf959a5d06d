"""What importance measures and neuron scores look at, made from a phase's inputs: calibration text or contrastive batches."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from effir.compress.needs import Need
from effir.phases.job import Job
from effir.phases.memory import hold
from effir.spec import TRAINING_DOCUMENTS, RunSpec
from effir.train.ranks import ALONE, Ranks

BATCH_TOKENS = 2048
USED: dict[Need, set[str]] = {
    "text": {"calibration", "calibration_text", "calibration_samples", "calibration_tokens", "attention"},
    "pairs": {
        "training", "probe_steps", "slim_batch", "hard_negatives", "micro_batch", "batch_tokens", "temperature", "attention",
        "pooling", "query_template", "document_template", "max_query_tokens", "max_training_tokens",
    },
    "nothing": set(),
}  # fmt: skip
"""Inputs, and fields of the spec, that go into what a measure looks at."""
FIELDS = (*sorted((USED["text"] | USED["pairs"]) - {"calibration", "training"}), "dtype", "seed")


def unused(need: Need, spec: RunSpec) -> set[str]:
    """Inputs and fields that do not matter to a measure with this need. Documents of the training data may be the text that it looks at."""
    swapped = need == "text" and spec.calibration_text == TRAINING_DOCUMENTS
    used = USED[need] - {"calibration"} | {"training"} if swapped else USED[need]
    return set[str]().union(*USED.values()) - used


def data(job: Job, need: Need, encoder: Any) -> Any:
    """What a measure with this need is handed beside the encoder's model: token batches, contrastive batches, or the seed."""
    if need == "text":
        return text(job, encoder.tokenizer, encoder.device)
    if need == "pairs":
        from effir.train import examples

        return contrastive(job, encoder, examples.load(job.folder("training")), job.spec.probe_steps, job.spec.seed)
    return job.spec.seed


def text(job: Job, tokenizer: Any, device: str) -> list[tuple[Any, Any]]:
    """Calibration text, packed: [(ids (n, t), mask (n, t))], about BATCH_TOKENS tokens each; it may be documents of the training data."""
    import torch

    from effir.compress.calibration import pack
    from effir.train import examples

    spec = job.spec
    if spec.calibration_text == TRAINING_DOCUMENTS:
        training = examples.load(job.folder("training"))
        texts = [training.text(document) for document in training.corpus]
    else:
        texts = [json.loads(line)["text"] for line in (job.folder("calibration") / "text.jsonl").read_text().splitlines()]
    samples = pack(tokenizer, texts, spec.calibration_samples, spec.calibration_tokens, spec.seed)
    if len(samples) < spec.calibration_samples:
        wanted = f"{spec.calibration_samples} sequences of {spec.calibration_tokens} tokens"
        job.warn(f"the calibration text fills only {len(samples)} of {wanted}")
    size = max(1, BATCH_TOKENS // spec.calibration_tokens)
    parts = [torch.tensor(samples[start : start + size], device=device) for start in range(0, len(samples), size)]
    return [(ids, torch.ones_like(ids)) for ids in parts]


def contrastive(job: Job, encoder: Any, training: Any, steps: int, seed: int, ranks: Ranks = ALONE) -> Any:
    """Batches of slim_batch queries, laid out and tokenised, with InfoNCE as their loss."""
    from effir.train import plan as plans
    from effir.train.contrastive import Contrastive
    from effir.train.losses import Weights

    spec = job.spec
    plan = plans.lay_out(training, spec.slim_batch, steps, spec.hard_negatives, seed)
    return Contrastive(
        encoder,
        plans.tokenise(encoder, training, plan, plans.share(plan, ranks)),
        plan,
        Weights(spec.temperature),
        micro_batch=hold(job, spec.slim_batch),
        batch_tokens=spec.batch_tokens,
        mixed=spec.dtype == "bfloat16",
        ranks=ranks,
    )


@contextmanager
def counted(job: Job, model: Any) -> Iterator[None]:
    """Within this context every call of the model counts as one of the job's forward passes."""

    def count(_module: Any, _args: Any) -> None:
        job.forward_passes += 1

    hook = model.register_forward_pre_hook(count)
    try:
        yield
    finally:
        hook.remove()
