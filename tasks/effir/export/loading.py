"""Load a backbone or a whole retriever strictly: every weight from the file, every weight of the file used, or an error."""

from pathlib import Path
from typing import Any

import torch

from effir import quick_start  # noqa: F401  # isort: skip
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from effir import strictjson
from effir.compress.anatomy import ANATOMIES
from effir.errors import BadInput
from effir.export.modeling_effir import FAMILIES
from effir.foreign_code import check_adapter
from effir.modelfiles import config, understood
from effir.retrieve.encode import Encoder
from effir.retrieve.prepack import prepack
from effir.retrieve.settings import Settings

SETTINGS = "effir.json"


def model_folder(folder: Path) -> Path:
    """The folder with config.json: `folder` itself, or its `model/`. Raises BadInput if neither has one."""
    for one in (folder / "model", folder):
        if (one / "config.json").is_file():
            return one
    raise BadInput(f"{folder} holds no model: neither config.json nor model/config.json is there")


def is_exported(folder: Path) -> bool:
    """Whether this is (the top or the model/ of) a folder that effir exported."""
    return _kind(model_folder(folder)).startswith("effir_")


def load_config(folder: Path) -> Any:
    """The transformers configuration of an exported or a plain Hugging Face folder. Raises BadInput for one that cannot be read."""
    place = model_folder(folder)
    kind = _kind(place)
    with understood(f"the configuration in {place} cannot be read"):
        return (_family(place, kind)[0] if kind.startswith("effir_") else AutoConfig).from_pretrained(place, local_files_only=True)


def load_backbone(folder: Path, dtype: Any = None) -> Any:
    """The backbone of an exported or a plain Hugging Face folder, in eval mode, on the CPU.

    dtype: torch dtype or its name; None keeps that of the weights. No folder's own code is ever run: an exported folder's classes come
    from effir. Raises BadInput unless all weights are there, fit and are used (a plain folder's language-model head aside).
    """
    place = model_folder(folder)
    kind = _kind(place)
    check_adapter(str(place), place)
    loader = _family(place, kind)[1] if kind.startswith("effir_") else AutoModel
    disable_progress_bar()
    options: dict[str, Any] = {} if loader is not AutoModel else {"trust_remote_code": False}
    if config(place).get("attn_logit_softcapping") is not None:
        options["attn_implementation"] = "eager"  # the others leave the soft cap out, or need a GPU
    with understood(f"the model in {place} cannot be loaded"):
        model, info = loader.from_pretrained(
            place, dtype=_dtype(dtype), use_safetensors=True, output_loading_info=True, local_files_only=True, **options
        )
    described = ANATOMIES.get(kind) if loader is AutoModel else None
    _check_strict(place, info, described.head if described else ())
    return model.eval()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of an exported or a plain Hugging Face folder. Raises BadInput if there is none that can be read."""
    place = model_folder(folder)
    with understood(f"the tokenizer in {place} cannot be read"):
        if is_exported(place):
            return PreTrainedTokenizerFast.from_pretrained(place, local_files_only=True)
        return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)


def load_settings(folder: Path) -> Settings:
    """Pooling, templates and lengths of an exported folder. Raises BadInput where effir.json is missing or damaged."""
    path = model_folder(folder) / SETTINGS
    try:
        return Settings(**strictjson.table(path)["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} does not say how to pool and which templates to use ({error}): export the model with effir") from None


def load_encoder(folder: Path, dtype: Any = None, device: str = "cpu") -> Encoder:
    """The retriever in an exported folder (its top or its model/), with the settings that it was trained with.

    It encodes, and cannot be trained: on a processor its weights are laid out for encoding (prepack).
    """
    settings = load_settings(folder)
    model = load_backbone(folder, dtype).to(device)
    return Encoder(prepack(model), load_tokenizer(folder), settings, device)


def _kind(place: Path) -> str:
    return config(place)["model_type"]


def _family(place: Path, kind: str) -> tuple[Any, Any]:
    """Configuration and model class of an exported folder's type."""
    if kind.removeprefix("effir_") not in FAMILIES:
        raise BadInput(f"{place} is of type {kind}, which this version of transformers cannot build; known: {', '.join(FAMILIES)}")
    return FAMILIES[kind.removeprefix("effir_")]


def _dtype(dtype: Any) -> Any:
    return "auto" if dtype is None else getattr(torch, dtype) if isinstance(dtype, str) else dtype


def _check_strict(place: Path, info: dict[str, Any], head: tuple[str, ...]) -> None:
    """`head`: how the names of weights begin that may be left unused."""
    unexpected = [key for key in info["unexpected_keys"] if not key.startswith(head)]
    for problem, keys in (("missing", info["missing_keys"]), ("not used", unexpected), ("of another shape", info["mismatched_keys"])):
        if keys:
            raise BadInput(
                f"the model in {place} is not what its config says: {len(keys)} weights are {problem}, such as {sorted(keys)[0]}"
            )
