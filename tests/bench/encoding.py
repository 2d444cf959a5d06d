"""Encoding: `Encoder` beside SentenceTransformer on the same folder, data type, texts and threads."""

from typing import Any

import numpy as np

from . import limits
from .material import Material
from .pairs import Pairs, by_turns, ratios, timed

SAME = 1e-4
WARM = 32
"""Texts of each side that do not count."""
TURN = 64


def documents(material: Material, rounds: int) -> Pairs:
    """400 documents of SciFact at their natural lengths, each encoded once by either.

    A pair is two of the peer's batches of 32, as it sorts them: from the longest documents to the shortest.
    """
    del rounds
    given = sorted(material.documents(400), key=len, reverse=True)
    return _beside(material, [given[start : start + TURN] for start in range(0, len(given), TURN)], "document")


def queries(material: Material, rounds: int) -> Pairs:
    """50 queries of SciFact, all at once (batches of 64)."""
    return _beside(material, [material.queries(50)] * rounds, "query")


def single_queries(material: Material, rounds: int) -> Pairs:
    """The same, one after another."""
    return _beside(material, [material.queries(50)] * rounds, "query", alone=True)


def _beside(material: Material, turns: list[list[str]], kind: str, alone: bool = False) -> Pairs:
    from effir.export.loading import load_encoder

    encoder, peer = load_encoder(material.model), sentence_transformer(material.model)

    def batches(some: list[str]) -> list[list[str]]:
        return [[text] for text in some] if alone else [some]

    def ours(some: list[str]) -> np.ndarray:
        return np.concatenate([encoder.encode(batch, kind) for batch in batches(some)])

    def theirs(some: list[str]) -> np.ndarray:
        size = 64 if kind == "query" else 32
        return np.concatenate([peer.encode(batch, prompt_name=kind, batch_size=size) for batch in batches(some)])

    ours(turns[-1][:WARM]), theirs(turns[-1][:WARM])
    one, other = iter(turns), iter(turns)
    mine, others = by_turns(lambda: timed(lambda: ours(next(one))), lambda: timed(lambda: theirs(next(other))), len(turns))
    far = max(float(np.abs(made - peers).max()) for (_, made), (_, peers) in zip(mine, others, strict=True))
    if not far <= SAME:
        raise AssertionError(f"the two do not give the same embeddings: {far:.1e}")
    spent, theirs_spent = (np.array([second for second, _ in several]) for several in (mine, others))
    lengths = [[len(ids) for ids in encoder.tokenize(texts, kind)] for texts in turns]
    bound = np.array(limits.seconds(material.model, lengths))
    told: dict[str, Any] = {"texts": sum(map(len, lengths)), "tokens": sum(map(sum, lengths)), "difference": far}
    told |= {"seconds": float(spent.sum()), "seconds_of_theirs": float(theirs_spent.sum())}
    told["limit_of_theirs"] = float(np.median(bound / theirs_spent))
    return Pairs(ratios(list(spent), list(theirs_spent)), float(np.median(bound / spent)), told)


def sentence_transformer(folder: Any) -> Any:
    """The exported folder as a person loads it there, in the data type of the file."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder / "model"), trust_remote_code=True, device="cpu", model_kwargs={"dtype": "auto"})
