"""Self-slimming (Eq. 7-8): learn one scale per MLP neuron of what depth left, everything else frozen."""

import json
from typing import Any

from effir.phases.job import Job

FIELDS = (
    "slim_steps", "slim_batch", "slim_seeds", "slim_learning_rate", "slim_lambda", "slim_beta", "hard_negatives", "micro_batch",
    "batch_tokens", "temperature", "pooling", "query_template", "document_template", "max_query_tokens", "max_training_tokens",
    "dtype", "checkpoint_every", "seed",
)  # fmt: skip


def run(job: Job) -> dict[str, Any]:
    """Train z with InfoNCE and the sparsity penalty, once per seed; the first seed decides, the others tell how far to trust it."""
    from safetensors.numpy import save_file

    from effir.compress import slimming, surgery
    from effir.compress.cut import Cut
    from effir.export.loading import load_backbone, load_tokenizer
    from effir.phases.compute import dtype_of, ready, stop_flag
    from effir.retrieve.encode import Encoder
    from effir.retrieve.settings import Settings
    from effir.train import examples

    spec = job.spec
    device = ready(spec)
    stopping = stop_flag()
    cut = Cut.load(job.folder("depth"))
    base = job.folder("base")
    model = surgery.drop(load_backbone(base, dtype_of(spec)), cut)
    model.requires_grad_(False)
    encoder = Encoder(model, load_tokenizer(base), Settings.for_training(spec), device)
    training = examples.load(job.folder("training"))
    found = [_learn(job, encoder, training, spec.seed + offset, stopping) for offset in range(spec.slim_seeds if spec.slim_steps else 1)]
    job.forward_passes = encoder.forward_passes
    save_file({str(layer): z for layer, z in found[0].items()}, job.out / "z.safetensors")
    figures: dict[str, float | None] = dict(slimming.summary(found[0])) if found[0] else {}
    figures["rank_agreement"] = slimming.rank_agreement(found[0], found[1]) if len(found) > 1 and found[0] else None
    (job.out / "slim.json").write_text(json.dumps(figures, indent=1))
    job.say("z: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None))
    return {key: figures[key] for key in ("z_q10", "z_q50", "z_q90", "z_movement", "rank_agreement") if key in figures}


def _learn(job: Job, encoder: Any, training: Any, seed: int, stopping: Any) -> dict[int, Any]:
    from effir.compress import slimming
    from effir.phases.compute import StoredCheckpoints, ready
    from effir.train import plan as plans
    from effir.train.contrastive import Contrastive
    from effir.train.loop import Schedule, fit
    from effir.train.losses import Weights

    spec = job.spec
    ready(spec, seed)
    scales = slimming.new_scales(encoder.model)
    if spec.slim_steps and scales:
        plan = plans.lay_out(training, spec.slim_batch, spec.slim_steps, spec.hard_negatives, seed)
        step = Contrastive(
            encoder,
            plans.tokenise(encoder, training, plan),
            plan,
            Weights(spec.temperature),
            micro_batch=spec.micro_batch,
            batch_tokens=spec.batch_tokens,
            mixed=spec.dtype == "bfloat16",
        )

        def step_loss(number: int) -> dict[str, float]:
            parts = step.step_loss(number)
            sparsity = spec.slim_lambda * slimming.penalty(scales, spec.slim_beta)
            sparsity.backward()
            cost = sparsity.item()
            return parts | {"penalty": cost, "loss": parts["loss"] + cost}

        def tell(number: int, parts: dict[str, float]) -> None:
            job.progress(number + 1, spec.slim_steps, f"seed {seed}, loss {parts['loss']:.3f}")
            for name, value in parts.items():
                job.metric(f"seed{seed}/{name}", value, number)

        schedule = Schedule(spec.slim_steps, spec.slim_learning_rate, decay=False, clip=None, checkpoint_every=spec.checkpoint_every)
        checkpoints = StoredCheckpoints(job, f"seed{seed}")
        encoder.model.train()
        with slimming.scaled(encoder.model, scales):
            fit({str(layer): z for layer, z in scales.items()}, step_loss, schedule, checkpoints, tell, stopping)
        job.after_publishing(checkpoints.clear)
    return {layer: z.detach().cpu().numpy() for layer, z in scales.items()}
