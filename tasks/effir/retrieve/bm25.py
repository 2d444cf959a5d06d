"""BM25 with Lucene's scoring, k1 = 0.9, b = 0.4: the lexical baseline, and the miner of hard negatives.

Words are cut by bm25s: English stop words left out, Snowball's English stemmer. The index of bm25s holds a corpus in memory;
here a block of it is enough: it is gone through twice, first to count in how many documents each word of the queries is, then
to score. The scores are those of bm25s bit by bit, however large a block is.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray
from scipy import sparse

from effir.retrieve.collections import Documents
from effir.retrieve.files import document_text
from effir.retrieve.search import NOTHING, Ranking, Run, as_run, merge

K1 = 0.9
B = 0.4
LEAST = np.finfo(np.float32).smallest_subnormal
STEMMER = Stemmer.Stemmer("english")


def search(corpus: Documents, queries: Mapping[str, str], k: int, *, block: int = 50_000, exclude_self: bool = True) -> Run:
    """BM25's k best documents that share a word with the query, for every query, best first, ties by ascending id.

    `block` documents are in memory at a time. With `exclude_self` never the document whose id is the query's own.
    """
    words = [_words(query) for query in queries.values()]
    terms = {word: number for number, word in enumerate(sorted(set(chain.from_iterable(words))))}
    asked = [[terms[word] for word in one] for one in words]
    bearing, length = np.zeros(len(terms), np.int64), 0
    for one in _blocks(corpus, terms, block):
        bearing += np.diff(one.counts.indptr)
        length += int(one.lengths.sum())
    idf = np.array([math.log(1 + (len(corpus) - count + 0.5) / (count + 0.5)) for count in bearing.tolist()], np.float32)
    best = [NOTHING] * len(asked)
    for one in _blocks(corpus, terms, block):
        weights = _weights(one, idf, np.float64(length) / len(corpus))
        for row, numbers in enumerate(asked):
            floor = best[row][0][-1] if len(best[row][0]) == k + 1 else LEAST
            best[row] = merge(best[row], _matching(weights, numbers, one.ids, floor), k + 1)
    return as_run(queries, best, k, exclude_self)


class _Block(NamedTuple):
    """Some documents: ids (n,), how often each has each of the queries' words (n, terms), and their lengths in words (n,)."""

    ids: NDArray[np.object_]
    counts: Any
    lengths: NDArray[np.int64]


def _blocks(corpus: Documents, terms: Mapping[str, int], size: int) -> Iterator[_Block]:
    left = iter(corpus.items())
    while block := [(key, document_text(document)) for key, document in islice(left, size)]:
        tokens = _tokens([text for _, text in block])
        column = np.full(len(tokens.vocab), -1)
        for word, number in tokens.vocab.items():
            column[number] = terms.get(word, -1)
        lengths = np.array([len(one) for one in tokens.ids])
        columns = column[np.fromiter(chain.from_iterable(tokens.ids), np.int64, lengths.sum())]
        rows = np.repeat(np.arange(len(block)), lengths)[columns >= 0]
        counts = sparse.coo_array((np.ones(len(rows), np.float32), (rows, columns[columns >= 0])), (len(block), len(terms)))
        yield _Block(np.array([key for key, _ in block], np.object_), counts.tocsc(), lengths)


def _weights(block: _Block, idf: NDArray[np.float32], mean_length: np.float64) -> Any:
    """What each word adds to each document's score, float32 (n, terms), rounded where bm25s rounds."""
    counts = block.counts
    saturated = counts.data / (K1 * ((1 - B) + B * block.lengths[counts.indices] / mean_length) + counts.data)
    repeated = np.repeat(idf, np.diff(counts.indptr))
    return sparse.csc_array(((repeated * saturated).astype(np.float32), counts.indices, counts.indptr), counts.shape)


def _matching(weights: Any, numbers: Sequence[int], ids: NDArray[np.object_], floor: np.float32) -> Ranking:
    """Scores and ids of the documents that these words give a score of at least `floor`."""
    scores = np.zeros(len(ids), np.float32)
    for number in numbers:
        part = slice(weights.indptr[number], weights.indptr[number + 1])
        scores[weights.indices[part]] += weights.data[part]
    found = np.flatnonzero(scores >= floor)
    return scores[found], ids[found]


def _tokens(texts: Sequence[str]) -> Any:
    return bm25s.tokenize(list(texts), stopwords="en", stemmer=STEMMER, show_progress=False)


def _words(query: str) -> list[str]:
    return bm25s.tokenize(query, stopwords="en", stemmer=STEMMER, show_progress=False, return_ids=False)[0]
