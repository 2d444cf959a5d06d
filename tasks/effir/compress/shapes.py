"""The sizes of a backbone, from its configuration alone: matrix widths, parameters and matmul operations. Neither weights nor torch."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effir.errors import BadInput
from effir.modelfiles import config, understood


@dataclass(frozen=True)
class Layer:
    """Matrix widths of a layer: query and key/value projections (0: attention dropped), MLP neurons (0: MLP dropped)."""

    query: int
    key_value: int
    neurons: int


@dataclass(frozen=True)
class Shape:
    """What decides a backbone's arithmetic."""

    hidden: int
    layers: tuple[Layer, ...]
    causal: bool = True


@dataclass(frozen=True)
class Backbone:
    """A backbone in numbers: its shape, and the parameters that are in no matrix of a layer.

    vocabulary: rows of the input embeddings; an LM head is never counted.
    attention_vectors, mlp_vectors: norm and bias parameters that go when the sub-layer goes; neuron_vectors: biases of one neuron;
    final_vectors: the last norm.
    """

    shape: Shape
    vocabulary: int
    head_size: int
    attention_vectors: int
    mlp_vectors: int
    neuron_vectors: int
    final_vectors: int

    def attention_parameters(self, layer: Layer) -> int:
        """Of the layer's attention with what goes with it; 0 where it was dropped."""
        return self.shape.hidden * 2 * (layer.query + layer.key_value) + self.attention_vectors if layer.query else 0

    def mlp_parameters(self, neurons: int) -> int:
        """Of a gated MLP of this width with what goes with it; 0 without neurons."""
        return neurons * (3 * self.shape.hidden + self.neuron_vectors) + self.mlp_vectors if neurons else 0


def count(backbone: Backbone) -> tuple[int, int]:
    """(all parameters without the LM head, those outside the input embeddings), like surgery.parameters of the loaded model."""
    layers = sum(backbone.attention_parameters(one) + backbone.mlp_parameters(one.neurons) for one in backbone.shape.layers)
    rest = layers + backbone.final_vectors
    return rest + backbone.vocabulary * backbone.shape.hidden, rest


def cut(backbone: Backbone, drop_attention: Collection[int], widths: Sequence[int]) -> Backbone:
    """Without the attention of these layers and with these MLP widths, shape (layers,), 0: dropped. Empty layers disappear."""
    left = []
    for index, (layer, neurons) in enumerate(zip(backbone.shape.layers, widths, strict=True)):
        gone = index in drop_attention
        left.append(Layer(0 if gone else layer.query, 0 if gone else layer.key_value, neurons))
    return replace(backbone, shape=replace(backbone.shape, layers=tuple(one for one in left if one.query or one.neurons)))


