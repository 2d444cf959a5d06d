"""Neuron scores of the MLPs that are left: which neurons go when the MLPs get narrower.

A score is a function (model, data, progress) → {layer: float32 (width,)}, with data as `effir.compress.needs.NEURONS` says and as in
`effir.compress.measures`. The higher, the more important. Nothing is normalised by layer: `effir.compress.widths` ranks the
neurons of all layers together. Self-slimming (`effir.compress.slimming`) is a training and not among them.

In the formulas a is the input of the down projection, one value per token and neuron j, and W_down[:, j] what neuron j writes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from effir.compress.anatomy import Anatomy, anatomy_of, has_mlp, layers_of
from effir.compress.measures import Batches, Progress, gradients
from effir.train.contrastive import Contrastive

Scores = dict[int, np.ndarray]


def activation_norm(model: Any, batches: Batches, progress: Progress) -> Scores:
    """Root mean square of a_j over tokens × ‖W_down[:, j]‖₂: the length that neuron j adds to the residual stream.

    The order is that of ‖a_j‖₂ ‖W_down[:, j]‖₂, padding excluded. Source: Wanda (Sun et al. 2024), its scores of the
    weights of a column that goes, put together as a Euclidean length. Cost: 1 forward pass.
    """
    squares = {index: torch.zeros_like(_norms(mlp, anatomy_of(model))["down"], dtype=torch.float64) for index, mlp in mlps(model).items()}
    tokens = 0
    with torch.inference_mode():
        for done, (ids, mask) in enumerate(batches, 1):

            def add(index: int, activation: torch.Tensor, mask: torch.Tensor = mask) -> None:
                squares[index] += (activation.float().square() * mask[..., None]).sum((0, 1))

            with watched(model, add):
                model(input_ids=ids, attention_mask=None if bool(mask.all()) else mask, use_cache=False)
            tokens += int(mask.sum())
            progress(done, len(batches))
    return {
        index: _plain((squares[index] / max(tokens, 1)).sqrt() * _norms(mlp, anatomy_of(model))["down"])
        for index, mlp in mlps(model).items()
    }


def magnitude(model: Any, seed: int, progress: Progress) -> Scores:
    """‖W_gate[j]‖₂ ‖W_up[j]‖₂ ‖W_down[:, j]‖₂: how large the weights are that go with neuron j.

    The product stays when up is scaled and down scaled back, as the MLP does. Source: magnitude pruning of filters (Li et al. 2017),
    for gated MLPs. Cost: none.
    """
    return {index: _plain(torch.stack(list(_norms(mlp, anatomy_of(model)).values())).prod(0)) for index, mlp in mlps(model).items()}


def taylor(model: Any, pairs: Contrastive, progress: Progress) -> Scores:
    """Σ |a_j · ∂loss/∂a_j| over the tokens of a batch, mean over batches; the loss is InfoNCE.

    To first order, how much the loss changes at each token when neuron j is removed, without changes of opposite sign cancelling.
    Source: Molchanov et al. 2017. Cost: 1 forward and 1 backward pass (2 forward where the micro-batch is smaller than the batch).
    """
    totals = {index: torch.zeros_like(_norms(mlp, anatomy_of(model))["down"], dtype=torch.float64) for index, mlp in mlps(model).items()}

    def follow(index: int, activation: torch.Tensor) -> None:
        if activation.requires_grad:
            kept = activation.detach()

            def add(gradient: torch.Tensor) -> None:
                totals[index] += (gradient.float() * kept.float()).abs().sum((0, 1))

            activation.register_hook(add)

    with watched(model, follow), gradients(model):
        for step in range(len(pairs.plan)):
            pairs.step_loss(step)
            progress(step + 1, len(pairs.plan))
    return {index: _plain(total / len(pairs.plan)) for index, total in totals.items()}


def at_random(model: Any, seed: int, progress: Progress) -> Scores:
    """Uniform in [0, 1), seeded: what any score must beat. Cost: none."""
    return {
        index: np.random.default_rng([seed, index]).random(len(_norms(mlp, anatomy_of(model))["down"]), dtype=np.float32)
        for index, mlp in mlps(model).items()
    }


NEURON_SCORES: dict[str, Callable[[Any, Any, Progress], Scores]] = {
    "activation_norm": activation_norm,
    "magnitude": magnitude,
    "taylor": taylor,
    "random": at_random,
}


def summary(scores: Scores) -> dict[str, float]:
    """Quantiles of the scores of all layers together."""
    flat = np.concatenate([scores[index] for index in sorted(scores)])
    return {f"score_q{q:02d}": float(np.quantile(flat, q / 100)) for q in (1, 10, 50, 90, 99)}


def mlps(model: Any) -> dict[int, Any]:
    """The MLPs that are left, by layer."""
    name = anatomy_of(model).mlp
    return {index: getattr(layer, name) for index, layer in enumerate(layers_of(model)) if has_mlp(layer)}


@contextmanager
def watched(model: Any, look: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Within this context `look` is shown every MLP's activations, (layer, (n, t, width)), on their way into the down projection."""

    def hook(index: int) -> Callable[..., None]:
        return lambda _module, args: look(index, args[0])

    down = anatomy_of(model).down
    hooks = [getattr(mlp, down).register_forward_pre_hook(hook(index)) for index, mlp in mlps(model).items()]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def _norms(mlp: Any, anatomy: Anatomy) -> dict[str, torch.Tensor]:
    """Length of what each neuron reads (gate, up) and writes (down): (width,) each, float32."""
    reads = torch.cat([getattr(mlp, name).weight.detach().float() for name in anatomy.gate_up])
    gate, up = reads.norm(dim=1).chunk(2)
    return {"gate": gate, "up": up, "down": getattr(mlp, anatomy.down).weight.detach().float().norm(dim=0)}


def _plain(scores: torch.Tensor) -> np.ndarray:
    return scores.float().cpu().numpy()
