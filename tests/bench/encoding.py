"""Encoding: `Encoder` beside SentenceTransformer on the same folder, data type, texts and threads."""

from typing import Any

import numpy as np

from . import limits
from .material import Material
from .pairs import Pairs, by_turns, ratios, timed

SAME = 1e-4
WARM = 32
"""Texts of each side that do not count."""


def documents(material: Material, rounds: int) -> Pairs:
    """400 documents of SciFact at their natural lengths."""
    return _beside(material, material.documents(400), "document", rounds)


def queries(material: Material, rounds: int) -> Pairs:
    """50 queries of SciFact, all at once (batches of 64)."""
    return _beside(material, material.queries(50), "query", rounds)


def single_queries(material: Material, rounds: int) -> Pairs:
    """The same, one after another."""
    return _beside(material, material.queries(50), "query", rounds, alone=True)


def _beside(material: Material, texts: list[str], kind: str, rounds: int, alone: bool = False) -> Pairs:
    from effir.export.loading import load_encoder

    encoder, peer = load_encoder(material.model), sentence_transformer(material.model)

    def batches(some: list[str]) -> list[list[str]]:
        return [[text] for text in some] if alone else [some]

    def ours(some: list[str]) -> np.ndarray:
        return np.concatenate([encoder.encode(batch, kind) for batch in batches(some)])

    def theirs(some: list[str]) -> np.ndarray:
        size = 64 if kind == "query" else 32
        return np.concatenate([peer.encode(batch, prompt_name=kind, batch_size=size) for batch in batches(some)])

    ours(texts[:WARM]), theirs(texts[:WARM])
    mine, others = by_turns(lambda: timed(lambda: ours(texts)), lambda: timed(lambda: theirs(texts)), rounds)
    far = float(np.abs(mine[-1][1] - others[-1][1]).max())
    if not far <= SAME:
        raise AssertionError(f"the two do not give the same embeddings: {far:.1e}")
    spent, theirs_spent = ([second for second, _ in several] for several in (mine, others))
    lengths = [len(ids) for ids in encoder.tokenize(texts, kind)]
    bound = limits.seconds(material.model, lengths)
    told: dict[str, Any] = {"texts": len(texts), "tokens": sum(lengths), "difference": far, "seconds": min(spent)}
    told["limit_of_theirs"] = bound / float(np.median(theirs_spent))
    return Pairs(ratios(spent, theirs_spent), bound / float(np.median(spent)), told)


def sentence_transformer(folder: Any) -> Any:
    """The exported folder as a person loads it there, in the data type of the file."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder / "model"), trust_remote_code=True, device="cpu", model_kwargs={"dtype": "auto"})
