import json

import numpy as np
import pytest
import torch
import transformers

from effir.compress import surgery
from effir.compress.cut import Cut
from effir.errors import BadInput
from effir.export import writer
from effir.manifest import Manifest, content_of, digest_of
from effir.retrieve.settings import Settings
from effir.services import promotions, registry
from effir.services.store import split


@pytest.fixture
def audited(judged):
    judged.spec, judged.inputs = {"name": judged.name}, {}
    return lambda: judged.execute("audit")["output"]


def test_a_model_without_a_champion_is_no_failure(audited):
    assert audited() == {"version": None, "loaders": {}}


def test_a_sound_champion_gives_its_golden_embeddings(judged, audited, tiny, tmp_path):
    tiny.write_model(tmp_path / "base", layers=2, width=32)
    model = transformers.LlamaModel.from_pretrained(tmp_path / "base", dtype=torch.float32)
    cut = Cut(2, drop_attention=[1], neurons={0: np.arange(64)})
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "base")
    settings = Settings(pooling="mean", append_eos=False, query_template="{text}", max_query_tokens=16, max_document_tokens=16)
    writer.write(surgery.apply(model, cut), tokenizer, cut, settings, tmp_path / "made")
    digest = digest_of({"of": judged.name})
    empty = {"key": {}, "files": {}, "numbers": {}, "seconds": 1, "forward_passes": 0, "created": "now"}
    manifest = judged.store.publish(Manifest(phase="finetune", digest=digest, **empty), tmp_path / "made")
    to = judged.register(f"{judged.store.artifact('finetune', digest)}/manifest.json")
    assert to["files"] == content_of(manifest.files)
    promotions.record(judged.store, judged.name, "promote", None, to, why=[], who="x", code="c")

    with pytest.raises(BadInput, match=r"MLflow calls version None the champion of .*, and the log version 1"):
        audited()
    promotions.settle(judged.store, judged.name)
    found = audited()
    assert found["version"] == "1"
    assert {"effir", "transformers", "sentence-transformers"} <= set(found["loaders"])
    assert max(found["loaders"].values()) < 1e-4
    assert json.loads(judged.read("audit", "audit.json")) == found


def test_a_damaged_champion_is_told_of_and_not_loaded(judged, audited):
    uri = judged.crown()
    bucket, key = split(uri.replace("manifest.json", "model/model.safetensors"))
    judged.store.client.put_object(Bucket=bucket, Key=key, Body=b"weights!")
    with pytest.raises(BadInput, match=r"version 1 of .* is damaged: model/model.safetensors in .* is not as registered"):
        audited()


def test_a_champion_that_somebody_moved_in_mlflow_is_told_of(judged, audited):
    judged.crown("first weights")
    judged.crown("second weights")
    registry.point(judged.name, "champion", "1")
    with pytest.raises(BadInput, match=r"MLflow calls version 1 the champion of .*, and the log version 2"):
        audited()
