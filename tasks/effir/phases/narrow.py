"""How wide each remaining MLP stays, and which neurons those are, rounded to what hardware likes."""

import json
from typing import Any

from effir.phases.job import Job
from effir.reading import read_arrays, read_json
from effir.spec import RunSpec

BUDGET = ("target_speedup", "target_parameters", "max_document_tokens", "attention", "dtype", "device", "threads")
FIELDS = ("keep_ratio", "width_multiple", "width_rule", *BUDGET)
TEXTS = 8


def unused(spec: RunSpec, arguments: dict[str, Any]) -> set[str]:
    """Only a budget looks at importance scores and at what things cost here."""
    return {"keep_ratio", "width_rule"} if spec.has_target() else {"importance", *BUDGET}


def run(job: Job) -> dict[str, Any]:
    """Turn neuron scores into the final cut, publish it, and say what is left of the model."""
    from effir.compress import shapes, widths
    from effir.compress.cut import Cut
    from effir.compress.pictures import layer_widths

    spec = job.spec
    cut = Cut.load(job.folder("cut"))
    scores = {int(layer): one for layer, one in read_arrays(job.folder("slim") / "scores.safetensors").items()}
    base = shapes.find(str(job.folder("base")), spec.attention)
    figures: dict[str, float] = {}
    if spec.has_target():
        cut, figures = _within(job, base, scores)
    elif spec.keep_ratio < 1 and scores:
        cut = widths.choose(cut, scores, spec.keep_ratio, spec.width_multiple, spec.width_rule)
    job.publish_part("cut", "cut", cut.save(job.scratch / "cut"))
    full = [layer.neurons for layer in base.shape.layers]
    left = [0 if layer in cut.drop_mlp else len(cut.neurons.get(layer, range(full[layer]))) for layer in range(cut.layers)]
    before, after = shapes.count(base), shapes.count(shapes.cut(base, cut.drop_attention, left))
    layer_widths(full, left, cut.drop_attention, job.out / "widths.png")
    job.say(
        f"{before[0] / 1e6:.1f} M parameters become {after[0] / 1e6:.1f} M; {1 - after[1] / before[1]:.1%} of the non-embedding ones go"
    )
    return {
        "parameters": after[0],
        "parameters_non_embedding": after[1],
        "removed_share": 1 - after[1] / before[1],
        "narrowed_layers": len(cut.neurons),
        "dropped_mlp": len(cut.drop_mlp),
        **figures,
    }


def _within(job: Job, base: Any, scores: dict[int, Any]) -> tuple[Any, dict[str, float]]:
    """The cut that a budget chooses, by costs timed here and now; budget.json tells how."""
    from effir.compress import budget, costs
    from effir.compress.scores import Importance
    from effir.phases.compute import ready

    spec = job.spec
    device = ready(spec)
    worth = Importance.from_json(read_json(job.folder("importance") / "importance.json"))
    utility = budget.Utility(worth.mean["attention"], worth.mean["mlp"], scores)
    measured = costs.calibrate(base, [spec.max_document_tokens] * TEXTS, spec.dtype, device)
    target = budget.Target(spec.target_speedup, spec.target_parameters)
    choice = budget.choose(utility, measured, base, target, spec.width_multiple)
    figures = {"predicted_speedup": choice.speedup, "flop_bound": choice.flop_bound, "utility_kept": choice.utility_kept}
    told = figures | {"utility_bound": choice.utility_bound, "widths": choice.widths, "costs": measured.to_json()}
    (job.out / "budget.json").write_text(json.dumps(told | {"dropped_attention": choice.cut.drop_attention}, indent=1))
    job.say(f"budget: attention dropped in layers {choice.cut.drop_attention or '-'}, MLP widths {choice.widths}")
    return choice.cut, figures
