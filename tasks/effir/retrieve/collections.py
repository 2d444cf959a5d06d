"""Test collections: a corpus, queries and relevance judgements, read from and written to BEIR's folder layout (`files`).

`collection.json`, where it is there, holds what BEIR's files cannot say. Texts of a corpus are in memory only where a
collection was made there: one in a folder is gone through again whenever its documents are needed.
"""

import json
import random
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from effir import strictjson
from effir.errors import BadInput
from effir.retrieve import files
from effir.retrieve.files import Document, document_text


class Documents(Protocol):
    """A corpus: a dict of document id → Document, or a Corpus."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[str]: ...

    def items(self) -> Iterable[tuple[str, Document]]: ...


@dataclass(frozen=True)
class Corpus:
    """Documents that are read anew whenever they are gone through, so that no two of them need be in memory together.

    count: how many there are
    read:  gives (id, Document) of every one, always in the same order
    """

    count: int
    read: Callable[[], Iterable[tuple[str, Document]]]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self.read())

    def items(self) -> Iterable[tuple[str, Document]]:
        """(id, Document) of every document."""
        return self.read()


@dataclass(frozen=True)
class Collection:
    """A corpus with judged queries.

    corpus:   document id → Document, in memory or not
    queries:  query id → text; every query has at least one positive judgement
    qrels:    query id → document id → grade (0: judged and not relevant)
    clusters: query id → cluster, for queries that are resampled together; a query that is absent is its own cluster
    pooled:   whether the corpus was shrunk, so that scores do not compare with published ones
    """

    name: str
    corpus: Documents
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    clusters: dict[str, str] = field(default_factory=dict)
    source: str = ""
    licence: str = ""
    pooled: bool = False

    @property
    def empty_documents(self) -> int:
        """Documents with neither title nor text; they are kept and embedded as empty text."""
        return sum(not document_text(document) for _, document in self.corpus.items())

    def pairs(self) -> list[tuple[str, str, list[str]]]:
        """(query id, query, ids of its relevant documents) for every query, as training wants them."""
        return [
            (query_id, query, [document for document, grade in self.qrels[query_id].items() if grade > 0])
            for query_id, query in self.queries.items()
        ]


def load_folder(folder: Path | str, name: str | None = None, split: str = "test") -> Collection:
    """Read a folder in BEIR layout, its ids alone kept in memory; queries without a positive judgement in the split are left out.

    Raises BadInput with one sentence that names file and line: a missing file or field, an invalid JSON line, a
    duplicate id, an empty corpus, wrong columns, a score that is no integer, a judgement about an absent document or query.
    """
    folder = Path(folder)
    paths = files.corpus_files(folder)
    ids: set[str] = set()
    for _ in files.documents(paths, ids):
        pass
    return _judged(folder, Corpus(len(ids), partial(files.documents, paths)), name, split, ids)


def load_judged(folder: Path, corpus: Documents) -> Collection:
    """What `save_folder` wrote, but for the corpus, which lies elsewhere and was checked when it was written."""
    return _judged(folder, corpus, None, "test", None)


def save_folder(collection: Collection, folder: Path, split: str = "test", shard_documents: int | None = None) -> Path:
    """Write a collection in BEIR layout with its `collection.json`; the same collection gives the same bytes.

    With `shard_documents` the corpus lies in shards of so many documents, and `collection.json` tells what `write_shards` returns.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {key: getattr(collection, key) for key in ("name", "source", "licence", "pooled")}
    if collection.clusters:
        about["clusters"] = collection.clusters
    if shard_documents:
        about["shards"] = files.write_shards(collection.corpus.items(), folder, shard_documents)
    else:
        files.write_corpus(collection.corpus.items(), folder / "corpus.jsonl")
    files.write_lines(folder / "queries.jsonl", ({"_id": key, "text": text} for key, text in collection.queries.items()))
    files.write_qrels(collection.qrels, folder / "qrels" / f"{split}.tsv")
    (folder / "collection.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def sample(collection: Collection, queries: int | None, documents: int | None, seed: int) -> Collection:
    """Keep at most so many queries, and shrink the corpus to so many documents; the choice depends on seed and ids alone.

    Every document judged for a query that stays is kept, even beyond `documents`. A shrunk corpus is marked as pooled.
    """
    kept = _choose(list(collection.queries), queries, seed)
    qrels = {query_id: collection.qrels[query_id] for query_id in kept}
    corpus = collection.corpus
    if documents is not None and documents < len(corpus):
        judged = {document for grades in qrels.values() for document in grades}
        others = [document for document in corpus if document not in judged]
        stay = judged | set(_choose(others, max(0, documents - len(judged)), seed))
        corpus = Corpus(len(stay), partial(_those, stay, corpus))
    return replace(
        collection,
        corpus=corpus,
        queries={query_id: collection.queries[query_id] for query_id in kept},
        qrels=qrels,
        clusters={query_id: cluster for query_id, cluster in collection.clusters.items() if query_id in qrels},
        pooled=collection.pooled or len(corpus) < len(collection.corpus),
    )


def _judged(folder: Path, corpus: Documents, name: str | None, split: str, ids: Container[str] | None) -> Collection:
    """A folder's queries and judgements with this corpus; judged documents must be among `ids`, where those are given."""
    path = folder / "qrels" / f"{split}.tsv"
    queries = files.read_queries(folder / "queries.jsonl")
    qrels = files.read_qrels(path, queries, ids)
    judged = {query_id: grades for query_id, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    if not judged:
        raise BadInput(f"{path} has no positive judgement: nothing could be scored with it")
    about = _read_about(folder / "collection.json")
    return Collection(
        name=name or about.get("name") or folder.name,
        corpus=corpus,
        queries={query_id: queries[query_id] for query_id in queries if query_id in judged},
        qrels={query_id: judged[query_id] for query_id in queries if query_id in judged},
        clusters={query_id: cluster for query_id, cluster in about.get("clusters", {}).items() if query_id in judged},
        source=about.get("source", ""),
        licence=about.get("licence", ""),
        pooled=bool(about.get("pooled", False)),
    )


def _those(ids: Container[str], corpus: Documents) -> Iterator[tuple[str, Document]]:
    return ((key, document) for key, document in corpus.items() if key in ids)


def _read_about(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    about = strictjson.table(path)
    clusters = about.get("clusters", {})
    if not isinstance(clusters, dict) or not all(isinstance(cluster, str) for cluster in clusters.values()):
        raise BadInput(f"{path}: clusters must map query ids to names of clusters")
    for name, kind in (("name", str), ("source", str), ("licence", str), ("pooled", bool)):
        if not isinstance(about.get(name, kind()), kind):
            raise BadInput(f"{path}: {name} must be {'text' if kind is str else 'true or false'}")
    return about


def _choose(ids: list[str], count: int | None, seed: int) -> list[str]:
    """A seeded choice of `count` ids in the order given; the same whatever order they come in."""
    if count is None or count >= len(ids):
        return ids
    chosen = set(random.Random(seed).sample(sorted(ids), count))
    return [key for key in ids if key in chosen]
