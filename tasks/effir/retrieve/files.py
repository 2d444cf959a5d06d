"""The files of BEIR's folder layout, read and written line by line.

`corpus.jsonl` {_id, title, text}, `queries.jsonl` {_id, text} and `qrels/SPLIT.tsv` (query-id, corpus-id, score under
a header line). Line ends may be CRLF, a byte-order mark is skipped. A corpus may lie in shards instead:
`corpus/00000.jsonl`, `corpus/00001.jsonl`, …, which put together in this order are its `corpus.jsonl`.
"""

import hashlib
import json
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from effir import strictjson
from effir.errors import BadInput, shown

HIGHEST_GRADE = 1000


class Document(NamedTuple):
    """One entry of a corpus."""

    title: str
    text: str


def document_text(document: Document) -> str:
    """What is embedded and searched of a document: title and text joined by a space, as BEIR joins them.

    >>> document_text(Document("Title", "text")), document_text(Document("", ""))
    ('Title text', '')
    """
    return f"{document.title} {document.text}".strip()


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) for every line of a JSON-lines file that is not blank. Raises BadInput naming file and line."""
    for number, text in _read_text(path):
        row = strictjson.loads(text, f"{path}, line {number}")
        if not isinstance(row, dict):
            raise BadInput(f"{path}, line {number}: expected a JSON object with named fields, found {type(row).__name__}")
        yield number, row


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write objects as JSON lines (UTF-8, LF)."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def corpus_files(folder: Path) -> list[Path]:
    """The files of a folder's corpus, in order: `corpus.jsonl`, or its shards."""
    whole = folder / "corpus.jsonl"
    shards = sorted((folder / "corpus").glob("*.jsonl"))
    return shards if shards and not whole.is_file() else [whole]


def shard_file(number: int) -> str:
    """Where a shard of a corpus lies in a folder.

    >>> shard_file(7)
    'corpus/00007.jsonl'
    """
    return f"corpus/{number:05d}.jsonl"


def documents(paths: Sequence[Path], ids: set[str] | None = None) -> Iterator[tuple[str, Document]]:
    """(id, Document) of every line of these files; `ids`, where given, is filled with the ids.

    Raises BadInput naming file and line: a missing file or field, an invalid line, an id that was there before, no document at all.
    """
    ids = set() if ids is None else ids
    for key, where, row in _entries(paths, ids):
        yield key, Document(_text(row, "title", where, default=""), _text(row, "text", where))
    if not ids:
        raise BadInput(f"{paths[0]} has no documents: a collection needs at least one")


def read_corpus(path: Path) -> dict[str, Document]:
    """A `corpus.jsonl`, or a shard of one, in memory: document id → Document. Raises BadInput as `documents` does."""
    return dict(documents([path]))


def write_corpus(corpus: Iterable[tuple[str, Document]], path: Path) -> None:
    """Write documents as a `corpus.jsonl`."""
    write_lines(path, ({"_id": key, "title": document.title, "text": document.text} for key, document in corpus))


def write_shards(corpus: Iterable[tuple[str, Document]], folder: Path, size: int) -> list[dict[str, Any]]:
    """Write documents in shards of `size`, one shard in memory at a time; returns of each {documents: how many, ids: `ids_digest`}."""
    left = iter(corpus)
    shards: list[dict[str, Any]] = []
    (folder / shard_file(0)).parent.mkdir(parents=True, exist_ok=True)
    while shard := list(islice(left, size)):
        write_corpus(shard, folder / shard_file(len(shards)))
        shards.append({"documents": len(shard), "ids": ids_digest(key for key, _ in shard)})
    return shards


def ids_digest(ids: Iterable[str]) -> str:
    """sha256 of ids in this order, a line each, 64 hex digits."""
    return hashlib.sha256("".join(f"{one}\n" for one in ids).encode()).hexdigest()


def read_queries(path: Path) -> dict[str, str]:
    """A `queries.jsonl`: query id → text. Raises BadInput naming file and line."""
    return {key: _text(row, "text", where) for key, where, row in _entries([path], set())}


def read_qrels(path: Path, queries: Container[str], ids: Container[str] | None) -> dict[str, dict[str, int]]:
    """A `qrels/SPLIT.tsv`: query id → document id → grade; every document must be among `ids`, where those are given.

    Raises BadInput naming file and line.
    """
    qrels: dict[str, dict[str, int]] = {}
    for line, text in _read_text(path):
        columns = text.split("\t")
        if len(columns) != 3:
            raise BadInput(f"{path}, line {line}: expected three columns between tabs (query-id, corpus-id, score), found {len(columns)}")
        query, document, score = (column.strip() for column in columns)
        if line == 1 and not any(character.isdecimal() for character in score):
            continue
        grade = _grade(score, f"{path}, line {line}")
        if query not in queries:
            raise BadInput(f"{path}, line {line}: the query {shown(query)} is not in queries.jsonl")
        if ids is not None and document not in ids:
            raise BadInput(f"{path}, line {line}: the document {shown(document)} is not in corpus.jsonl")
        if qrels.setdefault(query, {}).setdefault(document, grade) != grade:
            raise BadInput(f"{path}, line {line}: query {shown(query)} and document {shown(document)} are judged twice, and differently")
    return qrels


def write_qrels(qrels: dict[str, dict[str, int]], path: Path) -> None:
    """Write judgements as a `qrels/SPLIT.tsv`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write("query-id\tcorpus-id\tscore\n")
        stream.writelines(f"{query}\t{document}\t{grade}\n" for query, grades in qrels.items() for document, grade in grades.items())


def _entries(paths: Iterable[Path], ids: set[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(id, file and line, object) of every line; ids are put into `ids` and may not be there before."""
    for path in paths:
        for line, row in read_lines(path):
            where = f"{path}, line {line}"
            key = _text(row, "_id", where)
            if key in ids:
                raise BadInput(f"{where}: the id {shown(key)} is there twice; ids must be unique")
            ids.add(key)
            yield key, where, row


def _grade(score: str, where: str) -> int:
    """A grade; trec_eval takes memory for every grade up to the highest."""
    if not re.fullmatch("[-+]?[0-9]+", score):
        raise BadInput(f"{where}: the score {shown(score)} is not a whole number")
    if len(score) > 12 or abs(int(score)) > HIGHEST_GRADE:
        raise BadInput(f"{where}: the score {shown(score)} is beyond {HIGHEST_GRADE}, which no grade of relevance is")
    return int(score)


def _text(row: dict[str, Any], name: str, where: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if name == "_id" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None and name in row and default is not None:
        return default
    if not isinstance(value, str):
        problem = f"the field {name!r} is missing" if name not in row else f"the field {name!r} must be text"
        raise BadInput(f"{where}: {problem}")
    if name == "_id" and (not value or value.split() != [value]):
        raise BadInput(f"{where}: the id {shown(value)} must be a word without spaces")
    return value


def _read_text(path: Path) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise BadInput(f"{path} does not exist; a collection is a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv")
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError:
        raise BadInput(f"{path}, after line {number}: this is not UTF-8 text") from None
