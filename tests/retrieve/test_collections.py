import json
from dataclasses import replace
from pathlib import Path

import pytest

from effir.errors import BadInput
from effir.retrieve.collections import Collection, Document, document_text, load_folder, load_judged, sample, save_folder

SMALL = Collection(
    name="small",
    corpus={
        "d1": Document("One", "first text"),
        "d2": Document("", "second\u2028text"),
        "d3": Document("", ""),
        "d4": Document("Four", ""),
    },
    queries={"q1": "what is first", "q2": "and second"},
    qrels={"q1": {"d1": 2, "d3": 0}, "q2": {"d2": 1, "d1": 1}},
    clusters={"q1": "a"},
    source="here",
    licence="none",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_folder(SMALL, tmp_path / "small")


def whole(collection: Collection) -> Collection:
    """The same with its documents in memory."""
    return replace(collection, corpus=dict(collection.corpus.items()))


def append(path: Path, text: str) -> int:
    path.write_text(path.read_text() + text)
    return len(path.read_text().rstrip("\n").split("\n"))


def test_a_collection_survives_the_folder(folder: Path) -> None:
    assert whole(load_folder(folder)) == SMALL
    assert list(load_folder(folder).corpus) == list(SMALL.corpus)


def test_the_same_collection_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = save_folder(load_folder(folder), tmp_path / "again")
    for path in folder.rglob("*.*"):
        assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("size", [1, 3, 4])
def test_a_corpus_in_shards_is_the_same_corpus(tmp_path: Path, size: int) -> None:
    folder = save_folder(SMALL, tmp_path / "shards", shard_documents=size)
    assert not (folder / "corpus.jsonl").exists()
    assert whole(load_folder(folder)) == SMALL
    shards = json.loads((folder / "collection.json").read_text())["shards"]
    assert [shard["documents"] for shard in shards] == {1: [1, 1, 1, 1], 3: [3, 1], 4: [4]}[size]
    again = save_folder(load_folder(folder), tmp_path / "whole")
    expected = save_folder(SMALL, tmp_path / "expected")
    for path in expected.rglob("*.*"):
        assert (again / path.relative_to(expected)).read_bytes() == path.read_bytes()


def test_a_corpus_in_files_is_read_anew_each_time_and_not_before(folder: Path) -> None:
    corpus = load_folder(folder).corpus
    assert len(corpus) == 4
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "changed"}\n')
    assert dict(corpus.items()) == {"d1": Document("", "changed")}
    assert list(corpus) == ["d1"]


def test_judgements_are_read_without_the_corpus(folder: Path) -> None:
    (folder / "corpus.jsonl").unlink()
    assert load_judged(folder, SMALL.corpus) == SMALL


