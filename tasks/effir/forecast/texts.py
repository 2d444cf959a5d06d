"""How much text there is: documents, queries and their lengths, counted in files at hand or taken from published figures."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from effir.errors import BadInput

if TYPE_CHECKING:
    from effir.retrieve.collections import Collection

PIECE = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_")
LETTERS = 8
PIECES_PER_WORD = 1.45
CHARACTERS_PER_WORD = 6.2
SAMPLE = 2000
LARGE_VOCABULARY = 40_000
SMALL_FACTOR = 1.15


@dataclass(frozen=True)
class Texts:
    """Some texts of one kind. lengths: in pieces, shape (k,), of k texts that stand for all; characters: of a mean text."""

    count: int
    lengths: NDArray[np.floating]
    characters: float

    def tokens(self, limit: int, factor: float = 1.0, around: int = 0) -> NDArray[np.integer]:
        """Tokens of those that stand for all, template (`around` tokens) included, cut at the limit; shape (k,)."""
        return np.clip(np.rint(self.lengths * factor + around), 1, limit).astype(int)

    def at_most(self, count: int | None) -> "Texts":
        """The same with no more than so many."""
        return self if count is None else replace(self, count=min(self.count, count))

    @property
    def pieces(self) -> float:
        """Mean length, uncut."""
        return float(self.lengths.mean())


@dataclass(frozen=True)
class Corpus:
    """Documents with queries. pairs: relevant documents of all queries together; mined: whether hard negatives are there already;
    far: whether it has to be fetched first; clusters: groups of queries that are resampled together, 0: each query by itself.
    """

    name: str
    documents: Texts
    queries: Texts
    pairs: int = 0
    mined: bool = False
    far: bool = False
    clusters: int = 0


WORDS: dict[str, tuple[int, float, int, float]] = {
    "msmarco": (8_841_823, 55.98, 6_980, 5.96),
    "trec-covid": (171_332, 160.77, 50, 10.60),
    "nfcorpus": (3_633, 232.26, 323, 3.30),
    "nq": (2_681_468, 78.88, 3_452, 9.16),
    "hotpotqa": (5_233_329, 46.30, 7_405, 17.61),
    "fiqa": (57_638, 132.32, 648, 10.77),
    "arguana": (8_674, 166.80, 1_406, 192.98),
    "webis-touche2020": (382_545, 292.37, 49, 6.55),
    "quora": (522_931, 11.44, 10_000, 9.53),
    "dbpedia-entity": (4_635_922, 49.68, 400, 5.39),
    "scidocs": (25_657, 176.19, 1_000, 9.38),
    "fever": (5_416_568, 84.76, 6_666, 8.13),
    "climate-fever": (5_416_593, 84.76, 1_535, 20.13),
    "scifact": (5_183, 213.63, 300, 12.37),
}
"""BEIR's name → documents, words of a mean document, test queries, words of a mean query (Thakur et al., NeurIPS 2021, table 1)."""
TRAINING = {
    "msmarco": (502_939, 532_751),
    "nfcorpus": (2_590, 110_575),
    "scifact": (809, 919),
    "fiqa": (5_500, 14_166),
    "hotpotqa": (85_000, 170_000),
    "fever": (109_810, 140_085),
    "nq": (132_803, 132_803),
}
"""BEIR's name → queries and relevant pairs of its training split."""


def factor(vocabulary: int) -> float:
    """Tokens per piece: a small vocabulary cuts words more often."""
    return SMALL_FACTOR if vocabulary < LARGE_VOCABULARY else 1.0


