"""The computing phases one after another on a tiny model, through the real store, the way a container runs them."""

import json
import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from effir.errors import BadInput
from effir.manifest import MANIFEST
from effir.retrieve.files import document_text, read_corpus


def test_from_a_model_to_vectors(chain, tmp_path):
    one = chain()
    one.cut()
    depth, cut = one.read_cut("depth", tmp_path), one.read_cut("narrow", tmp_path)
    assert len(depth.drop_mlp) == len(depth.drop_attention) == 1
    scales = load_file(one.file("slim", "scores.safetensors", tmp_path / "slim"))
    assert sorted(int(layer) for layer in scales) == [layer for layer in range(4) if layer not in depth.drop_mlp]
    assert all(z.dtype == np.float32 for z in scales.values())
    figures = json.loads(one.file("slim", "slim.json", tmp_path / "slim").read_text())
    assert figures["z_movement"] > 1e-3
    assert -1 <= figures["rank_agreement"] <= 1
    full = sum(len(z) for z in scales.values())
    left = sum(len(cut.neurons.get(layer, range(len(scales[str(layer)])))) for layer in range(4) if layer not in cut.drop_mlp)
    assert abs(left - full / 2) <= 8

    reference = one.run("finetune", one.lesson(), {"model": "reference"}, "reference")
    candidate = one.run("finetune", one.healing(), {"model": "candidate"}, "candidate")
    assert candidate["numbers"]["parameters"] < reference["numbers"]["parameters"]
    planned = one.store.get_json(one.uris["narrow"])["numbers"]
    assert all(planned[name] == candidate["numbers"][name] for name in ("parameters", "parameters_non_embedding"))
    assert candidate["forward_passes"] > reference["forward_passes"] > 0
    assert not list(one.store.list(f"{one.store.root}/checkpoints"))
    losses = [step["loss"] for step in json.loads(one.file("reference", "training.json", tmp_path / "r").read_text())["history"]]
    assert len(losses) == 8
    assert sum(losses[-3:]) < sum(losses[:3])

    for shard in range(3):
        inputs = {"model": one.uris["candidate"], "collection": one.uris["things"]}
        one.run("encode", inputs, {"model": "candidate", "collection": "things", "shard": shard}, f"shard{shard}")
    shapes = [np.load(one.file(f"shard{shard}", "corpus.npy", tmp_path / f"s{shard}")).shape[0] for shard in range(3)]
    assert shapes == [20, 20, 10]
    again = one.run("encode", inputs, {"model": "candidate", "collection": "things", "shard": 2}, "again")
    assert again["cached"]
    assert again["forward_passes"] == 0


def test_what_fades_is_gone_in_the_end(chain):
    one = chain(fade_steps=4, steps=6, variant="1B", keep_ratio=1.0, attention="bidirectional")
    one.cut()
    one.run("finetune", one.lesson(), {"model": "reference"}, "reference")
    candidate = one.run("finetune", one.healing(), {"model": "candidate"}, "candidate")
    planned = one.store.get_json(one.uris["narrow"])["numbers"]
    assert all(planned[name] == candidate["numbers"][name] for name in ("parameters", "parameters_non_embedding"))
    one.run(
        "encode",
        {"model": one.uris["candidate"], "collection": one.uris["things"]},
        {"model": "candidate", "collection": "things", "shard": 0},
    )


