"""Where the parts of a layer sit: one description per architecture, and all that cuts, scores, trains or exports goes by it."""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from effir.compress.shapes import attends_both_ways
from effir.errors import BadInput
from effir.export.modeling_effir import NoAttention, NoMLP


@dataclass(frozen=True)
class Anatomy:
    """Attribute names: of a backbone (layers), of a layer (attention, mlp and norms), of a sub-layer (its projections).

    attention_norms, mlp_norms: first the norm before the sub-layer, then the one after it where there is one
    qkv, output: the attention's projections, in one matrix or several; output reads all heads, side by side
    gate_up: the MLP's projections into its neurons; a single one holds two halves, row i and row width + i belong to neuron i
    down: the MLP's projection out of its neurons
    head: how the names of weights begin that a language model has beside its backbone
    causal: whether a token attends only to itself and those before it
    """

    layers: str
    attention: str
    attention_norms: tuple[str, ...]
    qkv: tuple[str, ...]
    output: str
    mlp: str
    mlp_norms: tuple[str, ...]
    gate_up: tuple[str, ...]
    down: str
    head: tuple[str, ...]
    causal: bool

    @property
    def projections(self) -> tuple[str, ...]:
        """Names of all projections, each once: what LoRA adapts."""
        return tuple(dict.fromkeys((*self.qkv, self.output, *self.gate_up, self.down)))

    def middle_of(self, layer: Any) -> nn.Module:
        """The module whose input is the residual stream between attention and MLP."""
        return getattr(layer, self.mlp_norms[0])

    def down_of(self, layer: Any) -> Any:
        """The projection whose input are the MLP's neurons. Raises AttributeError where the MLP was dropped."""
        return getattr(getattr(layer, self.mlp), self.down)

    def attention_widths(self, layer: Any) -> tuple[int, int]:
        """Widths of the query projection and of the key (or value) projection; (0, 0) where the attention was dropped."""
        if not has_attention(layer):
            return 0, 0
        attention = getattr(layer, self.attention)
        query = getattr(attention, self.output).in_features
        return query, (sum(getattr(attention, name).out_features for name in self.qkv) - query) // 2


_LLAMA = Anatomy(
    layers="layers",
    attention="self_attn",
    attention_norms=("input_layernorm",),
    qkv=("q_proj", "k_proj", "v_proj"),
    output="o_proj",
    mlp="mlp",
    mlp_norms=("post_attention_layernorm",),
    gate_up=("gate_proj", "up_proj"),
    down="down_proj",
    head=("lm_head.",),
    causal=True,
)
_GEMMA = replace(
    _LLAMA,
    attention_norms=("input_layernorm", "post_attention_layernorm"),
    mlp_norms=("pre_feedforward_layernorm", "post_feedforward_layernorm"),
)
_MODERNBERT = Anatomy(
    layers="layers",
    attention="attn",
    attention_norms=("attn_norm",),
    qkv=("Wqkv",),
    output="Wo",
    mlp="mlp",
    mlp_norms=("mlp_norm",),
    gate_up=("Wi",),
    down="Wo",
    head=("head.", "decoder."),
    causal=False,
)
ANATOMIES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "modernbert": _MODERNBERT,
}
"""model_type → where its parts sit. A family that is added here also needs a line in FAMILIES of export/modeling_effir.py."""
SUPPORTED = tuple(ANATOMIES)
HOW_TO_ADD = (
    "to add one, describe it in ANATOMIES of effir/compress/anatomy.py (what it calls its layers, the attention and the MLP in a layer, "
    "the norms that go with each, and their projections) and in FAMILIES of effir/export/modeling_effir.py"
)


def anatomy_of(model_or_config: Any) -> Anatomy:
    """The description of a model's architecture; a type that begins with effir_ is the same family.

    A decoder whose configuration makes it attend both ways, as EmbeddingGemma's does, is not causal.
    Raises BadInput for an architecture without a description.
    """
    config = getattr(model_or_config, "config", model_or_config)
    kind = str(config.model_type).removeprefix("effir_")
    if kind not in ANATOMIES:
        raise BadInput(f"a base model of type {kind!r} is not supported; supported are: {', '.join(SUPPORTED)}; {HOW_TO_ADD}")
    return replace(ANATOMIES[kind], causal=False) if attends_both_ways(config) else ANATOMIES[kind]


def layers_of(model: Any) -> Any:
    """The layers of a backbone. Raises BadInput for an architecture that is not supported."""
    return getattr(model, anatomy_of(model).layers)


def sub_layers(model: Any) -> list[dict[str, Any]]:
    """The modules whose output is added to the residual stream, by kind, for every layer: sub-layers, or the norms after them."""
    anatomy = anatomy_of(model)
    ends = {
        "attention": (anatomy.attention, *anatomy.attention_norms[1:])[-1],
        "mlp": (anatomy.mlp, *anatomy.mlp_norms[1:])[-1],
    }
    return [{kind: getattr(layer, name) for kind, name in ends.items()} for layer in layers_of(model)]


def has_attention(layer: Any) -> bool:
    """Whether the layer still has its attention."""
    return not any(isinstance(part, NoAttention) for part in layer.children())


def has_mlp(layer: Any) -> bool:
    """Whether the layer still has its MLP."""
    return not any(isinstance(part, NoMLP) for part in layer.children())


def widths(model: Any) -> list[int]:
    """MLP width of every layer; 0 where the MLP was dropped."""
    anatomy = anatomy_of(model)
    return [anatomy.down_of(layer).in_features if has_mlp(layer) else 0 for layer in layers_of(model)]
