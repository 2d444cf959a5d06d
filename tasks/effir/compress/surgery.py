"""Carry a Cut out on a model: drop sub-layers with their norms, delete neurons, remove empty layers.

Works on decoder backbones whose layers have `self_attn`, `mlp` (gate_proj, up_proj, down_proj), `input_layernorm` and
`post_attention_layernorm`: Llama, Mistral, Qwen2 and Qwen3. A sub-layer goes together with the norm before it.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModel

from effir.compress.cut import Cut
from effir.errors import BadInput
from effir.export.modeling_effir import NoAttention, NoMLP

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def layers_of(model: Any) -> Any:
    """The decoder layers of a backbone. Raises BadInput for an architecture that is not supported."""
    kind = str(model.config.model_type).removeprefix("effir_")
    if kind not in SUPPORTED:
        raise BadInput(f"a base model of type {kind!r} is not supported; supported are: {', '.join(SUPPORTED)}")
    return model.layers


def has_attention(layer: Any) -> bool:
    """Whether the layer still has its attention."""
    return not isinstance(layer.self_attn, NoAttention)


def has_mlp(layer: Any) -> bool:
    """Whether the layer still has its MLP."""
    return not isinstance(layer.mlp, NoMLP)


def widths(model: Any) -> list[int]:
    """MLP width of every layer; 0 where the MLP was dropped."""
    return [layer.mlp.down_proj.in_features if has_mlp(layer) else 0 for layer in layers_of(model)]


def parameters(model: Any) -> tuple[int, int]:
    """(all parameters, those outside the input embeddings)."""
    total = sum(one.numel() for one in model.parameters())
    return total, total - sum(one.numel() for one in model.get_input_embeddings().parameters())


def skeleton(config: Any) -> Any:
    """A backbone of this configuration without weights (on the meta device): to count, not to compute."""
    with torch.device("meta"):
        return AutoModel.from_config(config)


def apply(model: Any, cut: Cut) -> Any:
    """Cut a model in place and return it; a layer without sub-layers disappears and the later ones move up.

    Raises BadInput if the cut was made for another depth or names absent neurons.
    """
    layers = layers_of(model)
    drop(model, cut)
    for index, kept in cut.neurons.items():
        if has_mlp(layers[index]):
            narrow(layers[index].mlp, kept)
    remove_empty(model)
    return model


def drop(model: Any, cut: Cut) -> Any:
    """Only drop the sub-layers, in place; every layer keeps its number."""
    layers = layers_of(model)
    if len(layers) != cut.layers:
        raise BadInput(f"the cut was made for {cut.layers} layers and the model has {len(layers)}")
    for index in cut.drop_attention:
        layers[index].self_attn = NoAttention()
        layers[index].input_layernorm = nn.Identity()
    for index in {*cut.drop_mlp, *(index for index, kept in cut.neurons.items() if len(kept) == 0)}:
        layers[index].mlp = NoMLP()
        layers[index].post_attention_layernorm = nn.Identity()
    return model


def narrow(mlp: Any, kept: np.ndarray) -> None:
    """Physically keep the neurons `kept` (sorted, shape (width,)): rows of gate and up, columns of down (Eq. 6)."""
    wide = mlp.down_proj.in_features
    if len(kept) and (kept.min() < 0 or kept.max() >= wide):
        raise BadInput(f"the cut names neuron {int(kept.max())} of an MLP that has {wide}")
    chosen = torch.as_tensor(kept, device=mlp.down_proj.weight.device)
    with torch.no_grad():
        for projection in (mlp.gate_proj, mlp.up_proj):
            projection.weight = nn.Parameter(projection.weight[chosen].clone(), requires_grad=projection.weight.requires_grad)
            projection.out_features = len(kept)
            if projection.bias is not None:
                projection.bias = nn.Parameter(projection.bias[chosen].clone())
        down = mlp.down_proj
        down.weight = nn.Parameter(down.weight[:, chosen].clone(), requires_grad=down.weight.requires_grad)
        down.in_features = len(kept)
    mlp.intermediate_size = len(kept)


def remove_empty(model: Any) -> None:
    """Take out layers that lost both sub-layers and number the others anew."""
    layers = layers_of(model)
    kept = [index for index, layer in enumerate(layers) if has_attention(layer) or has_mlp(layer)]
    if len(kept) == len(layers):
        return
    model.layers = nn.ModuleList([layers[index] for index in kept])
    for index, layer in enumerate(model.layers):
        if has_attention(layer):
            layer.self_attn.layer_idx = index
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[index] for index in kept]
    model.config.num_hidden_layers = len(kept)
