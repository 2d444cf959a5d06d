"""Carry a Cut out on a model: drop sub-layers with their norms, delete neurons, remove empty layers.

Works on every backbone that `anatomy` describes. A sub-layer goes together with the norm before it and, in Gemma, the one after it.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from effir import quick_start  # noqa: F401  # isort: skip
from transformers import AutoModel

from effir.compress.anatomy import SUPPORTED, Anatomy, anatomy_of, has_attention, has_mlp, layers_of, widths
from effir.compress.cut import Cut
from effir.errors import BadInput
from effir.export.modeling_effir import FAMILIES, NoAttention, NoMLP
from effir.retrieve.prepack import Prepacked

__all__ = [
    "SUPPORTED",
    "apply",
    "drop",
    "has_attention",
    "has_mlp",
    "layers_of",
    "narrow",
    "narrow_all",
    "parameters",
    "remove_empty",
    "skeleton",
    "widths",
]


def parameters(model: Any) -> tuple[int, int]:
    """(all parameters, those outside the input embeddings)."""
    total = sum(one.numel() for one in model.parameters()) + sum(part.weights for part in model.modules() if isinstance(part, Prepacked))
    return total, total - sum(one.numel() for one in model.get_input_embeddings().parameters())


def skeleton(config: Any) -> Any:
    """A backbone of this configuration, exported ones included, without weights (on the meta device): to count, not to compute."""
    kind = str(config.model_type)
    with torch.device("meta"):
        return FAMILIES[kind.removeprefix("effir_")][1](config) if kind.startswith("effir_") else AutoModel.from_config(config)


def apply(model: Any, cut: Cut) -> Any:
    """Cut a model in place and return it; a layer without sub-layers disappears and the later ones move up.

    Raises BadInput if the cut was made for another depth or names absent neurons.
    """
    drop(model, cut)
    narrow_all(model, cut)
    remove_empty(model)
    return model


def drop(model: Any, cut: Cut) -> Any:
    """Only drop the sub-layers, in place; every layer keeps its number."""
    anatomy, layers = anatomy_of(model), layers_of(model)
    if len(layers) != cut.layers:
        raise BadInput(f"the cut was made for {cut.layers} layers and the model has {len(layers)}")
    for index in cut.drop_attention:
        _replace(layers[index], anatomy.attention, NoAttention(), anatomy.attention_norms)
    for index in {*cut.drop_mlp, *(index for index, kept in cut.neurons.items() if len(kept) == 0)}:
        _replace(layers[index], anatomy.mlp, NoMLP(), anatomy.mlp_norms)
    return model


def narrow_all(model: Any, cut: Cut) -> Any:
    """Only delete neurons, in place, in MLPs that are there and keep some."""
    anatomy, layers = anatomy_of(model), layers_of(model)
    for index, kept in cut.neurons.items():
        if len(kept) and index not in cut.drop_mlp and has_mlp(layers[index]):
            narrow(getattr(layers[index], anatomy.mlp), kept, anatomy)
    return model


def _replace(layer: Any, place: str, stand_in: nn.Module, norms: tuple[str, ...]) -> None:
    setattr(layer, place, stand_in)
    for norm in norms:
        setattr(layer, norm, nn.Identity())


def narrow(mlp: Any, kept: np.ndarray, anatomy: Anatomy) -> None:
    """Physically keep the neurons `kept` (sorted, shape (width,)): rows of gate and up, columns of down (Eq. 6).

    Where gate and up are one matrix, its rows are kept in both halves. Raises BadInput for neurons that are not there.
    """
    down = getattr(mlp, anatomy.down)
    wide = down.in_features
    if len(kept) and (kept.min() < 0 or kept.max() >= wide):
        raise BadInput(f"the cut names neuron {int(kept.max())} of an MLP that has {wide}")
    chosen = torch.as_tensor(kept, device=down.weight.device)
    for name in anatomy.gate_up:
        projection = getattr(mlp, name)
        rows = torch.cat([chosen + start for start in range(0, projection.out_features, wide)])
        projection.weight = _part(projection.weight, rows, 0)
        if projection.bias is not None:
            projection.bias = _part(projection.bias, rows, 0)
        projection.out_features = len(rows)
    down.weight = _part(down.weight, chosen, 1)
    down.in_features = len(kept)
    if hasattr(mlp, "intermediate_size"):
        mlp.intermediate_size = len(kept)


def _part(parameter: nn.Parameter, chosen: torch.Tensor, dimension: int) -> nn.Parameter:
    return nn.Parameter(parameter.detach().index_select(dimension, chosen), requires_grad=parameter.requires_grad)


def remove_empty(model: Any) -> None:
    """Take out layers that lost both sub-layers and number the others anew; each keeps its kind of attention (local or global)."""
    layers = layers_of(model)
    kept = [index for index, layer in enumerate(layers) if has_attention(layer) or has_mlp(layer)]
    if len(kept) == len(layers):
        return
    setattr(model, anatomy_of(model).layers, nn.ModuleList([layers[index] for index in kept]))
    for index, layer in enumerate(layers_of(model)):
        for part in layer.modules():
            if hasattr(part, "layer_idx"):
                part.layer_idx = index
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[index] for index in kept]
    model.config.num_hidden_layers = len(kept)
