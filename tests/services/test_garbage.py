import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from effir.errors import BadInput, OutOfReach
from effir.manifest import MANIFEST, Manifest, digest_of
from effir.services import garbage, indexes, registry
from effir.services.airflow import Airflow
from effir.services.garbage import Limits
from effir.services.store import Store, split

NOW = Limits(0, 0)
DAG = "effir_compress"


class Shelf:
    """A store of the test's own, and a registered model in it that was made from other artifacts."""

    def __init__(self, store: Store, airflow: Airflow, folder: Path, name: str) -> None:
        self.store, self.airflow, self.folder, self.name = store, airflow, folder, name

    def publish(self, phase: str, inputs: dict[str, Any] | None = None, **about: Any) -> str:
        """An artifact; returns its folder's address."""
        digest = digest_of({"phase": phase, "inputs": inputs, "for": self.name} | about)
        made = self.folder / digest / "model"
        made.mkdir(parents=True)
        (made / "config.json").write_text(json.dumps({"phase": phase}))
        key = {"inputs": inputs or {}}
        empty = {"files": {}, "numbers": {}, "seconds": 1, "forward_passes": 0, "created": "now"}
        self.store.publish(Manifest.model_validate({"phase": phase, "digest": digest, "key": key} | empty | about), made.parent)
        return self.store.artifact(phase, digest)

    def model(self) -> list[str]:
        """What the champion is and what it was made from, all the way; it is registered and crowned. It was judged by its vectors."""
        base, training = self.publish("base"), self.publish("training")
        prepared = self.publish("prepare", parts={"base": f"{base}/{MANIFEST}", "training": f"{training}/{MANIFEST}"})
        cut, slimmed = self.publish("cut"), self.publish("slim", {"base": digest(base)})
        narrowed = self.publish("narrow", {"slim": digest(slimmed), "prepare": digest(prepared)}, parts={"cut": f"{cut}/{MANIFEST}"})
        candidate = self.publish("finetune", {"cut": digest(cut), "others": [digest(training)]})
        self.vectors = self.publish("encode", {"model": digest(candidate)})
        promoted = self.publish("promote", {"encodes": [digest(self.vectors)]})
        tags = {"effir.card": f"{promoted}/README.md", "effir.made.narrow": f"{narrowed}/{MANIFEST}"}
        about = {"digest": digest(candidate), "manifest": f"{candidate}/{MANIFEST}", "description": "", "tags": tags}
        registry.point(self.name, "champion", registry.register(self.name, candidate, run_id=None, **about))
        return [base, training, prepared, cut, slimmed, narrowed, promoted, candidate]

    def find(self, limits: Limits = NOW) -> dict[str, list[str]]:
        """What can go, by kind."""
        return {row["kind"]: row["places"] for row in garbage.rows(garbage.find(self.store, self.airflow, limits)) if row["count"]}

    def remove(self, limits: Limits = NOW) -> None:
        garbage.remove(self.store, self.airflow, garbage.find(self.store, self.airflow, limits))

    def objects(self) -> list[str]:
        return sorted(uri for uri, _ in self.store.list(self.store.root))


def digest(folder: str) -> str:
    return folder.rsplit("/", 1)[1]