def test_windows_line_ends_and_byte_order_marks_change_nothing(folder: Path) -> None:
    for path in [*folder.glob("*.json*"), *folder.glob("qrels/*.tsv")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert whole(load_folder(folder)) == SMALL


def test_a_plain_beir_folder_has_its_own_name_and_no_clusters(folder: Path) -> None:
    (folder / "collection.json").unlink()
    assert whole(load_folder(folder)) == replace(SMALL, clusters={}, source="", licence="")
    assert load_folder(folder, "other").name == "other"


def test_empty_documents_are_kept_and_counted(folder: Path) -> None:
    loaded = whole(load_folder(folder))
    assert load_folder(folder).empty_documents == loaded.empty_documents == 1
    assert document_text(loaded.corpus["d3"]) == ""
    assert document_text(loaded.corpus["d4"]) == "Four"


def test_a_null_title_is_an_empty_one(folder: Path) -> None:
    append(folder / "corpus.jsonl", '{"_id": "d5", "title": null, "text": "x"}\n')
    assert whole(load_folder(folder)).corpus["d5"] == Document("", "x")


def test_queries_without_a_positive_judgement_are_left_out(folder: Path) -> None:
    append(folder / "queries.jsonl", '{"_id": "q3", "text": "unjudged"}\n{"_id": "q4", "text": "judged, nothing relevant"}\n')
    append(folder / "qrels/test.tsv", "q4\td1\t0\n")
    assert whole(load_folder(folder)) == SMALL


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("corpus.jsonl", '{"_id": "d9", "text": "x"', "not valid JSON"),
        ("corpus.jsonl", "[1, 2]", "expected a JSON object"),
        ("corpus.jsonl", '{"_id": "d9", "title": "no text"}', "'text' is missing"),
        ("corpus.jsonl", '{"id": "d9", "text": "x"}', "'_id' is missing"),
        ("corpus.jsonl", '{"_id": "d9", "text": 5}', "'text' must be text"),
        ("corpus.jsonl", '{"_id": "a b", "text": "x"}', "without spaces"),
        ("corpus.jsonl", '{"_id": "d1", "text": "x"}', "'d1' is there twice"),
        ("queries.jsonl", '{"_id": "q1", "text": "x"}', "'q1' is there twice"),
        ("queries.jsonl", '{"_id": "q9", "query": "x"}', "'text' is missing"),
        ("qrels/test.tsv", "q1\td9\t1", "document 'd9' is not in corpus.jsonl"),
        ("qrels/test.tsv", "q9\td1\t1", "query 'q9' is not in queries.jsonl"),
        ("qrels/test.tsv", "q1\td2\t0.5", "'0.5' is not a whole number"),
        ("qrels/test.tsv", "q1\td2\t²", "'²' is not a whole number"),
        ("qrels/test.tsv", "q1\td1\t1", "judged twice, and differently"),
        ("qrels/test.tsv", "q1 d2 1", "expected three columns"),
        ("qrels/test.tsv", "q1\t0\td2\t1", "found 4"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(folder: Path, file: str, line: str, says: str) -> None:
    number = append(folder / file, line + "\n")
    with pytest.raises(BadInput) as caught:
        load_folder(folder)
    assert says in str(caught.value)
    assert f"{folder / file}, line {number}: " in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_same_judgement_twice_is_harmless(folder: Path) -> None:
    append(folder / "qrels/test.tsv", "q1\td1\t2\n")
    assert whole(load_folder(folder)) == SMALL


def test_an_empty_corpus_is_refused(folder: Path) -> None:
    (folder / "corpus.jsonl").write_text("\n")
    with pytest.raises(BadInput, match="has no documents"):
        load_folder(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "queries.jsonl").unlink()
    with pytest.raises(BadInput, match=r"queries\.jsonl does not exist"):
        load_folder(folder)
    with pytest.raises(BadInput, match=r"qrels/dev\.tsv does not exist"):
        load_folder(save_folder(SMALL, folder), split="dev")


def test_judgements_without_a_positive_one_are_refused(folder: Path) -> None:
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t0\n")
    with pytest.raises(BadInput, match="no positive judgement"):
        load_folder(folder)


def test_text_that_is_not_utf8_is_refused(folder: Path) -> None:
    with (folder / "corpus.jsonl").open("ab") as stream:
        stream.write(b'{"_id": "d9", "text": "\xff"}\n')
    with pytest.raises(BadInput, match="not UTF-8"):
        load_folder(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"clusters": []}'])
def test_a_broken_description_is_refused(folder: Path, text: str) -> None:
    (folder / "collection.json").write_text(text)
    with pytest.raises(BadInput, match=r"collection\.json"):
        load_folder(folder)


def big(order: int = 1) -> Collection:
    ids = [f"d{number}" for number in range(200)][::order]
    queries = {f"q{number}": f"query {number}" for number in range(40)}
    qrels = {query: {f"d{number}": 1, f"d{number + 50}": 0} for number, query in enumerate(queries)}
    return Collection("big", {key: Document("", key) for key in ids}, queries, qrels, clusters=dict.fromkeys(queries, "c"))


def test_a_sample_keeps_every_judged_document_and_is_marked() -> None:
    small = sample(big(), queries=12, documents=60, seed=3)
    assert len(small.queries) == len(small.qrels) == len(small.clusters) == 12
    assert len(small.corpus) == 60
    assert {document for grades in small.qrels.values() for document in grades} <= set(small.corpus)
    assert small.pooled
    assert not sample(big(), 12, None, 3).pooled
    assert len(sample(big(), 12, 10, 3).corpus) == 24


def test_a_sample_of_a_folder_is_that_of_its_documents(tmp_path: Path) -> None:
    folder = save_folder(big(), tmp_path / "big")
    for documents in (10, 60, 199, 200, None):
        found = sample(load_folder(folder), 12, documents, 3)
        expected = sample(big(), 12, documents, 3)
        assert len(found.corpus) == len(whole(found).corpus)
        assert list(found.corpus.items()) == list(expected.corpus.items())
        assert whole(found) == whole(expected)
        assert found.pooled is (documents not in (200, None))


def test_a_sample_depends_on_the_seed_and_not_on_the_order() -> None:
    one, other = sample(big(), 12, 60, 3), sample(big(-1), 12, 60, 3)
    assert set(one.corpus) == set(other.corpus)
    assert one.qrels == other.qrels
    assert sample(big(), 12, 60, 4).qrels != one.qrels


def test_pairs_hold_the_relevant_documents_only() -> None:
    assert SMALL.pairs() == [("q1", "what is first", ["d1"]), ("q2", "and second", ["d2", "d1"])]


def test_lines_are_plain_json(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().split("\n") if line]
    assert rows[0] == {"_id": "d1", "title": "One", "text": "first text"}
