"""A model's folder that someone else made, looked at before a library builds something of the sizes that it names."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from effir import strictjson
from effir.errors import BadInput, EffirError, shown

LARGEST = {
    "num_hidden_layers": 10_000,
    "num_attention_heads": 1 << 16,
    "num_key_value_heads": 1 << 16,
    "head_dim": 1 << 16,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 24,
    "vocab_size": 1 << 26,
}
BY_LAYER = -1
"""What an exported model gives for the width of layers that differ; each layer's own stands beside it."""
LACKING = ("out of memory", "allocate memory", "ALLOC_FAILED", "No space left on device")
OPTIONAL = ("num_key_value_heads", "head_dim")
"""Sizes that a config.json may give as null, too."""


@contextmanager
def understood(what: str) -> Iterator[None]:
    """Turns whatever a library raises over a file within this context into BadInput: `what`, and the first line of its complaint.

    Libraries that parse models raise errors of any kind, among them panics of Rust code. A lack of memory or of disk space, and
    errors of our own, are passed on as they are.
    """
    try:
        yield
    except (EffirError, MemoryError):
        raise
    except BaseException as error:
        lacking = any(sign in str(error) for sign in LACKING)
        if lacking or not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
            raise
        raise BadInput(f"{what}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of a library's complaint that says something, without its details."""
    if "ignore_mismatched_sizes" in str(error):
        return "its weights have other shapes than its config.json says"
    if isinstance(error, KeyError):
        return f"nothing is known of {error}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = " ".join(lines[:2]) if lines and lines[0].endswith(":") else lines[0] if lines else ""
    return told[:300] or type(error).__name__


def config(place: Path) -> dict[str, Any]:
    """config.json of a Hugging Face folder. Raises BadInput for one that names no model_type, or sizes that no model has."""
    path = place / "config.json"
    try:
        found = strictjson.table(path)
    except BadInput as error:
        raise BadInput(f"{error}; it names no model_type, so this is not a Hugging Face model") from None
    if not isinstance(found.get("model_type"), str) or not found["model_type"]:
        raise BadInput(f"{path} names no model_type: this is not a Hugging Face model")
    for name, value in found.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"{path}: {name} is {value}, which is not a finite number")
        by_layer = name == "intermediate_size" and value == BY_LAYER and found["model_type"].startswith("effir_")
        if name not in LARGEST or (value is None and name in OPTIONAL) or by_layer:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST[name]:
            raise BadInput(f"{path}: {name} is {shown(value)}, but must be a whole number from 1 to {LARGEST[name]}")
    return found


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Name → shape of every tensor in a safetensors file, from its header. Raises BadInput for a damaged one."""
    from safetensors import safe_open

    with understood(f"{path} is no sound safetensors file"), safe_open(path, framework="np") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - not a dict
