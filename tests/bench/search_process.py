"""One search of the bench in a process of its own: python -m tests.bench.search_process FOLDER DEPTH ours|faiss

Prints {seconds, bytes, scores}: of the search alone, the most memory that this process had of its own beyond what it started with (pages
of files aside), and the scores of the first query.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from effir.reading import read_array
from effir.retrieve.search import search

from .watching import watched


def main() -> None:
    """The command."""
    folder, depth, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    queries, files = np.load(folder / "queries.npy"), sorted(folder.glob("[0-9]*.npy"))
    warm = np.zeros((2 * depth, queries.shape[1]), np.float32)
    faiss.knn(queries[:2], warm, depth, metric=faiss.METRIC_INNER_PRODUCT)
    with watched() as most:
        seconds, scores = (_ours if kind == "ours" else _faiss)(queries, files, depth)
    print(json.dumps({"seconds": seconds, "bytes": most(), "scores": scores}))


def _ours(queries: Any, files: list[Path], depth: int) -> tuple[float, list[float]]:
    names = [str(number) for number in range(len(queries))]
    began = time.perf_counter()
    run = search(queries, names, map(_shard, files), depth)
    return time.perf_counter() - began, list(run["0"].values())


def _shard(path: Path) -> tuple[Any, list[str]]:
    """Vectors and ids, as phase evaluate reads them."""
    vectors, name = read_array(path, mapped=True), path.stem
    return vectors, [f"{name}-{row}" for row in range(len(vectors))]


def _faiss(queries: Any, files: list[Path], depth: int) -> tuple[float, list[float]]:
    index = faiss.IndexFlatIP(queries.shape[1])
    for path in files:
        index.add(np.load(path).astype(np.float32))
    began = time.perf_counter()
    scores, _ = index.search(queries, depth)
    return time.perf_counter() - began, [float(score) for score in scores[0]]


if __name__ == "__main__":
    main()
