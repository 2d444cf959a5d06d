import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beir.retrieval.evaluation import EvaluateRetrieval
from numpy.typing import NDArray
from pyarrow import parquet

from effir.errors import BadInput
from effir.manifest import Manifest, digest_of
from effir.phases.execute import execute
from effir.retrieve.collections import Collection, Document, save_folder
from effir.retrieve.metrics import NAMES, read_run
from effir.services.store import Store

WIDTH = 8


def collection(name: str) -> Collection:
    """Sixty documents; query q3 is also a document, as in ArguAna."""
    ids = [f"d{number}" for number in range(59)] + ["q3"]
    corpus = {key: Document("", f"text of {key} word{number % 7}") for number, key in enumerate(ids)}
    queries = {f"q{number}": f"which text has word{number % 7} and d{number}" for number in range(20)}
    qrels = {query: {f"d{number}": 2, f"d{number + 20}": 1, f"d{number + 30}": 0} for number, query in enumerate(queries)}
    return Collection(name, corpus, queries, qrels, clusters={f"q{number}": f"c{number % 4}" for number in range(10)})


def vectors(count: int, seed: int) -> NDArray[np.float16]:
    rows = np.random.default_rng(seed).integers(-2, 3, (count, WIDTH)).astype(np.float64) + 0.1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def publish(store: Store, phase: str, key: dict[str, Any], folder: Path) -> str:
    manifest = Manifest(
        phase=phase, digest=digest_of({"phase": phase} | key), key=key, files={}, numbers={}, seconds=0, forward_passes=0, created=""
    )
    store.publish(manifest, folder)
    return f"{store.artifact(phase, manifest.digest)}/manifest.json"


def told(name: str, shards: int) -> dict[str, Any]:
    """The key of a collection."""
    return {"phase": "collection", "name": name, "shards": shards}


def encode(store: Store, given: Collection, model: str, shards: int, folder: Path, data: str | None = None, digest: str = "m") -> list[str]:
    """Vectors of a collection stored in so many shards. data: digest of another one that they were made from; digest: the model's."""
    ids, seed = list(given.corpus), len(model)
    documents, queries = vectors(len(ids), seed), vectors(len(given.queries), seed + 1)
    uris = []
    for shard, rows in enumerate(np.array_split(np.arange(len(ids)), shards)):
        here = folder / f"{model}-{given.name}-{shards}-{shard}"
        here.mkdir(parents=True)
        np.save(here / "corpus.npy", documents[rows])
        (here / "corpus_ids.json").write_text(json.dumps([ids[row] for row in rows]))
        if shard == 0:
            np.save(here / "queries.npy", queries)
            (here / "queries_ids.json").write_text(json.dumps(list(given.queries)))
        key = {"arguments": {"model": model, "collection": given.name, "shard": shard}, "code": "v1", "libraries": {}, "spec": {}}
        inputs = {"collection": data or digest_of(told(given.name, shards)), "model": digest}
        uris.append(publish(store, "encode", key | {"inputs": inputs, "shards": shards, "from": [ids, list(given.queries)]}, here))
    return uris


def evaluate(store: Store, encodes: list[str], collections: list[str]) -> dict[str, Any]:
    call = {"run": {"id": "r"}, "spec": {}, "inputs": {"encodes": encodes, "collections": collections}}
    store.put_json(f"{store.root}/runs/r/calls/evaluate.json", call)
    return execute("evaluate", f"{store.root}/runs/r/calls/evaluate.json", f"{store.root}/runs/r/results/evaluate.json")


def fetch(store: Store, result: dict[str, Any], folder: Path) -> Path:
    return store.download(
        store.artifact("evaluate", result["digest"]), Manifest.model_validate(store.get_json(result["manifest"])).files, folder
    )