def attention_flops(shape: Shape, layer: Layer, lengths: Sequence[int]) -> int:
    """Matmul operations (2 a multiply-add) of one attention on texts of these lengths in tokens.

    Projections q, k, v, o; scores and weighted sums over the n(n+1)/2 pairs of a text, or all n² where attention is not causal.
    Local attention counts as if global: exact for texts within its window, too much beyond.
    """
    pairs = sum(length * (length + 1) // 2 if shape.causal else length**2 for length in lengths)
    return 2 * sum(lengths) * shape.hidden * 2 * (layer.query + layer.key_value) + 2 * 2 * pairs * layer.query


def mlp_flops(shape: Shape, neurons: int, lengths: Sequence[int]) -> int:
    """Matmul operations of one gated MLP: three matrices."""
    return 2 * sum(lengths) * shape.hidden * 3 * neurons


def flops(shape: Shape, lengths: Sequence[int]) -> int:
    """Matmul operations (2 a multiply-add) to encode texts of these lengths in tokens, without padding and LM head."""
    return sum(attention_flops(shape, one, lengths) + mlp_flops(shape, one.neurons, lengths) for one in shape.layers)


def _alike(
    hidden: int, layers: int, heads: int, key_value_heads: int, head_size: int, neurons: int, vocabulary: int, qkv_bias: bool = False
) -> Backbone:
    """Layers that are all alike, with one RMS norm for each sub-layer."""
    query, key_value = heads * head_size, key_value_heads * head_size
    attention_vectors = hidden + (query + 2 * key_value if qkv_bias else 0)
    shape = Shape(hidden, (Layer(query, key_value, neurons),) * layers)
    return Backbone(shape, vocabulary, head_size, attention_vectors, mlp_vectors=hidden, neuron_vectors=0, final_vectors=hidden)


BUILT_IN = {
    "mistral-7b-v0.1": _alike(4096, 32, 32, 8, 128, 14336, 32000),
    "llama-2-7b": _alike(4096, 32, 32, 32, 128, 11008, 32000),
    "llama-3-8b": _alike(4096, 32, 32, 8, 128, 14336, 128256),
    "qwen2.5-1.5b": _alike(1536, 28, 12, 2, 128, 8960, 151936, qkv_bias=True),
    "qwen2.5-3b": _alike(2048, 36, 16, 2, 128, 11008, 151936, qkv_bias=True),
    "qwen2.5-7b": _alike(3584, 28, 28, 4, 128, 18944, 152064, qkv_bias=True),
    "smollm2-135m": _alike(576, 30, 9, 3, 64, 1536, 49152),
}
NORMS = {"llama": 1, "mistral": 1, "qwen2": 1, "qwen3": 1, "gemma2": 2, "gemma3_text": 2, "modernbert": 1}
HEAD_NORMS = ("qwen3", "gemma3_text")
ENCODERS = ("modernbert",)


def find(base: str, attention: str = "causal") -> Backbone:
    """The backbone that a name stands for, without reading weights or asking a hub.

    base: a folder with config.json (or model/config.json), or a built-in name; Hugging Face's names of those count too.
    attention: `bidirectional` makes a decoder attend both ways. Raises BadInput, listing the built-in ones, if there is none.
    """
    found = _named(base)
    return replace(found, shape=replace(found.shape, causal=False)) if attention == "bidirectional" else found


def is_known(base: str) -> bool:
    """Whether `find` has the sizes of this name."""
    return _configuration(base) is not None or _built_in(base) in BUILT_IN


def _configuration(base: str) -> Path | None:
    folder = Path(base).expanduser()
    return next((place / "config.json" for place in (folder / "model", folder) if (place / "config.json").is_file()), None)


def _built_in(base: str) -> str:
    if base.startswith(("/", ".", "~")):
        return ""
    return base.rpartition("/")[2].lower().removeprefix("meta-").removesuffix("-hf").removesuffix("-instruct")


def _named(base: str) -> Backbone:
    if found := _configuration(base):
        return read(found)
    name = _built_in(base)
    if name not in BUILT_IN:
        raise BadInput(f"no sizes are known of {base!r}: choose one of {', '.join(BUILT_IN)}, or name a folder with a config.json")
    return BUILT_IN[name]


def attends_both_ways(config: Any) -> bool:
    """Whether a decoder's configuration makes every token attend to all of its text, as EmbeddingGemma's does."""
    return bool(getattr(config, "use_bidirectional_attention", None)) or getattr(config, "is_causal", None) is False


def read(path: Path) -> Backbone:
    """The backbone of a config.json, plain or exported by effir. Raises BadInput for one that is damaged or not supported."""
    from transformers import AutoConfig

    values = config(path.parent)
    kind = values.pop("model_type").removeprefix("effir_")
    if kind not in NORMS:
        raise BadInput(f"{path} is of type {kind!r}, whose sizes are not known; known are: {', '.join(NORMS)}")
    with understood(f"{path} does not describe a model"):
        layers = values.pop("per_layer_config", None) or {}
        if layers:
            values["intermediate_size"] = max(one.get("intermediate_size", 1) for one in layers.values())
        return _from_config(kind, AutoConfig.for_model(kind, **values), {int(index): one for index, one in layers.items()})


def neurons(folder: Path) -> list[int]:
    """MLP neurons of each layer, 0: dropped, by a folder's config.json. Imports transformers only where that leaves something open."""
    values = config(folder)
    count, width = values.get("num_hidden_layers"), values.get("intermediate_size")
    if "per_layer_config" in values or count is None or width is None:
        return [layer.neurons for layer in read(folder / "config.json").shape.layers]
    return [width] * count


def _from_config(kind: str, given: Any, per_layer: dict[int, dict[str, Any]]) -> Backbone:
    """ModernBERT's first layer has no norm before its attention; that of the embeddings is counted in its place."""
    hidden, heads = given.hidden_size, given.num_attention_heads
    size = getattr(given, "head_dim", None) or hidden // heads
    query, key_value = heads * size, (getattr(given, "num_key_value_heads", None) or heads) * size
    biases = query + 2 * key_value
    attention_bias = biases if kind == "qwen2" else (biases + hidden) * bool(getattr(given, "attention_bias", False))
    mlp_bias = bool(getattr(given, "mlp_bias", False))
    norm = hidden * (1 + bool(getattr(given, "norm_bias", False)))
    layers = []
    for index in range(given.num_hidden_layers):
        own = per_layer.get(index, {})
        skip = own.get("skip", [])
        width = 0 if "mlp" in skip else own.get("intermediate_size", given.intermediate_size)
        layers.append(Layer(0, 0, width) if "attention" in skip else Layer(query, key_value, width))
    return Backbone(
        shape=Shape(hidden, tuple(layers), causal=kind not in ENCODERS and not attends_both_ways(given)),
        vocabulary=given.vocab_size,
        head_size=size,
        attention_vectors=NORMS[kind] * norm + attention_bias + (2 * size if kind in HEAD_NORMS else 0),
        mlp_vectors=NORMS[kind] * norm + mlp_bias * hidden,
        neuron_vectors=2 * mlp_bias,
        final_vectors=norm,
    )
