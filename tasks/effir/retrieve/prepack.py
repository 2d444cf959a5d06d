"""Linear layers for encoding on a processor: weights that are laid out once as oneDNN's kernels read them, instead of at every product."""

from typing import Any

import torch
from torch import nn

from effir import quick_start  # noqa: F401  # isort: skip
from transformers.activations import SiLUActivation


class Prepacked(nn.Module):
    """What an nn.Linear does, faster and without gradients: x (…, in_features) → act(x Wᵀ + b), (…, out_features).

    silu: whether oneDNN applies SiLU to the product while it is still in the cache.
    """

    def __init__(self, linear: nn.Linear, silu: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.laid_out = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = linear.bias
        self.after = "swish" if silu else "none"

    @property
    def weights(self) -> int:
        """How many it has; they are no parameters any more, and what is laid out may be filled up with zeros."""
        return self.in_features * self.out_features

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The product."""
        return torch.ops.mkldnn._linear_pointwise(states, self.laid_out, self.bias, self.after, [], "")


def prepack(model: Any) -> Any:
    """The same model, its linear layers Prepacked in place, for encoding only: it has no such weights to train or to save any more.

    A SiLU between a gate and its product goes into the gate. A model on another device, in a data type that the processor does not
    multiply, or a torch without oneDNN, is left as it is. What it gains: docs/log.md, 2026-11-22.
    """
    if str(model.device) != "cpu" or not torch.backends.mkldnn.is_available() or not _multiplied(model.dtype):
        return model
    for parent in list(model.modules()):
        for name, part in list(parent.named_children()):
            if type(part) is nn.Linear:
                silu = name == "gate_proj" and isinstance(getattr(parent, "act_fn", None), nn.SiLU | SiLUActivation)
                setattr(parent, name, Prepacked(part, silu))
                if silu:
                    parent.act_fn = nn.Identity()
    return model


def _multiplied(dtype: torch.dtype) -> bool:
    """Whether oneDNN's kernels for this processor take it."""
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
