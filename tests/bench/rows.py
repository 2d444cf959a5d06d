"""The rows of `make bench`: what is measured, against what, and what it should come to."""

from collections.abc import Callable
from typing import NamedTuple

from . import encoding, growing, learning, retrieving, running, serving, sizes, storing
from .material import Material
from .pairs import Pairs


class Row(NamedTuple):
    """A measurement. what: of what its figure is made, `ours` against a peer or seconds or the like; least, most: the aim for the figure.

    of_limit: the share of the machine's limit that will do in its place, None: none. quick: part of `make bench-quick`. alone: run only
    where it is named.
    """

    name: str
    run: Callable[[Material, int], Pairs]
    what: str
    rounds: int
    least: float | None = None
    most: float | None = None
    of_limit: float | None = None
    quick: bool = False
    alone: bool = False

    def met(self, found: Pairs) -> bool:
        """Whether the aim is reached."""
        reached = (
            self.least is not None and found.ratio >= self.least,
            self.most is not None and found.ratio <= self.most,
            self.of_limit is not None and found.limit is not None and found.limit >= self.of_limit,
        )
        return any(reached) and not found.unmet

    def aim(self) -> str:
        """The same in words."""
        parts = [f"≥ {self.least:g}"] if self.least is not None else [f"≤ {self.most:g}"] if self.most is not None else []
        parts += [f"≥ {self.of_limit:g} of the limit"] if self.of_limit else []
        return " or ".join(parts) or "–"


TENTH = 1 / 1.1
ROWS = [
    Row("encode-documents", encoding.documents, "SentenceTransformer.encode", 1, least=1.5, of_limit=0.85),
    Row("encode-queries", encoding.queries, "SentenceTransformer.encode", 7, least=1.5, of_limit=0.85, quick=True),
    Row("encode-one-query", encoding.single_queries, "SentenceTransformer.encode", 3, least=1.2, quick=True),
    Row("serve", serving.serving, "the same server with SentenceTransformer", 5, alone=True),
    Row("evaluate", retrieving.evaluating, "BEIR's exact search", 1, least=2.0),
    Row("search", retrieving.searching, "faiss IndexFlatIP in memory", 2, least=round(TENTH, 3)),
    Row("train", learning.training, "CachedMultipleNegativesRankingLoss", 2, least=1.5),
    Row("importance", learning.importance_pass, "a bare forward pass", 5, least=round(TENTH, 3), quick=True),
    Row("slim", learning.slimming_step, "forward and backward of activations", 5, least=round(1 / 1.15, 3), quick=True),
    Row("compressed-documents", sizes.compressed_documents, "the full model", 5, of_limit=0.95),
    Row("compressed-queries", sizes.compressed_queries, "the full model", 5, of_limit=0.95, quick=True),
    Row("grow-corpus", growing.corpus, "exponent", 3, most=1.05),
    Row("grow-steps", growing.training_steps, "exponent", 2, most=1.05),
    Row("grow-layers", growing.layers, "exponent", 3, most=1.05),
    Row("store", storing.storing, "boto3's upload_file, download_file", 2, least=0.9),
    Row("task-overhead", running.task_overhead, "seconds a task", 1, most=running.OVERHEAD_SECONDS),
    Row("cached-run", running.cached_run, "seconds", 2, most=running.CACHED_SECONDS),
]
ELSEWHERE = {
    "evaluate-mteb": "MTEB is not among the pinned packages",
    "train-flagembedding": "FlagEmbedding is not among the pinned packages",
    "compressed-7b": "7B shapes need a GPU",
}
