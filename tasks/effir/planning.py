"""What a cut will leave of a model, before anything is trained: `effir plan`. From names and numbers alone, no weights."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from effir.compress import budget, costs, grammar, shapes, widths
from effir.compress.budget import Target, Utility
from effir.compress.shapes import Backbone
from effir.errors import BadInput
from effir.spec import RunSpec, parse

PRIOR = (
    "prior, nothing was measured: the attention and the MLP of layer l of L (from 0) are worth (L - l)/L each, "
    "and the k-th best of an MLP's n neurons is worth n - k + 1 parts of it"
)
LENGTHS = {"max_query_tokens": 32, "max_document_tokens": 256}
MULTIPLE = 64


def spec_of(base: str, given: Mapping[str, Any]) -> RunSpec:
    """The spec of a plan that names a base model and no profile: nothing dropped, widths not rounded, but for the fields `given`.

    Texts are counted at LENGTHS. Raises BadInput.
    """
    unrounded = {"base_model": base, "variant": "full", "keep_ratio": 1.0, "width_multiple": 1}
    return parse(unrounded | LENGTHS | grammar.expand(given))


def plan(spec: RunSpec) -> dict[str, Any]:
    """What the spec's variant, keep_ratio and width_rule leave of its base model.

    Raises BadInput where the model's sizes are not known, or where the result's size depends on scores that nobody has measured.
    """
    backbone = shapes.find(spec.base_model, spec.attention)
    layers = backbone.shape.layers
    attention, mlp, known = _dropped(spec.variant, backbone)
    full = {index: one.neurons for index, one in enumerate(layers) if one.neurons and index not in mlp}
    kept = _widths(list(full.values()), spec)
    found = dict(zip(full, kept, strict=True))
    ranked = spec.keep_ratio < 1 and spec.width_rule == grammar.GLOBAL
    known = known and not (ranked and 0 in kept)
    name = grammar.join(spec.variant, spec.keep_ratio, spec.width_rule)
    exact = spec.keep_ratio == 1 or grammar.split(name)[1] == spec.keep_ratio
    left = [found.get(index, 0) for index in range(len(layers))]
    asked = {"base": spec.base_model, "variant": name if exact else spec.variant} | {
        field: getattr(spec, field) for field in ("keep_ratio", "width_rule", "width_multiple")
    }
    return asked | _facts(spec, backbone, attention, left, known, ranked)


def within(spec: RunSpec, target: Target, multiple: int) -> dict[str, Any]:
    """The cut of the spec's base model that meets the target and loses the least by PRIOR; speed is matmul operations on documents.

    Raises BadInput where the model's sizes are not known or the target is out of reach.
    """
    if target.speedup is not None and not target.speedup > 1:
        raise BadInput(f"a speed-up of {target.speedup:g} asks for nothing: take one above 1")
    backbone = shapes.find(spec.base_model, spec.attention)
    count = costs.arithmetic(backbone, [spec.max_document_tokens])
    choice = budget.choose(prior(backbone), count, backbone, target, multiple)
    asked = {"base": spec.base_model, "variant": None, "width_multiple": multiple}
    chosen = {
        "target": {"speedup": target.speedup, "parameters": target.parameters},
        "predicted_speedup": choice.speedup,
        "utility_kept": choice.utility_kept,
        "utility_bound": choice.utility_bound,
        "prior": PRIOR,
    }
    return asked | _facts(spec, backbone, choice.cut.drop_attention, choice.widths, known=True, ranked=False) | chosen


def check_target(spec: RunSpec) -> None:
    """Raises BadInput, with the nearest, where the spec asks for fewer parameters than any cut leaves of its base model.

    What no sizes are known of, and a speed-up, whose costs are yet to be timed, pass: `narrow` refuses those.
    """
    if shapes.is_known(spec.base_model):
        backbone = shapes.find(spec.base_model, spec.attention)
        count = costs.arithmetic(backbone, [spec.max_document_tokens])
        budget.check_reach(prior(backbone), count, backbone, Target(parameters=spec.target_parameters), spec.width_multiple)


def stages(spec: RunSpec) -> tuple[Backbone, Backbone, Backbone]:
    """The spec's base model whole, as depth leaves it, and as narrow leaves it.

    Where importance decides which parts go, others of the same size stand in; a target is met by PRIOR.
    Raises BadInput as `plan` and `within` do.
    """
    backbone = shapes.find(spec.base_model, spec.attention)
    if spec.has_target():
        target = Target(spec.target_speedup, spec.target_parameters)
        count = costs.arithmetic(backbone, [spec.max_document_tokens])
        choice = budget.choose(prior(backbone), count, backbone, target, spec.width_multiple)
        return backbone, backbone, shapes.cut(backbone, choice.cut.drop_attention, choice.widths)
    attention, mlp, _ = _dropped(spec.variant, backbone)
    full = [0 if index in mlp else one.neurons for index, one in enumerate(backbone.shape.layers)]
    kept = iter(_widths([width for width in full if width], spec))
    left = [next(kept) if width else 0 for width in full]
    return backbone, shapes.cut(backbone, attention, full), shapes.cut(backbone, attention, left)


def prior(backbone: Backbone) -> Utility:
    """PRIOR as a utility: earlier layers are worth more, and neurons fall off linearly."""
    layers = backbone.shape.layers
    depth = 1 - np.arange(len(layers)) / len(layers)
    return Utility(depth, depth, {index: np.arange(one.neurons, 0, -1.0) for index, one in enumerate(layers)})


def _dropped(variant: str, backbone: Backbone) -> tuple[set[int], set[int], bool]:
    """(layers without attention, without MLP, whether those are the very ones). Where scores decide, the last ones stand in."""
    layers = backbone.shape.layers
    backwards = range(len(layers) - 1, -1, -1)
    attention, mlp = grammar.take(variant, len(layers), dict.fromkeys("ABM", backwards))
    parts = grammar.parse(variant)
    known = all(last or number == len(layers) for last, number, _ in parts)
    if not known and any(kind == "B" for _, _, kind in parts) and len(parts) > 1:
        raise BadInput(f"what {variant} leaves depends on how its parts overlap, which importance decides: plan one of them at a time")
    if not known and len(set(layers)) > 1:
        raise BadInput(f"the layers of this model differ, so what {variant} leaves depends on importance: plan a variant with `last`")
    return attention, mlp, known


def _widths(full: Sequence[int], spec: RunSpec) -> list[int]:
    """Widths of the kept MLPs; where a global ranking decides, only their sum is meant."""
    if not full or spec.keep_ratio == 1:
        return list(full)
    whole = np.array(full)
    if spec.width_rule == grammar.UNIFORM:
        return [int(one) for one in widths.uniform_widths(whole, spec.keep_ratio, spec.width_multiple)]
    target = round(spec.keep_ratio * whole.sum())
    ends = np.round(np.cumsum(whole) * target / whole.sum()).astype(int)
    return [int(one) for one in widths.round_widths(np.diff(ends, prepend=0), whole, spec.width_multiple, target)]


def _facts(spec: RunSpec, backbone: Backbone, attention: Collection[int], left: Sequence[int], known: bool, ranked: bool) -> dict[str, Any]:
    """The plan as plain JSON. known: which sub-layers go is settled; ranked: widths are, but for their sum, a ranking's affair."""
    layers = backbone.shape.layers
    after = shapes.cut(backbone, attention, left)
    (total, inner), (total_before, inner_before) = shapes.count(after), shapes.count(backbone)
    lost_attention = [index for index, one in enumerate(layers) if one.query and index in attention]
    lost_mlp = [index for index, one in enumerate(layers) if one.neurons and not left[index]]
    kept = [width for width in left if width]

    def bound(length: int) -> float:
        return shapes.flops(backbone.shape, [length]) / shapes.flops(after.shape, [length])

    return {
        "params_without_head": total,
        "params_reference": total_before,
        "non_embedding": inner,
        "non_embedding_reference": inner_before,
        "query_tokens": spec.max_query_tokens,
        "document_tokens": spec.max_document_tokens,
        "flop_bound_query": bound(spec.max_query_tokens),
        "flop_bound_document": bound(spec.max_document_tokens),
        "layers": len(layers),
        "dropped_attention": len(lost_attention),
        "dropped_mlp": len(lost_mlp),
        "dropped_attention_layers": lost_attention if known else None,
        "dropped_mlp_layers": lost_mlp if known else None,
        "widths": {
            "full": max((one.neurons for one in layers), default=0),
            "min": None if ranked else min(kept, default=0),
            "mean": sum(kept) / max(len(kept), 1),
            "max": None if ranked else max(kept, default=0),
            "layers": list(left) if known and not ranked else None,
        },
    }


