"""What others do to a model's weights instead of cutting parts out: fewer bits, or zeros. For comparison, and in quality alone.

The projections of all layers get the values that they would have; how these are stored and multiplied stays, so the model is as
large and as fast as before. A rule is a function (weight (out, in), norms (in,) or None) → new weight; norms: lengths of the inputs over
all calibration tokens, where `effir.compress.needs.WEIGHTS` says that the rule looks at text.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from effir.compress.anatomy import layers_of
from effir.compress.measures import Batches, Progress
from effir.compress.needs import WEIGHTS
from effir.errors import BadInput

Rule = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
BLOCK = 64
OFFSET = 0.9677083


def int8(weight: torch.Tensor, norms: torch.Tensor | None = None) -> torch.Tensor:
    """Every row in steps of its largest absolute value / 127. Source: LLM.int8() (Dettmers et al. 2022), the weights' side of it."""
    step = weight.abs().amax(1, keepdim=True) / 127
    return (weight / step.clamp_min(torch.finfo(weight.dtype).tiny)).round() * step


def nf4(weight: torch.Tensor, norms: torch.Tensor | None = None) -> torch.Tensor:
    """Every block of 64 as its largest absolute value times one of the 16 normal floats. Source: QLoRA (Dettmers et al. 2023).

    The block's scale stays in 32 bits: no double quantisation.
    """
    flat = weight.flatten()
    blocks = nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True)
    floats = normal_floats().to(weight)
    nearest = torch.bucketize(blocks / scale.clamp_min(torch.finfo(weight.dtype).tiny), (floats[1:] + floats[:-1]) / 2)
    return (floats[nearest] * scale).flatten()[: len(flat)].view_as(weight)


def normal_floats() -> torch.Tensor:
    """The 16 values of NF4 in ascending order, -1 to 1: quantiles of the normal distribution, 0 among them (QLoRA, appendix E)."""
    below, above = (torch.special.ndtri(torch.linspace(OFFSET, 0.5, count, dtype=torch.float64)[:-1]) for count in (8, 9))
    found = torch.cat([-below, torch.zeros(1, dtype=torch.float64), above]).sort().values
    return found / found.abs().max()


def magnitude_2_4(weight: torch.Tensor, norms: torch.Tensor | None = None) -> torch.Tensor:
    """Of every four weights of a row side by side, the two smaller ones become 0. Source: Mishra et al. 2021."""
    return _two_of_four(weight, weight.abs())


def wanda_2_4(weight: torch.Tensor, norms: torch.Tensor | None) -> torch.Tensor:
    """The same by |weight| times the length of its input, which is measured in the whole model. Source: Wanda (Sun et al. 2024)."""
    if norms is None:
        raise ValueError("wanda_2_4 needs the lengths of the inputs")
    return _two_of_four(weight, weight.abs() * norms)


RULES: dict[str, Rule] = {"int8": int8, "nf4": nf4, "magnitude_2_4": magnitude_2_4, "wanda_2_4": wanda_2_4}


def change(model: Any, name: str, batches: Batches, progress: Progress) -> int:
    """Give the projections the weights of the rule of this name, in place; returns how many weights these have.

    batches: calibration text, unused where the rule does not look at any
    Raises BadInput where rows of weights cannot be parted into fours.
    """
    found = projections(model)
    norms = _norms(model, found, batches, progress) if WEIGHTS[name] == "text" else {}
    for place, linear in found.items():
        if name.endswith("2_4") and linear.in_features % 4:
            raise BadInput(f"weights={name} needs rows in fours, and {place} has rows of {linear.in_features} weights")
    for place, linear in found.items():
        with torch.no_grad():
            linear.weight.copy_(RULES[name](linear.weight.float(), norms.get(place)))
    return sum(linear.weight.numel() for linear in found.values())


def projections(model: Any) -> dict[str, nn.Linear]:
    """The linear layers within the layers, by name."""
    return {name: part for name, part in layers_of(model).named_modules() if isinstance(part, nn.Linear)}


def _norms(model: Any, found: dict[str, nn.Linear], batches: Batches, progress: Progress) -> dict[str, torch.Tensor]:
    """‖x_j‖₂ of every input over all tokens, padding excluded, by projection."""
    squares = {name: torch.zeros(linear.in_features, dtype=torch.float64, device=linear.weight.device) for name, linear in found.items()}
    with torch.inference_mode():
        for done, (ids, mask) in enumerate(batches, 1):
            with _watched(found, squares, mask):
                model(input_ids=ids, attention_mask=None if bool(mask.all()) else mask, use_cache=False)
            progress(done, len(batches))
    return {name: total.sqrt().float() for name, total in squares.items()}


@contextmanager
def _watched(found: dict[str, nn.Linear], squares: dict[str, torch.Tensor], mask: torch.Tensor) -> Iterator[None]:
    """Within this context the squares of what goes into every projection are added up."""

    def hook(name: str) -> Callable[..., None]:
        def add(_module: Any, args: Any) -> None:
            squares[name] += (args[0].float().square() * mask[..., None]).sum((0, 1))

        return add

    hooks = [linear.register_forward_pre_hook(hook(name)) for name, linear in found.items()]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def _two_of_four(weight: torch.Tensor, worth: torch.Tensor) -> torch.Tensor:
    """The weight with zeros in place of the two of every four that are worth least; of equals the later one."""
    fours = worth.reshape(len(worth), -1, 4)
    kept = torch.zeros_like(fours).scatter_(2, fours.argsort(stable=True, dim=2, descending=True)[..., :2], 1)
    return weight * kept.view_as(weight)
