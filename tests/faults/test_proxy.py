"""The store alone against an S3 server that does it wrong, every kind of fault and each of its ways."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from effir.errors import EffirError, OutOfReach
from effir.manifest import MANIFEST, Manifest
from effir.services.s3 import Absent, Taken, plain_errors
from effir.services.store import Store

from .proxy import KINDS, Plan, Proxy, started


@pytest.fixture
def proxy(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the real S3, which the environment names."""
    with started(os.environ["AWS_ENDPOINT_URL_S3"]) as one:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", one.url)
        yield one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    for number in range(4):
        (made / f"{number}.bin").write_bytes(random.Random(number).randbytes(30_000))
    return made


def manifest(digest: str) -> Manifest:
    return Manifest(phase="depth", digest=digest, key={}, files={}, numbers={}, seconds=1.0, forward_passes=0, created="now")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_comes_back_whatever_happens_on_the_way(proxy: Proxy, folder: Path, tmp_path: Path, kind: str) -> None:
    other = Store()
    plan = proxy.plan = Plan(kind, 0.3, random.Random(1))
    digest = "a" * 64
    while plan.injected < 5:
        published = other.publish(manifest(digest), folder)
        assert other.find("depth", digest) == published
        other.download(other.artifact("depth", digest), published.files, tmp_path / "back")
        assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }
        list(other.list(other.root))


def test_damage_on_the_way_takes_no_finished_work_away(proxy: Proxy, folder: Path) -> None:
    store, digest = Store(), "b" * 64
    published = store.publish(manifest(digest), folder)
    proxy.plan = Plan("wrong checksum", 0.5, random.Random(2))
    assert [store.find("depth", digest) for _ in range(3)] == [published] * 3
    assert proxy.plan.injected > 3


def test_damage_for_good_is_found_out(proxy: Proxy, folder: Path, tmp_path: Path) -> None:
    store = Store()
    published = store.publish(manifest("c" * 64), folder)
    proxy.plan = Plan("wrong checksum", 1.0, random.Random(3))
    with pytest.raises(EffirError):
        store.download(store.artifact("depth", "c" * 64), published.files, tmp_path / "back")
    assert [path for path in (tmp_path / "back").rglob("*") if path.is_file()] == []


def test_a_source_is_not_smaller_than_it_is_because_a_listing_lags_behind(proxy: Proxy, folder: Path, tmp_path: Path) -> None:
    store = Store()
    prefix = f"{store.root}/source"
    store.upload(folder, prefix)
    expected = store.etags(prefix)
    assert len(expected) == 4
    proxy.plan = Plan("stale list", 1.0, random.Random(4))
    proxy.plan.on_request = lambda number, answered: setattr(proxy.plan, "rate", 0.0) if answered else None
    assert store.etags(prefix) == expected, "the first listing was empty, and the second and third agree"
    proxy.plan.rate = 1.0
    assert len(list(store.download_prefix(prefix, tmp_path / "back").iterdir())) == 4
    assert proxy.plan.injected == 2


def test_a_source_that_changes_while_it_is_read(proxy: Proxy, folder: Path, tmp_path: Path) -> None:
    store = Store()
    prefix = f"{store.root}/source"
    store.upload(folder, prefix)

    def change(number: int, answered: bool) -> None:
        if (number, answered) == (4, False):
            store.put_json(f"{prefix}/new.json", {})

    proxy.plan = Plan(on_request=change)
    with pytest.raises(EffirError, match="changed while it was read"):
        store.download_prefix(prefix, tmp_path / "back")


def test_a_manifest_that_nobody_may_read_is_not_removed(proxy: Proxy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, digest = Store(), "d" * 64
    store.publish(manifest(digest), folder)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(EffirError, match="S3 refused"):
        Store().find("depth", digest)
    assert store.exists(f"{store.artifact('depth', digest)}/{MANIFEST}")


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("QuotaExceeded", OutOfReach, "S3 has no room for s3://effir/x .QuotaExceeded.: free some space or raise the quota"),
        ("XMinioStorageFull", OutOfReach, "S3 has no room"),
        ("NoSuchKey", Absent, "does not exist"),
        ("PreconditionFailed", Taken, "exists already"),
        ("Odd", EffirError, "S3 failed on s3://effir/x: Odd"),
    ],
)
def test_what_s3_says_is_told_in_a_sentence(code: str, kind: type[EffirError], said: str) -> None:
    with pytest.raises(kind, match=said), plain_errors("s3://effir/x"):
        raise ClientError({"Error": {"Code": code}}, "PutObject")