def test_an_assessment_is_what_encode_and_evaluate_come_to(chain, tmp_path):
    one = chain(shard_documents=60, speed_seconds=0.2, speed_documents=8, variant="1M")
    one.cut()
    one.run("finetune", one.lesson(), {"model": "reference"}, "reference")
    one.run("finetune", one.healing(), {"model": "candidate"}, "candidate")
    seen = {"collections": [one.uris["things"]]}
    told = one.run(
        "assess", seen | {"model": one.uris["candidate"], "reference": one.uris["reference"]}, {"model": "candidate"}, "assessed"
    )
    encoded = {"model": one.uris["candidate"], "collection": one.uris["things"]}
    one.run("encode", encoded, {"model": "candidate", "collection": "things", "shard": 0}, "encoded")
    one.run("evaluate", seen | {"encodes": [one.uris["encoded"]]}, {}, "evaluate")
    whole = json.loads(one.file("evaluate", "metrics.json", tmp_path / "whole").read_text())
    found = json.loads(one.file("assessed", "metrics.json", tmp_path / "found").read_text())["candidate"]["things"]
    assert -1 < found.pop("mean_query_cosine") < 1
    assert found == whole["candidate"]["things"]
    assert told["numbers"]["things/ndcg_at_10"] == found["ndcg_at_10"]
    assert json.loads(one.file("assessed", "speed.json", tmp_path / "found").read_text())["document"]["ratio"] > 0
    inputs = seen | {name: one.uris[name] for name in ("calibration", "reference")} | {"model": one.uris["candidate"]}
    sparse = one.run("assess", inputs, {"model": "candidate", "weights": "wanda_2_4"}, "sparse")
    assert "speed.json" not in one.store.get_json(one.uris["sparse"])["files"]
    assert sparse["numbers"]["parameters"] == told["numbers"]["parameters"]
    assert json.loads(one.file("sparse", "metrics.json", tmp_path / "sparse").read_text())["candidate"]["things"] != found
    again = one.run("assess", inputs | {"calibration": one.uris["base"]}, {"model": "candidate", "weights": ""}, "whole")
    assert not again["cached"]
    assert one.run("assess", inputs, {"model": "candidate", "weights": ""}, "whole")["cached"]
    lexical = one.run("assess", seen, {"model": "bm25"}, "lexical")
    assert lexical["numbers"] == {"things/ndcg_at_10": whole["bm25"]["things"]["ndcg_at_10"]}
    assert lexical["forward_passes"] == 0


def test_documents_of_the_training_data_are_calibration_text_too(chain, tmp_path):
    one = chain(calibration_text="training-documents", slim_steps=0, neuron_score="activation_norm")
    one.cut()
    assert one.file("calibration", "text.jsonl", tmp_path / "none").read_text() == ""
    one.file("training", "corpus.jsonl", tmp_path)
    texts = [document_text(document) for document in read_corpus(tmp_path / "corpus.jsonl").values()]
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    other = chain(calibration_text=str(tmp_path / "text.txt"), slim_steps=0, neuron_score="activation_norm")
    other.cut()
    assert one.uris["importance"] != other.uris["importance"]
    for phase, name in (("importance", "importance.json"), ("slim", "slim.json")):
        assert one.file(phase, name, tmp_path / "one").read_text() == other.file(phase, name, tmp_path / "other").read_text()


def test_a_target_chooses_what_is_cut(chain, tmp_path):
    one = chain(variant="full", keep_ratio=1.0, neuron_score="magnitude", importance_measure="l2")
    one.cut()
    whole = one.store.get_json(one.uris["narrow"])["numbers"]["parameters"]
    one.spec["target_parameters"] = round(0.8 * whole)
    told = one.width()
    assert 0.7 * whole < told["numbers"]["parameters"] <= 0.8 * whole
    assert told["numbers"]["predicted_speedup"] > 1
    report = json.loads(one.file("narrow", "budget.json", tmp_path).read_text())
    assert report["utility_kept"] <= report["utility_bound"] + 1e-9
    assert one.width()["cached"]


