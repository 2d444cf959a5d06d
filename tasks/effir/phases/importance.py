"""How much each sub-layer of the base model matters, by Eq. 3 or another measure."""

import json
from typing import Any

from effir.compress.needs import IMPORTANCE
from effir.phases import probing
from effir.phases.job import Job
from effir.spec import RunSpec

FIELDS = ("importance_measure", *probing.FIELDS)


def unused(spec: RunSpec, arguments: dict[str, Any]) -> set[str]:
    """A measure looks at calibration text, at training data, or at neither."""
    return probing.unused(IMPORTANCE[spec.importance_measure], spec)


def run(job: Job) -> dict[str, Any]:
    """Score the sub-layers of the base; write scores and a picture."""
    from effir.compress import importance, variants
    from effir.compress.measures import MEASURES
    from effir.compress.pictures import layer_scores
    from effir.export.loading import load_tokenizer
    from effir.phases.compute import backbone, ready
    from effir.retrieve.encode import Encoder
    from effir.retrieve.settings import Settings

    measure = job.spec.importance_measure
    device = ready(job.spec)
    base = job.folder("base")
    model = backbone(job.spec, base).eval().requires_grad_(False)
    encoder = Encoder(model, load_tokenizer(base), Settings.for_training(job.spec), device)
    data = probing.data(job, IMPORTANCE[measure], encoder)
    with probing.counted(job, encoder.model):
        found = MEASURES[measure](encoder.model, data, lambda done, total: job.progress(done, total, f"batches, {measure}"))
    (job.out / "importance.json").write_text(json.dumps({"measure": measure} | found.to_json()))
    layer_scores(found, measure, job.out / "importance.png")
    for kind in importance.KINDS:
        for layer, value in enumerate(found.mean[kind]):
            job.metric(f"importance/{kind}", value, layer)
    return {
        "tokens": found.tokens,
        "least_important_mlp": variants.ranking(found.mean["mlp"])[0],
        "least_important_attention": variants.ranking(found.mean["attention"])[0],
    }
