"""From a champion to an index that answers, phase by phase, as the DAG effir_reindex calls them; `effir search` reads it."""

import io
import json

import numpy as np
import pytest
import torch
import transformers
from rich.console import Console
from typer.testing import CliRunner

from effir import cli
from effir.errors import BadInput
from effir.export import writer
from effir.export.loading import load_encoder
from effir.manifest import Manifest, digest_of
from effir.retrieve.settings import Settings
from effir.searching import search, table
from effir.services import access, indexes, promotions, registry, roles

from .test_access import TABLE


@pytest.fixture
def world(judged, tiny, tmp_path):
    """The registered model has a champion for each call of `crown`; the corpus is a folder without queries."""
    tiny.write_model(tmp_path / "base", layers=2, width=32)
    (tmp_path / "faq").mkdir()
    tiny.write_collection(tmp_path / "whole")
    (tmp_path / "whole" / "corpus.jsonl").rename(tmp_path / "faq" / "corpus.jsonl")
    judged.spec = {"name": judged.name, "collections": str(tmp_path / "faq"), "shard_documents": 20, "dtype": "float32", "threads": 1}
    judged.inputs = {}

    def crown(number: int):
        model = transformers.LlamaModel.from_pretrained(tmp_path / "base", dtype=torch.float32)
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "base")
        settings = Settings(pooling="mean", append_eos=False, query_template="{text}", max_query_tokens=16, max_document_tokens=32)
        folder = tmp_path / f"made-{number}"
        writer.write(model, tokenizer, None, settings, folder)
        digest = digest_of({"of": judged.name, "number": number})
        empty = {"key": {}, "files": {}, "numbers": {}, "seconds": 1, "forward_passes": 0, "created": "now"}
        judged.store.publish(Manifest(phase="finetune", digest=digest, **empty), folder)
        to = judged.register(f"{judged.store.artifact('finetune', digest)}/manifest.json")
        before = promotions.champion(judged.store, judged.name)
        promotions.record(judged.store, judged.name, "promote", before, to, why=[], who="x", code="c")
        promotions.settle(judged.store, judged.name)
        return folder

    judged.crown_folder = crown
    return judged


def reindexed(world, executed=None):
    """What the DAG does for one entry; returns the results of corpora, encode and reindex."""
    run = executed or world.execute
    world.inputs = {}
    found = run("corpora")
    ((name, told),) = found["output"]["collections"].items()
    manifest, corpus = found["output"]["model"]["manifest"], found["parts"][name]
    encoded = []
    for shard in range(told["shards"]):
        world.inputs = {"model": manifest, "collection": corpus}
        encoded.append(run("encode", model="champion", collection=name, shard=shard))
    world.inputs = {"model": manifest, "collection": corpus, "encodes": [one["manifest"] for one in encoded]}
    return found, encoded, run("reindex", collection=name, version=found["output"]["model"]["version"])


