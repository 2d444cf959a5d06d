"""A pickle in every place where effir reads a file: refused with one sentence, and never run."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from effir import bases, sources
from effir.cli import app
from effir.compress.cut import Cut
from effir.errors import BadInput
from effir.export.loading import load_encoder
from effir.export.verify import verify
from effir.forecast import hardware, texts
from effir.manifest import MANIFEST
from effir.phases.gate import read_scores
from effir.phases.job import Job
from effir.reading import read_array, read_arrays, read_json, read_tensors
from effir.retrieve.collections import load_folder
from effir.services.store import Store
from effir.spec import RunSpec
from effir.train import checkpoint, examples
from effir.train.teacher import score

ROOT = Path(__file__).parents[2]


def base(folder: Path | str) -> Any:
    """Read as a base model."""
    return bases.write_base(str(folder), Path(str(folder) + "-written"), dtype="float32")


def without_weights(model: Path) -> Path:
    (model / "model.safetensors").unlink()
    return model


PICKLED_WEIGHTS = ("pytorch_model.bin", "model.pt", "model.pth", "model.pkl", "model.joblib", "model.ckpt")


@pytest.mark.parametrize("name", PICKLED_WEIGHTS)
def test_weights_of_a_base_model(name: str, model: Path, trap: Any, one_sentence: Callable[..., None]) -> None:
    torch.save(trap.object, without_weights(model) / name)
    with pytest.raises(BadInput, match="safetensors or GGUF are needed") as caught:
        base(model)
    one_sentence(caught.value)


def test_weights_of_a_base_model_in_shards(model: Path, trap: Any, one_sentence: Callable[..., None]) -> None:
    torch.save(trap.object, without_weights(model) / "pytorch_model-00001-of-00001.bin")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "pytorch_model-00001-of-00001.bin"}}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match="safetensors or GGUF are needed") as caught:
        base(model)
    one_sentence(caught.value)


def test_beside_safetensors_a_pickle_is_left_alone(model: Path, trap: Any) -> None:
    for name in (*PICKLED_WEIGHTS, "training_args.bin", "optimizer.pt"):
        torch.save(trap.object, model / name)
    base(model)
    written = Path(f"{model}-written")
    assert not [path for path in written.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".pkl", ".joblib", ".ckpt"}]


FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize("name", FILES)
def test_any_file_of_a_base_model(name: str, model: Path, trap: Any, one_sentence: Callable[..., None]) -> None:
    (model / name).write_bytes(trap.bytes)
    with pytest.raises(BadInput) as caught:
        base(model)
    one_sentence(caught.value)


def test_a_gguf_file(tmp_path: Path, trap: Any, one_sentence: Callable[..., None]) -> None:
    (tmp_path / "model.gguf").write_bytes(trap.bytes)
    with pytest.raises(BadInput, match="could not be read") as caught:
        base(tmp_path / "model.gguf")
    one_sentence(caught.value)


@pytest.mark.parametrize("weights", ["adapter_model.bin", "adapter_model.safetensors"])
def test_an_adapter_beside_a_base_model(weights: str, model: Path, trap: Any, one_sentence: Callable[..., None]) -> None:
    torch.save(trap.object, model / weights)
    (model / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "/somewhere/else"}))
    with pytest.raises(BadInput, match="holds an adapter") as caught:
        base(model)
    one_sentence(caught.value)


@pytest.mark.parametrize("loader", ["mlflow.sklearn", "mlflow.pyfunc.model", "mlflow.pytorch"])
def test_a_model_of_mlflow_with_a_loader_that_unpickles(
    loader: str, exported: Path, tmp_path: Path, trap: Any, one_sentence: Callable[..., None]
) -> None:
    described = yaml.safe_load((exported / "MLmodel").read_text())
    described["flavors"]["python_function"] |= {"loader_module": loader, "data": "model.pkl", "model_path": "model.pkl"}
    (exported / "MLmodel").write_text(yaml.safe_dump(described))
    (exported / "model.pkl").write_bytes(trap.bytes)
    with pytest.raises(BadInput, match="code that this effir did not write") as caught:
        verify(exported)
    one_sentence(caught.value)
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("MLmodel", "model.pkl"):
        (plain / name).write_bytes((exported / name).read_bytes())
    for read in (base, verify, load_encoder):
        with pytest.raises(BadInput, match=r"config\.json") as caught:
            read(plain)
        one_sentence(caught.value)


def test_an_mlmodel_whose_yaml_makes_objects(exported: Path, trap: Any) -> None:
    (exported / "MLmodel").write_text(f"flavors: !!python/object/apply:builtins.open ['{trap.trace}', 'w']\n")
    with pytest.raises(BadInput, match="MLmodel"):
        verify(exported)


EXPORTED = ("model.safetensors", "golden.safetensors", "tokenizer.json", "effir.json", "config.json", "modules.json", "golden.json")


@pytest.mark.parametrize("name", EXPORTED)
def test_any_file_of_an_exported_model(name: str, exported: Path, trap: Any, one_sentence: Callable[..., None]) -> None:
    (exported / "model" / name).write_bytes(trap.bytes)
    with pytest.raises(BadInput) as caught:
        verify(exported)
    one_sentence(caught.value)
    if name in {"model.safetensors", "tokenizer.json", "effir.json", "config.json"}:
        with pytest.raises(BadInput) as caught:
            load_encoder(exported)
        one_sentence(caught.value)


def test_pickled_weights_in_an_exported_model(exported: Path, trap: Any, one_sentence: Callable[..., None]) -> None:
    (exported / "model" / "model.safetensors").unlink()
    torch.save(trap.object, exported / "model" / "pytorch_model.bin")
    for read in (verify, load_encoder):
        with pytest.raises(BadInput) as caught:
            read(exported)
        one_sentence(caught.value)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "2_Dense/pytorch_model.bin", "adapter_config.json"])
def test_a_teacher(name: str, model: Path, trap: Any, one_sentence: Callable[..., None]) -> None:
    if name == "pytorch_model.bin":
        without_weights(model)
    (model / name).parent.mkdir(exist_ok=True)
    torch.save(trap.object, model / name)
    training = examples.TrainingSet([examples.Example("q", "old", ["d"], ["e"])], {key: examples.Document("", key) for key in "de"})
    with pytest.raises(BadInput, match=r"safetensors|adapter") as caught:
        score(training, str(model), "cpu")
    one_sentence(caught.value)


def test_a_checkpoint(tmp_path: Path, trap: Any, one_sentence: Callable[..., None]) -> None:
    parameters = {"one": torch.nn.Parameter(torch.zeros(2))}
    optimiser = torch.optim.AdamW(parameters.values())
    for name in ("state.safetensors", "state.json"):
        checkpoint.save(tmp_path / name, parameters, optimiser, {"step": 1})
        (tmp_path / name / name).write_bytes(trap.bytes)
        with pytest.raises(BadInput, match="make it anew") as caught:
            checkpoint.load(tmp_path / name, parameters, optimiser)
        one_sentence(caught.value)


@pytest.mark.parametrize("name", ["cut.json", "cut.safetensors"])
def test_a_cut(name: str, tmp_path: Path, trap: Any, one_sentence: Callable[..., None]) -> None:
    Cut(2, neurons={0: np.arange(3)}).save(tmp_path)
    (tmp_path / name).write_bytes(trap.bytes)
    with pytest.raises(BadInput, match="make it anew") as caught:
        Cut.load(tmp_path)
    one_sentence(caught.value)


def objects(path: Path, trap: Any) -> None:
    np.save(path, np.array([trap.object], dtype=object), allow_pickle=True)


def archive(path: Path, trap: Any) -> None:
    with path.open("wb") as stream:
        np.savez(stream, one=np.array([trap.object], dtype=object))


@pytest.mark.parametrize("write", [objects, archive, lambda path, trap: path.write_bytes(trap.bytes), lambda path, trap: path.touch()])
@pytest.mark.parametrize("mapped", [False, True])
def test_vectors(write: Callable[..., None], mapped: bool, tmp_path: Path, trap: Any, one_sentence: Callable[..., None]) -> None:
    write(tmp_path / "corpus.npy", trap)
    with pytest.raises(BadInput, match="no plain array") as caught:
        read_array(tmp_path / "corpus.npy", mapped=mapped)
    one_sentence(caught.value)


READERS: dict[str, Callable[[Path], Any]] = {
    "scores.parquet": read_scores,
    "scores.json": read_json,
    "scores.safetensors": read_arrays,
    "cut.safetensors": read_tensors,
    "training.jsonl": lambda path: sources.training_set(str(path), path.parent),
    "training.pkl": lambda path: sources.training_set(str(path), path.parent),
    "text.txt": lambda path: sources.calibration_texts(str(path)),
    "text.jsonl": lambda path: sources.calibration_texts(str(path)),
    "text.pkl": lambda path: sources.calibration_texts(str(path)),
    "corpus.jsonl": lambda path: load_folder(path.parent),
    "queries.jsonl": lambda path: load_folder(path.parent),
    "qrels/test.tsv": lambda path: load_folder(path.parents[1]),
    "collection.json": lambda path: load_folder(path.parent),
    "examples.jsonl": lambda path: examples.load(path.parent),
    "dataset.json": lambda path: examples.load(path.parent),
    "machine.toml": lambda path: hardware.find(str(path)),
    "training-to-count.jsonl": lambda path: texts.training(str(path), path),
}


@pytest.mark.parametrize("name", READERS)
def test_data_of_every_kind(name: str, tiny: Any, tmp_path: Path, trap: Any, one_sentence: Callable[..., None]) -> None:
    tiny.write_collection(tmp_path / "here")
    if name in {"examples.jsonl", "dataset.json"}:
        examples.save(examples.from_jsonl(tiny.write_training(tmp_path / "rows.jsonl")), tmp_path / "here")
    (tmp_path / "here" / name).write_bytes(trap.bytes)
    with pytest.raises(BadInput) as caught:
        READERS[name](tmp_path / "here" / name)
    one_sentence(caught.value)


def test_what_lies_in_the_store(store: Store, tmp_path: Path, trap: Any, one_sentence: Callable[..., None]) -> None:
    (tmp_path / "object").write_bytes(trap.bytes)
    store.upload(tmp_path, f"{store.root}/runs")
    uri = f"{store.root}/runs/object"
    job = Job("depth", "d", RunSpec(), {"one": uri}, {}, {}, store, tmp_path, tmp_path)
    for read in (lambda: store.get_json(uri), lambda: job.manifest("one"), lambda: job.folder("one")):
        with pytest.raises(BadInput, match="not UTF-8 text") as caught:
            read()
        one_sentence(caught.value)
    store.upload(tmp_path, store.artifact("depth", "a" * 64))
    store.client.copy_object(
        Bucket="effir", Key=f"{store.artifact('depth', 'a' * 64)}/{MANIFEST}".split("/", 3)[3], CopySource=uri.removeprefix("s3://")
    )
    assert store.find("depth", "a" * 64) is None


@pytest.mark.parametrize("command", [["encode", "HERE"], ["verify", "HERE"], ["plan", "--base", "HERE"], ["plan", "--base", "HERE/x.gguf"]])
def test_a_command_of_a_person(command: list[str], model: Path, trap: Any) -> None:
    for name in ("config.json", "x.gguf"):
        (model / name).write_bytes(trap.bytes)
    done = CliRunner().invoke(app, [part.replace("HERE", str(model)) for part in command], input="")
    assert isinstance(done.exception, BadInput), done.exception


def test_nothing_that_unpickles_can_be_written_into_the_source(tmp_path: Path) -> None:
    """The linter refuses what unpickles, in both halves of the source; this shows that its rules are in force."""
    readers = ("torch.load", "pickle.loads", "joblib.load", "numpy.load", "marshal.loads", "shelve.open", "dill.load", "cloudpickle.load")
    for settings in ("pyproject.toml", "dags/ruff.toml"):
        for reader in readers:
            module = reader.partition(".")[0]
            code = f"import {module}\n\n{reader}('x')\n"
            where = "tasks/effir/x.py" if settings == "pyproject.toml" else "dags/x.py"
            command = [
                sys.executable,
                "-m",
                "ruff",
                "check",
                "--no-cache",
                "--config",
                str(ROOT / settings),
                "--stdin-filename",
                where,
                "-",
            ]
            done = subprocess.run(command, input=code, capture_output=True, text=True, cwd=ROOT)
            assert re.search(r"TID251|S301|S302", done.stdout), f"{settings} allows {reader}: {done.stdout}{done.stderr}"
