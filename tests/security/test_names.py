"""Names that a person, a folder, a store or a call brings: none leads elsewhere, none becomes an option, a filter or a script."""

import http.server
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from effir import sources
from effir.arms import arms
from effir.bases import write_base
from effir.cli import app
from effir.errors import BadInput
from effir.export.verify import verify
from effir.judge import frontier_page
from effir.judge.frontier import Entry, rows
from effir.judge.layers import Layers
from effir.judge.quality import Limits, Scores
from effir.judge.report import Report, render
from effir.manifest import File, Manifest, parse
from effir.names import below, check_name, check_run_id, is_name, is_relative
from effir.phases.execute import execute
from effir.phases.job import Job
from effir.services import registry
from effir.services.store import Store
from effir.spec import RunSpec
from effir.spec import parse as spec_of

ESCAPES = (
    "..", ".", "", "../x", "a/../../b", "/etc/passwd", "a/b", "a\\b", "~", "~root", "--help", "-x", "a b", "a\tb", "a\nb", "a\n", "\0",
    "a\0b",
    "a'b", 'a"b', "a`b", "a;b", "a|b", "$(id)", "${HOME}", "{{ 7*7 }}", "{% raw %}", "<script>", "a=b", "a%2fb", "a:b", "ä", "a\u202eb",
    "%(asctime)s", "a" * 65, ".hidden", "_x",
)  # fmt: skip
SCRIPT = "<script>alert(1)</script>"


@pytest.mark.parametrize("text", ESCAPES)
def test_a_name_is_a_name_alone(text: str) -> None:
    assert not is_name(text)
    with pytest.raises(BadInput, match=r"the thing is .*: it must be 1 to 64 letters"):
        check_name(text, "the thing")


@given(st.text(max_size=80) | st.text("abc./\\-_~\0 ", max_size=12))
def test_whatever_is_a_name_stays_in_its_folder(text: str) -> None:
    if is_name(text):
        assert (Path("/home") / text).resolve().parent == Path("/home")
    if is_relative(text):
        assert Path("/home") in (Path("/home") / text).resolve().parents
        assert below(Path("/home"), text, "x") == Path("/home") / text
    else:
        with pytest.raises(BadInput, match="outside its folder"):
            below(Path("/home"), text, "x")


# The spec


@pytest.mark.parametrize("name", ESCAPES)
def test_the_registered_model_s_name(name: str) -> None:
    with pytest.raises(BadInput, match="name: "):
        spec_of({"name": name})


@pytest.mark.parametrize("name", [one for one in ESCAPES if one.strip() and not {"/", ","} & set(one) and one == one.strip()])
def test_a_collection_s_name(name: str) -> None:
    for written in (f"/data/{name}", f"beir:{name}", f"s3://bucket/{name}"):
        with pytest.raises(BadInput, match=r"must be 1 to 64 letters"):
            spec_of({"collections": written, "in_domain": ""})


@pytest.mark.parametrize("name", ["../x", "a/../../b", "/etc", "--x", "a b"])
def test_a_beir_set_s_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for field in ("collections", "training_data"):
        with pytest.raises(BadInput, match="names no BEIR collection"):
            spec_of({field: f"beir:{name}"})
    (tmp_path / "data").mkdir()
    (tmp_path / "x").mkdir()
    monkeypatch.setenv("EFFIR_DATA", str(tmp_path / "data"))
    with pytest.raises(BadInput, match="names no BEIR collection"):
        sources.at_hand(f"beir:{name}")


@pytest.mark.parametrize("variants", ["../../x", "{{ 7*7 }}", "--help", "8A:name=../x", "8A:collections=/data/..", "8A:lora_rank=1;2"])
def test_an_arm_s_name(variants: str) -> None:
    with pytest.raises(BadInput):
        arms(RunSpec(), variants, "0")


# Calls and runs

RUNS = (
    "..",
    ".",
    "...",
    "a/b",
    "../other",
    "a b",
    "a'b",
    'a"b',
    "a\n",
    "{{ 7*7 }}",
    "<script>",
    "",
    "a" * 251,
    "a;b",
    "ä",
    "a\\b",
    7,
    None,
)


@pytest.mark.parametrize("run_id", RUNS)
def test_a_run_s_id(run_id: Any) -> None:
    with pytest.raises(BadInput, match="no name for a folder"):
        check_run_id(run_id)


