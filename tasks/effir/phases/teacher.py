"""Teacher scores for distillation, stored once and raw."""

import json
from typing import Any

from effir.phases.job import Job

SHARES = True
FIELDS = ("teacher", "teacher_temperature", "dtype", "seed")


def run(job: Job) -> dict[str, Any]:
    """Score every training query with its own positives and hard negatives; warn where distillation would say nothing.

    Ranks share the batches of texts that are scored.
    """
    from effir.phases.compute import ready
    from effir.train import examples, teacher

    device = ready(job.spec, ranks=job.ranks)
    training = examples.load(job.folder("training"))
    scores, job.forward_passes = teacher.score(
        training, job.spec.teacher, device, job.spec.dtype, lambda done, of: job.progress(done, of, "batches scored"), job.ranks
    )
    (job.out / "scores.json").write_text(json.dumps(scores))
    entropies = teacher.entropies(training, scores, job.spec.teacher_temperature)
    if not entropies:
        return {"scored_queries": len(scores)}
    mean = sum(entropies) / len(entropies)
    if scores and (max(entropies) < 1e-3 or _flat(entropies, training)):
        job.warn(
            f"the teacher's groups are {'one-hot' if mean < 1e-3 else 'all but equal'} (mean entropy {mean:.2g} nats): "
            "KL adds nothing; check teacher_temperature (1 for reranker logits, about 0.05 for cosines)"
        )
    return {"scored_queries": len(scores), "teacher_entropy": mean, "teacher_entropy_smallest": min(entropies)}


def _flat(entropies: list[float], training: Any) -> bool:
    from math import log

    sizes = [1 + len(example.negatives) for example in training.examples if example.negatives]
    return min(entropy / log(size) for entropy, size in zip(entropies, sizes, strict=False) if size > 1) > 0.999
