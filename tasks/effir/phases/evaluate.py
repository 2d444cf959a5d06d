"""Exact search of every model's vectors in every collection, BM25 beside it, and what the judge needs: a score per query."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir.errors import BadInput
from effir.manifest import digest_of
from effir.phases.job import Job
from effir.phases.stored import Stored, borrowed, collections
from effir.reading import read_array, read_json

if TYPE_CHECKING:
    from effir.retrieve.collections import Collection
    from effir.retrieve.search import Run

FIELDS = ()
DEPTH = 1000
MAKING = ("code", "libraries", "spec")


def run(job: Job) -> dict[str, Any]:
    """Writes scores.parquet, metrics.json, runs/MODEL/COLLECTION.trec and mteb/MODEL/COLLECTION.json.

    output: models {name: {digest, encoding}} whose vectors were searched, data {collection: digest}.
    """
    from effir.retrieve import metrics

    given = collections(job)
    encodes, made = _encodes(job, given)
    if unknown := sorted({name for _, name in encodes} - set(given)):
        raise BadInput(f"phase evaluate was given vectors of {', '.join(unknown)}, but not the collection itself")
    rows: list[dict[str, Any]] = []
    table: dict[str, dict[str, dict[str, float]]] = {}
    models = ["bm25", *dict.fromkeys(model for model, _ in encodes)]
    for done, (model, name) in enumerate((model, name) for model in models for name in given):
        one = given[name]
        if model != "bm25" and (model, name) not in encodes:
            raise BadInput(f"phase evaluate was given no vectors of {model} for {name}")
        found = lexical(one) if model == "bm25" else _dense(job, one, encodes[model, name])
        scores = metrics.per_query(found, one.collection.qrels)
        table.setdefault(model, {})[name] = metrics.means(scores)
        rows += rows_of(model, one.collection, scores)
        metrics.write_run(found, job.out / "runs" / model / f"{name}.trec", tag=model)
        _write_json(job.out / "mteb" / model / f"{name}.json", metrics.mteb_result(name, table[model][name]))
        for metric, value in table[model][name].items():
            job.metric(_label(model, name, metric), value)
        job.progress(done + 1, len(models) * len(given), f"{model} {name} {table[model][name]['ndcg_at_10']:.4f}")
    write_scores(rows, job.out / "scores.parquet")
    _write_json(job.out / "metrics.json", table | _mean_13(table, given))
    job.output.update(models=made, data={name: _digest(one.uri) for name, one in given.items()})
    return _numbers(table)


def _encodes(job: Job, given: dict[str, Stored]) -> tuple[dict[tuple[str, str], list[str]], dict[str, dict[str, Any]]]:
    """(model, collection) → manifest URIs of its shards, in order; and how each model's vectors were made, {digest, encoding}.

    digest: the model's, None for minilm; encoding: digest of code, libraries and settings.
    """
    shards: dict[tuple[str, str], dict[int, str]] = {}
    made: dict[str, dict[str, Any]] = {}
    for uri in job.inputs.get("encodes") or []:
        key = job.manifest_at(uri).key
        arguments, inputs = key["arguments"], key["inputs"]
        model, name = arguments["model"], arguments["collection"]
        shards.setdefault((model, name), {})[int(arguments["shard"])] = uri
        if name in given and inputs["collection"] != _digest(given[name].uri):
            raise BadInput(f"the vectors of {model} for {name} were made from another version of it: encode it again")
        how = {"digest": inputs.get("model"), "encoding": digest_of({part: key[part] for part in MAKING})}
        if made.setdefault(model, how) != how:
            raise BadInput(f"the vectors of {model} were not all made by one model in one way: encode them again")
    for (model, name), found in shards.items():
        if sorted(found) != list(range(len(found))):
            raise BadInput(f"phase evaluate was given the shards {sorted(found)} of {model} for {name}: one is missing")
    return {key: [found[number] for number in sorted(found)] for key, found in shards.items()}, made


def _digest(uri: str) -> str:
    """What names an artifact: artifacts/PHASE/DIGEST/manifest.json."""
    return uri.rsplit("/", 2)[1]


def lexical(one: Stored) -> "Run":
    """BM25's ranking, a shard of the corpus in memory at a time."""
    from effir.retrieve import bm25

    return bm25.search(one.collection.corpus, one.collection.queries, DEPTH, block=max(shard["documents"] for shard in one.shards))


def _dense(job: Job, one: Stored, uris: list[str]) -> "Run":
    """A shard of vectors is here at a time; each must hold exactly the documents of that shard of the collection."""
    from effir.retrieve.search import search

    name, parts = one.collection.name, [part["documents"] for part in one.shards]
    if len(uris) < len(parts):
        raise BadInput(f"the shards of {name} hold {sum(parts[: len(uris)])} of its {sum(parts)} documents: encode them all")
    queries, query_ids = _vectors(job, uris[0], "queries")
    if set(query_ids) != set(one.collection.queries):
        raise BadInput(f"the encoded queries are not those of {name}: they were made from another version of it")
    shards = (_of_shard(one, number, *_vectors(job, uri, "corpus")) for number, uri in enumerate(uris))
    return search(queries, query_ids, shards, DEPTH)


def _vectors(job: Job, uri: str, what: str) -> tuple[Any, list[str]]:
    """WHAT.npy (n, d) and its n ids of an encoded shard."""
    with borrowed(job, uri, f"{what}.npy", f"{what}_ids.json") as folder:
        return read_array(folder / f"{what}.npy", mapped=True), read_json(folder / f"{what}_ids.json")


def _of_shard(one: Stored, number: int, vectors: Any, ids: list[str]) -> tuple[Any, list[str]]:
    """The same vectors and ids. Raises BadInput if these are not the ids of this shard."""
    from effir.retrieve.files import ids_digest

    if [ids_digest(ids)] != [shard["ids"] for shard in one.shards[number : number + 1]]:
        raise BadInput(f"shard {number} of {one.collection.name} was encoded from another version of it: its documents are others")
    return vectors, ids


def _label(model: str, name: str, metric: str) -> str:
    """A metric's name in MLflow: COLLECTION/METRIC for the candidate, MODEL/COLLECTION/METRIC for the others."""
    return f"{name}/{metric}" if model == "candidate" else f"{model}/{name}/{metric}"


def _mean_13(table: dict[str, dict[str, dict[str, float]]], given: dict[str, Stored]) -> dict[str, Any]:
    from effir.retrieve.metrics import beir_mean

    pooled = {name: one.collection.pooled for name, one in given.items()}
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
