"""An index that is built once and read often: exact search by inner product with FAISS, over vectors as they are stored (float16).

A folder: `00000.faiss`, `00001.faiss`, … one for each shard of the corpus, the ids of its documents beside it as `00000.json`, and
`index.json`. FAISS's files hold numbers alone, and nothing is unpickled; they are read by C++ that trusts them, so open only what somebody
vouches for: services/indexes.py compares every file with the digest that the pointer names.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from effir.errors import BadInput
from effir.reading import read_json
from effir.retrieve.search import ranked

ABOUT = "index.json"


class Hit(NamedTuple):
    """A document that was found, its inner product with the query, and the shard of the corpus in which it stands."""

    id: str
    score: float
    shard: int


@dataclass
class Index:
    """Shards in memory. about: whatever was told when it was built, with `dimensions` and `documents`."""

    about: dict[str, Any]
    shards: list[tuple[Any, list[str]]] = field(default_factory=list)

    def search(self, queries: NDArray[np.floating], k: int) -> list[list[Hit]]:
        """The k best documents for every query (q, d), best first, equal scores by ascending id.

        Raises BadInput for queries of another width: they were made by another model.
        """
        if queries.ndim != 2 or queries.shape[1] != self.about["dimensions"]:
            raise BadInput(f"the index holds vectors of width {self.about['dimensions']}, and the query is of shape {queries.shape}")
        asked = np.ascontiguousarray(queries, np.float32)
        found: list[list[Hit]] = [[] for _ in queries]
        for number, (shard, ids) in enumerate(self.shards):
            scores, rows = shard.search(asked, min(k, len(ids)))
            for query in range(len(queries)):
                hits = found[query] + [Hit(ids[row], float(score), number) for score, row in zip(scores[query], rows[query], strict=True)]
                order = ranked(np.array([one.score for one in hits]), np.array([one.id for one in hits], np.object_), k)
                found[query] = [hits[place] for place in order]
        return found


def build(shards: Iterable[tuple[NDArray[np.floating], Sequence[str]]], **about: Any) -> Index:
    """An index in memory of shards of (vectors (n, d), n ids). Raises ValueError where they do not go together or are not finite."""
    made = Index(about)
    for vectors, ids in shards:
        _add(made, vectors, ids)
    made.about |= {"documents": sum(len(ids) for _, ids in made.shards)}
    return made


def write(shards: Iterable[tuple[NDArray[np.floating], Sequence[str]]], folder: Path, **about: Any) -> Path:
    """Write an index into a new folder, one shard in memory at a time; the same shards give the same bytes."""
    folder.mkdir(parents=True)
    documents, dimensions = 0, 0
    for number, (vectors, ids) in enumerate(shards):
        one = Index({})
        _add(one, vectors, ids)
        faiss.write_index(one.shards[0][0], str(folder / f"{number:05d}.faiss"))
        (folder / f"{number:05d}.json").write_text(json.dumps(list(ids)))
        documents, dimensions = documents + len(ids), one.about["dimensions"]
    (folder / ABOUT).write_text(json.dumps(about | {"documents": documents, "dimensions": dimensions}, indent=1, sort_keys=True))
    return folder


def read(folder: Path) -> Index:
    """The index in a folder that somebody vouches for. Raises BadInput where parts of it do not go together."""
    found = Index(read_json(folder / ABOUT), list(_parts(folder)))
    wrong = [number for number, (one, ids) in enumerate(found.shards) if (one.d, one.ntotal) != (found.about["dimensions"], len(ids))]
    if wrong or sum(len(ids) for _, ids in found.shards) != found.about["documents"]:
        raise BadInput(f"{folder} is no whole index: build it anew")
    return found


def _parts(folder: Path) -> Iterator[tuple[Any, list[str]]]:
    for path in sorted(folder.glob("*.faiss")):
        try:
            index = faiss.read_index(str(path))
        except RuntimeError:
            raise BadInput(f"{path} is no FAISS index: build it anew") from None
        yield index, read_json(path.with_suffix(".json"))


def _add(made: Index, vectors: NDArray[np.floating], ids: Sequence[str]) -> None:
    if vectors.ndim != 2 or len(vectors) != len(ids) or vectors.shape[1] != made.about.setdefault("dimensions", vectors.shape[1]):
        raise ValueError(f"vectors of shape {vectors.shape} do not go with {len(ids)} ids, or with the shards before")
    if not np.isfinite(vectors).all():
        raise ValueError("embeddings hold values that are not finite")
    index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add(np.ascontiguousarray(vectors, np.float32))
    made.shards.append((index, list(ids)))
