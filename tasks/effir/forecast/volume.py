"""What a recipe makes its phases work on: backbones and texts."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effir import planning
from effir.bases import PACKAGED
from effir.compress.shapes import Backbone, count
from effir.forecast import texts
from effir.forecast.texts import Corpus
from effir.spec import RunSpec

ITEM = {"float32": 4, "bfloat16": 2}
TOKENIZER = 72


@dataclass(frozen=True)
class Volume:
    """A spec with its backbones (whole, after depth, after narrow), its collections and its training data, as far as the spec uses them.

    training: its documents are those that the chosen queries name, `pool` all that they are mined from
    local: whether the base model lies on this machine
    """

    spec: RunSpec
    whole: Backbone
    shallow: Backbone
    cut: Backbone
    collections: tuple[Corpus, ...]
    training: Corpus
    pool: Corpus
    local: bool

    @property
    def factor(self) -> float:
        """Tokens of the base model's tokenizer per piece."""
        return texts.factor(self.whole.vocabulary)

    @property
    def group(self) -> int:
        """Documents of a query in a batch: the positive and its hard negatives."""
        return 1 + self.spec.hard_negatives

    def queries(self, one: Corpus) -> NDArray[np.integer]:
        """Tokens of queries as they are encoded, shape (k,)."""
        return one.queries.tokens(self.spec.max_query_tokens, self.factor, self._around(self.spec.query_template))

    def documents(self, one: Corpus, limit: int | None = None) -> NDArray[np.integer]:
        """Tokens of documents as they are encoded (or cut at another limit), shape (k,)."""
        return one.documents.tokens(limit or self.spec.max_document_tokens, self.factor, self._around(self.spec.document_template))

    def weights(self, backbone: Backbone) -> float:
        """Bytes of a model as it is stored, tokenizer included."""
        return count(backbone)[0] * ITEM[self.spec.dtype] + TOKENIZER * backbone.vocabulary

    def shards(self, one: Corpus) -> int:
        """Encode tasks of a collection for each model."""
        return -(-one.documents.count // self.spec.shard_documents)

    def is_gguf(self) -> bool:
        """Whether the base model comes as GGUF, which takes long to read."""
        return self.spec.base_model == PACKAGED or self.spec.base_model.endswith(".gguf")

    def is_far(self) -> bool:
        """Whether the base model has to be fetched from a hub."""
        return not self.local and not self.is_gguf()

    def _around(self, template: str) -> int:
        """Tokens of a template, and of the eos token that last-token pooling appends."""
        written = texts.pieces(template.replace("\\n", " ").replace("{text}", ""))
        return round(written * self.factor) + (self.spec.pooling == "last")


def volume(spec: RunSpec, where: Callable[[str], Path | None]) -> Volume:
    """Count what the spec names. where: a source → the file or folder on this machine, or None.

    Raises BadInput for a base model, a collection or training data whose size cannot be known.
    """
    collections = []
    for name, source in zip(spec.collection_names(), spec.collection_sources(), strict=True):
        collections.append(_sampled(texts.collection(source, name, where(source)), spec))
    pool = texts.joined([texts.training(source, where(source)) for source in spec.training_sources()])
    queries = pool.queries.at_most(spec.training_examples)
    each = pool.pairs / max(pool.queries.count, 1) + spec.hard_negatives
    named = replace(pool, documents=pool.documents.at_most(round(queries.count * each)), queries=queries)
    return Volume(spec, *planning.stages(spec), tuple(collections), named, pool, where(spec.base_model) is not None)


def _sampled(found: Corpus, spec: RunSpec) -> Corpus:
    """A collection as large as it is sampled. Judged documents stay: so many as differ where relevant ones are drawn at random."""
    queries, count = found.queries.at_most(spec.test_queries), found.documents.count
    if spec.test_documents is None or not count:
        return replace(found, queries=queries)
    pairs = found.pairs * queries.count / max(found.queries.count, 1)
    judged = round(count * (1 - math.exp(-pairs / count)))
    return replace(found, documents=found.documents.at_most(max(spec.test_documents, judged)), queries=queries)