def test_the_index_answers_as_the_champion_does_and_the_next_one_takes_its_place(world, tiny, tmp_path):
    with pytest.raises(BadInput, match="has no champion yet, so nothing can encode"):
        world.execute("corpora")
    folder = world.crown_folder(1)
    found, encoded, built = reindexed(world)
    assert found["output"]["collections"] == {"faq": {"documents": 50, "shards": 3}} and len(encoded) == 3
    assert built["output"] == indexes.current(world.store, world.name, "faq")
    assert built["output"]["model"]["version"] == "1" and built["output"]["run"] == world.run["id"]

    texts, query = tiny.documents(), "quiet river"
    encoder = load_encoder(folder)
    vectors, asked = encoder.encode(list(texts.values())), encoder.encode([query], "query")[0]
    order = [list(texts)[row] for row in np.argsort(-(vectors.astype(np.float16).astype(np.float64) @ asked), kind="stable")[:5]]
    told = search(str(tmp_path / "faq"), query, f"models:/{world.name}@champion", 5, print)
    assert told["index"] == built["output"]["digest"] and told["model"] == f"models:/{world.name}/1"
    assert [hit["id"] for hit in told["hits"]] == order
    assert [hit["text"] for hit in told["hits"]] == [texts[one] for one in order]
    by_hand = search(str(tmp_path / "faq"), query, str(folder), 5, print)
    assert by_hand["index"] is None
    assert [hit["id"] for hit in by_hand["hits"]] == order
    assert np.allclose([hit["score"] for hit in by_hand["hits"]], [hit["score"] for hit in told["hits"]], atol=2e-3)

    again = reindexed(world)
    assert all(one["cached"] for one in again[1]) and again[2]["parts"]["index"] == built["parts"]["index"], "nothing is encoded twice"
    world.crown_folder(2)
    _, anew, after = reindexed(world)
    assert not any(one["cached"] for one in anew)
    assert (after["output"]["model"]["version"], after["output"]["previous"]["index"]) == ("2", built["parts"]["index"])
    assert search(str(tmp_path / "faq"), query, f"models:/{world.name}/1", 5, print)["index"] is None, "the index is another version's"


def test_vectors_of_another_model_corpus_or_shard_are_refused(world):
    world.crown_folder(1)
    found, encoded, _ = reindexed(world)
    told = {"collection": "faq", "version": "1"}
    given = {"model": found["output"]["model"]["manifest"], "collection": found["parts"]["faq"]}
    before = indexes.current(world.store, world.name, "faq")
    world.inputs = given | {"encodes": [one["manifest"] for one in encoded[:2]]}
    with pytest.raises(BadInput, match="vectors of 2 of the 3 shards"):
        world.execute("reindex", **told)
    other = world.model("candidate", "others")
    world.inputs = given | {"model": other, "encodes": [one["manifest"] for one in encoded]}
    with pytest.raises(BadInput, match="another model or corpus"):
        world.execute("reindex", **told)
    assert indexes.current(world.store, world.name, "faq") == before


def test_the_keys_of_its_role_are_enough_and_a_reader_s_to_search(world, place, monkeypatch, tmp_path):
    world.store.root = access.STORE
    monkeypatch.setenv("EFFIR_STORE", access.STORE)
    world.crown_folder(1)

    def become(role: str) -> None:
        given = access.s3_variables(place, role) | access.mlflow_variables(place, TABLE[role]["mlflow"])
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    assert {
        phase: next(name for name, one in TABLE.items() if phase in one["phases"]) for phase in ("corpora", "encode", "reindex")
    } == dict.fromkeys(("corpora", "encode", "reindex"), "compute")
    calls = roles.policies(TABLE, access.STORE, access.REPORTS)["compute"]
    assert not any("promotions/" in one for statement in calls["Statement"][2:] for one in statement["Resource"])
    become("compute")
    _, _, built = reindexed(world)
    become("reader")
    told = search(str(tmp_path / "faq"), "river", f"models:/{world.name}@champion", 3, print)
    assert told["index"] == built["output"]["digest"] and len(told["hits"]) == 3
    with pytest.raises(BadInput, match="these credentials may not write it"):
        indexes.point(
            world.store.__class__(), built["output"]["model"], "faq", built["parts"]["index"], built["output"]["corpus"], 50, None
        )
    assert registry.aliases(world.name)["champion"] == "1"


def test_the_command_prints_a_table_or_json(world, tmp_path):
    folder = world.crown_folder(1)
    asked = ["search", str(tmp_path / "faq"), "quiet [river]", "--model", str(folder), "--top", "3"]
    done = CliRunner().invoke(cli.app, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [hit["rank"] for hit in told["hits"]] == [1, 2, 3] and told["query"] == "quiet [river]"
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(table(told))
    shown = console.export_text()
    assert "quiet [river]" in shown and all(hit["id"] in shown and f"{hit['score']:.3f}" in shown for hit in told["hits"])
