"""An exported model in NemotronNAS' schema (DeciLMForCausalLM), which vLLM, SGLang, TensorRT-LLM, mlx-lm and llama.cpp read.

The schema gives each layer its own MLP width and lets it do without a sub-layer. Its readers differ (docs/engines.md); what is written
here is what all of them understand alike, and adds nothing but zeros:
widths are multiples of 256, to which they round; the first layer has an attention, without which vLLM and SGLang do not run;
and where llama.cpp is to read it every layer has an MLP, without which llama.cpp loses the layer's attention.
"""

from pathlib import Path
from typing import Any

import torch

from effir import strictjson
from effir.compress.anatomy import anatomy_of, has_attention, layers_of, widths
from effir.errors import BadInput
from effir.export.modeling_effir import FAMILIES as BUILDABLE
from effir.reading import read_tensors
from effir.retrieve.settings import Settings

MULTIPLE = 256
FAMILIES = ("llama", "mistral", "qwen2")
ROTARY = {"decilm": ("default", "linear", "llama3", "yarn"), "llama.cpp": ("default", "llama3")}
"""Kinds of rotary embeddings, by reader. llama.cpp's converter writes no other scaling for this architecture, and says nothing."""
LLAMA3_VOCABULARY = 128_256
LAYER = "model.layers.{}.{}"


def check(model: Any, settings: Settings, reader: str) -> None:
    """Raises BadInput where the schema, or `reader` ("decilm": all but llama.cpp; "llama.cpp"), has no place for what the model has."""
    config = model.config
    family = str(config.model_type).removeprefix("effir_")
    if family not in FAMILIES:
        raise BadInput(
            f"a model of the family {family} has parts that NemotronNAS' schema does not: it holds {', '.join(FAMILIES)}; use --to onnx"
        )
    kind = config.rope_parameters.get("rope_type", "default")
    longest, window = max(settings.max_query_tokens, settings.max_document_tokens), _window(config)
    usual = config.hidden_size // config.num_attention_heads
    for wrong, what in (
        (not anatomy_of(model).causal, "attends both ways, and its readers attend to what came before only"),
        (config.hidden_act != "silu", f"has the activation {config.hidden_act}, and its readers compute silu"),
        (getattr(config, "mlp_bias", False), "has biases in its MLPs, which not all of its readers load"),
        (kind not in ROTARY[reader], f"has rotary embeddings of the kind {kind}, and it knows {', '.join(ROTARY[reader])}"),
        (window and longest > window, f"takes texts of {longest} tokens and sees {window} at a time, and its readers see all of them"),
        (not any(map(has_attention, layers_of(model))), "has no attention left, and its readers need one"),
        (reader == "llama.cpp" and config.head_dim != usual, f"has heads of {config.head_dim}, and its converter takes {usual}"),
    ):
        if wrong:
            raise BadInput(f"this model cannot be written for {reader}: it {what}; use --to onnx")


def check_tokenizer(path: Path, vocabulary: int) -> None:
    """Raises BadInput for a tokenizer.json that llama.cpp's converter does not read for this architecture."""
    told = strictjson.table(path)
    model, decoder = told.get("model") or {}, told.get("decoder") or {}
    pieces = {*model.get("vocab", {}), *(one["content"] for one in told.get("added_tokens", []))}
    llama3 = vocabulary == LLAMA3_VOCABULARY
    if llama3 or (model.get("type") == "BPE" and model.get("byte_fallback") and decoder.get("type") == "Sequence"):
        if len(pieces) == vocabulary:
            return
        raise BadInput(f"this model cannot be written for llama.cpp: it embeds {vocabulary} tokens and its tokenizer has {len(pieces)}")
    raise BadInput(
        "this model cannot be written for llama.cpp: its converter reads the tokenizers of Llama and Mistral only; use --to onnx"
    )


def describe(model: Any, reader: str) -> dict[str, Any]:
    """config.json: Llama's, and block_configs. Without an MLP a layer names no ffn_mult, so that llama.cpp's converter refuses it."""
    given = model.config
    config = {
        name: getattr(given, name)
        for name in (
            "vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps",
            "bos_token_id", "eos_token_id", "pad_token_id",
        )
    }  # fmt: skip
    rotary = dict(given.rope_parameters)
    scaling = {name: value for name, value in rotary.items() if name != "rope_theta"}
    trained = {"original_max_position_embeddings": rotary.get("original_max_position_embeddings")}
    dtype = str(given.dtype or next(model.parameters()).dtype).removeprefix("torch.")
    return (
        config
        | {
            "architectures": ["DeciLMForCausalLM"],
            "model_type": "nemotron-nas",
            "auto_map": {"AutoConfig": "configuration_decilm.DeciLMConfig"},
            "num_hidden_layers": len(layers_of(model)),
            "intermediate_size": -1,
            "attention_bias": _has_bias(model),
            "mlp_bias": False,
            "max_position_embeddings": min(given.max_position_embeddings, _window(given) or given.max_position_embeddings),
            "rope_parameters": rotary,
            "rope_theta": rotary["rope_theta"],
            "rope_scaling": scaling if rotary.get("rope_type", "default") != "default" else None,
            "tie_word_embeddings": True,
            "use_cache": True,
            "dtype": dtype,
            "torch_dtype": dtype,
            "block_configs": _blocks(model, reader),
        }
        | {name: value for name, value in trained.items() if value}
    )


