"""Training examples: queries with relevant documents, hard negatives and (where a teacher gave them) scores.

On disk a training set is `corpus.jsonl` {_id, title, text}, `examples.jsonl` {query_id, query, positives, negatives,
positive_scores?, negative_scores?} and `dataset.json` {name, source, licence, counts}.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from effir import strictjson
from effir.errors import BadInput, shown
from effir.retrieve.collections import Collection, load_folder
from effir.retrieve.files import Document, document_text, read_corpus, read_lines, write_corpus, write_lines

MINING_DEPTH = 50
LARGEST_SCORE = 1e30


@dataclass(frozen=True)
class Example:
    """A training query. Scores are a teacher's raw ones, aligned with positives and negatives; None: not scored."""

    query_id: str
    query: str
    positives: list[str]
    negatives: list[str] = field(default_factory=list)
    positive_scores: list[float] | None = None
    negative_scores: list[float] | None = None


@dataclass(frozen=True)
class TrainingSet:
    """Examples and the documents they name: corpus maps document id → Document."""

    examples: list[Example]
    corpus: dict[str, Document]
    name: str = ""
    source: str = ""
    licence: str = ""

    def text(self, document: str) -> str:
        """What is embedded of a document."""
        return document_text(self.corpus[document])


class Choice(NamedTuple):
    """One query of a batch: position in the examples, the positive and the hard negatives drawn for it."""

    example: int
    positive: str
    negatives: tuple[str, ...]


def load(folder: Path) -> TrainingSet:
    """Read a training set. Raises BadInput naming file and line for anything `from_jsonl` refuses."""
    about = strictjson.table(folder / "dataset.json")
    corpus = read_corpus(folder / "corpus.jsonl")
    names = {"positives": "positives", "negatives": "negatives", "positive_scores": "positive_scores", "negative_scores": "negative_scores"}
    examples = _read(folder / "examples.jsonl", names, corpus)
    return TrainingSet(examples, corpus, about.get("name", ""), about.get("source", ""), about.get("licence", ""))


