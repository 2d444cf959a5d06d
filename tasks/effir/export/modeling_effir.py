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
BOTH_WAYS = (5, 20)  # the first transformers with which attention both ways was tried
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


def replace(layer, names, stand_in):
    """Put `stand_in` where a sub-layer was; the norms that went with it become identities. names: sub-layer, then its norms."""
    setattr(layer, names[0], stand_in)
    for norm in names[1:]:
        setattr(layer, norm, nn.Identity())


def narrow_layers(model, config, attention, mlp):
    """Give every layer of `model` the sub-layers and the width that `config` states. attention, mlp: as in FAMILIES."""
    layers = per_layer(config)
    restore_first_norm(model.layers[0], config, attention[1])
    for index, layer in enumerate(model.layers):
        wanted = layers.get(index, {})
        skip = wanted.get("skip", [])
        if "attention" in skip:
            replace(layer, attention, NoAttention())
        if "mlp" in skip:
            replace(layer, mlp, NoMLP())
        elif wanted.get("intermediate_size", 0) < 1:
            raise ValueError(f"per_layer_config gives layer {index} no intermediate_size: the config is damaged or not effir's")
        else:
            with dense(config, wanted["intermediate_size"]):
                setattr(layer, mlp[0], type(getattr(layer, mlp[0]))(config))


def attend_both_ways(model):
    """Let every token of a decoder attend to all tokens: the config says so to what makes masks, the modules to what needs none."""
    if VERSION < BOTH_WAYS:
        raise ValueError(f"this model attends both ways, which transformers {transformers.__version__} may not do: use 5.20 or later")
    model.config.is_causal = False
    for part in model.modules():
        if getattr(part, "is_causal", False):
            part.is_causal = False


def restore_first_norm(layer, config, norm):
    """ModernBERT's very first layer has no norm before its attention; one that came to stand first keeps its own."""
    came_from = (getattr(config, "effir", None) or {"layers": [0]})["layers"][0]
    if came_from > 0 and isinstance(getattr(layer, norm), nn.Identity):
        setattr(layer, norm, nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias))


def narrowed(family, attention, mlp):
    """The config and model class of a family, such as Llama, whose layers follow `per_layer_config`."""
    stock_config = getattr(transformers, f"{family}Config")
    stock_model = getattr(transformers, f"{family}Model")

    def build(self, config):
        with dense(config, 1):
            stock_model.__init__(self, config)
        narrow_layers(self, config, attention, mlp)
        if getattr(config, "is_causal", None) is False:
            attend_both_ways(self)

    # Scaled dot-product attention leaves out Gemma 2's soft cap, which later releases of transformers no longer let happen.
    capped = getattr(stock_config(), "attn_logit_softcapping", None) is not None
    here = {"__module__": __name__}
    config = type(f"Effir{family}Config", (stock_config,), here | {"model_type": f"effir_{stock_config.model_type}"})
    sdpa = {"_supports_sdpa": False} if capped else {}
    model = type(f"Effir{family}Model", (stock_model,), here | sdpa | {"config_class": config, "__init__": build})
    return config, model


def buildable(family, alternates):
    """Whether this transformers has the family and, where local and global attention alternate, is told which layer has which."""
    if not hasattr(transformers, f"{family}Model"):
        return False
    return not alternates or hasattr(getattr(transformers, f"{family}Config")(), "layer_types")


LIKE_LLAMA = (("self_attn", "input_layernorm"), ("mlp", "post_attention_layernorm"))
LIKE_GEMMA = (
    ("self_attn", "input_layernorm", "post_attention_layernorm"),
    ("mlp", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
)
FAMILIES = {
    getattr(transformers, f"{family}Config").model_type: narrowed(family, *names)
    for family, names, alternates in (
        ("Llama", LIKE_LLAMA, False),
        ("Mistral", LIKE_LLAMA, False),
        ("Qwen2", LIKE_LLAMA, False),
        ("Qwen3", LIKE_LLAMA, False),
        ("Gemma2", LIKE_GEMMA, True),
        ("Gemma3Text", LIKE_GEMMA, True),
        ("ModernBert", (("attn", "attn_norm"), ("mlp", "mlp_norm")), True),
    )
    if buildable(family, alternates)
}
globals().update({one.__name__: one for pair in FAMILIES.values() for one in pair})


def __getattr__(name):
    raise AttributeError(f"{name} needs a later transformers: {transformers.__version__} lacks it or numbers its local layers by itself")
