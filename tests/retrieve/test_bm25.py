import math
import os
from pathlib import Path

import bm25s
import numpy as np
import pytest
import Stemmer

from effir.retrieve import bm25
from effir.retrieve.collections import load_folder
from effir.retrieve.files import Document
from effir.retrieve.metrics import means, per_query

DATA = os.environ.get("EFFIR_DATA")

TEXTS = {"a": "cats chase mice", "b": "dogs chase cats and cats", "c": "birds sing", "d": "", "e": "dogs chase cats and cats"}
CORPUS = {key: Document(text, "") for key, text in TEXTS.items()}


def lucene(words: list[str], text: list[str], corpus: list[list[str]]) -> float:
    """Robertson and Zaragoza's BM25 with Lucene's idf, written out."""
    mean = sum(map(len, corpus)) / len(corpus)
    total = 0.0
    for word in words:
        bearing = sum(word in other for other in corpus)
        idf = math.log(1 + (len(corpus) - bearing + 0.5) / (bearing + 0.5))
        count = text.count(word)
        total += idf * count / (count + 0.9 * (1 - 0.4 + 0.4 * len(text) / mean))
    return total


def test_scores_are_lucenes_formula() -> None:
    stemmed = {"a": "cat chase mice", "b": "dog chase cat cat", "c": "bird sing", "d": "", "e": "dog chase cat cat"}
    corpus = [text.split() for text in stemmed.values()]
    found = bm25.search(CORPUS, {"q": "the cat chased"}, 10)["q"]
    assert list(found) == ["b", "e", "a"]
    for name, score in found.items():
        assert score == pytest.approx(lucene(["cat", "chase"], stemmed[name].split(), corpus), rel=1e-5)


def test_ties_go_to_the_smaller_id_at_any_depth() -> None:
    assert list(bm25.search(CORPUS, {"q": "dog"}, 1)["q"]) == ["b"]


def test_nothing_in_common_finds_nothing() -> None:
    assert bm25.search(CORPUS, {"q": "quantum", "r": "", "s": "the and"}, 3) == {"q": {}, "r": {}, "s": {}}
    assert bm25.search({"x": Document("", ""), "y": Document("the", "")}, {"q": "cats"}, 3) == {"q": {}}


def test_a_querys_own_document_is_left_out() -> None:
    assert list(bm25.search(CORPUS, {"b": "dog"}, 3)["b"]) == ["e"]


def prose(count: int, seed: int) -> dict[str, Document]:
    """Documents of 0 to 60 words, some words common and most of them rare; a few documents stand there twice."""
    dice = np.random.default_rng(seed)
    words = np.array([f"word{'abcdefghij'[n % 10]}{n}" for n in range(400)])
    texts = [" ".join(words[np.minimum(dice.geometric(0.02, dice.integers(0, 61)), 400) - 1]) for _ in range(count)]
    texts[count // 2] = texts[0]
    return {f"d{place}": Document("", text) for place, text in zip(dice.permutation(count), texts, strict=True)}


@pytest.mark.parametrize("block", [1, 7, 100, 300, 1000])
def test_any_block_gives_bm25s_scores_to_the_last_bit(block: int) -> None:
    corpus = prose(300, seed=1)
    queries = {"q1": "worda0 wordb1 worda0 unheard wordj399", "q2": "wordc2", "d7": corpus["d7"].text, "q3": "unheard"}
    how = {"stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
    index = bm25s.BM25(k1=0.9, b=0.4)
    index.index(bm25s.tokenize([document.text for document in corpus.values()], **how), show_progress=False)
    found = bm25.search(corpus, queries, 50, block=block, exclude_self=False)
    for query_id, query in queries.items():
        scores = index.get_scores(bm25s.tokenize(query, **how, return_ids=False)[0])
        ranking = sorted((-score, key) for key, score in zip(corpus, scores.tolist(), strict=True) if score > 0)[:50]
        assert list(found[query_id].items()) == [(key, -score) for score, key in ranking]
    assert len(found["d7"]) == 50
    assert "d7" not in bm25.search(corpus, queries, 50, block=block)["d7"]


def test_it_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    bm25.search(CORPUS, {"q": "dog"}, 3)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(DATA is None, reason="EFFIR_DATA is unset: BM25 is not held against the published SciFact figure")
def test_scifact_is_near_the_published_figure() -> None:
    collection = load_folder(Path(DATA or "") / "scifact")
    run = bm25.search(collection.corpus, collection.queries, 100)
    found = means(per_query(run, collection.qrels))
    assert found["ndcg_at_10"] == pytest.approx(0.677, abs=0.02)
    assert found["recall_at_100"] == pytest.approx(0.929, abs=0.02)
