"""Write a retriever as one folder that AutoModel, SentenceTransformer, mlflow.pyfunc and effir load alike."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.numpy import save_file

from effir.compress.cut import Cut
from effir.errors import BadInput
from effir.export import loading, modeling_effir, tokenizer
from effir.export.card import Origin, card
from effir.export.describing import model_config, sentence_files
from effir.export.mlmodel import installed, write_mlmodel
from effir.manifest import sha256_of
from effir.retrieve.settings import Settings

KINDS = ("query", "document")
GOLDEN_TEXTS = (
    "What makes the sky blue?",
    "Sunlight is scattered by the molecules of the air, and blue light more than red.",
    "how to open a file in Python",
    "def read(path):\n    with open(path) as stream:\n        return stream.read()",
    "Vitamin D deficiency and the risk of fractures in older adults.",
    "Numbers 3.14159 and 2,718; a URL-like string, example.org/a_b?c=d; and (brackets).",
    "Über den Wolken – naïve café, 東京, Ωμέγα",
    "A longer text, whose only purpose is to be padded less than the others: " + "one word after another, " * 12,
)


def write(
    model: Any,
    source_tokenizer: Any,
    cut: Cut | None,
    settings: Settings,
    folder: Path,
    golden_texts: Sequence[str] = GOLDEN_TEXTS,
    origin: Origin | None = None,
) -> None:
    """Write `model` to `folder`: MLmodel and its requirement files, and model/ with weights, code, tokenizer, golden embeddings.

    model:  backbone without LM head, `cut` applied by surgery (None: nothing was cut), adapters merged
    folder: may exist and hold other files, but no model; all of it appears at once, or nothing does
    golden_texts: non-empty texts whose embeddings, computed in float32 by the saved and reloaded model, travel along
    origin: what the model card says of base model and training
    Raises BadInput for a template with a suffix, an unfit tokenizer, a cut that does not fit, or a folder that has a model.
    """
    folder = Path(folder)
    if (folder / "model").exists() or (folder / "MLmodel").exists():
        raise BadInput(f"{folder} already holds a model: choose another folder")
    if not golden_texts or not all(text.strip() for text in golden_texts):
        raise BadInput("golden_texts must hold texts, none of them empty")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        inner = made / "model"
        inner.mkdir(parents=True)
        _write_model(model, cut, inner)
        tokenizer.save(tokenizer.portable(source_tokenizer, settings), inner)
        write_json(inner, sentence_files(settings, model.config.hidden_size, installed(("sentence-transformers", "transformers", "torch"))))
        (inner / "README.md").write_text(card(model, settings, cut, origin))
        write_json(inner, {loading.SETTINGS: {"settings": asdict(settings)}})
        _write_golden(inner, golden_texts)
        write_json(inner, {loading.SETTINGS: {"settings": asdict(settings), "files": digests(inner)}})
        write_mlmodel(made, model.config.hidden_size)
        folder.mkdir(exist_ok=True)
        for one in sorted(made.iterdir(), key=lambda path: path.name == "MLmodel"):
            one.rename(folder / one.name)


def digests(inner: Path) -> dict[str, str]:
    """sha256 of every file of a model folder but effir.json, which holds them."""
    paths = sorted(path for path in inner.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(inner).as_posix(): sha256_of(path) for path in paths if path.name != loading.SETTINGS}


def _write_model(model: Any, cut: Cut | None, inner: Path) -> None:
    dtype = reduce(torch.promote_types, (one.dtype for one in model.parameters()))
    write_json(inner, {"config.json": model_config(model, cut, dtype)})
    shutil.copyfile(modeling_effir.__file__, inner / "modeling_effir.py")
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    save_torch_state_dict(weights, inner, max_shard_size="2GB", metadata={"format": "pt"})


def _write_golden(inner: Path, texts: Sequence[str]) -> None:
    encoder = loading.load_encoder(inner, torch.float32)
    save_file({kind: encoder.encode(list(texts), kind) for kind in KINDS}, inner / "golden.safetensors")
    tokens = {kind: encoder.tokenize(list(texts), kind) for kind in KINDS}
    write_json(inner, {"golden.json": {"dtype": "float32", "texts": list(texts), "tokens": tokens}})


def write_json(folder: Path, files: dict[str, Any]) -> None:
    """Write each file of a folder, by its name, as JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