def save(training: TrainingSet, folder: Path) -> Path:
    """Write a training set with the documents that its examples name, and no others."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {document for example in training.examples for document in example.positives + example.negatives}
    write_corpus(((key, document) for key, document in training.corpus.items() if key in named), folder / "corpus.jsonl")
    rows = ({key: value for key, value in vars(example).items() if value is not None} for example in training.examples)
    write_lines(folder / "examples.jsonl", rows)
    counts = {
        "queries": len(training.examples),
        "documents": len(named),
        "positives": sum(len(example.positives) for example in training.examples),
        "negatives": sum(len(example.negatives) for example in training.examples),
    }
    about = {"name": training.name, "source": training.source, "licence": training.licence, "counts": counts}
    (folder / "dataset.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def from_collection(collection: Collection) -> TrainingSet:
    """Every judged query with its relevant documents; no negatives yet."""
    examples = [Example(query_id, query, positives) for query_id, query, positives in collection.pairs()]
    return TrainingSet(examples, dict(collection.corpus.items()), collection.name, collection.source, collection.licence)


def from_beir(folder: Path | str, split: str = "train") -> TrainingSet:
    """The judgements of a split of a folder in BEIR layout. Raises BadInput naming file and line."""
    return from_collection(load_folder(folder, split=split))


def from_jsonl(path: Path, corpus: dict[str, Document] | None = None) -> TrainingSet:
    """JSON lines {query, pos, neg, pos_scores?, neg_scores?} with texts, or {query_id, query, pos_ids, neg_ids} into `corpus`.

    Equal texts become one document; a negative equal to a positive of its own row is dropped with its score.
    Raises BadInput naming file and line: no positives, scores that are not finite or do not go with their texts,
    wrong fields, an invalid line, an id that `corpus` does not have.
    """
    path = Path(path)
    if corpus is not None:
        names = {"positives": "pos_ids", "negatives": "neg_ids", "positive_scores": "pos_scores", "negative_scores": "neg_scores"}
        return TrainingSet(_read(path, names, corpus), corpus, path.stem, path.name)
    names = {"positives": "pos", "negatives": "neg", "positive_scores": "pos_scores", "negative_scores": "neg_scores"}
    texts: dict[str, Document] = {}
    return TrainingSet(_read(path, names, texts, grow=True), texts, path.stem, path.name)


def mine(training: TrainingSet, count: int, seed: int) -> TrainingSet:
    """Give examples with fewer than `count` hard negatives the rest of BM25's, drawn from the query's 50 best (or 4 × count) hits.

    Never a relevant document, nor one equal in text to a positive, nor two of equal text. Where BM25 finds too few, other
    documents of the corpus fill up. The draw for a query depends on seed and query id alone. What is added has no score: an example
    that had scores has none any more.
    """
    from effir.retrieve import bm25

    bare = {example.query_id: example.query for example in training.examples if len(example.negatives) < count}
    if not bare:
        return training
    ids, depth = list(training.corpus), max(MINING_DEPTH, 4 * count) + 1
    most = max(len(example.positives) for example in training.examples)
    found = bm25.search(training.corpus, bare, depth + most, exclude_self=False)
    examples = []
    for example in training.examples:
        if example.query_id in bare:
            dice = random.Random(f"{seed}:{example.query_id}")
            hits = list(found[example.query_id])[: depth + len(example.positives)]
            negatives = _different(training, example, hits, dice, count, example.negatives)
            if len(negatives) < count:
                others = dice.sample(ids, min(len(ids), 8 * count + len(example.positives)))
                negatives = _different(training, example, others, dice, count, negatives)
            example = replace(example, negatives=negatives, positive_scores=None, negative_scores=None)
        examples.append(example)
    return replace(training, examples=examples)


def join(sets: Sequence[TrainingSet]) -> TrainingSet:
    """Several training sets as one; with more than one, ids get the set's position in front so that they cannot clash."""
    if len(sets) == 1:
        return sets[0]
    examples: list[Example] = []
    corpus: dict[str, Document] = {}
    for position, one in enumerate(sets):
        corpus |= {f"{position}:{key}": document for key, document in one.corpus.items()}
        for example in one.examples:
            positives, negatives = ([f"{position}:{key}" for key in keys] for keys in (example.positives, example.negatives))
            examples.append(replace(example, query_id=f"{position}:{example.query_id}", positives=positives, negatives=negatives))
    name, source, licence = (", ".join(getattr(one, part) for one in sets) for part in ("name", "source", "licence"))
    return TrainingSet(examples, corpus, name, source, licence)


def sample(training: TrainingSet, count: int | None, seed: int) -> TrainingSet:
    """Keep at most `count` examples, a seeded choice in the original order."""
    if count is None or count >= len(training.examples):
        return training
    kept = sorted(random.Random(seed).sample(range(len(training.examples)), count))
    return replace(training, examples=[training.examples[position] for position in kept])


def batches(examples: Sequence[Example], batch: int, steps: int, hard_negatives: int, seed: int, first: int = 0) -> Iterator[list[Choice]]:
    """Batches of steps `first` … `steps` − 1, so that a resumed training goes on exactly where it was."""
    return (batch_at(examples, batch, step, hard_negatives, seed) for step in range(first, steps))


def batch_at(examples: Sequence[Example], batch: int, step: int, hard_negatives: int, seed: int) -> list[Choice]:
    """The batch of a step (from 0), a pure function of examples, seed and step.

    Epochs are shuffled by seed and hold every query once; a batch that an epoch leaves incomplete is filled from the next.
    """
    chosen = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, len(examples))
        number = _order(len(examples), epoch, seed)[place]
        example = examples[number]
        dice = random.Random(f"{seed}:{epoch}:{number}")
        positive = dice.choice(example.positives)
        chosen.append(Choice(number, positive, tuple(dice.sample(example.negatives, min(hard_negatives, len(example.negatives))))))
    return chosen