def stored(store: Store, given: Collection, shards: int, folder: Path) -> str:
    here = save_folder(given, folder / f"{given.name}-in-{shards}", shard_documents=len(given.corpus) // shards)
    return publish(store, "collection", told(given.name, shards), here)


@pytest.fixture
def given(s3_store: Store, tmp_path: Path) -> tuple[list[Collection], list[str]]:
    """Two collections, stored in three shards each."""
    collections = [collection("alpha"), replace(collection("beta"), clusters={})]
    return collections, [stored(s3_store, one, 3, tmp_path) for one in collections]


def test_files_agree_with_each_other_and_with_beir(s3_store: Store, given: tuple[list[Collection], list[str]], tmp_path: Path) -> None:
    collections, uris = given
    encodes = [uri for model in ("reference", "candidate") for one in collections for uri in encode(s3_store, one, model, 3, tmp_path)]
    result = evaluate(s3_store, encodes, uris)
    folder = fetch(s3_store, result, tmp_path / "out")
    table = json.loads((folder / "metrics.json").read_text())
    assert set(table) == {"bm25", "reference", "candidate"}, "and no mean_13 without the 13 sets"
    rows = parquet.read_table(folder / "scores.parquet").to_pylist()
    assert len(rows) == 3 * 2 * 20
    assert set(rows[0]) == {"model", "collection", "query_id", "cluster", *NAMES}
    assert {row["cluster"] for row in rows if row["collection"] == "alpha"} == {f"c{n}" for n in range(4)} | {
        f"q{n}" for n in range(10, 20)
    }
    for model in table:
        for one in collections:
            run = read_run(folder / "runs" / model / f"{one.name}.trec")
            assert "q3" not in run["q3"]
            theirs = EvaluateRetrieval.evaluate(copy.deepcopy(one.qrels), run, [10, 100])
            ours = table[model][one.name]
            assert ours["ndcg_at_10"] == pytest.approx(theirs[0]["NDCG@10"], abs=5.1e-6)
            assert ours["recall_at_100"] == pytest.approx(theirs[2]["Recall@100"], abs=5.1e-6)
            here = [row["ndcg_at_10"] for row in rows if row["model"] == model and row["collection"] == one.name]
            assert np.mean(here) == pytest.approx(ours["ndcg_at_10"], abs=1e-12)
            mteb = json.loads((folder / "mteb" / model / f"{one.name}.json").read_text())
            assert mteb["scores"]["test"][0]["main_score"] == ours["ndcg_at_10"]
    assert table["bm25"]["alpha"]["ndcg_at_10"] > table["reference"]["alpha"]["ndcg_at_10"], "random vectors lose against words"
    expected = {"alpha/ndcg_at_10", "reference/alpha/ndcg_at_10", "beta/ndcg_at_10", "reference/beta/ndcg_at_10"}
    assert set(result["numbers"]) == expected
    assert result["output"]["data"] == {one.name: digest_of(told(one.name, 3)) for one in collections}
    assert {model: made["digest"] for model, made in result["output"]["models"].items()} == {"reference": "m", "candidate": "m"}
    assert result["numbers"]["alpha/ndcg_at_10"] == table["candidate"]["alpha"]["ndcg_at_10"]


def test_the_number_of_shards_changes_nothing(s3_store: Store, tmp_path: Path) -> None:
    alpha = collection("alpha")
    found = []
    for shards in (1, 4):
        encoded = encode(s3_store, alpha, "candidate", shards, tmp_path)
        result = evaluate(s3_store, encoded, [stored(s3_store, alpha, shards, tmp_path)])
        assert not result["cached"]
        folder = fetch(s3_store, result, tmp_path / f"out{shards}")
        found.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")})
    assert found[0] == found[1]


def test_what_does_not_fit_together_is_refused(s3_store: Store, given: tuple[list[Collection], list[str]], tmp_path: Path) -> None:
    collections, uris = given
    shards = encode(s3_store, collections[0], "candidate", 3, tmp_path)
    with pytest.raises(BadInput, match=r"shards \[0, 2\] of candidate for alpha: one is missing"):
        evaluate(s3_store, [shards[0], shards[2]], uris[:1])
    with pytest.raises(BadInput, match="hold 40 of its 60 documents"):
        evaluate(s3_store, shards[:2], uris[:1])
    with pytest.raises(BadInput, match="no vectors of candidate for beta"):
        evaluate(s3_store, shards, uris)
    with pytest.raises(BadInput, match="vectors of alpha, but not the collection"):
        evaluate(s3_store, shards, uris[1:])
    with pytest.raises(BadInput, match="needs the input 'collections'"):
        evaluate(s3_store, shards, [])
    fewer = replace(collections[0], name="beta", queries={"q1": "x"}, qrels={"q1": {"d1": 1}})
    with pytest.raises(BadInput, match="not those of beta"):
        evaluate(s3_store, encode(s3_store, fewer, "candidate", 3, tmp_path / "fewer"), uris[1:])
    same_ids = encode(s3_store, collections[1], "candidate", 3, tmp_path / "texts", data="other texts under the same ids")
    with pytest.raises(BadInput, match="candidate for beta were made from another version of it"):
        evaluate(s3_store, same_ids, uris[1:])
    one, other = (encode(s3_store, collections[1], "candidate", 3, tmp_path / digest, digest=digest) for digest in ("1", "2"))
    with pytest.raises(BadInput, match="not all made by one model in one way"):
        evaluate(s3_store, [one[0], *other[1:]], uris[1:])
    data = digest_of(told("beta", 3))
    for shards, number in ((4, 0), (3, 1)):
        others = {key if key != "d30" else "d99": document for key, document in collections[1].corpus.items()}
        moved = encode(s3_store, replace(collections[1], corpus=others), "candidate", shards, tmp_path / "moved", data)
        with pytest.raises(BadInput, match=f"shard {number} of beta was encoded from another version of it"):
            evaluate(s3_store, moved, uris[1:])
