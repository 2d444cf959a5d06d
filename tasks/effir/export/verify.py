"""Recompute a folder's golden embeddings with every loader that a consumer may use."""

import importlib.util
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effir.errors import BadInput, EffirError
from effir.export import trust
from effir.export.describing import prefix_of
from effir.export.loading import load_encoder, load_settings, model_folder
from effir.reading import read_arrays

TOLERANCE = 1e-4
"""Largest accepted difference of one component: room for another machine's order of summation, in float32."""
SERVED = 0.1
"""Largest accepted distance of a unit vector that a server gives: servers compute in 16 bits; a wrong pooling or template is far beyond."""
Vectors = dict[str, NDArray[np.floating[Any]]]


def verify(folder: Path, tolerance: float = TOLERANCE, device: str = "cpu") -> dict[str, float]:
    """Largest absolute difference from the golden embeddings, per loader.

    Raises EffirError naming loader and difference if one is beyond its tolerance, BadInput as `differences` does.
    """
    found = differences(folder, device)
    for loader, difference in found.items():
        if not difference <= tolerance:
            raise EffirError(
                f"{folder} does not give its golden embeddings when loaded by {loader}: the largest difference is {difference:.2e}, "
                f"allowed are {tolerance:.0e}"
            )
    return found


def differences(folder: Path, device: str = "cpu") -> dict[str, float]:
    """Loader → largest absolute difference from the golden embeddings (texts as queries and as documents).

    mlflow is among the loaders where there is an MLmodel and MLflow is installed. It cannot be told to compute in float32: where the
    weights are of a shorter type, it is compared with Sentence-Transformers in that type.
    Raises BadInput for a damaged or foreign folder, before any of it is loaded; EffirError naming the loader that failed.
    """
    from effir.export import formats

    folder = Path(folder)
    if formats.format_of(folder):
        return formats.differences(folder)
    trust.check(folder)
    inner = model_folder(folder)
    golden = read_arrays(inner / "golden.safetensors")
    about = json.loads((inner / "golden.json").read_text())
    found = {name: _difference(name, load, inner, about, golden, device) for name, load in LOADERS.items()}
    if trust.mlmodel_of(inner) and importlib.util.find_spec("mlflow"):
        if json.loads((inner / "config.json").read_text()).get("dtype") != "float32":
            golden = _by_sentence_transformers(inner, about, None, "auto")
        found["mlflow"] = _difference("mlflow", _by_mlflow, inner, about, golden, device)
    return found


def _difference(name: str, load: Callable[..., Vectors], inner: Path, about: dict[str, Any], golden: Vectors, device: str) -> float:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = load(inner, about, device)
    except BadInput:
        raise
    except Exception as error:
        raise EffirError(f"{inner} cannot be loaded by {name}: {type(error).__name__}: {str(error).strip().splitlines()[:1]}") from error
    return farthest(found, golden)


def against_golden(inner: Path, encode: Callable[[list[str], str], NDArray[Any]]) -> float:
    """Largest absolute difference of what `encode` (texts, kind) gives from a folder's golden embeddings; NaN if there is one."""
    golden, texts = read_arrays(inner / "golden.safetensors"), json.loads((inner / "golden.json").read_text())["texts"]
    return farthest({kind: encode(texts, kind) for kind in golden}, golden)


def served(folder: Path, embed: Callable[[list[str]], NDArray[Any]], name: str) -> dict[str, float]:
    """The server's name → largest distance of its unit vectors from the golden ones; the golden texts are sent with their templates.

    embed: texts → vectors (n, d) of any length. Raises EffirError where one is farther than SERVED, BadInput for a damaged folder.
    """
    folder = Path(folder)
    inner = model_folder(folder)
    trust.check_digests(inner)
    settings, texts = load_settings(inner), json.loads((inner / "golden.json").read_text())["texts"]
    templates = {"query": settings.query_template, "document": settings.document_template}
    found = 0.0
    for kind, expected in read_arrays(inner / "golden.safetensors").items():
        vectors = embed([templates[kind].replace("{text}", text) for text in texts]).astype(np.float64)
        found = max(found, largest_distance(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), expected))
    if not found <= SERVED:
        raise EffirError(
            f"{name} does not give the golden embeddings of {folder}: the largest distance of two unit vectors is {found:.3g}, "
            f"allowed are {SERVED}; look at its pooling (here: {settings.pooling}) and whether it ends texts as the tokenizer here does"
        )
    return {name: found}


