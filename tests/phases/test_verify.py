import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from effir.compress import surgery
from effir.compress.cut import Cut
from effir.errors import BadInput, EffirError
from effir.export import loading, writer
from effir.export.verify import TOLERANCE
from effir.manifest import Manifest, digest_of
from effir.phases.execute import execute
from effir.phases.verify import STORED
from effir.retrieve.collections import Collection, Document, document_text, save_folder
from effir.retrieve.settings import Settings
from effir.services.store import Store

SETTINGS = Settings(pooling="mean", append_eos=False, query_template="find: {text}", max_query_tokens=32, max_document_tokens=64)
EMPTY = "d7"


def candidate(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(["a"], trainers.BpeTrainer(special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False))
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=32
    )
    cut = Cut(2, drop_attention=[1], neurons={0: np.arange(16)})
    model = surgery.apply(transformers.LlamaModel(config).to(torch.bfloat16), cut)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")
    writer.write(model, fast, cut, SETTINGS, folder)
    (folder / "training.json").write_text("{}")
    return folder


def collection(name: str) -> Collection:
    corpus = {f"d{number}": Document(f"title {number}", f"text {'word ' * (number % 9)}{name}") for number in range(50)}
    corpus[EMPTY] = Document("", "")
    queries = {f"q{number}": f"which text has {number} words in {name}" for number in range(20)}
    return Collection(name, corpus, queries, {query: {f"d{number}": 1} for number, query in enumerate(queries)})


