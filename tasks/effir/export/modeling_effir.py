"""Modelling code that travels inside an exported folder. Needs torch and transformers only."""

import torch
from torch import nn


class NoAttention(nn.Module):
    """Stands where an attention sub-layer was dropped: contributes exactly nothing to the residual stream."""

    def forward(self, hidden_states, *args, **kwargs):
        return torch.zeros_like(hidden_states), None


class NoMLP(nn.Module):
    """Stands where an MLP was dropped: contributes exactly nothing to the residual stream."""

    def forward(self, hidden_states):
        return torch.zeros_like(hidden_states)
