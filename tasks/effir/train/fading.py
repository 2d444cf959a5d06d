"""Sub-layers that fade out while the rest learns to do without them, instead of going at once.

Source: pruning in stages with training between them (HARNESS-LM, 2026, of whole layers), here in as many stages as steps.
"""

from collections.abc import Callable
from typing import Any

from effir.compress import surgery
from effir.compress.anatomy import anatomy_of, sub_layers
from effir.compress.cut import Cut
from effir.compress.importance import scaled


class Fading:
    """What the dropped sub-layers of a cut add to the residual stream is scaled by a gate; once it is shut, they are dropped.

    model: a backbone whose sub-layers are all there; neurons may be cut already
    steps: at step s (0-based) the gate is 1 − (s + 1) / (steps + 1), so it is shut from step `steps` on
    It depends on the step alone, so a resumed training goes on with the same gate.
    """

    def __init__(self, model: Any, cut: Cut, steps: int) -> None:
        self.model, self.cut, self.steps, self.gate = model, cut, steps, 1.0
        layers = sub_layers(model)
        gone = [layers[index][kind] for kind, indices in going(cut).items() for index in indices]
        self.hooks = [module.register_forward_hook(self._scale) for module in gone]
        self.dropped = False

    def projections(self) -> list[str]:
        """Full names of the projections in what goes: adapters there would learn for nothing."""
        anatomy = anatomy_of(self.model)
        places = {"attention": (anatomy.attention, (*anatomy.qkv, anatomy.output)), "mlp": (anatomy.mlp, (*anatomy.gate_up, anatomy.down))}
        return [
            f"{anatomy.layers}.{index}.{place}.{name}"
            for kind, indices in going(self.cut).items()
            for place, names in [places[kind]]
            for index in indices
            for name in names
        ]

    def around(self, step_loss: Callable[[int], Any]) -> Callable[[int], Any]:
        """The same step, with the gate set for it."""

        def step(number: int) -> Any:
            if number >= self.steps:
                self.finish()
            self.gate = 1 - (number + 1) / (self.steps + 1)
            return step_loss(number)

        return step

    def finish(self) -> None:
        """Drop them; done before is no error."""
        for hook in self.hooks:
            hook.remove()
        if not self.dropped:
            surgery.drop(self.model, self.cut)
        self.dropped = True

    def _scale(self, _module: Any, _args: Any, output: Any) -> Any:
        return scaled(output, self.gate)


def going(cut: Cut) -> dict[str, list[int]]:
    """Kind → layers whose sub-layer goes; an MLP without a neuron left goes too."""
    empty = (index for index, kept in cut.neurons.items() if len(kept) == 0)
    return {"attention": sorted(cut.drop_attention), "mlp": sorted({*cut.drop_mlp, *empty})}
