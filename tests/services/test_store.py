import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effir.errors import BadInput, EffirError, OutOfReach
from effir.manifest import MANIFEST, Manifest, sha256_of
from effir.services.store import Store, split


def manifest(digest: str = "d" * 64, **changes: Any) -> Manifest:
    plain: dict[str, Any] = {"key": {}, "files": {}, "numbers": {"n": 1}, "seconds": 1.0, "forward_passes": 3, "created": "now"}
    return Manifest(phase="depth", digest=digest, **(plain | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "inner").mkdir(parents=True)
    (made / "one.json").write_text("{}")
    (made / "inner" / "two.bin").write_bytes(os.urandom(100_000))
    return made


def test_a_folder_comes_back_as_it_went(store: Store, folder: Path, tmp_path: Path) -> None:
    files = store.upload(folder, f"{store.root}/here")
    assert {name: file.sha256 for name, file in files.items()} == {
        "one.json": sha256_of(folder / "one.json"), "inner/two.bin": sha256_of(folder / "inner" / "two.bin"),
    }  # fmt: skip
    back = store.download(f"{store.root}/here", files, tmp_path / "back")
    assert (back / "inner" / "two.bin").read_bytes() == (folder / "inner" / "two.bin").read_bytes()
    assert sorted(store.list(f"{store.root}/here")) == [(f"{store.root}/here/inner/two.bin", 100_000), (f"{store.root}/here/one.json", 2)]
    single = f"{store.root}/here/one.json"
    assert store.download_prefix(single, tmp_path / "single.json").read_text() == "{}"
    assert store.etags(single) == {single: store.etags(f"{store.root}/here")[single]}
    assert store.download_prefix(f"{store.root}/here/", tmp_path / "again").joinpath("one.json").read_text() == "{}"


def test_of_racing_writers_one_wins(store: Store) -> None:
    uri, start, won = f"{store.root}/race.json", threading.Barrier(12), []

    def write(number: int) -> None:
        start.wait()
        if store.put_json(uri, {"number": number}, only_if_absent=True):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get_json(uri) == {"number": won[0]}


def test_an_artifact_exists_once_its_manifest_does(store: Store, folder: Path) -> None:
    digest = "a" * 64
    assert store.find("depth", digest) is None
    store.upload(folder, store.artifact("depth", digest))
    assert store.find("depth", digest) is None
    published = store.publish(manifest(digest), folder)
    assert set(published.files) == {"one.json", "inner/two.bin"}
    assert store.find("depth", digest) == published


def test_the_first_to_publish_counts(store: Store, folder: Path) -> None:
    first = store.publish(manifest(numbers={"n": 1}), folder)
    assert store.publish(manifest(numbers={"n": 2}), folder) == first


def overtaken(store: Store, rival: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> Store:
    """A store whose uploads are overtaken by another worker that publishes `rival` as the same artifact."""
    slow, upload, left = Store(store.root), Store.upload, [None] * times

    def behind(self: Store, folder: Path, prefix: str) -> Any:
        if self is slow and left:
            left.pop()
            store.publish(manifest(), rival)
        return upload(self, folder, prefix)

    monkeypatch.setattr(Store, "upload", behind)
    return slow


def test_files_of_two_that_publish_at_once_are_not_mixed(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = tmp_path / "rival"
    rival.mkdir()
    (rival / "one.json").write_text("[]")
    published = overtaken(store, rival, monkeypatch, 1).publish(manifest(), folder)
    assert store.find("depth", published.digest) == published
    back = store.download(store.artifact("depth", published.digest), published.files, tmp_path / "back")
    assert (back / "one.json").read_text() == "{}"
    store.delete([f"{store.artifact('depth', published.digest)}/{MANIFEST}"])
    always = overtaken(store, rival, monkeypatch, 100)
    with pytest.raises(EffirError, match="written by other workers at the same time, whose files differ: run again"):
        always.publish(manifest(), folder)


def test_of_two_that_publish_the_same_files_at_once_the_first_counts(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = manifest(numbers={"n": 2})
    assert overtaken(store, folder, monkeypatch, 1).publish(mine, folder).numbers == {"n": 1}


def damage(store: Store, uri: str) -> None:
    bucket, key = split(uri)
    body = bytearray(store.get_bytes(uri))
    body[len(body) // 2] ^= 1
    store.client.put_object(Bucket=bucket, Key=key, Body=bytes(body))


@pytest.mark.parametrize("how", ["damaged file", "missing file", "damaged manifest", "manifest of another"])
def test_damage_is_a_miss(store: Store, folder: Path, how: str) -> None:
    published = store.publish(manifest(), folder)
    prefix = store.artifact("depth", published.digest)
    if how == "damaged file":
        damage(store, f"{prefix}/inner/two.bin")
    elif how == "missing file":
        store.delete([f"{prefix}/inner/two.bin"])
    elif how == "damaged manifest":
        store.put_json(f"{prefix}/{MANIFEST}", {"phase": "depth"})
    else:
        store.put_json(f"{prefix}/{MANIFEST}", published.model_dump() | {"digest": "e" * 64})
    assert store.find("depth", published.digest) is None
    assert not store.exists(f"{prefix}/{MANIFEST}")
    store.publish(manifest(), folder)
    assert store.find("depth", published.digest) is not None


def test_a_damaged_part_makes_the_whole_a_miss(store: Store, folder: Path) -> None:
    part = store.publish(manifest("b" * 64), folder)
    uri = f"{store.artifact('depth', part.digest)}/{MANIFEST}"
    whole = store.publish(manifest("c" * 64, parts={"base": uri}), folder)
    assert store.find("depth", whole.digest) == whole
    damage(store, f"{store.artifact('depth', part.digest)}/one.json")
    assert store.find("depth", whole.digest) is None


def test_a_damaged_download_leaves_nothing(store: Store, folder: Path, tmp_path: Path) -> None:
    published = store.publish(manifest(), folder)
    prefix = store.artifact("depth", published.digest)
    damage(store, f"{prefix}/inner/two.bin")
    with pytest.raises(EffirError, match=r"two\.bin is damaged"):
        store.download(prefix, {"inner/two.bin": published.files["inner/two.bin"]}, tmp_path / "back")
    store.delete([f"{prefix}/one.json"])
    with pytest.raises(EffirError, match=r"one\.json is missing"):
        store.download(prefix, {"one.json": published.files["one.json"]}, tmp_path / "back")
    assert [path for path in (tmp_path / "back").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("settings", "kind", "sentence"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, BadInput, "S3 refused .*check AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, BadInput, "S3 refused .*check AWS_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, OutOfReach, "S3 at http://127.0.0.1:9 is not reachable"),
    ],
)
def test_what_is_wrong_with_s3_is_said(
    s3: dict[str, str], monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], kind: type[EffirError], sentence: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(kind, match=sentence) as caught:
        Store().put_json("s3://effir/x.json", {})
    assert type(caught.value) is kind


def test_no_credentials(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(BadInput, match="no S3 credentials"):
        Store().get_json("s3://effir/x.json")


def test_what_is_absent_or_unreadable_is_said(store: Store) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        store.get_json(f"{store.root}/absent.json")
    bucket, key = split(f"{store.root}/bad.json")
    store.client.put_object(Bucket=bucket, Key=key, Body=b"{")
    with pytest.raises(BadInput, match="not valid JSON"):
        store.get_json(f"{store.root}/bad.json")
    with pytest.raises(BadInput, match="nothing is stored below"):
        store.download_prefix(f"{store.root}/absent", Path("absent"))
    with pytest.raises(BadInput, match="not an s3://bucket/key address"):
        store.get_json("http://effir/x.json")


def test_a_full_disk_is_said(store: Store, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "file.bin").write_bytes(os.urandom(1_000_000))
    files = store.upload(tmp_path / "big", f"{store.root}/big")
    script = """
import json, sys
from pathlib import Path
from effir.errors import EffirError, OutOfReach
from effir.manifest import File
from effir.services.store import Store
files = {name: File(**file) for name, file in json.loads(sys.argv[2]).items()}
try:
    Store().download(sys.argv[1], files, Path(sys.argv[3]))
except EffirError as error:
    print(error, [path.name for path in Path(sys.argv[3]).iterdir()])
"""
    small = tmp_path / "small"
    small.mkdir()
    mount = f'mount -t tmpfs -o size=200k none "{small}" && exec "$@"'
    told = json.dumps({name: file.model_dump() for name, file in files.items()})
    python = [sys.executable, "-c", script, f"{store.root}/big", told, str(small)]
    done = subprocess.run(["unshare", "--mount", "sh", "-c", mount, "sh", *python], capture_output=True, text=True)
    if (done.returncode and "unshare" in done.stderr + done.stdout) or "mount:" in done.stderr:
        pytest.skip(f"a small disk can be mounted by root alone: {done.stderr.strip()}")
    assert done.stdout.startswith("the disk is full"), done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("[]")


def test_what_others_see_of_a_published_artifact(store: Store, folder: Path, eventually: Callable[..., Any]) -> None:
    uri = f"{store.artifact('depth', 'd' * 64)}/{MANIFEST}"
    store.publish(manifest(), folder)
    assert Store().get_json(uri)["forward_passes"] == 3
    assert set(Store().etags(store.artifact("depth", "d" * 64))) >= {uri}


def test_what_is_damaged_is_named(store: Store, folder: Path) -> None:
    files = store.upload(folder, f"{store.root}/here")
    assert store.damaged(f"{store.root}/here", files) == ()
    bucket, key = split(f"{store.root}/here/inner/two.bin")
    store.client.put_object(Bucket=bucket, Key=key, Body=b"other")
    assert store.damaged(f"{store.root}/here", files) == ("inner/two.bin",)
    store.delete([f"{store.root}/here/one.json"])
    assert set(store.damaged(f"{store.root}/here", files)) == {"inner/two.bin", "one.json"}
    assert not store.intact(f"{store.root}/here", files)
