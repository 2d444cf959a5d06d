"""BM25 by bm25s with Lucene's scoring: the lexical baseline, and the miner of hard negatives."""

from collections.abc import Mapping, Sequence

import bm25s
import numpy as np
import Stemmer

from effir.retrieve.search import Run, ranked

K1 = 0.9
B = 0.4


class Index:
    """A corpus indexed for BM25: English stop words left out, Snowball's English stemmer, k1 = 0.9, b = 0.4."""

    def __init__(self, texts: Sequence[str], ids: Sequence[str]) -> None:
        self._ids = np.asarray(ids, dtype=np.str_)
        self._stemmer = Stemmer.Stemmer("english")
        self._bm25: bm25s.BM25 | None = bm25s.BM25(k1=K1, b=B)
        tokens = bm25s.tokenize(list(texts), stopwords="en", stemmer=self._stemmer, show_progress=False)
        if tokens.vocab and any(tokens.ids):
            self._bm25.index(tokens, show_progress=False)
        else:
            self._bm25 = None

    def search(self, query: str, k: int) -> dict[str, float]:
        """The k best documents that share a word with the query, best first, ties by ascending id."""
        words = bm25s.tokenize(query, stopwords="en", stemmer=self._stemmer, show_progress=False, return_ids=False)[0]
        if self._bm25 is None or not (known := self._bm25.get_tokens_ids(words)):
            return {}
        scores = self._bm25.get_scores_from_ids(known)
        matching = np.flatnonzero(scores > 0)
        order = matching[ranked(scores[matching], self._ids[matching], k)]
        return {str(self._ids[position]): float(scores[position]) for position in order}


def search(texts: Sequence[str], ids: Sequence[str], queries: Mapping[str, str], k: int, *, exclude_self: bool = True) -> Run:
    """BM25's k best documents for every query; with `exclude_self` never the document whose id is the query's own."""
    index = Index(texts, ids)
    run: Run = {}
    for query_id, query in queries.items():
        found = index.search(query, k + 1)
        if exclude_self:
            found.pop(query_id, None)
        run[query_id] = dict(list(found.items())[:k])
    return run
