"""How much each neuron of what depth left matters: self-slimming (Eq. 7-8), or another score; before that, healing."""

import json
from typing import Any

from effir.compress.needs import NEURONS
from effir.phases import healing, probing
from effir.phases.job import Job
from effir.spec import RunSpec

TRAINING = ("slim_steps", "slim_seeds", "slim_learning_rate", "slim_lambda", "slim_beta", "checkpoint_every")
SHARES = True
FIELDS = tuple(dict.fromkeys(("neuron_score", *TRAINING, *healing.TRAINING, *probing.FIELDS)))


def unused(spec: RunSpec, arguments: dict[str, Any]) -> set[str]:
    """Only self-slimming trains; it has its own number of steps, as healing has. Where nothing becomes narrower, nothing matters."""
    if not _wanted(spec):
        return {*FIELDS, *probing.USED["text"], *probing.USED["pairs"]}
    other = {"probe_steps"} if spec.neuron_score == "slimming" else set(TRAINING)
    unused = probing.unused(NEURONS[spec.neuron_score], spec) | other
    if not spec.heal_steps:
        return unused | (set(healing.TRAINING) - set(TRAINING))
    return unused - (probing.USED["pairs"] - {"probe_steps"}) - set(healing.TRAINING)


def run(job: Job) -> dict[str, Any]:
    """Score the neurons of every MLP that is left; write scores and what they look like. Ranks share healing and self-slimming alone.

    The part base is what is to be cut: the base as it came, or healed.
    """
    job.parts["base"] = job.inputs["base"]
    if not _wanted(job.spec):
        return _nothing(job)
    from safetensors.numpy import save_file

    from effir.compress import surgery
    from effir.compress.cut import Cut
    from effir.export.loading import load_tokenizer
    from effir.phases.compute import backbone, ready
    from effir.retrieve.encode import Encoder
    from effir.retrieve.settings import Settings

    spec = job.spec
    device = ready(spec, ranks=job.ranks)
    base = job.folder("base")
    cut = Cut.load(job.folder("cut"))
    whole = healing.heal(job, base, cut, device) if spec.heal_steps else backbone(spec, base)
    model = surgery.drop(whole, cut).requires_grad_(False)
    encoder = Encoder(model, load_tokenizer(base), Settings.for_training(spec), device)
    with probing.counted(job, encoder.model):
        scores, figures = _slimming(job, encoder) if spec.neuron_score == "slimming" else _score(job, encoder)
    save_file({str(layer): one for layer, one in scores.items()}, job.out / "scores.safetensors")
    (job.out / "slim.json").write_text(json.dumps({"score": spec.neuron_score} | figures, indent=1))
    job.say(f"{spec.neuron_score}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None))
    shown = ("q10", "q50", "q90", "z_movement", "rank_agreement")
    return {name: value for name, value in figures.items() if name.endswith(shown)}


def _wanted(spec: RunSpec) -> bool:
    return spec.keep_ratio < 1 or spec.has_target()


def _nothing(job: Job) -> dict[str, Any]:
    from safetensors.numpy import save_file

    save_file({}, job.out / "scores.safetensors")
    (job.out / "slim.json").write_text("{}")
    job.say("slim: every neuron stays, so there is nothing to score")
    return {}


def _score(job: Job, encoder: Any) -> tuple[dict[int, Any], dict[str, Any]]:
    from effir.compress import neurons

    name = job.spec.neuron_score
    data = probing.data(job, NEURONS[name], encoder)
    encoder.model.eval()
    found = neurons.NEURON_SCORES[name](encoder.model, data, lambda done, total: job.progress(done, total, f"batches, {name}"))
    return found, neurons.summary(found) if found else {}


def _slimming(job: Job, encoder: Any) -> tuple[dict[int, Any], dict[str, Any]]:
    """Train z with InfoNCE and the sparsity penalty, once per seed; the first seed decides, the others tell how far to trust it."""
    from effir.compress import slimming
    from effir.train import examples

    spec = job.spec
    training = examples.load(job.folder("training"))
    found = [_learn(job, encoder, training, spec.seed + offset) for offset in range(spec.slim_seeds if spec.slim_steps else 1)]
    figures: dict[str, Any] = dict(slimming.summary(found[0])) if found[0] else {}
    figures["rank_agreement"] = slimming.rank_agreement(found[0], found[1]) if len(found) > 1 and found[0] else None
    return found[0], figures


def _learn(job: Job, encoder: Any, training: Any, seed: int) -> dict[int, Any]:
    from effir.compress import slimming
    from effir.phases.training import train
    from effir.train.loop import Schedule

    spec, ranks = job.spec, job.ranks
    scales = slimming.new_scales(encoder.model)
    if spec.slim_steps and scales:
        step = probing.contrastive(job, encoder, training, spec.slim_steps, seed, ranks)

        def step_loss(number: int) -> dict[str, float]:
            parts = step.step_loss(number)
            sparsity = spec.slim_lambda * slimming.penalty(scales, spec.slim_beta)
            if ranks.rank == 0:
                sparsity.backward()
            cost = sparsity.item()
            return parts | {"penalty": cost, "loss": parts["loss"] + cost}

        schedule = Schedule(spec.slim_steps, spec.slim_learning_rate, decay=False, clip=None, checkpoint_every=spec.checkpoint_every)
        named = {str(layer): z for layer, z in scales.items()}
        with slimming.scaled(encoder.model, scales):
            train(job, encoder.model, named, step_loss, schedule, seed, f"seed{seed}")
    return {layer: z.detach().cpu().numpy() for layer, z in scales.items()}
