"""The paper's names for cuts: 16M, last16B, 16M8A, full; narrowed as well: 16M-30%, -30%, 16M-30%u. Standard library only."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from effir.errors import BadInput, shown

GRAMMAR = (
    "full, or parts such as 8A (attention), 16M (MLPs), 4B (blocks), last16B, last8M one after another; "
    "behind them or alone -30% (30% of all neurons that are left, ranked together) or -30%u (30% of each layer's)"
)
PARTS = r"full|(?:(?:last)?[1-9][0-9]*[ABM])+"
WIDTH = r"-[1-9][0-9]?%u?"
PATTERN = rf"^(?:(?:{PARTS})(?:{WIDTH})?|{WIDTH})$"
PART = re.compile(r"(last)?([1-9][0-9]*)([ABM])")
GLOBAL, UNIFORM = "global", "uniform"


def split(variant: str) -> tuple[str, float | None, str | None]:
    """(depth part, share of neurons to keep, width rule) of a name; a name without a width part says nothing of the last two.

    Raises BadInput for a name that does not parse.

    >>> split("16M-30%"), split("-5%u"), split("last4B")
    (('16M', 0.7, 'global'), ('full', 0.95, 'uniform'), ('last4B', None, None))
    """
    if not re.fullmatch(PATTERN, variant):
        raise BadInput(f"variant {shown(variant)} does not parse: write {GRAMMAR}")
    depth, dash, width = variant.partition("-")
    if not dash:
        return depth, None, None
    percent = int(width.rstrip("u%"))
    return depth or "full", (100 - percent) / 100, UNIFORM if width.endswith("u") else GLOBAL


def join(depth: str, keep_ratio: float, rule: str) -> str:
    """The name of a cut; `split` of it gives these three back, if keep_ratio is a whole percentage below 1.

    >>> join("16M", 0.7, "global"), join("full", 0.95, "uniform"), join("8A", 1.0, "global")
    ('16M-30%', '-5%u', '8A')
    """
    percent = round(100 * (1 - keep_ratio))
    if not percent:
        return depth
    return f"{depth.removeprefix('full')}-{percent}%{'u' if rule == UNIFORM else ''}"


def parse(variant: str) -> list[tuple[bool, int, str]]:
    """(take the last ones?, how many, kind A, M or B) for every part of a name's depth. Raises BadInput.

    >>> parse("16M8A")
    [(False, 16, 'M'), (False, 8, 'A')]
    """
    depth, _, _ = split(variant)
    parts = [(bool(last), int(count), kind) for last, count, kind in PART.findall(depth)]
    if len({kind for _, _, kind in parts}) != len(parts):
        raise BadInput(f"variant {shown(variant)} names the same kind of sub-layer twice")
    return parts


def take(variant: str, layers: int, order: Mapping[str, Sequence[int]]) -> tuple[set[int], set[int]]:
    """Which layers lose their attention, and which their MLP.

    order: kind A, M, B → all layers, the first to go first; `last` goes by number. Raises BadInput if more is to go than there is.
    """
    attention: set[int] = set()
    mlp: set[int] = set()
    for last, count, kind in parse(variant):
        check(variant, count, layers)
        chosen = set(list(range(layers - 1, -1, -1) if last else order[kind])[:count])
        attention |= chosen if kind in "AB" else set()
        mlp |= chosen if kind in "MB" else set()
    if len(attention & mlp) == layers:
        raise BadInput(f"variant {variant} would drop all {layers} layers of the model")
    return attention, mlp


def check(variant: str, count: int, layers: int) -> None:
    """Raises BadInput if `count` sub-layers cannot be dropped from `layers` layers."""
    if count > layers:
        raise BadInput(f"variant {variant} drops {count} sub-layers, but the model has only {layers} layers")


def expand(values: Mapping[str, Any]) -> dict[str, Any]:
    """A table of spec fields in which the width part of `variant` stands in keep_ratio and width_rule instead.

    A variant that does not parse is left as it is. Raises BadInput if one of those fields is there too and says something else.
    """
    variant = values.get("variant")
    if not isinstance(variant, str) or not re.fullmatch(PATTERN, variant):
        return dict(values)
    depth, keep, rule = split(variant)
    if keep is None:
        return dict(values)
    for name, meant in (("keep_ratio", keep), ("width_rule", rule)):
        given = values.get(name)
        if given is not None and not _says(given, meant):
            raise BadInput(f"variant {variant} means {name} {meant}, but {name} is {given}: write only one of the two")
    return {**values, "variant": depth, "keep_ratio": keep, "width_rule": rule}


def _says(given: Any, meant: Any) -> bool:
    try:
        return float(given) == meant
    except (TypeError, ValueError):
        return bool(given == meant)
