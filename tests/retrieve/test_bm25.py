import math
import os
from pathlib import Path

import pytest

from effir.retrieve import bm25
from effir.retrieve.collections import document_text, load_folder
from effir.retrieve.metrics import means, per_query

DATA = os.environ.get("EFFIR_DATA")

TEXTS = {"a": "cats chase mice", "b": "dogs chase cats and cats", "c": "birds sing", "d": "", "e": "dogs chase cats and cats"}


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
    found = bm25.search(list(TEXTS.values()), list(TEXTS), {"q": "the cat chased"}, 10)["q"]
    assert list(found) == ["b", "e", "a"]
    for name, score in found.items():
        assert score == pytest.approx(lucene(["cat", "chase"], stemmed[name].split(), corpus), rel=1e-5)


def test_ties_go_to_the_smaller_id_at_any_depth() -> None:
    assert list(bm25.search(list(TEXTS.values()), list(TEXTS), {"q": "dog"}, 1)["q"]) == ["b"]


def test_nothing_in_common_finds_nothing() -> None:
    assert bm25.search(list(TEXTS.values()), list(TEXTS), {"q": "quantum", "r": "", "s": "the and"}, 3) == {"q": {}, "r": {}, "s": {}}
    assert bm25.search(["", "the"], ["x", "y"], {"q": "cats"}, 3) == {"q": {}}


def test_a_querys_own_document_is_left_out() -> None:
    assert list(bm25.search(list(TEXTS.values()), list(TEXTS), {"b": "dog"}, 3)["b"]) == ["e"]


def test_it_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    bm25.search(list(TEXTS.values()), list(TEXTS), {"q": "dog"}, 3)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(DATA is None, reason="EFFIR_DATA is unset: BM25 is not held against the published SciFact figure")
def test_scifact_is_near_the_published_figure() -> None:
    collection = load_folder(Path(DATA or "") / "scifact")
    run = bm25.search([document_text(one) for one in collection.corpus.values()], list(collection.corpus), collection.queries, 100)
    found = means(per_query(run, collection.qrels))
    assert found["ndcg_at_10"] == pytest.approx(0.677, abs=0.02)
    assert found["recall_at_100"] == pytest.approx(0.929, abs=0.02)