class Run:
    """The candidate, two collections and the vectors of their shards, published."""

    def __init__(self, store: Store, folder: Path, dtype: str) -> None:
        self.store, self.dtype, self.place = store, dtype, folder
        self.model = candidate(folder / "candidate")
        self.collections = [collection("alpha"), collection("beta")]
        self.encoder = loading.load_encoder(self.model, dtype)
        self.uris = [
            self.publish("collection", {"name": one.name}, save_folder(one, folder / one.name, shard_documents=25))
            for one in self.collections
        ]
        self.candidate = self.publish("finetune", {"arguments": {"model": "candidate"}}, self.model)

    def publish(self, phase: str, key: dict[str, Any], folder: Path) -> str:
        digest = digest_of({"phase": phase} | key)
        about: dict[str, Any] = {"numbers": {}, "seconds": 0, "forward_passes": 0, "created": ""}
        self.store.publish(Manifest(phase=phase, digest=digest, key=key, files={}, **about), folder)
        return f"{self.store.artifact(phase, digest)}/manifest.json"

    def encodes(self, model: str = "candidate", spoil: float = 0.0, batch_tokens: int = 500) -> list[str]:
        found = []
        for one in self.collections:
            ids = list(one.corpus)
            documents = self.encoder.encode([document_text(document) for document in one.corpus.values()], "document", batch_tokens)
            queries = self.encoder.encode(list(one.queries.values()), "query", batch_tokens)
            queries[0, 0] += spoil
            for shard, rows in enumerate(np.array_split(np.arange(len(ids)), 2)):
                here = self.place / f"{model}-{one.name}-{shard}-{spoil}"
                here.mkdir()
                np.save(here / "corpus.npy", documents[rows].astype(np.float16))
                (here / "corpus_ids.json").write_text(json.dumps([ids[row] for row in rows]))
                if shard == 0:
                    np.save(here / "queries.npy", queries.astype(np.float16))
                    (here / "queries_ids.json").write_text(json.dumps(list(one.queries)))
                arguments = {"model": model, "collection": one.name, "shard": shard}
                found.append(self.publish("encode", {"arguments": arguments, "spoil": spoil}, here))
        return found

    def verify(self, encodes: list[str], **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        inputs = {"candidate": self.candidate, "encodes": encodes, "collections": self.uris} | changes
        call = {"run": {"id": "r"}, "spec": {"dtype": self.dtype, "device": "cpu", "threads": 1}, "inputs": inputs}
        self.store.put_json(f"{self.store.root}/runs/r/calls/verify.json", call)
        result = execute("verify", f"{self.store.root}/runs/r/calls/verify.json", f"{self.store.root}/runs/r/results/verify.json")
        return result, self.store.get_json(f"{self.store.artifact('verify', result['digest'])}/proof.json")


@pytest.fixture(params=["bfloat16", "float32"])
def made(s3_store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    return Run(s3_store, tmp_path, request.param)


def test_the_proof(made: Run) -> None:
    result, proof = made.verify(made.encodes())
    manifest = Manifest.model_validate(made.store.get_json(made.candidate))
    assert proof["passed"] is True
    assert proof["candidate"] == manifest.digest == made.candidate.split("/")[-2]
    assert proof["files"] == {path: file.sha256 for path, file in manifest.files.items()}
    assert {"MLmodel", "training.json", "model/config.json", "model/model.safetensors"} <= set(proof["files"])
    assert set(proof["loaders"]) == {"effir", "transformers", "sentence-transformers", "mlflow", "evaluated alpha", "evaluated beta"}
    assert result["numbers"]["loaders"] <= TOLERANCE / 10
    assert max(proof["loaders"].values()) <= proof["tolerance"] == STORED[made.dtype]
    assert proof["tolerances"] == {name: STORED[made.dtype] if "evaluated" in name else TOLERANCE for name in proof["loaders"]}
    assert result["numbers"]["passed"] is True
    assert result["numbers"]["evaluated"] == max(proof["loaders"]["evaluated alpha"], proof["loaders"]["evaluated beta"])
    if made.dtype == "float32":
        assert result["numbers"]["evaluated"] <= 2**-11


def test_every_call_of_the_model_is_counted(made: Run) -> None:
    calls = []
    forward = transformers.LlamaModel.forward

    def spied(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(type(self).__name__)
        return forward(self, *args, **kwargs)

    encodes = made.encodes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.LlamaModel, "forward", spied)
        result, _ = made.verify(encodes)
    assert result["forward_passes"] == len(calls) > 8
    assert made.verify(encodes)[0]["forward_passes"] == 0


def test_vectors_of_another_model_do_not_pass(made: Run) -> None:
    made.encoder = loading.load_encoder(candidate(made.place / "other", seed=1), made.dtype)
    _, proof = made.verify(made.encodes())
    assert proof["passed"] is False
    assert proof["loaders"]["evaluated alpha"] > 2 * STORED[made.dtype]
    assert proof["loaders"]["mlflow"] <= TOLERANCE


def test_one_wrong_component_does_not_pass(made: Run) -> None:
    _, proof = made.verify(made.encodes(spoil=0.3))
    assert proof["passed"] is False
    assert proof["loaders"]["evaluated beta"] == pytest.approx(0.3, abs=0.03)


def test_of_many_shards_a_few_are_looked_at(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    encodes = made.encodes()
    for uri in encodes:
        if made.store.get_json(uri)["key"]["arguments"]["shard"] == 1:
            made.store.delete([uri.replace("manifest.json", "corpus.npy")])
    with pytest.raises(EffirError, match=r"corpus\.npy is missing"):
        made.verify(encodes)
    monkeypatch.setattr("effir.phases.verify.TEXTS", 1)
    assert made.verify(encodes)[1]["passed"] is True


def test_refusals(made: Run) -> None:
    good = made.encodes()
    with pytest.raises(BadInput, match="vectors of reference for alpha"):
        made.verify([*good, *made.encodes("reference")])
    with pytest.raises(BadInput, match=r"missing: \['beta'\]"):
        made.verify(good[:2])
    with pytest.raises(BadInput, match="'encodes'"):
        made.verify([], collections=[])
    with pytest.raises(BadInput, match="vectors of candidate for beta"):
        made.verify(good, collections=made.uris[:1])
