import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from effir.errors import BadInput
from effir.manifest import Manifest
from effir.phases.execute import execute
from effir.retrieve.collections import Collection, Document, load_folder, save_folder
from effir.services.store import Store
from effir.train.examples import load


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1, "one": 2, "two": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two collections and calibration text."""
    corpus = {f"d{number}": Document("", f"text number {number} about {'cats' if number % 2 else 'dogs'}") for number in range(30)} | {
        "empty": Document("", "")
    }
    queries = {f"q{number}": f"question {number} about cats" for number in range(24)}
    qrels = {f"q{number}": {f"d{number}": 1} for number in range(24)}
    train = {query: qrels[query] for query in list(queries)[:12]}
    test = {query: qrels[query] for query in list(queries)[12:]}
    folder = save_folder(Collection("alpha", corpus, queries, train), tmp_path / "data" / "alpha", "train")
    save_folder(Collection("alpha", corpus, queries, test), folder)
    save_folder(Collection("beta", corpus, {"q1": queries["q1"]}, {"q1": {"d1": 1}}, {"q1": "c"}), tmp_path / "data" / "beta")
    (tmp_path / "data" / "text.txt").write_text("Some text.\n\nSome more.")
    return tmp_path / "data"


def call(store: Store, base: Path | str, data: Path, **changes: Any) -> dict[str, Any]:
    spec = {
        "base_model": str(base), "training_data": str(data / "alpha"), "collections": f"{data / 'alpha'},{data / 'beta'}/",
        "calibration_text": str(data / "text.txt"), "hard_negatives": 3, "shard_documents": 10, "dtype": "float32", "variant": "1M",
        "teacher": "none", "device": "cpu", "steps": 1, "reference_steps": 1,
    }  # fmt: skip
    store.put_json(f"{store.root}/runs/r/calls/prepare.json", {"run": {"id": "r"}, "spec": spec | changes})
    return execute("prepare", f"{store.root}/runs/r/calls/prepare.json", f"{store.root}/runs/r/results/prepare.json")


def part(store: Store, result: dict[str, Any], name: str, target: Path) -> Path:
    uri = result["parts"][name]
    manifest = Manifest.model_validate(store.get_json(uri))
    return store.download(uri.rsplit("/", 1)[0], manifest.files, target / name)


def artifacts(store: Store) -> list[str]:
    return [uri for uri, _ in store.list(f"{store.root}/artifacts")]


def test_everything_a_run_reads_is_stored_with_digests(s3_store: Store, base: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    result = call(s3_store, base, data)
    assert set(result["parts"]) == {"base", "training", "calibration", "alpha", "beta"}
    assert result["output"]["collections"] == {
        "alpha": {"documents": 31, "queries": 12, "shards": 4, "pooled": False, "empty_documents": 1},
        "beta": {"documents": 31, "queries": 1, "shards": 4, "pooled": False, "empty_documents": 1},
    }
    assert len(result["numbers"]) == 5
    stored, given = load_folder(part(s3_store, result, "alpha", tmp_path)), load_folder(data / "alpha")
    assert replace(stored, corpus=None) == replace(given, corpus=None)
    assert list(stored.corpus.items()) == list(given.corpus.items())
    shards = sorted((tmp_path / "alpha" / "corpus").iterdir())
    assert [len(shard.read_text().splitlines()) for shard in shards] == [10, 10, 10, 1]
    assert b"".join(shard.read_bytes() for shard in shards) == (data / "alpha" / "corpus.jsonl").read_bytes()
    assert load_folder(part(s3_store, result, "beta", tmp_path)).clusters == {"q1": "c"}
    training = load(part(s3_store, result, "training", tmp_path))
    assert len(training.examples) == 12
    assert all(len(example.negatives) == 3 for example in training.examples)
    lines = (part(s3_store, result, "calibration", tmp_path) / "text.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"text": "Some text."}, {"text": "Some more."}]
    folder = part(s3_store, result, "base", tmp_path)
    model = AutoModel.from_pretrained(folder)
    assert model.num_parameters() == result["numbers"]["parameters"]
    assert torch.equal(model.embed_tokens.weight, AutoModel.from_pretrained(base).embed_tokens.weight)
    assert AutoTokenizer.from_pretrained(folder)("one two")["input_ids"] == [2, 3]
    told = capsys.readouterr()
    assert "1 documents are empty" in told.err
    assert "1 of the 1 test queries of beta are also training queries" in told.err


def test_finished_work_is_found_until_a_file_changes(s3_store: Store, base: Path, data: Path) -> None:
    first = call(s3_store, base, data)
    second = call(s3_store, base, data)
    assert (first["cached"], second["cached"]) == (False, True)
    assert second["parts"] == first["parts"]
    (data / "text.txt").write_text("Other text.")
    third = call(s3_store, base, data)
    assert not third["cached"]
    assert third["parts"]["calibration"] != first["parts"]["calibration"]
    assert {name: uri for name, uri in third["parts"].items() if name != "calibration"} == {
        name: uri for name, uri in first["parts"].items() if name != "calibration"
    }, "what did not change keeps its digest, so that later phases find their work"


def test_sampling_is_marked(s3_store: Store, base: Path, data: Path) -> None:
    result = call(s3_store, base, data, test_queries=10, test_documents=20, training_examples=5)
    about = result["output"]["collections"]["alpha"]
    assert (about["documents"], about["queries"], about["shards"], about["pooled"]) == (20, 10, 2, True)
    assert result["numbers"]["training_queries"] == 5


def test_folders_in_s3_give_the_same_parts(s3_store: Store, base: Path, data: Path) -> None:
    local = call(s3_store, base, data)
    s3_store.upload(base, f"{s3_store.root}/in/tiny")
    s3_store.upload(data / "alpha", f"{s3_store.root}/in/alpha")
    changes = {"training_data": f"{s3_store.root}/in/alpha", "collections": f"{s3_store.root}/in/alpha,{data / 'beta'}"}
    stored = call(s3_store, f"{s3_store.root}/in/tiny", data, **changes)
    assert {name: stored["parts"][name] for name in ("base", "alpha", "beta", "calibration")} == {
        name: local["parts"][name] for name in ("base", "alpha", "beta", "calibration")
    }
    assert call(s3_store, f"{s3_store.root}/in/tiny", data, **changes)["cached"]
    (data / "alpha" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td1\t1\n")
    s3_store.upload(data / "alpha", f"{s3_store.root}/in/alpha")
    assert not call(s3_store, f"{s3_store.root}/in/tiny", data, **changes)["cached"]


def test_scores_in_the_data_are_kept_and_demanded(s3_store: Store, base: Path, data: Path, tmp_path: Path) -> None:
    row = {"query": "a", "pos": ["x"], "neg": ["y"], "pos_scores": [2.5], "neg_scores": [-1]}
    (data / "rows.jsonl").write_text(json.dumps(row) + "\n")
    result = call(s3_store, base, data, teacher="data", training_data=str(data / "rows.jsonl"), hard_negatives=1)
    (example,) = load(part(s3_store, result, "training", tmp_path)).examples
    assert (example.positive_scores, example.negative_scores) == ([2.5], [-1.0])
    with pytest.raises(BadInput, match="query line-1 has 1 scored negatives and hard_negatives is 2"):
        call(s3_store, base, data, teacher="data", training_data=str(data / "rows.jsonl"), hard_negatives=2)
    with pytest.raises(BadInput, match="have no scores"):
        call(s3_store, base, data, teacher="data")


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("alpha/corpus.jsonl", "", "has no documents"),
        ("alpha/corpus.jsonl", '{"_id": "d1"\n', r"corpus\.jsonl, line 1: this is not valid JSON"),
        ("beta/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\tgone\t1\n", r"test\.tsv, line 2: the document 'gone' is not in corpus"),
        ("alpha/qrels/train.tsv", "query-id\tcorpus-id\tscore\ngone\td1\t1\n", r"train\.tsv, line 2: the query 'gone' is not in queries"),
        ("text.txt", " ", "holds no text"),
    ],
)
def test_bad_data_is_one_sentence_and_leaves_nothing(s3_store: Store, base: Path, data: Path, file: str, text: str, says: str) -> None:
    (data / file).write_text(text)
    with pytest.raises(BadInput, match=says):
        call(s3_store, base, data)
    assert artifacts(s3_store) == []


def test_a_variant_larger_than_the_model_is_found_here(s3_store: Store, base: Path, data: Path) -> None:
    with pytest.raises(BadInput, match="has only 2 layers"):
        call(s3_store, base, data, variant="3M")
    assert artifacts(s3_store) == []


def test_an_unsupported_base_is_found_here(s3_store: Store, data: Path, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BadInput, match="supported are: llama"):
        call(s3_store, tmp_path / "bert", data)
    with pytest.raises(BadInput, match="nothing is stored below"):
        call(s3_store, f"{s3_store.root}/nowhere", data)
    assert artifacts(s3_store) == []


def test_a_collection_cannot_take_the_name_of_another_part(s3_store: Store, base: Path, data: Path) -> None:
    (data / "beta").rename(data / "base")
    with pytest.raises(BadInput, match="cannot be called base"):
        call(s3_store, base, data, collections=f"{data / 'alpha'},{data / 'base'}")
