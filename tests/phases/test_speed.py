from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from effir.compress import surgery
from effir.compress.cut import Cut
from effir.errors import BadInput
from effir.export import writer
from effir.judge.gate import Candidate, judge
from effir.judge.quality import Limits
from effir.judge.speed import ratio_of_medians
from effir.manifest import Manifest, digest_of
from effir.phases.execute import execute
from effir.phases.job import Job
from effir.phases.speed import _choose as choose
from effir.retrieve.collections import Collection, Document, save_folder
from effir.retrieve.settings import Settings
from effir.services.store import Store
from effir.spec import RunSpec

WORDS = [f"word{number}" for number in range(40)]


def publish(store: Store, phase: str, folder: Path) -> str:
    digest = digest_of({"phase": phase, "folder": folder.name})
    manifest = Manifest(phase=phase, digest=digest, key={}, files={}, numbers={}, seconds=0, forward_passes=0, created="")
    store.publish(manifest, folder)
    return f"{store.artifact(phase, digest)}/manifest.json"


def export(folder: Path, cut: Cut | None, template: str = "find: {text}") -> Path:
    inner = Tokenizer(models.WordLevel(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.train_from_iterator(WORDS, trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>", "<eos>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=8
    )
    model = LlamaModel(config).eval()
    if cut is not None:
        surgery.apply(model, cut)
    writer.write(model, tokenizer, cut, Settings(query_template=template), folder, ["word1 word2"])
    return folder


def collection(name: str, documents: int, queries: int, words: int) -> Collection:
    corpus = {f"d{number}": Document("", " ".join(WORDS[: 1 + number % words])) for number in range(documents)}
    asked = {f"q{number}": f"{WORDS[number % 40]} {name}" for number in range(queries)}
    return Collection(name, corpus, asked, {query: {"d0": 1} for query in asked})


@pytest.fixture
def inputs(s3_store: Store, tmp_path: Path) -> dict:
    cut = Cut(4, drop_attention=[1], drop_mlp=[2, 3])
    given = [collection("alpha", 30, 12, 20), collection("beta", 5, 100, 3)]
    return {
        "reference": publish(s3_store, "finetune", export(tmp_path / "reference", None)),
        "candidate": publish(s3_store, "finetune", export(tmp_path / "candidate", cut)),
        "collections": [publish(s3_store, "collection", save_folder(one, tmp_path / one.name, shard_documents=12)) for one in given],
    }


def measure(store: Store, inputs: dict, phase: str = "speed", arguments: dict | None = None, **spec: object) -> tuple[dict, dict]:
    call = f"{store.root}/runs/r/calls/{phase}.json"
    small = {"speed_seconds": 0.4, "speed_documents": 20, "threads": 1, "dtype": "float32", "device": "cpu"}
    store.put_json(call, {"run": {"id": "r"}, "spec": small | spec, "inputs": inputs, "arguments": arguments or {}})
    result = execute(phase, call, f"{store.root}/runs/r/results/{phase}.json")
    return result, store.get_json(result["manifest"].replace("manifest.json", "speed.json"))


def test_both_kinds_are_measured_and_set_against_the_bound(s3_store: Store, inputs: dict) -> None:
    result, speed = measure(s3_store, inputs)
    for kind in ("query", "document"):
        found = speed[kind]
        assert len(found["reference"]) == len(found["candidate"]) == found["rounds"] >= 8
        assert found["ratio"] == ratio_of_medians(list(zip(found["reference"], found["candidate"], strict=True)))[0]
        assert found["interval"][0] <= found["ratio"] <= found["interval"][1]
        assert 4 / 3 < found["bound"] < 4
        assert found["of_bound"] == pytest.approx(found["ratio"] / found["bound"])
        assert found["texts"] <= 20
    assert result["numbers"]["query_speedup"] == speed["query"]["ratio"]
    assert result["forward_passes"] >= 2 * (speed["query"]["rounds"] + speed["document"]["rounds"] + 2)
    assert {"processor", "cores", "threads", "dtype", "device", "torch"} <= set(speed["machine"])
    assert (speed["machine"]["threads"], speed["machine"]["dtype"]) == (1, "float32")
    assert "by turns" in speed["protocol"]
    assert measure(s3_store, inputs)[0]["cached"]


def test_a_model_against_itself_has_no_bound_beyond_one(s3_store: Store, inputs: dict) -> None:
    _, speed = measure(s3_store, inputs | {"candidate": inputs["reference"]})
    assert speed["query"]["bound"] == speed["document"]["bound"] == 1.0


@pytest.mark.parametrize(("wanted", "from_beta"), [(8, 4), (20, 5), (1000, 5)])
def test_texts_come_evenly_from_all_collections(s3_store: Store, inputs: dict, tmp_path: Path, wanted: int, from_beta: int) -> None:
    job = Job("speed", "0", RunSpec(speed_documents=wanted), inputs, {}, {}, s3_store, tmp_path, tmp_path)
    documents = choose(job, "document")
    assert len(documents) == min(wanted, 35)
    short = [text for text in documents if len(text.split()) <= 3]
    assert len(short) >= from_beta
    assert choose(job, "document") == documents
    assert len([query for query in choose(job, "query") if query.endswith("alpha")]) == min(wanted // 2, 12)


def test_a_large_corpus_is_sampled_from_a_few_of_its_shards(
    s3_store: Store, inputs: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("speed", "0", RunSpec(speed_documents=1000), inputs, {}, {}, s3_store, tmp_path, tmp_path)
    everything = choose(job, "document")
    assert len(everything) == 35
    monkeypatch.setattr("effir.phases.speed.SHARDS", 2)
    alpha = [" ".join(WORDS[: 1 + number % 20]) for number in range(30)]
    assert sorted(choose(job, "document")) == sorted(alpha[:12] + alpha[24:] + [" ".join(WORDS[: 1 + number % 3]) for number in range(5)])


def test_models_that_read_texts_differently_do_not_compare(s3_store: Store, inputs: dict, tmp_path: Path) -> None:
    other = publish(s3_store, "finetune", export(tmp_path / "other", None, "search for: {text}"))
    with pytest.raises(BadInput, match="templates are not the reference's"):
        measure(s3_store, inputs | {"candidate": other})


def test_in_a_frontier_each_is_timed_on_its_own_tokens_of_the_same_texts(s3_store: Store, inputs: dict, tmp_path: Path) -> None:
    inputs["model"] = publish(s3_store, "finetune", export(tmp_path / "other", None, "word1 word2 word3 word4 word5 word6: {text}"))
    _, speed = measure(s3_store, inputs, "assess", {"model": "candidate"})
    assert speed["query"]["bound"] < 0.6, "the same model, and queries of more than twice as many tokens"
    assert speed["document"]["bound"] == 1


def test_it_needs_real_texts(s3_store: Store, inputs: dict) -> None:
    with pytest.raises(BadInput, match="'collections'"):
        measure(s3_store, inputs | {"collections": []})


def test_speed_json_is_what_the_gate_reads(s3_store: Store, inputs: dict) -> None:
    _, speed = measure(s3_store, inputs)
    limits = Limits(collections=(), in_domain=(), margin=0.1, margin_mean=0.1, min_query_speedup=0.001, min_document_speedup=1000)
    rules = {rule.rule: rule for rule in judge({}, speed, {}, Candidate("c", {}, 1), None, limits).rules}
    assert (rules["query_speedup"].passed, rules["query_speedup"].value) == (True, speed["query"]["ratio"])
    assert (rules["document_speedup"].passed, rules["document_speedup"].interval) == (False, tuple(speed["document"]["interval"]))
