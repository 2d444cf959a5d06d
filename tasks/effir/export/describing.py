"""The JSON that describes an exported model: its transformers config and what Sentence-Transformers wants to know."""

from typing import Any

import torch

from effir.compress.anatomy import has_attention, layers_of, widths
from effir.compress.cut import Cut
from effir.errors import BadInput
from effir.export.modeling_effir import ABSENT
from effir.retrieve.settings import Settings

PLACE = "{text}"
LEFT_OUT = (
    "_name_or_path", "architectures", "auto_map", "chunk_size_feed_forward", "id2label", "is_encoder_decoder", "label2id",
    "output_attentions", "output_hidden_states", "per_layer_config", "problem_type", "quantization_config", "return_dict",
    "transformers_version",
)  # fmt: skip


def model_config(model: Any, cut: Cut | None, dtype: torch.dtype) -> dict[str, Any]:
    """config.json of a cut backbone: the base's, with per-layer widths, rotary settings for old and new transformers, and auto_map."""
    base = model.config.to_dict()
    family = str(base["model_type"]).removeprefix("effir_")
    kept = kept_layers(len(layers_of(model)), cut)
    before = base.get("effir", {"layers": list(range(cut.layers if cut else len(kept))), "base_layers": cut.layers if cut else len(kept)})
    name = type(model).__name__.removeprefix("Effir").removesuffix("Model")
    changed = {
        "architectures": [f"Effir{name}Model"],
        "auto_map": {"AutoConfig": f"modeling_effir.Effir{name}Config", "AutoModel": f"modeling_effir.Effir{name}Model"},
        "model_type": f"effir_{family}",
        "num_hidden_layers": len(kept),
        "intermediate_size": ABSENT,
        "per_layer_config": layer_table(model),
        "head_dim": base.get("head_dim") or base["hidden_size"] // base["num_attention_heads"],
        "use_cache": False,
        "dtype": str(dtype).removeprefix("torch."),
        "torch_dtype": str(dtype).removeprefix("torch."),
        "effir": before | {"layers": [before["layers"][index] for index in kept]},
    }
    if base.get("max_window_layers") is not None and cut is not None and len(kept) < cut.layers:
        changed["max_window_layers"] = sum(index < base["max_window_layers"] for index in kept)
    return {key: value for key, value in base.items() if key not in LEFT_OUT} | changed | _rotary(base, family)


def kept_layers(present: int, cut: Cut | None) -> list[int]:
    """Which of the layers that a cut was made for are still there: all but those that lost both sub-layers.

    Raises BadInput if the model that is there (`present` layers) is not what the cut leaves.
    """
    if cut is None:
        return list(range(present))
    no_mlp = {*cut.drop_mlp, *(layer for layer, neurons in cut.neurons.items() if len(neurons) == 0)}
    kept = [layer for layer in range(cut.layers) if not (layer in no_mlp and layer in cut.drop_attention)]
    if len(kept) != present:
        raise BadInput(f"the cut leaves {len(kept)} of {cut.layers} layers and the model has {present}: apply the cut before exporting")
    return kept


def layer_table(model: Any) -> dict[str, dict[str, Any]]:
    """per_layer_config of a cut model: {"0": {"intermediate_size": 40}, "2": {"skip": ["mlp"]}}."""
    table: dict[str, dict[str, Any]] = {}
    for index, (layer, width) in enumerate(zip(layers_of(model), widths(model), strict=True)):
        skip = [name for name, there in (("attention", has_attention(layer)), ("mlp", width > 0)) if not there]
        table[str(index)] = ({"skip": skip} if skip else {}) | ({"intermediate_size": width} if width else {})
    return table


def prefix_of(template: str) -> str:
    """What a template puts before the text. Raises BadInput for one that also puts something after it."""
    before, _, after = template.partition(PLACE)
    if after:
        raise BadInput(
            f"the template {template!r} puts {after!r} after the text, and Sentence-Transformers knows prefixes only: end it with {PLACE}"
        )
    return before


def sentence_files(settings: Settings, width: int, versions: dict[str, str]) -> dict[str, Any]:
    """File name → JSON of what makes the folder a SentenceTransformer; the names are those that its old and new releases read."""
    longest = max(settings.max_query_tokens, settings.max_document_tokens)
    lengths = {"query_length": settings.max_query_tokens, "document_length": settings.max_document_tokens}
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    chosen = {"last": "lasttoken", "mean": "mean_tokens"}[settings.pooling]
    return {
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")))
        ],
        "sentence_bert_config.json": {"max_seq_length": longest, "do_lower_case": False}
        | (lengths if settings.max_query_tokens != settings.max_document_tokens else {}),
        "config_sentence_transformers.json": {
            "__version__": versions,
            "model_type": "SentenceTransformer",
            "prompts": {"query": prefix_of(settings.query_template), "document": prefix_of(settings.document_template)},
            "default_prompt_name": "document",
            "similarity_fn_name": "cosine",
        },
        "1_Pooling/config.json": {"word_embedding_dimension": width, "include_prompt": True}
        | {f"pooling_mode_{mode}": mode == chosen for mode in modes},
        "2_Normalize/config.json": {},
    }


def _rotary(base: dict[str, Any], family: str) -> dict[str, Any]:
    """Both spellings: transformers 5 reads rope_parameters; 4.46 reads rope_theta and rope_scaling and ignores the other silently.

    Where local and global attention have their own (Gemma 3, ModernBERT), transformers 4 with layer_types knows Gemma 3 only.
    """
    given = dict(base.get("rope_parameters") or base.get("rope_scaling") or {})
    if "full_attention" not in given:
        theta, scaling, parameters = _rotary_of_one_kind(given, base.get("rope_theta"))
        return {"rope_theta": theta, "rope_scaling": scaling, "rope_parameters": parameters}
    if family != "gemma3_text":
        return {"rope_parameters": given}
    theta, scaling, _ = _rotary_of_one_kind(given["full_attention"])
    local, _, _ = _rotary_of_one_kind(given["sliding_attention"])
    return {"rope_theta": theta, "rope_scaling": scaling, "rope_local_base_freq": local, "rope_parameters": given}


def _rotary_of_one_kind(given: dict[str, Any], theta: float | None = None) -> tuple[float, dict[str, Any] | None, dict[str, Any]]:
    """rope_theta, rope_scaling (None: not scaled) and rope_parameters."""
    others = {name: value for name, value in given.items() if name not in ("rope_theta", "rope_type", "type")}
    theta = given.get("rope_theta") or theta or 10_000.0
    kind = given.get("rope_type") or given.get("type") or "default"
    scaling = {"rope_type": kind} | others if kind != "default" else None
    return theta, scaling, {"rope_theta": theta, "rope_type": kind} | others
