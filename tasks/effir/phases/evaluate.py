"""Exact search of every model's vectors in every collection, BM25 beside it, and what the judge needs: a score per query."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir.errors import BadInput
from effir.phases.job import Job

if TYPE_CHECKING:
    from effir.retrieve.collections import Collection
    from effir.retrieve.search import Run

FIELDS = ()
DEPTH = 1000


def run(job: Job) -> dict[str, Any]:
    """Writes scores.parquet, metrics.json, runs/MODEL/COLLECTION.trec and mteb/MODEL/COLLECTION.json."""
    from effir.retrieve import metrics

    given = collections(job)
    encodes = _encodes(job)
    if unknown := sorted({name for _, name in encodes} - set(given)):
        raise BadInput(f"phase evaluate was given vectors of {', '.join(unknown)}, but not the collection itself")
    rows: list[dict[str, Any]] = []
    table: dict[str, dict[str, dict[str, float]]] = {}
    models = ["bm25", *dict.fromkeys(model for model, _ in encodes)]
    for done, (model, name) in enumerate((model, name) for model in models for name in given):
        collection = given[name]
        if model != "bm25" and (model, name) not in encodes:
            raise BadInput(f"phase evaluate was given no vectors of {model} for {name}")
        found = lexical(collection) if model == "bm25" else _dense(job, collection, encodes[model, name])
        scores = metrics.per_query(found, collection.qrels)
        table.setdefault(model, {})[name] = metrics.means(scores)
        rows += rows_of(model, collection, scores)
        metrics.write_run(found, job.out / "runs" / model / f"{name}.trec", tag=model)
        _write_json(job.out / "mteb" / model / f"{name}.json", metrics.mteb_result(name, table[model][name]))
        for metric, value in table[model][name].items():
            job.metric(_label(model, name, metric), value)
        job.progress(done + 1, len(models) * len(given), f"{model} {name} {table[model][name]['ndcg_at_10']:.4f}")
    write_scores(rows, job.out / "scores.parquet")
    _write_json(job.out / "metrics.json", table | _mean_13(table, given))
    return _numbers(table)


def collections(job: Job) -> dict[str, "Collection"]:
    """The input `collections` by name, in order."""
    from effir.retrieve.collections import load_folder

    uris = job.inputs.get("collections") or []
    if not uris:
        raise BadInput(f"phase {job.phase} needs the input 'collections', a list of manifest URIs")
    loaded = [load_folder(job.folder_at(uri)) for uri in uris]
    return {collection.name: collection for collection in loaded}


def _encodes(job: Job) -> dict[tuple[str, str], list[str]]:
    """(model, collection) → manifest URIs of its shards, in order."""
    shards: dict[tuple[str, str], dict[int, str]] = {}
    for uri in job.inputs.get("encodes") or []:
        arguments = job.manifest_at(uri).key["arguments"]
        shards.setdefault((arguments["model"], arguments["collection"]), {})[int(arguments["shard"])] = uri
    for (model, name), found in shards.items():
        if sorted(found) != list(range(len(found))):
            raise BadInput(f"phase evaluate was given the shards {sorted(found)} of {model} for {name}: one is missing")
    return {key: [found[number] for number in sorted(found)] for key, found in shards.items()}


def lexical(collection: "Collection") -> "Run":
    """BM25's ranking."""
    from effir.retrieve import bm25
    from effir.retrieve.collections import document_text

    return bm25.search([document_text(one) for one in collection.corpus.values()], list(collection.corpus), collection.queries, DEPTH)


def _dense(job: Job, collection: "Collection", uris: list[str]) -> "Run":
    """One shard at a time is in memory; together they must hold exactly the collection's documents."""
    import numpy as np

    from effir.retrieve.search import search

    first = job.folder_at(uris[0])
    query_ids = json.loads((first / "queries_ids.json").read_text())
    queries = np.load(first / "queries.npy", allow_pickle=False)
    if set(query_ids) != set(collection.queries):
        raise BadInput(f"the encoded queries are not those of {collection.name}: they were made from another version of it")
    seen: set[str] = set()

    def shards() -> Any:
        for uri in uris:
            folder = job.folder_at(uri)
            ids = json.loads((folder / "corpus_ids.json").read_text())
            seen.update(ids)
            yield np.load(folder / "corpus.npy", allow_pickle=False), ids

    found = search(queries, query_ids, shards(), DEPTH)
    if seen != set(collection.corpus):
        raise BadInput(f"the shards of {collection.name} hold {len(seen)} of its {len(collection.corpus)} documents: encode them all")
    return found


def _label(model: str, name: str, metric: str) -> str:
    """A metric's name in MLflow: COLLECTION/METRIC for the candidate, MODEL/COLLECTION/METRIC for the others."""
    return f"{name}/{metric}" if model == "candidate" else f"{model}/{name}/{metric}"


def _mean_13(table: dict[str, dict[str, dict[str, float]]], collections: dict[str, "Collection"]) -> dict[str, Any]:
    from effir.retrieve.metrics import beir_mean

    pooled = {name: collection.pooled for name, collection in collections.items()}
    found = {model: beir_mean({name: one["ndcg_at_10"] for name, one in by_name.items()}, pooled) for model, by_name in table.items()}
    return {"mean_13": found} if all(value is not None for value in found.values()) else {}


def _numbers(table: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """nDCG@10 of candidate and reference, up to five figures."""
    wanted: list[str] = ["candidate", "reference"]
    models = [model for model in wanted if model in table] or list(table)
    pairs = [(model, name) for name in table[models[0]] for model in models]
    return {_label(model, name, "ndcg_at_10"): table[model][name]["ndcg_at_10"] for model, name in pairs[:5]}


def rows_of(model: str, collection: "Collection", scores: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Rows of scores.parquet: model, collection, query_id, cluster, and every metric."""
    return [
        {"model": model, "collection": collection.name, "query_id": query, "cluster": collection.clusters.get(query, query), **values}
        for query, values in scores.items()
    ]


def write_scores(rows: list[dict[str, Any]], path: Path) -> None:
    """scores.parquet, a row per model, collection and query."""
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
