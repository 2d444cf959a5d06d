"""The tokenizer that travels with a model: one tokenizer.json that every loader reads the same way."""

import json
from pathlib import Path
from typing import Any

from effir.errors import BadInput
from effir.retrieve.settings import Settings


def portable(tokenizer: Any, settings: Settings) -> Any:
    """A copy of a tokenizer that carries all it does in its tokenizer.json, padding on the right.

    With settings.append_eos it ends every text with its eos token, truncated texts included. Model-specific tokenizer
    classes are avoided on purpose: some of them rebuild parts of tokenizer.json from flags when they are loaded.
    Raises BadInput for a tokenizer without tokenizer.json, or without an eos token where one is needed: to end texts, to
    stand for an empty one, or to pad.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    if not getattr(tokenizer, "is_fast", False):
        raise BadInput(f"the tokenizer {type(tokenizer).__name__} has no tokenizer.json: convert it to a fast tokenizer first")
    if tokenizer.eos_token is None and (settings.append_eos or tokenizer.pad_token is None or not tokenizer("")["input_ids"]):
        raise BadInput("the tokenizer has no eos token: set eos_token in the base model's tokenizer_config.json, or use pooling = mean")
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    description["truncation"] = description["padding"] = None
    if settings.append_eos and not ends_with_eos(tokenizer):
        description["post_processor"] = _with_eos(description["post_processor"], tokenizer.eos_token, tokenizer.eos_token_id)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    special.setdefault("pad_token", tokenizer.eos_token)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)),
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=max(settings.max_query_tokens, settings.max_document_tokens),
        padding_side="right",
        clean_up_tokenization_spaces=False,
        **special,
    )


def ends_with_eos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its eos after a text by itself."""
    return tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]


def save(tokenizer: Any, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, the latter under the class name that every transformers knows."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config, indent=1))


def _with_eos(processor: dict[str, Any] | None, eos: str, eos_id: int) -> dict[str, Any]:
    """A post-processor that does what `processor` does, and then puts eos after a text."""
    steps = [] if processor is None else processor["processors"] if processor["type"] == "Sequence" else [processor]
    if not all(step["type"] in ("ByteLevel", "TemplateProcessing") for step in steps):
        kinds = ", ".join(step["type"] for step in steps)
        raise BadInput(f"the tokenizer's post-processor ({kinds}) leaves no place for an eos token: use pooling = mean")
    sequence = [{"Sequence": {"id": "A", "type_id": 0}}]
    plain: dict[str, Any] = {
        "type": "TemplateProcessing",
        "single": sequence,
        "pair": [*sequence, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {},
    }
    template = next((step for step in steps if step["type"] == "TemplateProcessing"), plain)
    last = {"SpecialToken": {"id": eos, "type_id": 0}}
    ended = template | {
        "single": [*template["single"], last],
        "pair": [*template["pair"], last],
        "special_tokens": template["special_tokens"] | {eos: {"id": eos, "ids": [eos_id], "tokens": [eos]}},
    }
    return {"type": "Sequence", "processors": [*(step for step in steps if step is not template), ended]}
