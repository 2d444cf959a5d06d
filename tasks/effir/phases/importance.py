"""How redundant each sub-layer of the base model is (Eq. 3)."""

import json
from typing import Any

from effir.phases.job import Job

FIELDS = ("calibration_samples", "calibration_tokens", "dtype", "seed")
BATCH_TOKENS = 2048


def run(job: Job) -> dict[str, Any]:
    """Pack calibration text, pass it through the base once, write scores and a picture."""
    import torch

    from effir.compress import importance, variants
    from effir.compress.calibration import pack
    from effir.compress.pictures import layer_scores
    from effir.export.loading import load_backbone, load_tokenizer
    from effir.phases.compute import dtype_of, ready

    device = ready(job.spec)
    base = job.folder("base")
    model = load_backbone(base, dtype_of(job.spec)).to(device).eval()
    texts = [json.loads(line)["text"] for line in (job.folder("calibration") / "text.jsonl").read_text().splitlines()]
    wanted = job.spec.calibration_samples
    samples = pack(load_tokenizer(base), texts, wanted, job.spec.calibration_tokens, job.spec.seed)
    if len(samples) < wanted:
        job.warn(f"the calibration text fills only {len(samples)} of {wanted} sequences of {job.spec.calibration_tokens} tokens")
    size = max(1, BATCH_TOKENS // job.spec.calibration_tokens)
    parts = [torch.tensor(samples[start : start + size], device=device) for start in range(0, len(samples), size)]

    def tell(done: int) -> None:
        job.forward_passes = done
        job.progress(done, len(parts), "calibration batches")

    found = importance.measure(model, ((ids, torch.ones_like(ids)) for ids in parts), tell)
    (job.out / "importance.json").write_text(json.dumps(found.to_json()))
    layer_scores(found, job.out / "importance.png")
    for kind in importance.KINDS:
        for layer, value in enumerate(found.mean[kind]):
            job.metric(f"importance/{kind}", value, layer)
    return {
        "tokens": found.tokens,
        "least_important_mlp": variants.ranking(found.mean["mlp"])[0],
        "least_important_attention": variants.ranking(found.mean["attention"])[0],
    }
