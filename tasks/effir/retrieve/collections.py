"""Test collections: a corpus, queries and relevance judgements, read from and written to BEIR's folder layout.

`corpus.jsonl` {_id, title, text}, `queries.jsonl` {_id, text} and `qrels/SPLIT.tsv` (query-id, corpus-id, score under
a header line), and optionally `collection.json` for what BEIR's files cannot say. Line ends may be CRLF, a byte-order
mark is skipped.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from effir.errors import BadInput


class Document(NamedTuple):
    """One entry of a corpus."""

    title: str
    text: str


@dataclass(frozen=True)
class Collection:
    """A corpus with judged queries.

    corpus:   document id → Document
    queries:  query id → text; every query has at least one positive judgement
    qrels:    query id → document id → grade (0: judged and not relevant)
    clusters: query id → cluster, for queries that are resampled together; a query that is absent is its own cluster
    pooled:   whether the corpus was shrunk, so that scores do not compare with published ones
    """

    name: str
    corpus: dict[str, Document]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    clusters: dict[str, str] = field(default_factory=dict)
    source: str = ""
    licence: str = ""
    pooled: bool = False

    @property
    def empty_documents(self) -> int:
        """Documents with neither title nor text; they are kept and embedded as empty text."""
        return sum(not document_text(document) for document in self.corpus.values())

    def pairs(self) -> list[tuple[str, str, list[str]]]:
        """(query id, query, ids of its relevant documents) for every query, as training wants them."""
        return [
            (query_id, query, [document for document, grade in self.qrels[query_id].items() if grade > 0])
            for query_id, query in self.queries.items()
        ]


def document_text(document: Document) -> str:
    """What is embedded and searched of a document: title and text joined by a space, as BEIR joins them.

    >>> document_text(Document("Title", "text")), document_text(Document("", ""))
    ('Title text', '')
    """
    return f"{document.title} {document.text}".strip()


def load_folder(folder: Path | str, name: str | None = None, split: str = "test") -> Collection:
    """Read a folder in BEIR layout; queries without a positive judgement in the split are left out.

    Raises BadInput with one sentence that names file and line: a missing file or field, an invalid JSON line, a
    duplicate id, an empty corpus, wrong columns, a score that is no integer, a judgement about an absent document or query.
    """
    folder = Path(folder)
    corpus = read_corpus(folder / "corpus.jsonl")
    queries = _read_queries(folder / "queries.jsonl")
    qrels = _read_qrels(folder / "qrels" / f"{split}.tsv", queries, corpus)
    judged = {query_id: grades for query_id, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    if not judged:
        raise BadInput(f"{folder / 'qrels' / f'{split}.tsv'} has no positive judgement: nothing could be scored with it")
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


def save_folder(collection: Collection, folder: Path, split: str = "test") -> Path:
    """Write a collection in BEIR layout with its `collection.json`; the same collection gives the same bytes."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    write_corpus(collection.corpus, folder / "corpus.jsonl")
    write_lines(folder / "queries.jsonl", ({"_id": query_id, "text": text} for query_id, text in collection.queries.items()))
    rows = [f"{query}\t{document}\t{grade}\n" for query, grades in collection.qrels.items() for document, grade in grades.items()]
    (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows), encoding="utf-8", newline="\n")
    about: dict[str, Any] = {key: getattr(collection, key) for key in ("name", "source", "licence", "pooled")}
    if collection.clusters:
        about["clusters"] = collection.clusters
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
        corpus = {document: corpus[document] for document in corpus if document in stay}
    return replace(
        collection,
        corpus=corpus,
        queries={query_id: collection.queries[query_id] for query_id in kept},
        qrels=qrels,
        clusters={query_id: cluster for query_id, cluster in collection.clusters.items() if query_id in qrels},
        pooled=collection.pooled or len(corpus) < len(collection.corpus),
    )