def test_what_is_left_heals_before_its_neurons_are_scored(chain, tmp_path):
    one = chain(heal_steps=6, variant="1M", slim_steps=0, neuron_score="magnitude")
    one.cut()
    told = one.store.get_json(one.uris["slim"])
    assert told["forward_passes"] > 0
    one.uris["healed"] = told["parts"]["base"]
    before = load_file(one.file("base", "model.safetensors", tmp_path / "before"))
    after = load_file(one.file("healed", "model.safetensors", tmp_path / "after"))
    (gone,) = one.read_cut("depth", tmp_path).drop_mlp
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    projections = {name for name in before if "_proj" in name}
    assert set(after) == set(before) and changed == {name for name in projections if f"layers.{gone}.mlp" not in name}
    other = chain(variant="1M", slim_steps=0, neuron_score="magnitude")
    other.cut()
    assert other.store.get_json(other.uris["slim"])["parts"]["base"] == other.uris["base"] == one.uris["base"]
    scores = [load_file(each.file("slim", "scores.safetensors", tmp_path / name)) for name, each in (("one", one), ("other", other))]
    assert any(not np.array_equal(scores[0][layer], scores[1][layer]) for layer in scores[0])

    one.run("finetune", one.lesson(), {"model": "reference"}, "reference")
    heal = one.healing() | {"base": one.uris["healed"]}
    candidate = one.run("finetune", heal, {"model": "candidate"}, "candidate")
    planned = one.store.get_json(one.uris["narrow"])["numbers"]
    assert all(planned[name] == candidate["numbers"][name] for name in ("parameters", "parameters_non_embedding"))


def test_nothing_is_scored_where_nothing_gets_narrower(chain):
    one = chain(keep_ratio=1.0)
    one.cut()
    told = one.store.get_json(one.uris["slim"])
    assert told["forward_passes"] == 0
    other = chain(keep_ratio=1.0, slim_steps=7)
    other.cut()
    assert other.uris["slim"] == one.uris["slim"]


def test_changing_the_keep_ratio_redoes_only_what_follows(chain):
    first = chain()
    first.cut()
    second = chain(keep_ratio=0.75)
    cached = {}
    second.uris |= second.run("prepare", {})["parts"]
    cached["importance"] = second.run("importance", {key: second.uris[key] for key in ("base", "calibration", "training")})["cached"]
    cached["depth"] = second.run("depth", {"base": second.uris["base"], "importance": second.uris["importance"]})["cached"]
    given = {"cut": second.uris["depth cut"]}
    cached["slim"] = second.run("slim", given | {key: second.uris[key] for key in ("base", "calibration", "training")})["cached"]
    cached["narrow"] = second.run("narrow", given | {key: second.uris[key] for key in ("base", "importance", "slim")})["cached"]
    assert cached == {"importance": True, "depth": True, "slim": True, "narrow": False}


def test_the_same_cut_by_another_way_is_not_trained_again(chain):
    settings = {"keep_ratio": 0.5, "slim_steps": 0, "neuron_score": "magnitude", "regression_weight": 0.0, "steps": 2, "reference_steps": 2}
    first, second = chain(variant="1M", importance_measure="depth", **settings), chain(variant="last1M", **settings)
    first.cut()
    first.run("finetune", first.lesson(), {"model": "reference"}, "reference")
    trained = first.run("finetune", first.healing(), {"model": "candidate"}, "candidate")
    second.cut()
    assert second.uris["depth"] != first.uris["depth"]
    assert [second.uris[one] for one in ("depth cut", "slim", "narrow")] == [first.uris[one] for one in ("depth cut", "slim", "narrow")]
    second.uris["reference"] = first.uris["reference"]
    again = second.run("finetune", second.healing(), {"model": "candidate"}, "candidate")
    assert again["cached"] and again["digest"] == trained["digest"]


@pytest.mark.parametrize(("measure", "score"), [("taylor", "activation_norm"), ("depth", "taylor")])
def test_another_measure_another_score_and_equal_widths(chain, tmp_path, measure, score):
    one = chain(importance_measure=measure, neuron_score=score, width_rule="uniform", slim_steps=0, slim_batch=4, probe_steps=2)
    one.cut()
    found = json.loads(one.file("importance", "importance.json", tmp_path / "i").read_text())
    assert (found["measure"], found["samples"], found["tokens"] > 0) == (measure, *((2, True) if measure == "taylor" else (0, False)))
    figures = json.loads(one.file("slim", "slim.json", tmp_path / "s").read_text())
    assert figures["score"] == score
    assert figures["score_q10"] < figures["score_q90"]
    cut = one.read_cut("narrow", tmp_path)
    assert {layer: len(kept) for layer, kept in cut.neurons.items()} == {layer: 64 for layer in range(4) if layer not in cut.drop_mlp}
    if measure == "depth":
        assert (cut.drop_attention, cut.drop_mlp) == ([3], [3])