def tensors(model: Any, reader: str) -> dict[str, torch.Tensor]:
    """The weights by the names that the readers expect, with the zeros that `describe` promises."""
    found = {f"model.{name}": weight.detach().to("cpu") for name, weight in model.state_dict().items()}
    hidden, dtype = model.config.hidden_size, model.embed_tokens.weight.dtype
    for index, width in enumerate(widths(model)):
        names = {name: LAYER.format(index, f"mlp.{name}_proj.weight") for name in ("gate", "up", "down")}
        wide = _wide(width, reader)
        if wide and not width:
            found[LAYER.format(index, "post_attention_layernorm.weight")] = torch.ones(hidden, dtype=dtype)
            found |= {name: torch.zeros((0, hidden) if key != "down" else (hidden, 0), dtype=dtype) for key, name in names.items()}
        if wide > width:
            for key, name in names.items():
                more = (0, wide - width) if key == "down" else (0, 0, 0, wide - width)
                found[name] = torch.nn.functional.pad(found[name], more)
    return {name: weight.contiguous() for name, weight in (found | _attention_of_zeros(model) | _output_biases(model)).items()}


def reload(folder: Path) -> Any:
    """The backbone in a decilm/ folder, built as its readers build it. Raises BadInput unless all weights are there, fit and are used."""
    config = strictjson.table(folder / "config.json")
    hidden, layers = config["hidden_size"], {}
    for index, block in enumerate(config["block_configs"]):
        skip = [name for name, part in (("attention", "attention"), ("mlp", "ffn")) if block[part]["no_op"]]
        layers[str(index)] = {"skip": skip} | ({} if "mlp" in skip else {"intermediate_size": width_of(block["ffn"]["ffn_mult"], hidden)})
    kind, family = BUILDABLE["llama"]
    kept = {name: value for name, value in config.items() if name not in ("architectures", "auto_map", "block_configs", "model_type")}
    model = family(kind(**kept | {"per_layer_config": layers, "use_cache": False}))
    stored = [read_tensors(path) for path in sorted(folder.glob("model*.safetensors"))]
    weights = {name.removeprefix("model."): weight for one in stored for name, weight in one.items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise BadInput(f"the weights in {folder} are not what its config.json says: {str(error).splitlines()[-1].strip()}") from None
    return model.eval()


def width_of(ffn_mult: float, hidden: int) -> int:
    """The MLP width that readers make of ffn_mult: two thirds of its multiple of `hidden`, rounded up to a multiple of 256."""
    return -(-int(2 * ffn_mult * hidden / 3) // MULTIPLE) * MULTIPLE


def _wide(width: int, reader: str) -> int:
    """The width that is written for an MLP of `width` neurons (0: dropped)."""
    return -(-width // MULTIPLE) * MULTIPLE or (MULTIPLE if reader == "llama.cpp" else 0)


def _blocks(model: Any, reader: str) -> list[dict[str, Any]]:
    config, blocks = model.config, []
    group = config.num_attention_heads // config.num_key_value_heads
    for index, (layer, width) in enumerate(zip(layers_of(model), widths(model), strict=True)):
        there, wide = has_attention(layer) or index == 0, _wide(width, reader)
        # Half a step below the width, where no rounding of a reader's leads to another.
        mult = {"ffn_mult": 3 * (wide - MULTIPLE / 2) / (2 * config.hidden_size)} if wide else {}
        blocks.append(
            {
                "attention": {"no_op": not there, "replace_with_linear": False, "n_heads_in_group": group if there else None},
                "ffn": {"no_op": not wide, "replace_with_linear": False} | mult,
            }
        )
    return blocks


def _attention_of_zeros(model: Any) -> dict[str, torch.Tensor]:
    """What stands in for a first layer's attention that was dropped: it gives zero."""
    config = model.config
    if has_attention(layers_of(model)[0]):
        return {}
    query, others, hidden = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim, config.hidden_size
    rows = {"q": query, "k": others, "v": others}
    made = {f"self_attn.{name}_proj.weight": torch.zeros(count, hidden) for name, count in rows.items()}
    made |= {"self_attn.o_proj.weight": torch.zeros(hidden, query), "input_layernorm.weight": torch.ones(hidden)}
    if _has_bias(model):
        made |= {f"self_attn.{name}_proj.bias": torch.zeros(count) for name, count in rows.items()}
    return {LAYER.format(0, name): weight.to(model.embed_tokens.weight.dtype) for name, weight in made.items()}


def _output_biases(model: Any) -> dict[str, torch.Tensor]:
    """Readers with biases for queries, keys and values have one for the output too, which Qwen2 lacks."""
    if not _has_bias(model):
        return {}
    there = [index for index, layer in enumerate(layers_of(model)) if has_attention(layer) or index == 0]
    names = [LAYER.format(index, "self_attn.o_proj.bias") for index in there]
    zeros = torch.zeros(model.config.hidden_size, dtype=model.embed_tokens.weight.dtype)
    return {name: zeros.clone() for name in names if name.removeprefix("model.") not in model.state_dict()}


def _has_bias(model: Any) -> bool:
    return any(name.endswith("q_proj.bias") for name in model.state_dict())


def _window(config: Any) -> int | None:
    """How many tokens local attention sees, where some layer has it."""
    kinds = getattr(config, "layer_types", None)
    local = "sliding_attention" in kinds if kinds else config.model_type == "effir_mistral"
    return getattr(config, "sliding_window", None) if local else None
