"""effir's server with SentenceTransformer in the place of our encoder: python -m tests.bench.peer_server FOLDER --port 0

Requests, batches, queue and answers are the same; tokenising, padding, pooling and the model are the library's.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effir.serve import model, server
from effir.serve.limits import Limits

from .encoding import sentence_transformer


class Peer(model.Served):
    """A version whose vectors SentenceTransformer makes. What stands for the token ids of a text is the text itself."""

    def tokenize(self, texts: Sequence[str], kind: str) -> list[Any]:
        return [PeerText(text, kind) for text in texts]

    def embed(self, tokens: Sequence[Any], batch_tokens: int) -> np.ndarray:
        vectors = self.encoder.peer.encode([one.text for one in tokens], prompt_name=tokens[0].kind, batch_size=64)  # type: ignore[attr-defined]
        return np.asarray(vectors)


class PeerText:
    """A text, as long as the batcher has to know."""

    def __init__(self, text: str, kind: str) -> None:
        self.text, self.kind = text, kind

    def __len__(self) -> int:
        return 1 + len(self.text) // 4


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    load = model.load

    def loaded(*arguments: Any) -> Peer:
        ours = load(*arguments)
        ours.encoder.peer = sentence_transformer(given.folder)  # type: ignore[attr-defined]
        return Peer(ours.version, ours.encoder)

    model.load = loaded
    server.run(str(given.folder), "127.0.0.1", given.port, 30.0, Limits(), "cpu", lambda _: None)


if __name__ == "__main__":
    main()