@pytest.mark.parametrize("run_id", ["manual__2026-10-01T00:00:00.123+00:00", "scheduled__2026-01-01T00:00:00+00:00", "a..b", "mine~1"])
def test_ids_that_airflow_gives_are_taken(run_id: str) -> None:
    assert check_run_id(run_id) == run_id


WRONG_CALLS: list[tuple[Any, str]] = [
    ({"run": {"id": "../other"}, "spec": {}}, "no name for a folder"),
    ({"run": {"id": "x' OR 'a' = 'a"}, "spec": {}}, "no name for a folder"),
    ({"run": {"id": "r"}, "spec": {}, "arguments": {"collection": "../../x"}}, "the argument collection"),
    ({"run": {"id": "r"}, "spec": {}, "arguments": {"model": "--help"}}, "the argument model"),
    ({"run": {"id": "r"}, "spec": {}, "arguments": {"model": ["a"]}}, "the argument model"),
    ({"run": {"id": "r"}, "spec": {}, "arguments": {"shard": "../0"}}, "the argument shard"),
    ({"run": {"id": "r"}, "spec": {}, "arguments": ["a"]}, "arguments is .*, but must be an object"),
    ({"run": "r", "spec": {}}, "run is 'r', but must be an object"),
    ({"run": {"id": "r"}}, "no phase call"),
    (["a"], "no phase call"),
    ({"run": {"id": "r"}, "profile": "../../../etc/x"}, "no profile"),
]


@pytest.mark.parametrize(("call", "says"), WRONG_CALLS)
def test_a_call_of_a_phase(call: Any, says: str, store: Store) -> None:
    store.put_json(f"{store.root}/call.json", call)
    with pytest.raises(BadInput, match=says):
        execute("encode", f"{store.root}/call.json", f"{store.root}/result.json")
    assert not store.exists(f"{store.root}/result.json")


@pytest.mark.parametrize("name", ["../cli", "--help", "execute", "os", "depth.run", ""])
def test_a_phase_s_name(name: str, store: Store) -> None:
    with pytest.raises(BadInput, match="there is no phase"):
        execute(name, f"{store.root}/call.json", f"{store.root}/result.json")


