"""Self-slimming (Eq. 7-8): one learnable scale z per MLP neuron of the kept MLPs, everything else frozen."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from effir.compress.anatomy import anatomy_of, has_mlp, layers_of, widths


def new_scales(model: Any) -> dict[int, nn.Parameter]:
    """z for every kept MLP: layer → ones of shape (width,), float32."""
    device = next(model.parameters()).device
    return {
        index: nn.Parameter(torch.ones(width, dtype=torch.float32, device=device))
        for index, (layer, width) in enumerate(zip(layers_of(model), widths(model), strict=True))
        if has_mlp(layer)
    }


@contextmanager
def scaled(model: Any, scales: Mapping[int, torch.Tensor]) -> Iterator[None]:
    """Within this context the input of each MLP's down projection is multiplied by ReLU(z) (Eq. 7)."""
    anatomy, layers = anatomy_of(model), layers_of(model)

    def hook(z: torch.Tensor):
        return lambda _module, args: (args[0] * torch.relu(z).to(args[0].dtype),)

    hooks = [anatomy.down_of(layers[index]).register_forward_pre_hook(hook(z)) for index, z in scales.items()]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def penalty(scales: Mapping[int, torch.Tensor], beta: float) -> torch.Tensor:
    """Relaxed l0 norm of ReLU(z), a sum over all neurons of all kept MLPs: sigmoid(beta |x|) (A.1)."""
    return sum((torch.sigmoid(beta * torch.relu(z).abs()).sum() for z in scales.values()), torch.zeros(()))


def summary(scales: dict[int, np.ndarray]) -> dict[str, float]:
    """Quantiles of z and how far it moved from 1; the penalty alone hardly moves it, so sparsity would say nothing."""
    flat = np.concatenate([scales[index] for index in sorted(scales)])
    quantiles = {f"z_q{q:02d}": float(np.quantile(flat, q / 100)) for q in (1, 10, 50, 90, 99)}
    return quantiles | {"z_movement": float(np.abs(flat - 1).mean()), "z_at_zero": float((flat <= 0).mean())}


def rank_agreement(first: dict[int, np.ndarray], second: dict[int, np.ndarray]) -> float:
    """Spearman correlation of two sets of z over all neurons."""
    order = sorted(first)
    return float(spearmanr(np.concatenate([first[i] for i in order]), np.concatenate([second[i] for i in order])).statistic)
