import json
import os
from pathlib import Path

import pytest

from effir.errors import BadInput
from effir.retrieve.collections import Collection, save_folder
from effir.retrieve.files import Document, read_corpus
from effir.train.examples import (
    Example,
    TrainingSet,
    batch_at,
    batches,
    from_beir,
    from_collection,
    from_jsonl,
    join,
    load,
    mine,
    sample,
    save,
)

DATA = os.environ.get("EFFIR_DATA")

WORDS = ["river", "stone", "cloud", "garden", "engine", "window", "forest", "letter"]


def training(count: int = 40) -> TrainingSet:
    """Document i shares its words with documents i±1, so that BM25 has something to mine; document n + i repeats document i's text."""
    texts = {f"d{number}": f"{WORDS[number % 8]} {WORDS[(number // 8) % 8]} {number // 2}" for number in range(count)}
    corpus = {key: Document("", text) for key, text in texts.items()} | {f"copy-{key}": Document("", text) for key, text in texts.items()}
    examples = [Example(f"q{number}", f"{WORDS[number % 8]} {number // 2}", [f"d{number}"]) for number in range(count)]
    return TrainingSet(examples, corpus, "toy", "here", "none")


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_training_set_survives_the_folder_without_unused_documents(tmp_path: Path) -> None:
    scored = Example("s", "scored", ["d1", "d2"], ["d3"], [1.5, -2.0], [0.25])
    given = TrainingSet([scored, Example("q", "plain", ["d1"], [])], training().corpus, "toy", "here", "none")
    read = load(save(given, tmp_path / "set"))
    assert read.examples == given.examples
    assert set(read.corpus) == {"d1", "d2", "d3"}
    assert (read.name, read.source, read.licence) == ("toy", "here", "none")
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["counts"] == {
        "queries": 2,
        "documents": 3,
        "positives": 3,
        "negatives": 1,
    }


def test_beir_judgements_become_positives(tmp_path: Path) -> None:
    corpus = {key: Document("", key) for key in ("d1", "d2", "d3")}
    save_folder(Collection("c", corpus, {"q1": "a", "q2": "b"}, {"q1": {"d1": 2, "d2": 0, "d3": 1}, "q2": {"d2": 1}}), tmp_path, "train")
    assert from_beir(tmp_path).examples == [Example("q1", "a", ["d1", "d3"]), Example("q2", "b", ["d2"])]


def test_json_lines_with_texts(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "t.jsonl",
        {"query": "a", "pos": ["x", "y"], "neg": ["z", "x"], "pos_scores": [3, 2.5], "neg_scores": [-1, 9], "source": "ignored"},
        {"query": "b", "pos": "z"},
    )
    read = from_jsonl(path)
    first, second = read.examples
    assert [read.text(key) for key in first.positives] == ["x", "y"]
    assert [read.text(key) for key in first.negatives] == ["z"], "a negative equal to a positive is dropped"
    assert (first.positive_scores, first.negative_scores) == ([3.0, 2.5], [-1.0])
    assert second.positives == first.negatives, "equal texts are one document"
    assert (second.negatives, second.positive_scores, second.negative_scores) == ([], None, None)
    assert (first.query_id, second.query_id) == ("line-1", "line-2")


def test_json_lines_with_ids(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", {"query_id": 7, "query": "a", "pos_ids": ["d1"], "neg_ids": ["d2"]})
    assert from_jsonl(path, training().corpus).examples == [Example("7", "a", ["d1"], ["d2"])]
    path = lines(tmp_path / "t.jsonl", {"query_id": "7", "query": "a", "pos_ids": ["d1"], "neg_ids": ["nowhere"]})
    with pytest.raises(BadInput, match="line 1: the document 'nowhere' of 'neg_ids' is not in the corpus"):
        from_jsonl(path, training().corpus)


GOOD = {"query": "a", "pos": ["x"], "neg": ["y"]}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"query": "a", "pos": [], "neg": ["y"]}, "no positives"),
        ({"query": "a", "neg": ["y"]}, "no positives"),
        ({"pos": ["x"]}, "'query' is missing"),
        ({"query": ["a"], "pos": ["x"]}, "'query' is missing or not text"),
        ({"query": "a", "pos": [1]}, "'pos' must be a list of texts"),
        (GOOD | {"neg": {"a": 1}}, "'neg' must be a list of texts"),
        ('{"query": "a", "pos": ["x"], "neg": ["y"], "pos_scores": [NaN], "neg_scores": [1]}', "teacher score nan"),
        ('{"query": "a", "pos": ["x"], "neg": ["y"], "pos_scores": [1], "neg_scores": [-Infinity]}', "teacher score -inf"),
        (GOOD | {"pos_scores": [None], "neg_scores": [1]}, "teacher score None"),
        (GOOD | {"pos_scores": [True], "neg_scores": [1]}, "teacher score True"),
        (GOOD | {"pos_scores": [1, 2], "neg_scores": [1]}, "has 2 scores for 1 documents"),
        (GOOD | {"pos_scores": [1], "neg_scores": []}, "has 0 scores for 1 documents"),
        (GOOD | {"pos_scores": [1]}, "give both"),
        ('{"query": "a"', "not valid JSON"),
        ('"text"', "expected a JSON object"),
        (GOOD | {"query_id": "line-1"}, "'line-1' is there twice"),
    ],
)
def test_a_bad_row_is_named_with_its_file_and_line(tmp_path: Path, row: object, says: str) -> None:
    path = lines(tmp_path / "t.jsonl", GOOD, row)
    with pytest.raises(BadInput) as caught:
        from_jsonl(path)
    assert says in str(caught.value)
    assert f"{path}, line 2: " in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no training rows"):
        from_jsonl(lines(tmp_path / "t.jsonl"))