def table(found: Mapping[str, Any]) -> Table:
    """A plan as a person reads it."""
    shown = Table(title=f"{found['base']}  {_title(found)}", title_justify="left", box=None, header_style="bold")
    for column in ("", "reference", "planned", ""):
        shown.add_column(column, justify="right" if column else "left")
    for label, key in (("parameters, no LM head", "params_without_head"), ("outside the embeddings", "non_embedding")):
        after, before = found[key], found[{"params_without_head": "params"}.get(key, key) + "_reference"]
        shown.add_row(label, f"{before:,}", f"{after:,}", f"{100 * (after / before - 1):+.1f}%")
    for label, kind in (("attentions dropped", "attention"), ("MLPs dropped", "mlp")):
        gone = found[f"dropped_{kind}"]
        shown.add_row(label, "", f"{gone} of {found['layers']}", _which(gone, found[f"dropped_{kind}_layers"]))
    width = found["widths"]
    spread = "each as it ranks" if width["min"] is None else f"{width['min']:,} to {width['max']:,}"
    shown.add_row("mean width of MLPs left", f"{width['full']:,}", f"{width['mean']:,.1f}", spread)
    for kind in ("query", "document"):
        shown.add_row(f"FLOP bound, {kind}", "1.00×", f"{found[f'flop_bound_{kind}']:.2f}×", f"{found[f'{kind}_tokens']} tokens")
    if "prior" in found:
        shown.add_row("utility kept", "100.0%", f"{100 * found['utility_kept']:.1f}%", "by the prior")
        shown.caption, shown.caption_justify = found["prior"], "left"
    return shown


def _title(found: Mapping[str, Any]) -> str:
    if found["variant"] is not None:
        return str(found["variant"])
    wanted = found["target"]
    parts = [f"speed-up {wanted['speedup']:g}"] if wanted["speedup"] is not None else []
    return "for " + " and ".join(parts + ([f"{wanted['parameters']:,} parameters"] if wanted["parameters"] is not None else []))


def _which(gone: int, layers: Sequence[int] | None) -> str:
    if not gone:
        return ""
    return "the least important" if layers is None else runs(layers)


def runs(numbers: Sequence[int]) -> str:
    """Ascending numbers, neighbours joined.

    >>> runs([1, 3, 4, 5, 9])
    '1, 3-5, 9'
    """
    starts = [one for one in numbers if one - 1 not in numbers]
    ends = [one for one in numbers if one + 1 not in numbers]
    return ", ".join(f"{start}-{end}" if end > start else f"{start}" for start, end in zip(starts, ends, strict=True))