def test_kill_9_at_a_random_step_then_retry_gives_bit_equal_weights(chain, tmp_path):
    straight = chain()
    straight.cut()
    straight.run("finetune", straight.lesson(), {"model": "reference"}, "reference")
    expected = straight.file("reference", "model/model.safetensors", tmp_path / "straight").read_bytes()
    straight.forget("reference")
    command = straight.command("finetune", straight.lesson(), {"model": "reference"}, "reference")
    checkpoint = random.Random(os.getpid()).randint(1, 3)
    process = subprocess.Popen(command, start_new_session=True)
    prefix = f"{straight.store.root}/checkpoints"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        indices = [uri for uri, _ in straight.store.list(prefix) if uri.endswith("/index.json")]
        if any(len(straight.store.get_json_or_none(uri) or []) >= min(checkpoint, 2) for uri in indices):
            break
        time.sleep(0.01)
    assert process.poll() is None, "the phase ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not straight.store.exists(straight.uris["reference"])
    assert [uri for uri, _ in straight.store.list(prefix)]

    retried = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert retried.returncode == 0, retried.stderr
    assert "resuming after step" in retried.stdout
    assert straight.file("reference", "model/model.safetensors", tmp_path / "again").read_bytes() == expected
    assert not list(straight.store.list(prefix))


def test_terminating_a_training_leaves_a_checkpoint_and_exit_code_75(chain):
    one = chain(reference_steps=4000, checkpoint_every=2000)
    one.cut()
    command = one.command("finetune", one.lesson(), {"model": "reference"}, "reference")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if line.startswith("finetune: "):
            process.send_signal(signal.SIGTERM)
            break
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 75, output
    assert "a retry goes on from there" in output
    assert [uri for uri, _ in one.store.list(f"{one.store.root}/checkpoints") if uri.endswith(MANIFEST)]
    assert not one.store.exists(command[-1])


def test_terminated_before_and_after_the_loop_nothing_is_left_and_a_retry_is_bit_equal(chain, tmp_path):
    one = chain(checkpoint_every=1000, slim_steps=0, keep_ratio=1.0, variant="full")
    one.cut()
    one.run("finetune", one.lesson(), {"model": "reference"}, "reference")
    expected = one.file("reference", "model/model.safetensors", tmp_path / "straight").read_bytes()
    one.forget("reference")
    command = one.command("finetune", one.lesson(), {"model": "reference"}, "again")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    settings = {"env": os.environ | {"TMPDIR": str(scratch)}, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}

    early = subprocess.Popen(command, **settings)
    while early.poll() is None and not list(scratch.glob("effir-at-work-finetune-*")):
        time.sleep(0.01)
    early.send_signal(signal.SIGTERM)
    assert early.communicate(timeout=60)[0].splitlines()[-1].startswith("effir: stopped on request")
    late = subprocess.Popen(command, **settings)
    for line in late.stdout:
        if line.startswith("finetune: 8 of 8"):
            late.send_signal(signal.SIGTERM)
            break
    assert late.communicate(timeout=60)[0].splitlines()[-1].startswith("effir: stopped on request")
    assert (early.returncode, late.returncode) == (75, 75)
    assert list(scratch.iterdir()) == []
    assert not one.store.exists(command[-1]) and not one.store.exists(one.uris["reference"])

    one.run("finetune", one.lesson(), {"model": "reference"}, "reference")
    assert one.file("reference", "model/model.safetensors", tmp_path / "again").read_bytes() == expected


def test_more_layers_than_there_are(chain):
    one = chain(variant="5M")
    with pytest.raises(BadInput, match="drops 5 sub-layers, but the model has only 4 layers"):
        one.run("prepare", {})


def test_a_teacher_in_the_data_that_is_not_there(chain):
    one = chain(teacher="data")
    with pytest.raises(BadInput, match="scores"):
        one.cut()
