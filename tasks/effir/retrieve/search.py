"""Exact inner-product search over shards of a corpus, in memory bounded by a shard and not by the corpus.

Between shards there are only the k best documents of every query: scores and ids.

FAISS proposes, an order-independent product decides: FAISS's float32 sums depend in their last bits on the shape of the
matrices it is handed, so every candidate that could reach the top k within the error bound of float32 is scored again by
a sum that depends on the two vectors alone. The result is therefore the same for any number of shards, bit by bit.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = dict[str, dict[str, float]]
"""Query id → document id → score, best first; equal scores by ascending document id."""

Ranking = tuple[NDArray[np.float32], NDArray[np.object_]]
"""Scores and ids (str, shared between queries) of one query's best, best first."""

NOTHING: Ranking = (np.empty(0, np.float32), np.empty(0, np.object_))
BLOCK = 1 << 24
SLACK = 32
NOT_FINITE = "embeddings hold values that are not finite"


def search(
    queries: NDArray[np.floating],
    query_ids: Sequence[str],
    shards: Iterable[tuple[NDArray[np.floating], Sequence[str]]],
    k: int,
    *,
    exclude_self: bool = True,
) -> Run:
    """The k documents with the largest inner product for every query.

    queries: (q, d); shards: (vectors (n_i, d), n_i ids) each, float16 or float32, read one at a time.
    Scores are rounded to float32 and ties go to the smaller id (by code point). With `exclude_self` a document whose id
    is the query's own is left out, as BEIR does. Raises ValueError if shapes and ids do not match or values are not finite.
    """
    vectors = _checked(queries, query_ids)
    depth = k + 1 if exclude_self else k
    best = [NOTHING] * len(query_ids)
    for documents, ids in shards:
        best = _scan(vectors, best, documents, ids, depth)
        del documents, ids
    return as_run(query_ids, best, k, exclude_self)


def as_run(query_ids: Iterable[str], best: list[Ranking], k: int, exclude_self: bool) -> Run:
    """Every query's k best; with `exclude_self` without the document whose id is the query's own."""
    run: Run = {}
    for query_id, (scores, names) in zip(query_ids, best, strict=True):
        kept = [
            (name, score) for name, score in zip(names.tolist(), scores.tolist(), strict=True) if not (exclude_self and name == query_id)
        ]
        run[query_id] = dict(kept[:k])
    return run


def _scan(queries: NDArray[np.float32], best: list[Ranking], documents: NDArray[np.floating], ids: Sequence[str], k: int) -> list[Ranking]:
    """The k best so far and of one shard together, for every query."""
    if documents.ndim != 2 or documents.shape[1] != queries.shape[1] or len(documents) != len(ids):
        raise ValueError(f"documents of shape {documents.shape} do not go with {len(ids)} ids and queries of width {queries.shape[1]}")
    names = np.asarray(ids, dtype=np.object_)
    rows = max(1, BLOCK // queries.shape[1])
    room = np.empty((min(rows, len(documents)), queries.shape[1]), np.float32)
    for start in range(0, len(documents), rows):
        block = room[: len(documents) - start]
        block[:] = documents[start : start + rows]
        floor = np.array([scores[-1] if len(scores) == k else -np.inf for scores, _ in best], np.float32)
        found = _candidates(queries, block, k, floor)
        for row, near in enumerate(found):
            scores = products(queries[row], block[near])
            best[row] = merge(best[row], (scores, names[start : start + rows][near]), k)
    return best


def products(query: NDArray[np.floating], documents: NDArray[np.floating]) -> NDArray[np.float32]:
    """Inner products of a query (d,) with documents (n, d) as float32 (n,); each depends on its own two vectors alone.

    Products are summed in float64 along a row (numpy's pairwise sum, whose order depends on d only); a matrix product
    would not do, since its order of summation depends on n.
    """
    return (documents.astype(np.float64) * query.astype(np.float64)).sum(axis=1).astype(np.float32)


def merge(one: Ranking, other: Ranking, k: int) -> Ranking:
    """The k best of two rankings."""
    scores = np.concatenate([one[0], other[0]])
    ids = np.concatenate([one[1], other[1]])
    order = ranked(scores, ids, k)
    return scores[order], ids[order]


def ranked(scores: NDArray[np.floating], ids: NDArray[Any], k: int) -> NDArray[np.intp]:
    """Positions of the k best scores (n,), best first, ties by ascending id."""
    if len(scores) > k:
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        near = np.flatnonzero(scores >= threshold)
    else:
        near = np.arange(len(scores))
    order = near[np.argsort(-scores[near], kind="stable")]
    same = scores[order][1:] == scores[order][:-1]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    among = order[tied]
    order[tied] = among[np.lexsort((ids[among], -scores[among]))]
    return order[:k]


def _candidates(queries: NDArray[np.float32], block: NDArray[np.float32], k: int, floor: NDArray[np.float32]) -> list[NDArray[np.intp]]:
    """For every query the rows of a block that may be among its k best, and not below its `floor` (q,), in exact arithmetic; a superset."""
    import faiss

    error = _error_bound(queries, block)
    if len(block) <= k:
        return [np.arange(len(block))] * len(queries)
    found: list[NDArray[np.intp]] = [np.empty(0, np.intp)] * len(queries)
    open_ = np.arange(len(queries))
    fetch = k
    while len(open_):
        fetch = min(len(block), fetch + SLACK if fetch == k else 2 * fetch)
        scores, rows = faiss.knn(np.ascontiguousarray(queries[open_]), block, fetch, metric=faiss.METRIC_INNER_PRODUCT)
        settled = (scores[:, -1] < scores[:, k - 1] - 2 * error[open_]) | (fetch == len(block))
        for position in np.flatnonzero(settled):
            high = scores[position] >= floor[open_[position]] - 2 * error[open_[position]]
            found[open_[position]] = rows[position][high].astype(np.intp)
        open_ = open_[~settled]
    return found


def _error_bound(queries: NDArray[np.float32], block: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far a float32 inner product may be from the exact one, per query (q,): (d + 4)·2⁻²⁴·|query|·max |document|.

    Raises ValueError where the block holds what is not finite.
    """
    longest = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64).max())
    if not np.isfinite(longest):
        raise ValueError(NOT_FINITE)
    lengths = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))
    return (block.shape[1] + 4) * 2.0**-24 * lengths * longest + np.finfo(np.float32).tiny


def _checked(vectors: NDArray[np.floating], ids: Sequence[str]) -> NDArray[np.float32]:
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise ValueError(f"vectors of shape {vectors.shape} do not go with {len(ids)} ids")
    if not np.isfinite(vectors).all():
        raise ValueError(NOT_FINITE)
    return np.ascontiguousarray(vectors, dtype=np.float32)