def read_corpus(path: Path) -> dict[str, Document]:
    """Read a `corpus.jsonl`: document id → Document. Raises BadInput naming file and line."""
    corpus: dict[str, Document] = {}
    for line, row in read_lines(path):
        key = _text(row, "_id", path, line)
        if key in corpus:
            raise BadInput(f"{path}, line {line}: the id {key!r} is there twice; ids must be unique")
        corpus[key] = Document(_text(row, "title", path, line, default=""), _text(row, "text", path, line))
    if not corpus:
        raise BadInput(f"{path} has no documents: a collection needs at least one")
    return corpus


def write_corpus(corpus: dict[str, Document], path: Path) -> None:
    """Write a `corpus.jsonl`."""
    write_lines(path, ({"_id": key, "title": document.title, "text": document.text} for key, document in corpus.items()))


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) for every line of a JSON-lines file that is not blank. Raises BadInput naming file and line."""
    for number, text in _read_text(path):
        try:
            row = json.loads(text)
        except ValueError:
            raise BadInput(f"{path}, line {number}: this is not valid JSON") from None
        if not isinstance(row, dict):
            raise BadInput(f"{path}, line {number}: expected a JSON object with named fields, found {type(row).__name__}")
        yield number, row


def write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write objects as JSON lines (UTF-8, LF)."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _read_text(path: Path) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise BadInput(f"{path} does not exist; a collection is a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv")
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as stream:
            for number, line in enumerate(stream, 1):
                if text := line.rstrip("\r\n"):
                    yield number, text
    except UnicodeDecodeError:
        raise BadInput(f"{path}, after line {number}: this is not UTF-8 text") from None


def _text(row: dict[str, Any], name: str, path: Path, line: int, default: str | None = None) -> str:
    value = row.get(name, default)
    if name == "_id" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None and name in row and default is not None:
        return default
    if not isinstance(value, str):
        problem = f"the field {name!r} is missing" if name not in row else f"the field {name!r} must be text"
        raise BadInput(f"{path}, line {line}: {problem}")
    if name == "_id" and (not value or value.split() != [value]):
        raise BadInput(f"{path}, line {line}: the id {value!r} must be a word without spaces")
    return value


def _read_queries(path: Path) -> dict[str, str]:
    queries: dict[str, str] = {}
    for line, row in read_lines(path):
        key = _text(row, "_id", path, line)
        if key in queries:
            raise BadInput(f"{path}, line {line}: the id {key!r} is there twice; ids must be unique")
        queries[key] = _text(row, "text", path, line)
    return queries


def _read_qrels(path: Path, queries: dict[str, str], corpus: dict[str, Document]) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for line, text in _read_text(path):
        columns = text.split("\t")
        if len(columns) != 3:
            raise BadInput(f"{path}, line {line}: expected three columns between tabs (query-id, corpus-id, score), found {len(columns)}")
        query, document, score = (column.strip() for column in columns)
        if line == 1 and not any(character.isdecimal() for character in score):
            continue
        if not score.lstrip("-").isdecimal():
            raise BadInput(f"{path}, line {line}: the score {score!r} is not a whole number")
        if query not in queries:
            raise BadInput(f"{path}, line {line}: the query {query!r} is not in queries.jsonl")
        if document not in corpus:
            raise BadInput(f"{path}, line {line}: the document {document!r} is not in corpus.jsonl")
        if qrels.setdefault(query, {}).setdefault(document, int(score)) != int(score):
            raise BadInput(f"{path}, line {line}: query {query!r} and document {document!r} are judged twice, and differently")
    return qrels


def _read_about(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        raise BadInput(f"{path} is not valid JSON") from None
    if not isinstance(about, dict) or not isinstance(about.get("clusters", {}), dict):
        raise BadInput(f"{path} must be a JSON object whose clusters, if any, map query ids to cluster names")
    return about


def _choose(ids: list[str], count: int | None, seed: int) -> list[str]:
    """A seeded choice of `count` ids in the order given; the same whatever order they come in."""
    if count is None or count >= len(ids):
        return ids
    chosen = set(random.Random(seed).sample(sorted(ids), count))
    return [key for key in ids if key in chosen]
