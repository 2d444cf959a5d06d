"""What cutting gains: the cut model beside the full one, and what the times of their sub-layers alone would allow."""

from typing import Any

import numpy as np

from .material import Material
from .pairs import Pairs

ONE_BATCH = 1 << 20


def compressed_documents(material: Material, rounds: int) -> Pairs:
    """The 8 of 64 documents of SciFact that are nearest to their median in length, one batch."""
    return _beside(material, material.documents(64), "document", 8, rounds)


def compressed_queries(material: Material, rounds: int) -> Pairs:
    """32 queries of SciFact, one batch."""
    return _beside(material, material.queries(32), "query", 32, rounds)


def _beside(material: Material, texts: list[str], kind: str, count: int, rounds: int) -> Pairs:
    from effir.compress import costs, shapes
    from effir.export.loading import load_encoder
    from effir.judge.speed import interleaved

    full, cut = load_encoder(material.reference), load_encoder(material.model)
    tokens = full.tokenize(texts, kind)
    if cut.tokenize(texts, kind) != tokens:
        raise AssertionError("the two do not cut texts into the same tokens")
    middle = len(sorted(tokens, key=len)[len(tokens) // 2])
    tokens = sorted(tokens, key=lambda ids: abs(len(ids) - middle))[:count]
    lengths = [len(ids) for ids in tokens]
    timed = interleaved(lambda: full.encode_tokens(tokens, ONE_BATCH), lambda: cut.encode_tokens(tokens, ONE_BATCH), 0, rounds)
    backbones = [shapes.read(folder / "model" / "config.json") for folder in (material.reference, material.model)]
    model = costs.calibrate(backbones[0], lengths, "float32", repeats=3)
    bound = model.speedup(*(one.shape for one in backbones))
    found = [one / other for one, other in timed]
    flops = [shapes.flops(one.shape, lengths) for one in backbones]
    told: dict[str, Any] = {"bound": bound, "flop_bound": flops[0] / flops[1], "seconds": min(second for _, second in timed)}
    return Pairs(found, float(np.median(found)) / bound, told)