@pytest.fixture
def shelf(idle: Airflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shelf:
    """An empty shelf beside the running stack, no run of which is under way."""
    name = f"garbage-{time.time_ns()}"
    monkeypatch.setenv("EFFIR_STORE", f"s3://effir/{name}")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return Shelf(Store(), idle, tmp_path / "made", name)


@pytest.fixture
def under_way(shelf: Shelf, eventually: Any) -> Iterator[str]:
    """The id of a run that is not over: its DAG is paused."""
    eventually(lambda: shelf.airflow.dag(DAG), 120)
    run = shelf.airflow.trigger(DAG, {"profile": "demo"}, f"waits-{time.time_ns()}")
    yield run
    shelf.airflow.forget(DAG, run)


def test_what_a_champion_was_made_from_stays_and_all_else_goes(shelf: Shelf, tmp_path: Path) -> None:
    needed = shelf.model()
    half = shelf.store.artifact("slim", "e" * 64)
    shelf.store.put_json(f"{half}/slim.json", {})
    for folder in (needed[-1], f"s3://x/artifacts/slim/{'f' * 64}"):
        place = f"{shelf.store.root}/checkpoints/{'/'.join(folder.split('/')[-2:])}/main"
        shelf.store.put_json(f"{place}/000000002/state.json", {})
    shelf.store.put_json(f"{shelf.store.root}/runs/old/calls/slim.json", {})
    bucket, key = split(f"{half}/model.bin")
    shelf.store.client.create_multipart_upload(Bucket=bucket, Key=key)

    before, found = shelf.objects(), shelf.find()
    assert (found["artifacts"], found["unfinished"], found["runs"]) == ([shelf.vectors], [half], [f"{shelf.store.root}/runs/old"])
    assert len(found["checkpoints"]) == 2 and found["uploads"] == [f"s3://{bucket}/{key}"]
    assert shelf.objects() == before, "it only looked"
    assert shelf.find(Limits(3600, 3600)) == {}, "all of it is young"
    assert set(shelf.find(Limits(0, 3600))) == {"artifacts", "unfinished", "checkpoints", "uploads"}
    assert [place.split("/")[-2] for place in shelf.find(Limits(0, 3600))["checkpoints"]] == ["finetune"]

    shelf.remove()
    assert {uri.rpartition("/model/")[0] or uri.rpartition("/")[0] for uri in shelf.objects()} == set(needed)
    assert shelf.find() == {}
    assert all(shelf.store.find(*folder.split("/")[-2:]) for folder in needed)
    assert (registry.download_model(f"models:/{shelf.name}@champion", tmp_path / "back") / "config.json").is_file()


def test_a_run_under_way_keeps_every_artifact_and_its_own_things(shelf: Shelf, under_way: str) -> None:
    stray = shelf.publish("encode")
    for run in (under_way, "over"):
        shelf.store.put_json(f"{shelf.store.root}/runs/{run}/calls/slim.json", {})
    shelf.store.put_json(f"{shelf.store.root}/checkpoints/slim/{'f' * 64}/main/index.json", ["000000002"])
    before = shelf.objects()
    assert shelf.find() == {"runs": [f"{shelf.store.root}/runs/over"]}
    shelf.remove()
    assert shelf.objects() == [uri for uri in before if "/runs/over/" not in uri]
    assert shelf.store.find(*stray.split("/")[-2:])
    listed = [garbage.Garbage("artifacts", stray, objects=[uri for uri in before if uri.startswith(stray)])]
    assert garbage.remove(shelf.store, shelf.airflow, listed) == [], "the run began after the search"
    assert shelf.store.find(*stray.split("/")[-2:])


def test_what_the_promotion_log_names_stays(shelf: Shelf) -> None:
    base = shelf.publish("base")
    before, now = shelf.publish("finetune", {"base": digest(base)}), shelf.publish("finetune", {}, numbers={"n": 1})
    judged, stray = shelf.publish("gate", {"evaluate": "0"}), shelf.publish("evaluate")
    for number, one in enumerate((before, now), start=1):
        entry = {"n": number, "to": {"manifest": f"{one}/{MANIFEST}"}, "from": None, "verdict": {"artifact": f"{judged}/{MANIFEST}"}}
        shelf.store.put_json(f"{shelf.store.root}/promotions/{shelf.name}/{number}.json", entry)
    assert shelf.find() == {"artifacts": [stray]}
    shelf.remove()
    assert shelf.store.exists(f"{shelf.store.root}/promotions/{shelf.name}/2.json")
    assert all(shelf.store.find(*one.split("/")[-2:]) for one in (base, before, now, judged))


def test_the_index_that_a_pointer_names_stays_and_the_one_before(shelf: Shelf) -> None:
    corpus = shelf.publish("collection")
    older, before, now = (shelf.publish("index", numbers={"n": number}) for number in range(3))
    model = {"name": shelf.name, "version": "1", "digest": "d", "manifest": "s3://x/m"}
    for one in (older, before, now):
        indexes.point(shelf.store, model, "faq", f"{one}/{MANIFEST}", f"{corpus}/{MANIFEST}", 1, None)
    assert shelf.find() == {"artifacts": [older]}
    shelf.remove()
    assert indexes.current(shelf.store, shelf.name, "faq")["digest"] == digest(now)
    assert all(shelf.store.find(*one.split("/")[-2:]) for one in (corpus, before, now))


@pytest.mark.parametrize("setting", ["MLFLOW_TRACKING_URI", "EFFIR_AIRFLOW_URL"])
def test_where_somebody_cannot_be_asked_nothing_is_guessed(shelf: Shelf, stack: Any, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.publish("encode")
    before = shelf.objects()
    monkeypatch.setenv(setting, "http://127.0.0.1:9")
    with pytest.raises(OutOfReach, match="not reachable"):
        garbage.collect(stack.settings | {setting: "http://127.0.0.1:9"}, NOW, True, lambda _: None)
    assert shelf.objects() == before


def test_the_command_lists_and_then_removes(shelf: Shelf, stack: Any) -> None:
    shelf.publish("encode")
    command = [sys.executable, "-m", "effir.cli", "gc", "--older-than", "0s"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.split()[:2] == ["artifacts", "1"]
    assert "nothing was removed" in listed.stdout
    removed = subprocess.run([*command, "--delete", "--json"], capture_output=True, text=True, timeout=120)
    told = json.loads(removed.stdout)
    assert told["deleted"] and told["rows"][0]["count"] == 1
    assert shelf.objects() == []


def test_lengths_of_time() -> None:
    assert [garbage.seconds_of(text) for text in ("90s", "30m", "24h", "30d", "0h")] == [90, 1800, 86400, 2592000, 0]
    for text in ("", "24", "1.5h", "-1h", "a day"):
        with pytest.raises(BadInput, match="write a number with s, m, h or d"):
            garbage.seconds_of(text)
