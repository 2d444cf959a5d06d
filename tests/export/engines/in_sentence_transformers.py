"""SentenceTransformer alone decides on templates, lengths, pooling and normalisation."""

from typing import Any

import golden
import transformers
from sentence_transformers import SentenceTransformer

transformers.logging.set_verbosity_error()


def check(folder: str) -> float:
    model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")

    def embed(kind: str, texts: list[str], tokens: list[list[int]]) -> Any:
        vectors = getattr(model, f"encode_{kind}")(texts, show_progress_bar=False)
        assert abs((vectors**2).sum(-1) - 1).max() < 1e-5, "not normalised"
        return vectors

    return golden.gap(folder, embed)


golden.tell(check)