def test_mined_negatives_are_hard_and_never_right() -> None:
    given = training()
    mined = mine(given, 5, seed=1)
    for example in mined.examples:
        texts = [given.text(key) for key in example.negatives]
        assert len(set(texts)) == 5
        assert given.text(example.positives[0]) not in texts, "also not through the copy of a positive"
    shared = sum(bool(set(mined.text(key).split()) & set(example.query.split())) for example in mined.examples for key in example.negatives)
    assert shared > 0.5 * 5 * len(mined.examples), "most share a word with the query; drawn at random, few would"


def test_mining_keeps_given_negatives_and_fills_up_where_bm25_finds_nothing() -> None:
    corpus = training().corpus
    many = Example("c", "lake", ["d0"], ["d1", "d2", "d3", "d4"], [1.0], [0.0, 0.0, 0.0, 0.0])
    given = TrainingSet([Example("a", "river", ["d0"], ["d1"], [1.0], [0.0]), Example("b", "xylophone", ["d0"]), many], corpus)
    first, second, third = mine(given, 4, seed=0).examples
    assert first.negatives[0] == "d1" and (first.positive_scores, first.negative_scores) == (None, None)
    for one in (first, second):
        assert len({corpus[key].text for key in one.negatives} - {corpus["d0"].text}) == 4
    assert third == many
    assert mine(given, 0, seed=0) == given


def test_mining_a_query_depends_on_the_seed_and_on_no_other_query() -> None:
    given = training()
    whole = {example.query_id: example for example in mine(given, 5, seed=1).examples}
    part = mine(TrainingSet(given.examples[10:20], given.corpus), 5, seed=1).examples
    assert all(whole[example.query_id] == example for example in part)
    assert mine(given, 5, seed=2).examples != mine(given, 5, seed=1).examples


def test_a_sample_is_seeded_and_keeps_the_order() -> None:
    given = training()
    chosen = [int(example.query_id[1:]) for example in sample(given, 12, seed=5).examples]
    assert len(chosen) == 12
    assert chosen == sorted(chosen)
    assert chosen != [int(example.query_id[1:]) for example in sample(given, 12, seed=6).examples]
    assert sample(given, None, 5) == given == sample(given, 999, 5)


def test_every_epoch_holds_every_query_once_whatever_the_batch() -> None:
    examples = mine(training(10), 3, 0).examples
    steps = list(batches(examples, batch=4, steps=15, hard_negatives=2, seed=9))
    assert [len(step) for step in steps] == [4] * 15
    drawn = [choice.example for step in steps for choice in step]
    epochs = [drawn[place : place + 10] for place in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_a_step_is_a_pure_function_of_its_number() -> None:
    examples = mine(training(10), 3, 0).examples
    steps = list(batches(examples, 4, 12, 2, seed=9))
    assert steps == [batch_at(examples, 4, step, 2, seed=9) for step in range(12)]
    assert list(batches(examples, 4, 12, 2, seed=9, first=7)) == steps[7:]
    assert list(batches(examples, 4, 12, 2, seed=8)) != steps


def test_choices_are_the_examples_own() -> None:
    examples = [Example(f"q{number}", "q", ["a", "b"], ["c", "d", "e"][:number]) for number in range(4)]
    chosen = [choice for step in batches(examples, 4, 20, 2, seed=0) for choice in step]
    for choice in chosen:
        assert choice.positive in {"a", "b"}
        assert len(choice.negatives) == min(2, len(examples[choice.example].negatives)) == len(set(choice.negatives))
        assert set(choice.negatives) <= set(examples[choice.example].negatives)
    assert {choice.positive for choice in chosen} == {"a", "b"}
    assert {choice.negatives for choice in chosen if choice.example == 3} > {("c", "d")}


def test_from_collection_keeps_name_and_licence() -> None:
    collection = Collection("c", {"d": Document("t", "x")}, {"q": "a"}, {"q": {"d": 1}}, source="s", licence="l")
    assert from_collection(collection) == TrainingSet([Example("q", "a", ["d"])], collection.corpus, "c", "s", "l")


@pytest.mark.skipif(DATA is None, reason="EFFIR_DATA is unset: real training files are not read")
def test_real_files_are_read() -> None:
    folder = Path(DATA or "")
    scored = from_jsonl(folder / "train" / "bge_scored_sample.jsonl")
    assert len(scored.examples) == 49
    assert all(example.positive_scores and example.negative_scores for example in scored.examples)
    assert len(from_jsonl(folder / "train" / "wikiqa_train.jsonl").examples) == 857
    by_id = from_jsonl(folder / "train" / "scifact_train_bm25neg.ids.jsonl", read_corpus(folder / "scifact" / "corpus.jsonl"))
    assert len(by_id.examples) == len(from_beir(folder / "scifact").examples) == 809


def test_joined_sets_keep_their_ids_apart():
    first = TrainingSet([Example("q", "one", ["d"], ["e"])], {"d": Document("", "a"), "e": Document("", "b")}, "first")
    second = TrainingSet([Example("q", "two", ["d"])], {"d": Document("", "c")}, "second")
    both = join([first, second])
    assert [example.query_id for example in both.examples] == ["0:q", "1:q"]
    assert [both.text(example.positives[0]) for example in both.examples] == ["a", "c"]
    assert both.examples[0].negatives == ["0:e"]
    assert both.name == "first, second"
    assert join([first]) is first
