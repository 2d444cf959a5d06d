from pathlib import Path

import pytest

from effir.errors import BadInput, EffirError
from effir.manifest import Manifest, digest_of
from effir.phases.job import Job
from effir.phases.stored import borrowed, collections
from effir.retrieve.collections import Collection, Document, save_folder
from effir.services.store import Store
from effir.spec import RunSpec

GIVEN = Collection(
    "small", {f"d{number}": Document("title", f"text {number}") for number in range(10)}, {"q": "ask"}, {"q": {"d3": 1}}, {"q": "c"}
)


@pytest.fixture
def uri(store: Store, tmp_path: Path) -> str:
    """A collection stored in shards of four documents."""
    digest = digest_of({"name": GIVEN.name})
    manifest = Manifest(phase="collection", digest=digest, key={}, files={}, numbers={}, seconds=0, forward_passes=0, created="")
    store.publish(manifest, save_folder(GIVEN, tmp_path / "given", shard_documents=4))
    return f"{store.artifact('collection', digest)}/manifest.json"


@pytest.fixture
def job(store: Store, uri: str, tmp_path: Path) -> Job:
    (tmp_path / "scratch").mkdir()
    return Job("evaluate", "0", RunSpec(), {"collections": [uri]}, {}, {}, store, tmp_path / "out", tmp_path / "scratch")


def test_a_collection_is_fetched_a_shard_at_a_time(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    download = Store.download

    def noted(self: Store, prefix: str, files: dict, folder: Path) -> Path:
        assert not list(job.scratch.rglob("*.jsonl")), "what was fetched before is gone"
        fetched.extend(files)
        return download(self, prefix, files, folder)

    monkeypatch.setattr(Store, "download", noted)
    found = collections(job)["small"]
    assert fetched == ["collection.json", "queries.jsonl", "qrels/test.tsv"]
    assert (found.collection.queries, found.collection.qrels, found.collection.clusters) == (GIVEN.queries, GIVEN.qrels, GIVEN.clusters)
    assert len(found.collection.corpus) == 10
    assert [shard["documents"] for shard in found.shards] == [4, 4, 2]
    fetched.clear()
    assert found.texts(2) == {"d8": "title text 8", "d9": "title text 9"}
    assert fetched == ["corpus/00002.jsonl"]
    fetched.clear()
    for number, (key, document) in enumerate(found.collection.corpus.items()):
        assert (key, document) == (f"d{number}", GIVEN.corpus[key])
        assert len(fetched) == number // 4 + 1
    assert list(found.collection.corpus) == list(GIVEN.corpus), "and again"
    assert not list(job.scratch.iterdir())


def test_the_manifest_is_fetched_once_however_many_shards_there_are(job: Job, uri: str) -> None:
    asked: list[str] = []
    job.store.client.meta.events.register("before-call.s3.GetObject", lambda params, **_: asked.append(params["url_path"]))
    found = collections(job)["small"]
    assert len(list(found.collection.corpus.items())) == 10 and found.texts(1)
    assert len([path for path in asked if path.endswith(".jsonl")]) == 5, "queries, three shards, one of them again"
    assert len([path for path in asked if path.endswith("manifest.json")]) == 1


def test_what_is_borrowed_is_checked_and_given_back(job: Job, uri: str, store: Store) -> None:
    with borrowed(job, uri) as folder:
        assert len([path for path in folder.rglob("*") if path.is_file()]) == 6
    assert not folder.exists()
    with pytest.raises(BadInput, match=r"has no file corpus/00003\.jsonl: .* other inputs of phase evaluate"):
        collections(job)["small"].texts(3)
    store.put_json(uri.replace("manifest.json", "corpus/00001.jsonl"), {})
    with pytest.raises(EffirError, match="damaged"):
        list(collections(job)["small"].collection.corpus.items())
    assert not list(job.scratch.iterdir())


def test_a_collection_is_needed(job: Job) -> None:
    job.inputs["collections"] = []
    with pytest.raises(BadInput, match="phase evaluate needs the input 'collections'"):
        collections(job)