def farthest(found: Mapping[str, NDArray[Any]], golden: Vectors) -> float:
    """Largest absolute difference of any kind's embeddings from the golden ones; infinity if shapes differ, NaN if one holds a NaN."""
    gaps = [largest_gap(found[kind], expected) for kind, expected in golden.items()]
    return max(gaps) if all(gap == gap for gap in gaps) else float("nan")


def largest_distance(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Largest Euclidean distance of two arrays' rows, at least their largest absolute difference; infinity if the shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    return float(np.linalg.norm(one.astype(np.float64) - other.astype(np.float64), axis=-1).max())


def largest_gap(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Largest absolute difference of two arrays; infinity if their shapes differ, NaN if one holds a NaN."""
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())


def _by_effir(inner: Path, about: dict[str, Any], device: str) -> Vectors:
    encoder = load_encoder(inner, torch.float32, device)
    for kind, tokens in about["tokens"].items():
        if encoder.tokenize(about["texts"], kind) != tokens:
            raise EffirError(f"the tokenizer in {inner} cuts the golden texts into other tokens than when the model was exported")
    return {kind: encoder.encode(about["texts"], kind) for kind in about["tokens"]}


def _by_transformers(inner: Path, about: dict[str, Any], device: str) -> Vectors:
    """Plain transformers, the folder's own code, pooling by hand over the attention mask."""
    from transformers import AutoModel, AutoTokenizer

    settings = load_settings(inner)
    tokenizer = AutoTokenizer.from_pretrained(inner, trust_remote_code=True, local_files_only=True)
    model = AutoModel.from_pretrained(inner, trust_remote_code=True, local_files_only=True, dtype=torch.float32).to(device).eval()
    shapes = {
        "query": (settings.query_template, settings.max_query_tokens),
        "document": (settings.document_template, settings.max_document_tokens),
    }
    found: Vectors = {}
    for kind, (template, longest) in shapes.items():
        texts = [prefix_of(template) + text for text in about["texts"]]
        batch = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt").to(device)
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].to(states.dtype)
        if settings.pooling == "last":
            places = torch.arange(mask.shape[1], device=states.device)[None, :, None] * mask
            pooled = states.gather(1, places.argmax(1)[:, None].long().expand(-1, -1, states.shape[-1]))[:, 0]
        else:
            pooled = (states * mask).sum(1) / mask.sum(1)
        found[kind] = (pooled / pooled.norm(dim=-1, keepdim=True)).cpu().numpy()
    return found


def _by_sentence_transformers(inner: Path, about: dict[str, Any], device: str | None, dtype: Any = torch.float32) -> Vectors:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(inner), trust_remote_code=True, local_files_only=True, device=device, model_kwargs={"dtype": dtype})
    options: Any = {"show_progress_bar": False}
    return {"query": model.encode_query(about["texts"], **options), "document": model.encode_document(about["texts"], **options)}


def _by_mlflow(inner: Path, about: dict[str, Any], device: str) -> Vectors:
    """What `models:/NAME@champion` gives; the device is MLflow's choice."""
    import mlflow

    model = mlflow.pyfunc.load_model(str(inner.parent))
    return {kind: model.predict(about["texts"], params={"prompt_name": kind, "task": kind}) for kind in ("query", "document")}


LOADERS: dict[str, Callable[..., Vectors]] = {
    "effir": _by_effir,
    "transformers": _by_transformers,
    "sentence-transformers": _by_sentence_transformers,
}