@pytest.mark.parametrize("command", [["verify"], ["encode"], ["run", "--profile"], ["plan", "--profile"], ["phase"], ["study"]])
def test_a_name_that_looks_like_an_option_is_none(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--no-such-option"])
    assert done.exit_code == 2 or isinstance(done.exception, BadInput), done.output


@pytest.mark.parametrize("name", ["a' OR name LIKE '%", "../x", "a/b", ""])
def test_a_filter_of_mlflow_takes_no_other_name(name: str) -> None:
    """Refused before MLflow is spoken to: there is none here."""
    with pytest.raises(BadInput, match="the name of the registered model"):
        registry.register(name, "s3://b/x", run_id=None, digest="d", manifest="m", description="", tags={})
    with pytest.raises(BadInput, match="the digest of the candidate"):
        registry.register("x", "s3://b/x", run_id=None, digest=f"{name}'", manifest="m", description="", tags={})


# What lies in a store

DIGEST = "d" * 64
PLAIN = {"phase": "depth", "digest": DIGEST, "key": {}, "files": {}, "numbers": {}, "seconds": 0, "forward_passes": 0, "created": ""}
OUTSIDE = ("../outside", "/tmp/outside", "a/../../outside", "", "a//b", "./a", "a\0b", "a\\..\\b")


@pytest.mark.parametrize("path", OUTSIDE)
def test_files_of_a_manifest(path: str, store: Store, tmp_path: Path) -> None:
    told = PLAIN | {"files": {path: {"sha256": "0" * 64, "size": 1}}}
    with pytest.raises(BadInput, match="lies outside the artifact"):
        parse(told, "s3://x")
    uri = f"{store.artifact('depth', DIGEST)}/manifest.json"
    store.put_json(uri, told)
    job = Job("narrow", DIGEST, RunSpec(), {"one": uri}, {}, {}, store, tmp_path, tmp_path)
    for read in (job.folder, job.manifest, lambda name: job.file(name, path)):
        with pytest.raises(BadInput, match="lies outside the artifact"):
            read("one")
    with pytest.raises(BadInput, match="outside its folder"):
        store.download(f"{store.root}/x", {path: File(sha256="0" * 64, size=1)}, tmp_path / "inner")
    assert store.find("depth", DIGEST) is None


@pytest.mark.parametrize("changes", [{"phase": "../../x"}, {"digest": "../../x"}, {"digest": "/etc"}, {"phase": ""}, {"files": {"a": {}}}])
def test_names_in_a_manifest(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=rf"s3://x is no manifest \({next(iter(changes))}"):
        parse(PLAIN | changes, "s3://x")
    assert parse(PLAIN, "s3://x") == Manifest(**PLAIN)


def test_keys_of_a_bucket(store: Store, tmp_path: Path) -> None:
    """A key may hold dots, as an object's name is any text: boto3's own checks are left out to put it there."""
    key = f"{store.root}/model".removeprefix("s3://effir/")
    store.client.put_object(Bucket="effir", Key=f"{key}/config.json", Body=b"{}")
    listed = store.etags

    def with_another(prefix: str) -> dict[str, str]:
        return listed(prefix) | {f"{prefix}/../../outside": ""}

    store.etags = with_another  # SeaweedFS itself refuses such a key; other servers store it
    with pytest.raises(BadInput, match=r"'\.\./\.\./outside', which would lie outside"):
        store.download_prefix(f"{store.root}/model", tmp_path / "here")
    assert list(tmp_path.rglob("*")) == []


# Folders and archives


def test_links_that_leave_a_base_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for target in (tmp_path / "secret", Path("..", "secret"), tmp_path, Path("/etc/passwd")):
        (model / "link").symlink_to(target)
        with pytest.raises(BadInput, match=r"is a link to .*, outside"):
            write_base(str(model), tmp_path / "written", dtype="float32")
        (model / "link").unlink()
    (model / "link").symlink_to("config.json")
    write_base(str(model), tmp_path / "written", dtype="float32")


def test_links_that_leave_an_exported_model(exported: Path, tmp_path: Path) -> None:
    for read in (verify, lambda folder: write_base(str(folder), tmp_path / "written", dtype="float32")):
        (exported / "model" / "link").symlink_to("/etc/passwd")
        with pytest.raises(BadInput, match=r"is a link to /etc/passwd, outside"):
            read(exported)
        (exported / "model" / "link").unlink()
    assert not (tmp_path / "written").exists()


@pytest.fixture
def archive_server(tmp_path: Path) -> Iterator[str]:
    """Stands in for BEIR's server: serves an archive with names and a link that lead out of it."""
    path = tmp_path / "served" / "toy.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/corpus.jsonl", "{}")
        archive.writestr("../outside", "x")
        archive.writestr(f"{tmp_path}/outside", "x")
        link = zipfile.ZipInfo("toy/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(path.parent))

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{{}}.zip"
        server.shutdown()


def test_names_and_links_in_an_archive(archive_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BEIR_ARCHIVE", archive_server)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert (sources.download_beir("beir:toy", scratch) / "corpus.jsonl").read_text() == "{}"
    assert {path.name for path in tmp_path.iterdir()} == {"scratch", "served"}
    assert not [path for path in scratch.rglob("*") if path.is_symlink()]


# Pages


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def harmless(page: str) -> None:
    """No script, no handler but the page's own, no address that runs something."""
    assert SCRIPT not in page
    assert "alert(1)" in page, "the text is shown, as text"
    for tag, attributes in Tags(page).tags:
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        for name, value in attributes.items():
            assert not name.startswith("on") or "classList.toggle" in (value or "")
            assert not (value or "").strip().lower().startswith(("javascript:", "data:text"))
            assert "alert(1)" not in (value or "") or name in {"alt", "aria-label", "class"}


HOSTILE = f'{SCRIPT}" onload="alert(1)'


def test_the_report_shows_hostile_text_as_text() -> None:
    """Names are checked long before; the page does not rely on it."""
    side = {"reference": [2.0], "candidate": [1.0], "ratio": 2.0, "interval": [1.8, 2.0], "bound": 2.5, "of_bound": 0.8}
    scores = {"ndcg_at_10": 0.5, "recall_at_100": 0.5}
    numbers = dict.fromkeys(("reference", "candidate", "reference_non_embedding", "candidate_non_embedding"), 1)
    rule = {"rule": HOSTILE, "collection": HOSTILE, "value": 1.0, "bound": 1.0, "passed": True, "text": HOSTILE}
    found = {"reference": 0.3, "candidate": 0.5, "difference": 0.2, "interval": [0.1, 0.3]}
    importance = {"attention": [0.1, 0.2], "mlp": [0.1, 0.2]}
    first = {key: {"text": HOSTILE, "relevant": False} for key in ("reference", "candidate")}
    example = {"query": HOSTILE, "before": 0.0, "after": 0.5, "relevant": HOSTILE, "first": first}
    page = render(
        Report(
            summary={
                "dag_run_id": HOSTILE,
                "spec_digest": HOSTILE,
                "verdict": HOSTILE,
                "reasons": [HOSTILE],
                "quality": {HOSTILE: found},
                "mean": found,
                "metric": HOSTILE,
                "report": HOSTILE,
                "model": {"name": HOSTILE, "version": HOSTILE, "aliases": [HOSTILE]},
                "params": numbers,
                "speedup": {"query": 1.0, "document": 1.0, "query_interval": [1.0, 1.0], "document_interval": [1.0, 1.0]},
                "phases": [{"name": HOSTILE, "state": HOSTILE, "cached": True, "seconds": 1.0, "forward_passes": 0}],
            },
            verdict={"rules": [rule], "method": HOSTILE, "confidence": 0.95, "resamples": 1, "seed": 0},
            overview={"models": ["reference"], "collections": {HOSTILE: {"reference": scores}}},
            speed={"query": side, "document": side, "protocol": HOSTILE, "machine": {HOSTILE: HOSTILE}},
            spec={
                "name": HOSTILE,
                "base_model": HOSTILE,
                "variant": HOSTILE,
                "margin": 0.1,
                "query_template": HOSTILE,
                "collections": HOSTILE,
            },
            provenance=[{"name": HOSTILE, "phase": HOSTILE, "digest": HOSTILE, "created": HOSTILE, "seconds": 1.0}],
            environment={HOSTILE: HOSTILE},
            created=HOSTILE,
            training={HOSTILE: [(1, 2.0), (2, 1.0)]},
            tokens={HOSTILE: 1},
            layers=Layers(HOSTILE, importance, importance, [4, 4], [4, 0], [1]),
            examples={HOSTILE: {"wins": [example], "losses": [example]}},
            links={HOSTILE: HOSTILE, "run": "javascript:alert(1)"},
        )
    )
    harmless(page)


def test_the_frontier_shows_hostile_text_as_text() -> None:
    """An arm's name may hold a query template, and so any text."""
    (arm,) = arms(RunSpec(), f"8A:query_template={SCRIPT.replace('=', '')}{{text}}", "0")
    assert SCRIPT in arm.name
    values = np.linspace(0.2, 0.8, 40)
    queries = tuple(f"q{number}{SCRIPT}" for number in range(40))
    scores = {SCRIPT: Scores(queries, queries, values), "other": Scores(queries, queries, values)}
    timed = {"ratio": 1.2, "interval": [1.1, 1.3], "bound": 1.4}
    entries = [
        Entry("reference", scores, 0, 0, landmark=True, parameters=100),
        Entry(arm.name, scores, 0, 0, speed={"query": timed, "document": timed}, parameters=80),
    ]
    limits = Limits(collections=(SCRIPT, "other"), in_domain=(SCRIPT,), margin=0.03, margin_mean=0.02, resamples=200)
    spec = RunSpec().model_copy(update={"base_model": SCRIPT, "training_data": SCRIPT})
    harmless(frontier_page.render(rows(entries, limits), {arm.name: SCRIPT}, [], [{"arm": arm.name, "seed": 3}], spec, SCRIPT))


def test_a_query_and_its_id_reach_files_as_they_are(tmp_path: Path, tiny: Any) -> None:
    """What a query says or is called goes into JSON lines and a run file, a line each, and nowhere else."""
    from effir.retrieve.collections import load_folder, save_folder

    folder = tiny.write_collection(tmp_path / "seen")
    found = load_folder(folder)
    identifier = "../../q%2f<script>'\"{{x}}"
    queries = {identifier: f"{SCRIPT}\n--help\u2028{{{{ 7*7 }}}}"}
    made = save_folder(replace(found, queries=queries, qrels={identifier: {"river-old": 1}}), tmp_path / "made")
    assert load_folder(made).queries == queries
    assert {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()} == {
        "corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "collection.json",
    }  # fmt: skip
    lines = (made / "queries.jsonl").read_text().split("\n")
    assert json.loads(lines[0])["_id"] == identifier
