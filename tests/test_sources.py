import json
import shutil
from pathlib import Path

import pytest

from effir import sources
from effir.errors import BadInput
from effir.retrieve.collections import Collection, Document, save_folder
from effir.train.examples import Example, TrainingSet, save

CORPUS = {"d1": Document("", "one"), "d2": Document("", "two")}


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    collection = Collection("toy", CORPUS, {"q": "first"}, {"q": {"d1": 1}})
    save_folder(collection, tmp_path / "toy", "train")
    return save_folder(collection, tmp_path / "toy")


def test_the_packaged_sources(tmp_path: Path) -> None:
    assert len(sources.training_set("stdlib-code", tmp_path).examples) > 3000
    assert len(sources.collection("stdlib-code", "stdlib-code", tmp_path).queries) >= 1000
    assert len(sources.collection("semanlink", "semanlink", tmp_path).queries) == 432
    assert len(sources.calibration_texts("pydoc-topics")) > 60


def test_training_data_from_a_folder_a_saved_set_and_json_lines(beir: Path, tmp_path: Path) -> None:
    expected = [Example("q", "first", ["d1"])]
    assert sources.training_set(str(beir), tmp_path).examples == expected
    assert sources.training_set(str(save(TrainingSet(expected, CORPUS), tmp_path / "set")), tmp_path).examples == expected
    (beir / "rows.jsonl").write_text('{"query_id": "q", "query": "first", "pos_ids": ["d1"], "neg_ids": []}\n')
    assert sources.training_set(str(beir / "rows.jsonl"), tmp_path).examples == expected
    (tmp_path / "texts.jsonl").write_text('{"query": "first", "pos": ["one"], "neg": []}\n')
    assert sources.training_set(str(tmp_path / "texts.jsonl"), tmp_path).examples[0].query == "first"
    (tmp_path / "ids.jsonl").write_text('{"query": "first", "pos_ids": ["d1"]}\n')
    with pytest.raises(BadInput, match=r"no corpus\.jsonl beside it"):
        sources.training_set(str(tmp_path / "ids.jsonl"), tmp_path)


def test_a_collection_takes_the_name_it_is_asked_for(beir: Path, tmp_path: Path) -> None:
    assert sources.collection(f"{beir}/", "toy", tmp_path).name == "toy"
    assert sources.collection(str(beir), "other", tmp_path).name == "other"


def test_calibration_text_from_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffOne\r\nstill one.\r\n\r\n\r\nTwo.".encode())
    assert sources.calibration_texts(str(tmp_path / "a.txt")) == ["One\nstill one.", "Two."]
    (tmp_path / "a.jsonl").write_text('{"text": "One", "url": "x"}\n\n{"text": ""}\n{"text": "Two"}\n')
    assert sources.calibration_texts(str(tmp_path / "a.jsonl")) == ["One", "Two"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.txt", " \n\n", "holds no text"),
        ("a.jsonl", '{"text": "x"}\n{"body": "x"}\n', "line 2: the field 'text' is missing"),
        ("a.jsonl", '{"text": 4}\n', "line 1: the field 'text' is missing or not text"),
        ("a.jsonl", "x\n", "line 1: this is not valid JSON"),
        ("a.csv", "x", r"must be pydoc-topics, training-documents, or a \.txt or \.jsonl file"),
    ],
)
def test_bad_calibration_text(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=says):
        sources.calibration_texts(str(tmp_path / name))


def test_what_does_not_exist_is_said(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    for call in (
        lambda: sources.training_set(gone, tmp_path),
        lambda: sources.collection(gone, "gone", tmp_path),
        lambda: sources.calibration_texts(gone),
    ):
        with pytest.raises(BadInput, match="gone"):
            call()


def test_a_collection_that_cannot_be_downloaded_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BEIR_ARCHIVE", "http://127.0.0.1:1/{}.zip")
    monkeypatch.delenv("EFFIR_DATA", raising=False)
    with pytest.raises(BadInput, match=r"beir:scifact could not be downloaded \(ConnectionError\): put its folder .* set EFFIR_DATA"):
        sources.collection("beir:scifact", "scifact", tmp_path)
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_a_beir_collection_at_hand_is_not_fetched(beir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BEIR_ARCHIVE", "http://127.0.0.1:1/{}.zip")
    monkeypatch.setenv("EFFIR_DATA", str(beir.parent))
    name = f"beir:{beir.name}"
    assert dict(sources.collection(name, "toy", tmp_path / "scratch").corpus.items()) == CORPUS
    before = sources.fingerprint([name])
    (beir / "corpus.jsonl").write_text((beir / "corpus.jsonl").read_text().replace("two", "2"))
    assert sources.fingerprint([name]) != before


def test_beirs_own_loader_fetches_an_archive(beir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import functools
    import http.server
    import threading

    shutil.make_archive(str(tmp_path / "served" / "toy"), "zip", beir.parent, "toy")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path / "served")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(sources, "BEIR_ARCHIVE", f"http://127.0.0.1:{server.server_port}/{{}}.zip")
        found = sources.collection("beir:toy", "toy", tmp_path)
        assert dict(found.corpus.items()) == CORPUS
        with pytest.raises(BadInput, match=r"could not be downloaded \(HTTPError\)"):
            sources.collection("beir:absent", "absent", tmp_path)
        server.shutdown()
    assert sources.training_set("beir:toy", tmp_path).examples == [Example("q", "first", ["d1"])], "kept in the scratch folder"


def test_the_fingerprint_follows_the_bytes_of_local_files_and_versions_of_packages(beir: Path, tmp_path: Path) -> None:
    named = [str(beir), "semanlink", "stdlib-code", "beir:nq", "smollm2-135m-instruct", "org/model"]
    before = sources.fingerprint(named)
    assert before == sources.fingerprint(named) == json.loads(json.dumps(before))
    assert before["semanlink"] == {"cherche": "2.2.1"}
    assert before["org/model"] == []
    moved = shutil.copytree(beir, tmp_path / "elsewhere")
    assert sources.fingerprint([str(moved)])[str(moved)] == before[str(beir)]
    (beir / "corpus.jsonl").write_text((beir / "corpus.jsonl").read_text().replace("two", "2"))
    assert sources.fingerprint(named) != before


def test_the_fingerprint_needs_no_heavy_library() -> None:
    import subprocess
    import sys

    heavy = "{'torch', 'transformers', 'beir', 'faiss', 'bm25s'}"
    code = f"import sys; from effir import sources; sources.fingerprint(['semanlink']); print({heavy} & set(sys.modules))"
    tasks = str(Path(sources.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": tasks})
    assert done.stdout.strip() == "set()"
