"""Bad input never becomes an artifact, and the faults of this folder are many and different.

A coverage-guided fuzzer (atheris) does not pay here: our readers are a few hundred lines of Python whose branches the tables name
one by one, and what is parsed natively (safetensors, tokenizers, Arrow) is not instrumented in its wheels, so coverage would guide
nothing there. Hypothesis' strategies beside the tables look for what the tables forgot.
"""

import importlib.util
import json
from pathlib import Path

import pytest

from effir.phases.execute import execute
from effir.services.store import Store

HERE = Path(__file__).parent
LEAST = 200


def faults(name: str) -> dict[str, object]:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FAULTS


COLLECTIONS, TRAINING = faults("test_collections"), faults("test_training")
SOUND = {
    "corpus.jsonl": "".join(json.dumps({"_id": f"d{number}", "text": f"text {number}"}) + "\n" for number in range(20)),
    "queries.jsonl": '{"_id": "q1", "text": "text 1"}\n',
    "qrels/test.tsv": "q1\td1\t1\n",
    "qrels/train.tsv": "q1\td1\t1\n",
}


def test_the_faults_are_many_and_different():
    modules = sorted(path.stem for path in HERE.glob("test_*.py") if path.stem != "test_artifacts")
    names = [f"{module}/{name}" for module in modules for name in faults(module)]
    values = {f"{module} {name.split(':')[0]} {fault!r}" for module in modules for name, fault in faults(module).items()}
    assert len(set(names)) == len(names) == len(values) >= LEAST


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("collections", "corpus.jsonl: cut in the middle"), ("collections", "corpus.jsonl: half a character in the text"),
        ("collections", "queries.jsonl: a list nested deeply"),
        ("collections", "qrels/test.tsv: score gigantic"), ("collections", "collection.json: clusters a list"),
        ("training", "rows: score NaN"), ("training", "rows: score a gigantic integer"), ("training", "text: UTF-16"),
    ],
)  # fmt: skip
def test_bad_input_leaves_no_artifact_and_no_result(store: Store, tmp_path: Path, refusal, table, fault):
    """The whole phase prepare, on a real S3 server, with one thing spoilt; the base model, read last, does not exist either."""
    for name, text in SOUND.items():
        (tmp_path / "seen" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "seen" / name).write_text(text)
    (tmp_path / "text.txt").write_text("Some text.")
    (tmp_path / "rows.jsonl").write_text('{"query": "a", "pos": ["x"]}\n')
    name, data = COLLECTIONS[fault] if table == "collections" else ("", b"")
    if table == "training":
        name, data = ("../rows.jsonl", TRAINING[fault]) if fault.startswith("rows") else ("../text.txt", TRAINING[fault][1])
    (tmp_path / "seen" / name).write_bytes(data)
    spec = {
        "base_model": str(tmp_path / "absent"), "training_data": str(tmp_path / "rows.jsonl"), "collections": str(tmp_path / "seen"),
        "calibration_text": str(tmp_path / "text.txt"), "hard_negatives": 0, "teacher": "none", "threads": 1,
    }  # fmt: skip
    call = f"{store.root}/call.json"
    store.put_json(call, {"run": {}, "spec": spec})
    sentence = refusal(lambda: execute("prepare", call, f"{store.root}/result.json"))
    assert str(tmp_path) in sentence and "absent" not in sentence
    assert [uri for uri, _ in store.list(store.root)] == [call]
