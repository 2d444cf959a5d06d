"""How wide each remaining MLP stays, and which neurons those are, rounded to what hardware likes."""

from typing import Any

from effir.phases.job import Job

FIELDS = ("keep_ratio", "width_multiple", "width_rule")


def run(job: Job) -> dict[str, Any]:
    """Turn neuron scores into the final cut and say what is left of the model."""
    from safetensors.numpy import load_file

    from effir.compress import shapes, widths
    from effir.compress.cut import Cut
    from effir.compress.pictures import layer_widths

    spec = job.spec
    cut = Cut.load(job.folder("depth"))
    scores = {int(layer): one for layer, one in load_file(job.folder("slim") / "scores.safetensors").items()}
    if spec.keep_ratio < 1 and scores:
        cut = widths.choose(cut, scores, spec.keep_ratio, spec.width_multiple, spec.width_rule)
    cut.save(job.out)
    base = shapes.find(str(job.folder("base")))
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
    }
