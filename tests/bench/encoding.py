"""Encoding: `Encoder` beside SentenceTransformer on the same folder, data type, texts and threads."""

from typing import Any

import numpy as np

from . import limits
from .material import Material
from .pairs import Pairs, alternate, ratios

SAME = 1e-4


def documents(material: Material, rounds: int) -> Pairs:
    """128 documents of SciFact at their natural lengths."""
    return _beside(material, material.documents(128), "document", rounds)


def queries(material: Material, rounds: int) -> Pairs:
    """50 queries of SciFact, all at once (batches of 64)."""
    return _beside(material, material.queries(50), "query", rounds)


def single_queries(material: Material, rounds: int) -> Pairs:
    """The same, one after another."""
    return _beside(material, material.queries(50), "query", rounds, alone=True)


def _beside(material: Material, texts: list[str], kind: str, rounds: int, alone: bool = False) -> Pairs:
    from effir.export.loading import load_encoder

    encoder, peer = load_encoder(material.model), sentence_transformer(material.model)
    batches = [[text] for text in texts] if alone else [texts]

    def ours() -> np.ndarray:
        return np.concatenate([encoder.encode(batch, kind) for batch in batches])

    def theirs() -> np.ndarray:
        return np.concatenate([peer.encode(batch, prompt_name=kind, batch_size=64 if kind == "query" else 32) for batch in batches])

    far = float(np.abs(ours() - theirs()).max())
    if not far <= SAME:
        raise AssertionError(f"the two do not give the same embeddings: {far:.1e}")
    mine, others = alternate(ours, theirs, rounds)
    lengths = [len(ids) for ids in encoder.tokenize(texts, kind)]
    bound = limits.seconds(material.model, lengths)
    told: dict[str, Any] = {"texts": len(texts), "tokens": sum(lengths), "difference": far, "seconds": min(mine)}
    return Pairs(ratios(mine, others), bound / float(np.median(mine)), told)


def sentence_transformer(folder: Any) -> Any:
    """The exported folder as a person loads it there, in the data type of the file."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder / "model"), trust_remote_code=True, device="cpu", model_kwargs={"dtype": "auto"})
