"""Retrieval fine-tuning of the reference (nothing cut) or the candidate (cut, possibly healed towards the reference)."""

import json
from collections.abc import Callable
from typing import Any

from effir.phases.job import Job
from effir.phases.memory import hold
from effir.reading import read_json
from effir.spec import RunSpec

FIELDS = (
    "steps", "reference_steps", "batch", "micro_batch", "learning_rate", "warmup_steps", "temperature", "lora_rank", "lora_alpha",
    "lora_dropout", "weight_decay", "fade_steps", "checkpoint_every", "teacher_temperature", "kl_weight", "regression_weight",
    "ranking_weight", "hard_negatives",
    "attention", "pooling", "query_template", "document_template", "max_query_tokens", "max_document_tokens",
    "max_training_tokens", "batch_tokens", "dtype", "seed",
)  # fmt: skip
SHARES = True
Around = Callable[[Callable[[int], Any]], Callable[[int], Any]]
OTHERS = {"reference": {"steps", "fade_steps", "regression_weight", "ranking_weight"}, "candidate": {"reference_steps"}}


def unused(spec: RunSpec, arguments: dict[str, Any]) -> set[str]:
    """The reference does not depend on what only the candidate uses, nor the other way round."""
    return OTHERS[arguments["model"]]


def run(job: Job) -> dict[str, Any]:
    """Cut, adapt, train, merge, export; checkpoints go to S3 and a retry goes on from the newest. Rank 0 alone merges and exports."""
    from effir.compress import surgery
    from effir.compress.cut import Cut
    from effir.export import writer
    from effir.export.loading import load_tokenizer
    from effir.phases import carding
    from effir.phases.compute import backbone, ready
    from effir.retrieve.encode import Encoder
    from effir.retrieve.settings import Settings
    from effir.train import adapters
    from effir.train.fading import Fading

    spec = job.spec
    hold(job, spec.batch)
    device = ready(spec, ranks=job.ranks)
    base = job.folder("base")
    tokenizer = load_tokenizer(base)
    model = backbone(spec, base).to(device)
    cut = Cut.load(job.folder("cut")) if job.arguments["model"] == "candidate" else None
    steps = spec.steps if cut is not None else spec.reference_steps
    fading = None
    if cut is not None and spec.fade_steps and steps:
        fading = Fading(surgery.narrow_all(model, cut), cut, spec.fade_steps)
    elif cut is not None:
        surgery.apply(model, cut)
    figures: dict[str, float] = {}
    if steps:
        settled = fading.projections() if fading else ()
        adapted, parameters = adapters.attach(model, spec.lora_rank, spec.lora_alpha, spec.lora_dropout, settled)
        encoder = Encoder(adapted.base_model.model, tokenizer, Settings.for_training(spec), device)
        figures = _train(job, encoder, parameters, steps, fading.around if fading else lambda step_loss: step_loss)
        if job.ranks.rank:
            return {}
        model = adapters.merge(adapted)
    if fading:
        fading.finish()
        surgery.remove_empty(model)
    model.eval()
    writer.write(model, tokenizer, cut, Settings.from_spec(spec), job.out, origin=carding.origin(job, steps))
    total, rest = surgery.parameters(model)
    return {"parameters": total, "parameters_non_embedding": rest, **figures}


def _train(job: Job, encoder: Any, parameters: Any, steps: int, around: Around) -> dict[str, float]:
    from effir.phases.training import train
    from effir.train import examples
    from effir.train import plan as plans
    from effir.train.contrastive import Contrastive
    from effir.train.loop import Schedule
    from effir.train.losses import Weights

    spec, ranks = job.spec, job.ranks
    training = examples.load(job.folder("training"))
    plan = plans.lay_out(training, spec.batch, steps, spec.hard_negatives, spec.seed)
    shared = plans.share(plan, ranks)
    texts = plans.tokenise(encoder, training, plan, shared)
    heals = job.has("reference")
    weights = Weights(
        spec.temperature,
        spec.teacher_temperature,
        spec.kl_weight,
        spec.regression_weight if heals else 0.0,
        spec.ranking_weight if heals else 0.0,
    )
    step = Contrastive(
        encoder, texts, plan, weights, teacher=_teacher(job), targets=_targets(job, texts, weights, encoder.device),
        micro_batch=hold(job, spec.batch), batch_tokens=spec.batch_tokens, mixed=spec.dtype == "bfloat16", ranks=ranks,
    )  # fmt: skip

    schedule = Schedule(
        steps,
        spec.learning_rate,
        min(spec.warmup_steps, steps // 2),
        weight_decay=spec.weight_decay,
        checkpoint_every=spec.checkpoint_every,
    )
    history = train(job, encoder.model, parameters, around(step.step_loss), schedule, spec.seed)
    job.forward_passes += encoder.forward_passes
    tokens = ranks.total(plans.token_count(texts, shared))
    (job.out / "training.json").write_text(json.dumps({"history": history, "tokens": tokens}))
    last = history[-10:]
    return {"loss": sum(one["loss"] for one in last) / len(last), "accuracy": sum(one["accuracy"] for one in last) / len(last)}


def _teacher(job: Job) -> dict[str, dict[str, float]] | None:
    if not job.spec.kl_weight or job.spec.hard_negatives == 0:
        return None
    scores = read_json(job.folder("teacher") / "scores.json")
    return scores or None


def _targets(job: Job, texts: Any, weights: Any, device: str) -> Any:
    if not weights.regression and not weights.ranking:
        return None
    from effir.export.loading import load_encoder
    from effir.phases.compute import dtype_of
    from effir.train import plan as plans

    reference = load_encoder(job.folder("reference"), dtype_of(job.spec), device)
    targets = plans.targets(reference, texts, job.spec.batch_tokens)
    job.forward_passes += reference.forward_passes
    return targets
