"""The arms of a frontier: variants with settings of their own, written on a line each, times seeds.

An arm is written VARIANT or VARIANT:key=value:key=value, such as `16M-30%:neuron_score=magnitude`, and is called that, unless it
has a name in front: `chosen=full:target_speedup=1.5` is the arm `chosen`. Its variant says all about
widths: `16M` keeps every neuron of the MLPs that stay. `cut=reference` cuts the fine-tuned reference instead of the base
(the paper's finetune-then-prune, Table 1), where the reference's own importance scores say if nothing else is asked for.
`weights=nf4` assesses the finished model with its weights in 4 bits (`effir.compress.weights` says what else there is).
`full:base_model=NAME` is an unpruned sibling: another model, trained and measured on the same data.
"""

import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from effir.compress.needs import WEIGHTS
from effir.errors import BadInput, shown
from effir.spec import TARGETS, TRAINING_DOCUMENTS, RunSpec, parse

CUTS = ("base", "reference")
SHARED = (
    "trust_remote_code", "base_code", "training_data", "training_examples", "collections", "test_queries", "test_documents",
    "shard_documents",
)  # fmt: skip
"""Fields of the data, and of whose code is trusted, which all arms share: none of them may have its own."""
BASE = ("base_model", "base_revision")
TOWARDS = ("regression_weight", "ranking_weight")
"""Weights of learning from the reference."""
LANDMARKS = ("base", "bm25", "minilm")
"""What every frontier has beside its arms and their references."""
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}")


@dataclass(frozen=True)
class Arm:
    """One model of a frontier: its name, how it was written, its seed, what is cut, what its weights become, and its spec."""

    name: str
    line: str
    seed: int
    cut: str
    weights: str
    spec: RunSpec

    @property
    def whole(self) -> bool:
        """Whether nothing is cut, so that it is its base, trained."""
        return self.spec.variant == "full" and self.spec.keep_ratio == 1 and not self.spec.has_target() and not self.weights

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {"spec": self.spec.model_dump()}


def arms(spec: RunSpec, variants: str, seeds: str) -> list[Arm]:
    """Every variant with every seed, in the order given.

    spec:     what holds for all of them where they do not say otherwise
    variants: arms separated by commas or line ends
    seeds:    whole numbers separated by commas
    Raises BadInput for an empty list, one that does not parse, or an arm that is there twice.
    """
    numbers = seed_list(seeds)
    lines = [part.strip() for part in re.split(r"[,\n]", variants) if part.strip()]
    if not lines:
        raise BadInput("variants is empty: give at least one, such as 8M,16M-30%,last8B")
    found = [arm(spec, line, seed) for line in lines for seed in numbers]
    names = [one.name for one in found if one.seed == numbers[0]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"variants names {twice[0]} twice")
    return found


def contrast_list(text: str, names: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of arms (before, after), written `8A vs 8M, last8B vs 8M`. Raises BadInput for one that does not parse or names no arm.

    >>> contrast_list("8A vs 8M", ["8A", "8M"])
    [('8A', '8M')]
    """
    pairs = []
    for part in (one.strip() for one in text.split(",") if one.strip()):
        before, versus, after = (piece.strip() for piece in part.partition(" vs "))
        if not versus or not after:
            raise BadInput(f"the contrast {part!r} does not parse: write two arms, such as 8A vs 8M")
        if absent := [name for name in (before, after) if name not in names]:
            raise BadInput(f"the contrast {part!r} names {absent[0]}, which is not among the variants")
        pairs.append((before, after))
    return pairs


def arm(spec: RunSpec, line: str, seed: int) -> Arm:
    """One arm from its line. Raises BadInput naming the arm for whatever is wrong with it."""
    first, *settings = re.split(r":(?=\s*\w+\s*=)", line)
    label, named, variant = (part.strip() for part in first.rpartition("="))
    if named and not NAME.fullmatch(label):
        raise BadInput(f"the arm {shown(line)} has the name {shown(label)}: use up to 40 letters, digits and . _ - and blanks")
    if label in LANDMARKS or label.startswith("reference"):
        raise BadInput(f"the arm {shown(line)} has the name {label}, which stands for something else in every frontier: choose another")
    name = label or line
    if ":" in variant:
        raise BadInput(f"the arm {shown(line)} does not parse: write VARIANT:key=value, such as 16M-30%:neuron_score=magnitude")
    given = {key.strip(): value.strip() for key, _, value in (setting.partition("=") for setting in settings)}
    cut = given.pop("cut", "base")
    if cut not in CUTS:
        raise BadInput(f"the arm {line!r} has cut={cut}: choose one of {', '.join(CUTS)}")
    weights = given.pop("weights", "")
    if weights and weights not in WEIGHTS:
        raise BadInput(f"the arm {shown(line)} has weights={shown(weights)}: choose one of {', '.join(WEIGHTS)}")
    if taken := [key for key in given if key in (*SHARED, "seed")]:
        raise BadInput(f"the arm {shown(line)} sets {taken[0]}, which all arms share: set it for the whole frontier")
    if given.get("calibration_text", spec.calibration_text) not in (spec.calibration_text, TRAINING_DOCUMENTS):
        raise BadInput(f"the arm {shown(line)} has a calibration_text of its own: it may be {TRAINING_DOCUMENTS}, or the whole frontier's")
    scored = {"importance_of": "reference"} if cut == "reference" else {}
    common = spec.model_dump(exclude={"variant", "keep_ratio", "width_rule", "seed", *TARGETS})
    if other := any(given.get(key, common[key]) != common[key] for key in BASE):
        common |= {"importance_of": "base"} | dict.fromkeys(TOWARDS, 0.0)
        common["base_revision"] = RunSpec.model_fields["base_revision"].default
    width = {} if "%" in variant else {"keep_ratio": 1.0}
    try:
        found = Arm(name, line, seed, cut, weights, parse(common | width | scored | {"variant": variant} | given | {"seed": seed}))
        if found.spec.target_parameters is not None:
            from effir import planning

            planning.check_target(found.spec)
    except BadInput as error:
        raise BadInput(f"the arm {shown(line)}: {error}") from None
    if other and (found.spec.importance_of == "reference" or any(getattr(found.spec, key) for key in TOWARDS)):
        raise BadInput(
            f"the arm {shown(line)} has a base_model of its own, and looks at the reference of another: leave out {', '.join(TOWARDS)}, "
            "cut and importance_of"
        )
    return found


def seed_list(seeds: str) -> list[int]:
    """Whole numbers from text. Raises BadInput for none, or one that is no whole number or is there twice.

    >>> seed_list("0, 1")
    [0, 1]
    """
    parts = [part.strip() for part in seeds.split(",") if part.strip()]
    if not parts:
        raise BadInput("seeds is empty: give at least one whole number, such as 0,1")
    for part in parts:
        if not re.fullmatch("[0-9]{1,10}", part) or parts.count(part) > 1:
            raise BadInput(f"seeds has {shown(part)}: give different whole numbers, such as 0,1")
    return [int(part) for part in parts]
