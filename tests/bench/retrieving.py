"""Searching and evaluating: `search` beside FAISS over a million vectors, a whole evaluation beside BEIR's exact search."""

from pathlib import Path
from typing import Any

import numpy as np

from .encoding import WARM
from .material import Material
from .pairs import Pairs, apart, by_turns, ratios, timed

VECTORS, WIDTH, SHARD, QUERIES, DEPTH = 1_000_000, 576, 50_000, 1000, 100
MEMORY_SHARE = 0.1
SAME_SCORE, SAME_METRIC = 1e-5, 1e-3
COLLECTIONS, DOCUMENTS, ASKED = ("scifact", "nfcorpus"), 400, 50


def searching(material: Material, rounds: int) -> Pairs:
    """1,000 queries in a million vectors of width 576 in float16, the best 100; each in a process of its own, whose memory is watched."""
    folder = vectors(material.folder / f"vectors-{VECTORS}")
    given = ("tests.bench.search_process", str(folder), str(DEPTH))
    ours, peer = by_turns(lambda: apart(*given, "ours"), lambda: apart(*given, "faiss"), rounds)
    far = max(abs(one - other) for one, other in zip(ours[0]["scores"], peer[0]["scores"], strict=True))
    if not far <= SAME_SCORE:
        raise AssertionError(f"the two do not find the same: a score is {far:.1e} away")
    share = max(one["bytes"] for one in ours) / min(one["bytes"] for one in peer)
    told: dict[str, Any] = {"memory_share": share, "megabytes": max(one["bytes"] for one in ours) / 1e6, "difference": far}
    mine, others = ([one["seconds"] for one in several] for several in (ours, peer))
    unmet = "" if share <= MEMORY_SHARE else f"{share:.2f} of its memory, not {MEMORY_SHARE:g}"
    return Pairs(ratios(mine, others), None, told | {"seconds": min(mine)}, unmet)


def vectors(folder: Path) -> Path:
    """Random unit vectors in float16, SHARD in a file, and QUERIES queries in float32; made once."""
    if not (folder / "queries.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        dice = np.random.default_rng(0)
        for number in range(VECTORS // SHARD):
            np.save(folder / f"{number:03d}.npy", _unit(dice, SHARD).astype(np.float16))
        np.save(folder / "queries.npy", _unit(dice, QUERIES))
    return folder


def _unit(dice: np.random.Generator, count: int) -> np.ndarray:
    made = dice.standard_normal((count, WIDTH), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def evaluating(material: Material, rounds: int) -> Pairs:
    """400 documents, cut at 96 tokens, and 50 queries each of SciFact and NFCorpus, from texts to nDCG@10; the models are loaded.

    A pair is a collection.
    """
    from effir.export.loading import load_encoder

    encoder, peer = load_encoder(material.short), _beir(material.short)
    given = [material.collection(name, DOCUMENTS, ASKED) for name in COLLECTIONS]
    few = list(given[0][0].values())[:WARM]
    encoder.encode([one["text"] for one in few]), peer.model.encode_corpus(few, batch_size=WARM)
    one, other = iter(given * rounds), iter(given * rounds)
    mine, others = by_turns(
        lambda: timed(lambda: _ours(encoder, next(one))), lambda: timed(lambda: _theirs(peer, next(other))), len(given) * rounds
    )
    far = max(abs(ours - theirs) for (_, ours), (_, theirs) in zip(mine, others, strict=True))
    if not far <= SAME_METRIC:
        raise AssertionError(f"the two do not give the same nDCG@10: {far:.1e} apart")
    spent, theirs = ([seconds for seconds, _ in several] for several in (mine, others))
    return Pairs(ratios(spent, theirs), None, {"seconds": sum(spent) / rounds, "difference": far})


def _ours(encoder: Any, given: Any) -> float:
    from effir.retrieve import metrics
    from effir.retrieve.search import search

    corpus, queries, qrels = given
    documents = encoder.encode([f"{one['title']} {one['text']}".strip() for one in corpus.values()], "document")
    asked = encoder.encode(list(queries.values()), "query")
    run = search(asked, list(queries), [(documents.astype(np.float16), list(corpus))], 1000)
    return float(metrics.means(metrics.per_query(run, qrels))["ndcg_at_10"])


def _theirs(peer: Any, given: Any) -> float:
    from beir.retrieval.evaluation import EvaluateRetrieval

    corpus, queries, qrels = given
    judge = EvaluateRetrieval(peer, score_function="cos_sim")
    peer.results = {}
    return float(judge.evaluate(qrels, judge.retrieve(corpus, queries), [10, 100])[0]["NDCG@10"])


def _beir(folder: Path) -> Any:
    """BEIR's exact search around the exported folder, with the prompts that it carries."""
    from beir.retrieval.models import SentenceBERT
    from beir.retrieval.search.dense import DenseRetrievalExactSearch

    settings = {"trust_remote_code": True, "device": "cpu", "model_kwargs": {"dtype": "auto"}}
    model = SentenceBERT(str(folder / "model"), prompt_names={"query": "query", "passage": "document"}, **settings)
    return DenseRetrievalExactSearch(model, batch_size=64, show_progress_bar=False)
