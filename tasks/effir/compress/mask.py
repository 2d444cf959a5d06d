"""A learned mask over sub-layers: a gate on what each adds, trained while every weight is frozen, and pressed shut.

A gate is drawn anew for every batch from a hard concrete distribution (Louizos et al. 2018), whose probability of being open is
learned with the loss; two multipliers hold the expected share of weights that stay at a target (Wang et al. 2020), as in CoFi (Xia et
al. 2022) and Sheared-LLaMA (Xia et al. 2024). Those learn masks of heads, dimensions and neurons too, and train the weights after.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from effir.compress.anatomy import sub_layers
from effir.compress.importance import scaled, tensor_of

KEEP = 0.5
"""Share of the sub-layers' weights that is to stay open in the end; the target falls to it over the first half of the steps."""
RATE, PRESSURE = 0.2, 1.0
"""Learning rates: of the gates (Adam), and of the multipliers (gradient ascent)."""
START = 2.0
"""Of the logits: 97% open."""
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
"""Of the hard concrete distribution, as Louizos et al. have them."""
SubLayer = tuple[str, int]
"""Kind and layer."""


class Gates:
    """A gate on every sub-layer. sizes: how many weights each has."""

    def __init__(self, sizes: Mapping[SubLayer, int], device: str) -> None:
        total = sum(sizes.values())
        self.names = list(sizes)
        self.share = torch.tensor([sizes[name] / total for name in self.names], device=device)
        self.logits = torch.full((len(self.names),), START, device=device, requires_grad=True)
        self.multipliers = torch.zeros(2, device=device, requires_grad=True)
        self._adam = torch.optim.Adam([self.logits], lr=RATE)
        self._ascent = torch.optim.SGD([self.multipliers], lr=PRESSURE, maximize=True)
        self._noise = torch.zeros_like(self.share)
        self._dice = torch.Generator().manual_seed(0)

    def draw(self) -> None:
        """Throw the dice of the next batch, which its gates keep however often they are looked at."""
        even = torch.rand(len(self.names), generator=self._dice).clamp(1e-6, 1 - 1e-6).to(self.share.device)
        self._noise = even.logit()

    def drawn(self) -> torch.Tensor:
        """The gates of this batch, 0 to 1, (sub-layers,)."""
        return ((HIGH - LOW) * torch.sigmoid((self._noise + self.logits) / TEMPERATURE) + LOW).clamp(0, 1)

    def open(self) -> torch.Tensor:
        """The probability that a gate is not 0, (sub-layers,)."""
        return torch.sigmoid(self.logits - TEMPERATURE * torch.tensor(-LOW / HIGH).log())

    def press(self, target: float) -> float:
        """Add the gradients of what the expected share of open weights is above or below the target, step, and return that share."""
        expected = self.share @ self.open()
        apart = expected - target
        (self.multipliers[0] * apart + self.multipliers[1] * apart**2).backward()
        for optimiser in (self._adam, self._ascent):
            optimiser.step()
            optimiser.zero_grad()
        return expected.item()

    def worth(self) -> dict[SubLayer, float]:
        """Sub-layer → its share of all weights, times the probability that it is open: in this order, per weight, a budget lets them go."""
        return dict(zip(self.names, (self.share * self.open()).detach().double().tolist(), strict=True))


def target(step: int, steps: int) -> float:
    """The share that is to be open at a step: from 1 down to KEEP in the first half.

    >>> [target(step, 4) for step in range(4)]
    [0.75, 0.5, 0.5, 0.5]
    """
    return 1 - (1 - KEEP) * min(1.0, 2 * (step + 1) / steps)


@contextmanager
def gated(model: Any, gates: Gates) -> Iterator[None]:
    """Within this context, what a sub-layer adds is multiplied by its gate; after its norm, where it has one of its own."""
    places = {name: place for place, name in enumerate(gates.names)}

    def hook(place: int) -> Any:
        return lambda _module, _args, output: scaled(output, gates.drawn()[place].to(tensor_of(output).dtype))

    hooks = [
        module.register_forward_hook(hook(places[kind, index]))
        for index, layer in enumerate(sub_layers(model))
        for kind, module in layer.items()
    ]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
