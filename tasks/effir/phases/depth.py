"""Which sub-layers go (Eq. 4-5)."""

from typing import Any

from effir.phases.job import Job
from effir.reading import read_json

FIELDS = ("variant",)


def run(job: Job) -> dict[str, Any]:
    """Choose by the variant's name and the importance scores; publish the cut."""
    from effir.compress import variants
    from effir.compress.scores import Importance

    scores = Importance.from_json(read_json(job.folder("importance") / "importance.json"))
    cut = variants.choose(job.spec.variant, scores)
    job.publish_part("cut", "cut", cut.save(job.scratch / "cut"))
    job.say(f"{job.spec.variant}: attention dropped in layers {cut.drop_attention or '-'}, MLP in layers {cut.drop_mlp or '-'}")
    return {"dropped_attention": len(cut.drop_attention), "dropped_mlp": len(cut.drop_mlp)}
