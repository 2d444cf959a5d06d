"""A few steps of training between depth and width: what is left learns to do without what was dropped, before its neurons are scored."""

import shutil
from pathlib import Path
from typing import Any

from effir.phases import probing
from effir.phases.job import Job

TRAINING = ("heal_steps", "learning_rate", "warmup_steps", "weight_decay", "lora_rank", "lora_alpha", "lora_dropout", "checkpoint_every")


def heal(job: Job, base: Path, cut: Any, device: str) -> Any:
    """The base, of the same shape as before, after heal_steps of InfoNCE without what `cut` drops; rank 0 publishes it as the part base.

    Weights of what is dropped stay as they were. LoRA, as in fine-tuning; batches of slim_batch queries, no teacher.
    """
    from effir.compress.measures import without
    from effir.export.loading import load_tokenizer
    from effir.phases.compute import backbone
    from effir.phases.training import train
    from effir.retrieve.encode import Encoder
    from effir.retrieve.settings import Settings
    from effir.train import adapters, examples
    from effir.train.fading import going
    from effir.train.loop import Schedule

    spec, ranks = job.spec, job.ranks
    model = backbone(spec, base).to(device)
    with without(model, [(kind, index) for kind, indices in going(cut).items() for index in indices]):
        adapted, parameters = adapters.attach(model, spec.lora_rank, spec.lora_alpha, spec.lora_dropout)
        encoder = Encoder(adapted.base_model.model, load_tokenizer(base), Settings.for_training(spec), device)
        step = probing.contrastive(job, encoder, examples.load(job.folder("training")), spec.heal_steps, spec.seed, ranks)

        schedule = Schedule(
            spec.heal_steps, spec.learning_rate, min(spec.warmup_steps, spec.heal_steps // 2),
            weight_decay=spec.weight_decay, checkpoint_every=spec.checkpoint_every,
        )  # fmt: skip
        train(job, encoder.model, parameters, step.step_loss, schedule, spec.seed, "heal")
        job.forward_passes += encoder.forward_passes
        model = adapters.merge(adapted)
    if ranks.rank == 0:
        job.publish_part("base", "base", _write(model, base, job.scratch / "healed"))
    return model


def _write(model: Any, base: Path, folder: Path) -> Path:
    """The base's folder, with these weights."""
    from safetensors.torch import save_file

    from effir.bases import CARRIED_ALONG
    from effir.export.loading import model_folder
    from effir.modelfiles import tensor_shapes

    shutil.copytree(model_folder(base), folder, ignore=shutil.ignore_patterns(*CARRIED_ALONG))
    weights = model.state_dict()
    for path in folder.glob("*.safetensors"):
        save_file({name: weights[name].detach().cpu().contiguous() for name in tensor_shapes(path)}, path, {"format": "pt"})
    return folder
