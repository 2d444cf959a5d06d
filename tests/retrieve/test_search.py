import weakref
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from effir.retrieve.search import Run, products, ranked, search


def unit(rows: NDArray[np.float64]) -> NDArray[np.float16]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths == 0, 1, lengths)).astype(np.float16)


def brute_force(queries: NDArray[np.float16], query_ids: list[str], documents: NDArray[np.float16], ids: list[str], k: int) -> Run:
    """Every pair by exact rational arithmetic rounded once, sorted by plain Python."""
    from math import fsum

    run: Run = {}
    for query, query_id in zip(queries, query_ids, strict=True):
        pairs = []
        for document, name in zip(documents, ids, strict=True):
            if name != query_id:
                exact = fsum(float(a) * float(b) for a, b in zip(query, document, strict=True))
                pairs.append((-float(np.float32(exact)), name))
        run[query_id] = {name: -score for score, name in sorted(pairs)[:k]}
    return run


def cut(documents: NDArray[np.float16], ids: list[str], places: list[int]) -> list[tuple[NDArray[np.float16], list[str]]]:
    edges = [0, *sorted(places), len(ids)]
    return [(documents[a:b], ids[a:b]) for a, b in pairwise(edges) if b > a]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_sharding_equals_brute_force(data: st.DataObject) -> None:
    """Few distinct vectors, so that most scores tie, also at the k-th place; some ids are queries' own."""
    dice = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    count, width = data.draw(st.integers(1, 120)), data.draw(st.sampled_from([1, 7, 33]))
    distinct = data.draw(st.integers(1, 120))
    pool = unit(dice.standard_normal((distinct, width)))
    documents = pool[dice.integers(0, distinct, count)]
    queries = unit(dice.standard_normal((5, width)))
    ids = [f"{number:x}" for number in dice.permutation(count)]
    query_ids = [f"q{number}" for number in range(4)] + [ids[0]]
    places = data.draw(st.lists(st.integers(0, count), max_size=6))
    k = data.draw(st.integers(1, 60))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("effir.retrieve.search.SLACK", 1)
        found = search(queries, query_ids, cut(documents, ids, places), k)
    expected = brute_force(queries, query_ids, documents, ids, k)
    assert found == expected
    assert [list(one) for one in found.values()] == [list(one) for one in expected.values()]


def test_one_shard_and_many_give_identical_results_where_float32_sums_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly collapsed vectors: thousands of scores within float32's error of each other."""
    monkeypatch.setattr("effir.retrieve.search.SLACK", 1)
    dice = np.random.default_rng(1)
    centre = dice.standard_normal(96)
    documents = unit(centre + 1e-3 * dice.standard_normal((3000, 96)))
    queries = unit(centre + 1e-3 * dice.standard_normal((9, 96)))
    ids = [f"doc{number}" for number in range(3000)]
    query_ids = [f"q{number}" for number in range(9)]
    whole = search(queries, query_ids, [(documents, ids)], 100)
    scores = np.stack([products(query, documents.astype(np.float32)) for query in queries.astype(np.float32)])
    assert len(np.unique(scores[0])) < 2900, "the case must have ties to be worth anything"
    for row, query_id in enumerate(query_ids):
        order = sorted(range(3000), key=lambda position: (-scores[row, position], ids[position]))[:100]
        assert list(whole[query_id]) == [ids[position] for position in order]
    for parts in (2, 7, 41):
        places = [len(ids) * part // parts for part in range(1, parts)]
        assert search(queries, query_ids, cut(documents, ids, places), 100) == whole
    shuffled = dice.permutation(3000)
    assert search(queries, query_ids, [(documents[shuffled], [ids[place] for place in shuffled])], 100) == whole


def test_equal_scores_are_equal_however_float32_adds_them_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant query makes every permutation of one document tie exactly; FAISS's float32 sums tell them apart."""
    monkeypatch.setattr("effir.retrieve.search.SLACK", 1)
    dice = np.random.default_rng(3)
    base = unit(dice.standard_normal((1, 64)))[0]
    documents = np.stack([dice.permutation(base) for _ in range(300)])
    query = np.full((1, 64), 0.1, np.float16)
    assert len(np.unique(documents.astype(np.float32) @ query[0].astype(np.float32))) > 1
    ids = [f"doc{number}" for number in range(300)]
    for k in (1, 10, 200):
        assert list(search(query, ["q"], [(documents, ids)], k)["q"]) == sorted(ids)[:k]


def test_a_small_block_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(2)
    documents, queries = unit(dice.standard_normal((500, 16))), unit(dice.standard_normal((3, 16)))
    ids = [f"doc{number}" for number in range(500)]
    whole = search(queries, ["a", "b", "c"], [(documents, ids)], 20)
    monkeypatch.setattr("effir.retrieve.search.BLOCK", 16 * 37)
    assert search(queries, ["a", "b", "c"], [(documents, ids)], 20) == whole


def test_a_shard_is_gone_before_the_next_is_made() -> None:
    made: list[weakref.ref[NDArray[np.float16]]] = []

    def shard(number: int) -> tuple[NDArray[np.float16], list[str]]:
        vectors = unit(np.eye(4) + number)
        made.append(weakref.ref(vectors))
        return vectors, [f"{number}-{row}" for row in range(4)]

    def shards() -> Iterator[tuple[NDArray[np.float16], list[str]]]:
        for number in range(3):
            assert all(one() is None for one in made)
            yield shard(number)

    assert len(search(unit(np.eye(4)), list("abcd"), shards(), 2)["a"]) == 2
    assert len(made) == 3


def test_a_querys_own_document_is_left_out_on_request_only() -> None:
    documents = unit(np.eye(3) + 0.1)
    own = search(documents, ["a", "b", "c"], [(documents, ["a", "b", "c"])], 2)
    assert [list(one) for one in own.values()] == [["b", "c"], ["a", "c"], ["a", "b"]]
    every = search(documents, ["a", "b", "c"], [(documents, ["a", "b", "c"])], 2, exclude_self=False)
    assert [next(iter(one)) for one in every.values()] == ["a", "b", "c"]


def test_what_cannot_be_searched_is_refused() -> None:
    good = unit(np.eye(3))
    with pytest.raises(ValueError, match="do not go with 2 ids"):
        search(good, ["a", "b", "c"], [(good, ["x", "y"])], 1)
    with pytest.raises(ValueError, match="do not go with 2 ids"):
        search(good, ["a", "b"], [(good, ["x", "y", "z"])], 1)
    with pytest.raises(ValueError, match="queries of width 3"):
        search(good, ["a", "b", "c"], [(unit(np.eye(4)), list("wxyz"))], 1)
    with pytest.raises(ValueError, match="not finite"):
        search(good, ["a", "b", "c"], [(good * np.float16("nan"), list("xyz"))], 1)


def test_ranked_settles_ties_at_the_edge_by_id() -> None:
    scores = np.array([1, 2, 1, 1, 0], np.float32)
    assert [int(one) for one in ranked(scores, np.array(["d", "x", "c", "b", "a"]), 3)] == [1, 3, 2]