def pieces(text: str) -> int:
    """About as many as a tokenizer with a vocabulary of 50,000 makes tokens: words in steps of 8 letters, digits and signs each alone.

    >>> pieces("def half(x): return x / 2"), pieces("internationalisation")
    (10, 3)
    """
    return sum(-(-len(one) // LETTERS) for one in PIECE.findall(text))


def of(texts: Sequence[str]) -> Texts:
    """Texts at hand, an even sample of them counted."""
    chosen = [texts[int(row)] for row in np.unique(np.linspace(0, len(texts) - 1, min(len(texts), SAMPLE)).astype(int))] if texts else [""]
    return Texts(len(texts), np.array([pieces(one) for one in chosen], dtype=float), sum(map(len, chosen)) / len(chosen))


def published(name: str) -> Corpus:
    """A BEIR collection by its published figures: every text as long as the mean one. Raises BadInput for one without."""
    if name not in WORDS:
        raise BadInput(f"the size of beir:{name} is not known: name its folder, or one of beir:{', beir:'.join(WORDS)}")
    documents, document, queries, query = WORDS[name]
    return Corpus(name, _mean(documents, document), _mean(queries, query), far=True)


def collection(source: str, name: str, folder: Path | None) -> Corpus:
    """The test collection that `source` names; `folder` is where it lies on this machine, None: nowhere.

    Raises BadInput for a collection that is neither at hand nor published.
    """
    if source in {"stdlib-code", "semanlink"}:
        from effir.retrieve import builtin

        found = builtin.semanlink() if source == "semanlink" else builtin.stdlib_code()[1]
        return _built_in(found, name)
    if folder is not None:
        return _folder(folder, name, "test")
    return published(_beir(source, "collection"))


def training(source: str, folder: Path | None) -> Corpus:
    """The training data that `source` names; `folder` is the folder or file on this machine, None: nowhere. Raises BadInput."""
    if source == "stdlib-code":
        from effir.retrieve import builtin

        return _built_in(builtin.stdlib_code()[0], source)
    if folder is not None and folder.is_file():
        return _rows(folder)
    if folder is not None:
        return _examples(folder) if (folder / "examples.jsonl").is_file() else _folder(folder, folder.name, "train")
    name = _beir(source, "training data")
    if name not in TRAINING:
        raise BadInput(f"beir:{name} has no training split that is known here: name one of beir:{', beir:'.join(TRAINING)}, or a folder")
    whole = published(name)
    queries, pairs = TRAINING[name]
    return replace(whole, queries=replace(whole.queries, count=queries), pairs=pairs)


def joined(parts: Sequence[Corpus]) -> Corpus:
    """Several training sets as one; lengths are weighed by counts."""
    if len(parts) == 1:
        return parts[0]
    return Corpus(
        ", ".join(one.name for one in parts),
        _together([one.documents for one in parts]),
        _together([one.queries for one in parts]),
        sum(one.pairs for one in parts),
        all(one.mined for one in parts),
        any(one.far for one in parts),
    )


def _together(parts: Sequence[Texts]) -> Texts:
    total = sum(one.count for one in parts)
    shares = [max(1, round(SAMPLE * one.count / total)) for one in parts]
    drawn = [np.resize(one.lengths, share) for one, share in zip(parts, shares, strict=True)]
    return Texts(total, np.concatenate(drawn), sum(one.characters * one.count for one in parts) / total)


def _mean(count: int, words: float) -> Texts:
    return Texts(count, np.array([words * PIECES_PER_WORD]), words * CHARACTERS_PER_WORD)


def _beir(source: str, what: str) -> str:
    if not source.startswith("beir:"):
        raise BadInput(f"the {what} {source} is not on this machine, so its size is not known: name a local folder, or beir:NAME")
    return source.removeprefix("beir:")


def _built_in(found: "Collection", name: str) -> Corpus:
    from effir.retrieve.collections import document_text

    texts = [document_text(one) for _, one in found.corpus.items()]
    pairs = sum(grade > 0 for grades in found.qrels.values() for grade in grades.values())
    clusters = len({found.clusters.get(one, (one,)) for one in found.queries})
    return Corpus(name, of(texts), of(list(found.queries.values())), pairs, clusters=clusters)


def _folder(folder: Path, name: str, split: str) -> Corpus:
    """BEIR's layout: lines are counted, an even sample of them is read."""
    documents = _lines(folder / "corpus.jsonl", _document)
    queries = _lines(folder / "queries.jsonl", lambda row: str(row.get("text") or ""))
    judged = [line.split("\t") for line in _text(folder / "qrels" / f"{split}.tsv") if line.strip()]
    relevant = [row[0] for row in judged if row[-1].strip().isdigit() and int(row[-1]) > 0]
    return Corpus(name, documents, replace(queries, count=len(set(relevant))), len(relevant))


def _examples(folder: Path) -> Corpus:
    """The layout that training sets are saved in."""
    documents = _lines(folder / "corpus.jsonl", _document)
    queries = _lines(folder / "examples.jsonl", lambda row: str(row.get("query") or ""))
    return Corpus(folder.name, documents, queries, queries.count, mined=True)


def _rows(path: Path) -> Corpus:
    """JSON lines {query, pos, neg} with texts, or with ids into a corpus.jsonl beside the file."""
    queries = _lines(path, lambda row: str(row.get("query") or ""))
    first = json.loads(next(iter(_text(path)), "{}"))
    mined = bool(first.get("neg") or first.get("neg_ids"))
    if "pos_ids" in first:
        documents = _lines(path.parent / "corpus.jsonl", _document)
    else:
        documents = _lines(path, lambda row: str((row.get("pos") or [""])[0]))
        documents = replace(documents, count=queries.count * (1 + len(first.get("neg") or [])))
    return Corpus(path.stem, documents, queries, queries.count, mined)


def _document(row: dict[str, Any]) -> str:
    return f"{row.get('title') or ''} {row.get('text') or ''}".strip()


def _lines(path: Path, text_of: Callable[[dict[str, Any]], str]) -> Texts:
    """Texts of a JSON-lines file. Raises BadInput for a file that is missing or no JSON."""
    count = sum(1 for _ in _text(path))
    step = max(1, count // SAMPLE)
    try:
        sample = [text_of(json.loads(line)) for number, line in enumerate(_text(path)) if number % step == 0]
    except (ValueError, AttributeError):
        raise BadInput(f"{path} is not JSON lines with an object in each: its texts cannot be counted") from None
    return replace(of(sample), count=count)


def _text(path: Path) -> Iterable[str]:
    if not path.is_file():
        raise BadInput(f"{path} does not exist: without it the size of the data is not known")
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        yield from (line for line in stream if line.strip())
