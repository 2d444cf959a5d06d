"""Modelling code that travels inside an exported folder. Needs torch and transformers (4.46 or later) only.

A layer differs from its neighbours in two ways, both in the config's `per_layer_config`:
{"0": {"intermediate_size": 40}, "2": {"skip": ["mlp"]}, "3": {"skip": ["attention"], "intermediate_size": 64}}.
The global `intermediate_size` is ABSENT, a width that no layer can have: a class that does not know
`per_layer_config` fails on it instead of building a dense, partly random model.
"""

from contextlib import contextmanager

import torch
import transformers
from torch import nn

ABSENT = -1
VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])


class NoAttention(nn.Module):
    """Stands where an attention sub-layer was dropped: contributes exactly nothing to the residual stream."""

    def forward(self, hidden_states, *args, **kwargs):
        nothing = torch.zeros_like(hidden_states)
        return (nothing, None) if VERSION >= (4, 48) else (nothing, None, kwargs.get("past_key_value"))


class NoMLP(nn.Module):
    """Stands where an MLP was dropped: contributes exactly nothing to the residual stream."""

    def forward(self, hidden_states):
        return torch.zeros_like(hidden_states)


def per_layer(config):
    """{layer index: {"intermediate_size": width, "skip": [sub-layers]}}, whatever transformers made of it."""
    return {int(index): layer for index, layer in (config.to_dict().get("per_layer_config") or {}).items()}


@contextmanager
def dense(config, width):
    """Within it, `config` describes layers that are all alike, with MLPs of `width`: what stock modules can be built from."""
    layers = per_layer(config)
    config.per_layer_config = None
    config.intermediate_size = width
    try:
        yield
    finally:
        config.intermediate_size = ABSENT
        config.per_layer_config = layers


def narrow_layers(model, config):
    """Give every decoder layer of `model` the sub-layers and the width that `config` states."""
    layers = per_layer(config)
    for index, layer in enumerate(model.layers):
        wanted = layers.get(index, {})
        skip = wanted.get("skip", [])
        if "attention" in skip:
            layer.self_attn, layer.input_layernorm = NoAttention(), nn.Identity()
        if "mlp" in skip:
            layer.mlp, layer.post_attention_layernorm = NoMLP(), nn.Identity()
        elif wanted.get("intermediate_size", 0) < 1:
            raise ValueError(f"per_layer_config gives layer {index} no intermediate_size: the config is damaged or not effir's")
        else:
            with dense(config, wanted["intermediate_size"]):
                layer.mlp = type(layer.mlp)(config)


def narrowed(family):
    """The config and model class of a family, such as Llama, whose layers follow `per_layer_config`."""
    stock_config = getattr(transformers, f"{family}Config")
    stock_model = getattr(transformers, f"{family}Model")

    def build(self, config):
        with dense(config, 1):
            stock_model.__init__(self, config)
        narrow_layers(self, config)

    here = {"__module__": __name__}
    config = type(f"Effir{family}Config", (stock_config,), here | {"model_type": f"effir_{family.lower()}"})
    model = type(f"Effir{family}Model", (stock_model,), here | {"config_class": config, "__init__": build})
    return config, model


FAMILIES = {
    family.lower(): narrowed(family) for family in ("Llama", "Mistral", "Qwen2", "Qwen3") if hasattr(transformers, f"{family}Model")
}
globals().update({one.__name__: one for pair in FAMILIES.values() for one in pair})