@lru_cache(maxsize=4)
def _order(count: int, epoch: int, seed: int) -> list[int]:
    return random.Random(f"{seed}:{epoch}").sample(range(count), count)


def _different(
    training: TrainingSet, example: Example, hits: list[str], dice: random.Random, count: int, have: Sequence[str] = ()
) -> list[str]:
    """`have` and a draw from the hits up to `count`, all of them different in text from the positives and from each other."""
    chosen = list(have)
    texts = {training.text(key) for key in [*example.positives, *chosen]}
    for key in dice.sample(hits, len(hits)):
        if len(chosen) < count and key != example.query_id and training.text(key) not in texts:
            texts.add(training.text(key))
            chosen.append(key)
    return chosen


def _read(path: Path, names: dict[str, str], corpus: dict[str, Document], *, grow: bool = False) -> list[Example]:
    examples: list[Example] = []
    seen: set[str] = set()
    for line, row in read_lines(path):
        where = f"{path}, line {line}"
        query = row.get("query")
        if not isinstance(query, str):
            raise BadInput(f"{where}: the field 'query' is missing or not text")
        query_id = row.get("query_id", f"line-{line}")
        if isinstance(query_id, bool) or not isinstance(query_id, str | int) or query_id == "":
            raise BadInput(f"{where}: the query id {shown(query_id)} must be text or a whole number")
        query_id = str(query_id)
        if query_id in seen:
            raise BadInput(f"{where}: the query id {shown(query_id)} is there twice; ids must be unique")
        seen.add(query_id)
        examples.append(_example(where, row, names, corpus, grow, query_id, query))
    if not examples:
        raise BadInput(f"{path} has no training rows")
    return examples


def _example(
    where: str, row: dict[str, Any], names: dict[str, str], corpus: dict[str, Document], grow: bool, query_id: str, query: str
) -> Example:
    positives = _documents(where, row, names["positives"], corpus, grow)
    negatives = _documents(where, row, names["negatives"], corpus, grow)
    if not positives:
        raise BadInput(f"{where}: the row has no positives (field {names['positives']!r}); give every query at least one relevant document")
    positive_scores = _scores(where, row, names["positive_scores"], len(positives))
    negative_scores = _scores(where, row, names["negative_scores"], len(negatives))
    if (positive_scores is None) != (negative_scores is None) and negatives:
        raise BadInput(f"{where}: give both {names['positive_scores']!r} and {names['negative_scores']!r}, or neither")
    kept = [number for number, key in enumerate(negatives) if key not in positives]
    if negative_scores is not None:
        negative_scores = [negative_scores[number] for number in kept]
    return Example(query_id, query, positives, [negatives[number] for number in kept], positive_scores, negative_scores)


def _documents(where: str, row: dict[str, Any], name: str, corpus: dict[str, Document], grow: bool) -> list[str]:
    given = row.get(name)
    given = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise BadInput(f"{where}: the field {name!r} must be a list of texts")
    if grow:
        keys = ["t-" + hashlib.sha256(text.encode()).hexdigest()[:24] for text in given]
        corpus.update((key, Document("", text)) for key, text in zip(keys, given, strict=True) if key not in corpus)
        return keys
    for key in given:
        if key not in corpus:
            raise BadInput(f"{where}: the document {shown(key)} of {name!r} is not in the corpus")
    return given


def _scores(where: str, row: dict[str, Any], name: str, count: int) -> list[float] | None:
    scores = row.get(name)
    if scores is None:
        return None
    if not isinstance(scores, list) or len(scores) != count:
        found = len(scores) if isinstance(scores, list) else "no list of"
        raise BadInput(f"{where}: {name!r} has {found} scores for {count} documents")
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= LARGEST_SCORE:
            raise BadInput(f"{where}: {name!r} holds the teacher score {shown(score)}, which is no finite number up to {LARGEST_SCORE:g}")
    return [float(score) for score in scores]
