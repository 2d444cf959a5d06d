import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effir.errors import BadInput, EffirError
from effir.manifest import MANIFEST, Manifest, describe, digest_of
from effir.retrieve import index
from effir.services import indexes
from effir.services.store import Store, split

CORPUS = f"s3://x/artifacts/collection/{'c' * 64}/{MANIFEST}"
SWAPS = 40


@pytest.fixture
def publish(store: Store, tmp_path: Path) -> Callable[[int], str]:
    """Publishes the index of a version, in which every document is called after it; returns its manifest's address."""

    def make(version: int) -> str:
        vectors = np.random.default_rng(version).normal(size=(50, 16)).astype(np.float16)
        shards = [(vectors[start : start + 25], [f"v{version}-{row}" for row in range(start, start + 25)]) for start in (0, 25)]
        folder = index.write(shards, tmp_path / f"index-{version}", version=version)
        files = describe(folder)
        digest = digest_of({"kind": indexes.KIND, "files": {path: file.sha256 for path, file in files.items()}})
        about = {"key": {}, "files": {}, "numbers": {}, "seconds": 0, "forward_passes": 0, "created": "now"}
        store.publish(Manifest(phase=indexes.KIND, digest=digest, **about), folder)
        return f"{store.artifact(indexes.KIND, digest)}/{MANIFEST}"

    return make


def model(version: int) -> dict[str, Any]:
    return {
        "name": "search",
        "version": str(version),
        "digest": f"{version:064x}",
        "manifest": f"s3://x/artifacts/finetune/{version:064x}/m",
    }


def test_the_pointer_names_index_version_and_corpus_and_the_index_before(store: Store, publish: Any, tmp_path: Path) -> None:
    first, second = publish(1), publish(2)
    assert indexes.current(store, "search", "faq") is None
    with pytest.raises(BadInput, match="there is no index of faq by search"):
        indexes.fetch(store, "search", "faq", tmp_path)
    indexes.point(store, model(1), "faq", first, CORPUS, 50, "run 1")
    told = indexes.point(store, model(2), "faq", second, CORPUS, 50, "run 2")
    assert store.get_json(f"{store.root}/indexes/search/faq/current.json") == told == indexes.current(store, "search", "faq")
    assert (told["index"], told["digest"], told["corpus"], told["run"]) == (second, second.split("/")[-2], CORPUS, "run 2")
    assert told["model"] == model(2) and told["previous"]["index"] == first and told["previous"]["previous"] is None
    again = indexes.point(store, model(2), "faq", second, CORPUS, 50, "run 3")
    assert again["previous"]["index"] == first, "the same index once more takes nobody's place"
    pointer, folder = indexes.fetch(store, "search", "faq", tmp_path)
    assert pointer == again and index.read(folder).about["version"] == 2
    assert indexes.current(store, "search", "other") is None


def test_a_reader_never_sees_a_broken_index_while_it_is_swapped(store: Store, publish: Any, tmp_path: Path) -> None:
    uris = {version: publish(version) for version in (1, 2, 3)}
    indexes.point(store, model(1), "faq", uris[1], CORPUS, 50, None)
    over, wrong, seen = threading.Event(), [], []
    query = np.random.default_rng(9).normal(size=(1, 16)).astype(np.float32)

    def read(reader: int) -> None:
        here = tmp_path / str(reader)
        here.mkdir()
        own = Store(store.root)
        while not over.is_set():
            try:
                pointer, folder = indexes.fetch(own, "search", "faq", here)
                found = index.read(folder)
                (hits,) = found.search(query, 50)
                version = pointer["model"]["version"]
                assert {hit.id.partition("-")[0] for hit in hits} == {f"v{version}"} and len(hits) == 50
                assert str(found.about["version"]) == version
                seen.append(version)
            except Exception as error:
                wrong.append(repr(error))

    readers = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for reader in readers:
        reader.start()
    for number in range(SWAPS):
        indexes.point(store, model(1 + number % 3), "faq", uris[1 + number % 3], CORPUS, 50, None)
    while len(seen) < 30 and not wrong:
        over.wait(0.05)
    over.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert len(seen) >= 30


def test_only_what_the_pointer_names_is_opened(store: Store, publish: Any, tmp_path: Path) -> None:
    first, second = publish(1), publish(2)
    indexes.point(store, model(1), "faq", first, CORPUS, 50, None)
    place = indexes.place(store, "search", "faq")
    store.put_json(place, store.get_json(place) | {"index": second})
    with pytest.raises(BadInput, match="describes another index than the pointer names"):
        indexes.fetch(store, "search", "faq", tmp_path)
    indexes.point(store, model(2), "faq", second, CORPUS, 50, None)
    bucket, key = split(second.replace(MANIFEST, "00000.faiss"))
    store.client.put_object(Bucket=bucket, Key=key, Body=b"others")
    with pytest.raises(EffirError, match=r"00000.faiss is damaged"):
        indexes.fetch(store, "search", "faq", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"index-1", "index-2"}, "nothing of it is left"
    store.put_json(place, {"index": first})
    with pytest.raises(BadInput, match="is no pointer to an index"):
        indexes.current(store, "search", "faq")


@pytest.mark.parametrize(("name", "collection"), [("../x", "faq"), ("search", "a/b"), ("search", "..")])
def test_names_lead_nowhere_else(store: Store, name: str, collection: str) -> None:
    with pytest.raises(BadInput, match="1 to 64 letters"):
        indexes.current(store, name, collection)


def test_a_reader_that_meets_an_index_removed_meanwhile_takes_the_one_that_counts(
    store: Store, publish: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = publish(1), publish(2)
    indexes.point(store, model(1), "faq", first, CORPUS, 50, None)
    original, times = store.manifest, []

    def late(uri: str) -> Manifest:
        if not times:
            times.append(uri)
            indexes.point(store, model(2), "faq", second, CORPUS, 50, None)
            store.delete([one for one, _ in store.list(first.removesuffix(f"/{MANIFEST}"))])
        return original(uri)

    monkeypatch.setattr(store, "manifest", late)
    pointer, _ = indexes.fetch(store, "search", "faq", tmp_path)
    assert (times, pointer["index"]) == ([first], second)
