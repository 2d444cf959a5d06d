import importlib.util
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from effir.compress.cut import Cut
from effir.manifest import MANIFEST, Manifest, content_of, digest_of
from effir.phases.execute import execute
from effir.services import promotions, registry
from effir.services.store import Store

CONFIG = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 10, "tie_word_embeddings": True,
}  # fmt: skip
TINY = Path(__file__).parents[1] / "e2e" / "tiny.py"


@pytest.fixture
def s3_store(store: Store) -> Store:
    """A store of the test's own."""
    return store


class Judged:
    """A run whose candidate has been trained, evaluated, measured and verified: ready for gate, promote and report.

    Two collections, `code` (in domain, 80 queries in 40 clusters) and `papers` (60); the candidate is as good as the reference.
    """

    def __init__(self, store: Store, folder: Path, name: str) -> None:
        self.store, self.folder, self.name = store, folder, name
        self.queries = {"code": 80, "papers": 60}
        self.spec = {
            "name": name, "collections": "code,papers", "in_domain": "code", "margin": 0.09, "margin_mean": 0.08, "resamples": 1000,
            "min_query_speedup": 1.1, "min_document_speedup": 1.1,
        }  # fmt: skip
        self.offset = {"base": -0.3, "bm25": -0.1, "minilm": 0.1, "reference": 0.0, "candidate": 0.0}
        self.ratio = {"query": 1.3, "document": 1.4}
        self.run = {"id": f"manual__{name}", "airflow_url": "http://127.0.0.1:1/run", "mlflow_run_id": None}
        self.inputs: dict[str, str] = {}
        self.weights = "weights"
        self.champion: str | None = None
        self.encoding, self.data = "one way", dict.fromkeys(self.queries, "one version")

    def publish(self, phase: str, files: dict[str, bytes], **about: object) -> str:
        """Publish an artifact of these files; returns its manifest's URI."""
        digest = digest_of({"phase": phase, "files": {path: data.hex() for path, data in files.items()}, "for": self.name, "about": about})
        folder = self.folder / digest
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        folder.mkdir(parents=True, exist_ok=True)
        empty = {"key": {}, "files": {}, "numbers": {}, "seconds": 1.5, "forward_passes": 3, "created": "2026-01-01T00:00:00+00:00"}
        self.store.publish(Manifest.model_validate(empty | {"phase": phase, "digest": digest} | about), folder)
        return f"{self.store.artifact(phase, digest)}/manifest.json"

    def model(self, name: str, weights: str) -> str:
        """Publish an exported model."""
        size = {"parameters": 1000 if name == "reference" else 700, "parameters_non_embedding": 800 if name == "reference" else 500}
        files = {"MLmodel": b"flavors: {}\n", "model/config.json": b"{}", "model/model.safetensors": weights.encode()}
        files["training.json"] = json.dumps([{"loss": 2.0}, {"loss": 1.0}]).encode()
        key = {"libraries": {"torch": "2.13.0"}, "machine": {"device": "cpu", "threads": 2}}
        return self.publish("finetune", files, numbers=size, key=key)

    def prepare(self) -> "Judged":
        """Publish every input as it stands."""
        self.inputs["reference"] = self.model("reference", "full-size")
        self.inputs["candidate"] = self.model("candidate", self.weights)
        candidate = Manifest.model_validate(self.store.get_json(self.inputs["candidate"]))
        digests = {name: self.inputs[name].rsplit("/", 2)[1] for name in ("reference", "candidate")} | {"champion": self.champion}
        models = {name: {"digest": digests.get(name), "encoding": self.encoding} for name in self.offset if name != "bm25"}
        made = {"key": {"code": "v1", "libraries": {}}, "output": {"models": models, "data": self.data}}
        self.inputs["evaluate"] = self.publish("evaluate", self.scores(), **made)
        side = {
            kind: {"reference": [ratio] * 9, "candidate": [1.0] * 9, "ratio": ratio, "interval": [ratio - 0.02, ratio + 0.02], "bound": 2.0,
                   "of_bound": ratio / 2}
            for kind, ratio in self.ratio.items()
        }  # fmt: skip
        speed = {"speed.json": json.dumps(side | {"protocol": "by turns", "machine": {}}).encode()}
        self.inputs["speed"] = self.publish("speed", speed, key={"inputs": digests})
        proof = {
            "candidate": candidate.digest, "files": {path: file.sha256 for path, file in candidate.files.items()},
            "loaders": {"effir": 1e-7}, "tolerance": 1e-4, "passed": True,
        }  # fmt: skip
        self.inputs["verify"] = self.publish("verify", {"proof.json": json.dumps(proof).encode()})
        parts = {name: self.publish(name, {"data.jsonl": name.encode()}) for name in ("base", "training")}
        parts["base"] = self.publish("base", {"config.json": json.dumps(CONFIG).encode()})
        parts |= {name: self.publish("collection", self.collection(name)) for name in self.queries}
        self.inputs["prepare"] = self.publish("prepare", {}, parts=parts)
        return self

    def scores(self) -> dict[str, bytes]:
        """scores.parquet and metrics.json of the models in `offset`."""
        rows, metrics = [], {}
        for model, offset in self.offset.items():
            for name, count in self.queries.items():
                rng = np.random.default_rng(count)
                noise = np.random.default_rng([count, *model.encode()]).normal(0, 0.01, count)
                values = np.clip(rng.uniform(0.35, 0.6, count) + offset + noise, 0, 1)
                metrics.setdefault(model, {})[name] = {"ndcg_at_10": float(values.mean()), "recall_at_100": 0.9}
                rows += [
                    {"model": model, "collection": name, "query_id": f"q{number}", "ndcg_at_10": value,
                     "cluster": f"m{number // 2}" if name == "code" else f"q{number}"}
                    for number, value in enumerate(values.tolist())
                ]  # fmt: skip
        stream = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
        runs = {f"runs/{model}/{name}.trec": self.ranked(model, name) for model in self.offset for name in self.queries}
        return {"scores.parquet": stream.getvalue(), "metrics.json": json.dumps(metrics).encode()} | runs

    def collection(self, name: str) -> dict[str, bytes]:
        """As many documents as queries in two shards; query N is about document N."""
        count = self.queries[name]
        ids = [f"d{number}" for number in range(count)]
        corpus = [json.dumps({"_id": one, "title": f"<{name}>", "text": f"document {one}"}) + "\n" for one in ids]
        halves = [slice(0, count // 2), slice(count // 2, count)]
        shards = [{"documents": len(ids[half]), "ids": "0" * 64} for half in halves]
        about = {"name": name, "source": "", "licence": "", "pooled": False, "clusters": {}, "shards": shards}
        queries = "".join(json.dumps({"_id": f"q{number}", "text": f"where is {number}?"}) + "\n" for number in range(count))
        judged = "query-id\tcorpus-id\tscore\n" + "".join(f"q{number}\td{number}\t1\n" for number in range(count))
        files = {"collection.json": json.dumps(about), "queries.jsonl": queries, "qrels/test.tsv": judged}
        files |= {f"corpus/{place:05}.jsonl": "".join(corpus[half]) for place, half in enumerate(halves)}
        return {path: text.encode() for path, text in files.items()}

    def ranked(self, model: str, name: str) -> bytes:
        """The candidate ranks the right document first, every other model the one after it."""
        shift, count = int(model != "candidate"), self.queries[name]
        return "".join(f"q{number} Q0 d{(number + shift) % count} 1 1.0 {model}\n" for number in range(count)).encode()

    def execute(self, phase: str, **arguments: object) -> dict:
        """Run a phase as the orchestrator does, and hand its result on to the next one."""
        call = f"{self.store.root}/runs/{self.name}/calls/{phase}.json"
        self.store.put_json(call, {"run": self.run, "spec": self.spec, "inputs": self.inputs, "arguments": arguments})
        result = execute(phase, call, f"{self.store.root}/runs/{self.name}/results/{phase}.json")
        self.inputs[phase] = result["manifest"]
        return result

    def read(self, phase: str, path: str) -> str:
        """A file of a phase's result."""
        return self.store.get_bytes(self.inputs[phase].replace("manifest.json", path)).decode()

    def crown(self, weights: str = "weights") -> str:
        """Register a model with these weights and make it the champion; returns its manifest's URI."""
        uri = self.model("candidate", weights)
        to = self.register(uri)
        promotions.record(
            self.store, self.name, "promote", promotions.champion(self.store, self.name), to, why=["told to"], who="x", code="c"
        )
        promotions.settle(self.store, self.name)
        self.champion = to["digest"]
        return uri

    def register(self, uri: str) -> dict[str, str]:
        """Make an artifact a version of the model; returns what the log says of it."""
        manifest = Manifest.model_validate(self.store.get_json(uri))
        to = {"digest": manifest.digest, "manifest": uri, "source": uri.removesuffix("/manifest.json"), "files": content_of(manifest.files)}
        about = {"run_id": None, "digest": manifest.digest, "manifest": uri, "description": "", "tags": {"effir.files": to["files"]}}
        return to | {"version": registry.register(self.name, to["source"], **about)}


@pytest.fixture
def judged(mlflow: str, s3_store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> Judged:
    """A run that stands before the gate, with a registered model name of its own."""
    return Judged(s3_store, tmp_path, f"model-{abs(hash(request.node.nodeid)):x}")


@pytest.fixture(scope="module")
def tiny():
    """The maker of tiny models and collections."""
    spec = importlib.util.spec_from_file_location("tiny", TINY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Chain:
    """Executes phases with one spec; remembers their manifests."""

    def __init__(self, store: Store, spec: dict, name: str) -> None:
        self.store, self.spec, self.name = store, spec, name
        self.uris: dict[str, str] = {}

    def call(self, phase: str, inputs: dict, arguments: dict | None = None, label: str | None = None, **more) -> tuple[str, str]:
        base = f"{self.store.root}/runs/{self.name}"
        uri = f"{base}/calls/{label or phase}.json"
        told = {"run": {"id": self.name}, "spec": self.spec, "inputs": inputs, "arguments": arguments or {}}
        self.store.put_json(uri, told | more)
        return uri, f"{base}/results/{label or phase}.json"

    def command(self, phase: str, inputs: dict, arguments: dict | None = None, label: str | None = None, **more) -> list[str]:
        """What a container runs."""
        call, result = self.call(phase, inputs, arguments, label, **more)
        return [sys.executable, "-m", "effir.cli", "phase", phase, "--spec", call, "--result", result]

    def forget(self, label: str) -> None:
        """Remove an artifact."""
        artifact = self.uris[label].removesuffix(f"/{MANIFEST}")
        self.store.delete(uri for uri, _ in list(self.store.list(artifact)))

    def run(self, phase: str, inputs: dict, arguments: dict | None = None, label: str | None = None, **more) -> dict:
        result = execute(phase, *self.call(phase, inputs, arguments, label, **more))
        self.uris[label or phase] = result["manifest"]
        self.uris |= {f"{label or phase} {name}": uri for name, uri in result["parts"].items()}
        return result

    def cut(self) -> None:
        """Everything up to the cut."""
        prepared = self.run("prepare", {})
        self.uris |= prepared["parts"]
        self.run("teacher", {"training": self.uris["training"]})
        self.run("importance", {one: self.uris[one] for one in ("base", "calibration", "training")})
        self.run("depth", {"base": self.uris["base"], "importance": self.uris["importance"]})
        self.width()

    def width(self) -> dict:
        """The neurons that go too; what narrow told."""
        given = {"cut": self.uris["depth cut"]}
        self.run("slim", given | {one: self.uris[one] for one in ("base", "calibration", "training")})
        return self.run("narrow", given | {one: self.uris[one] for one in ("base", "importance", "slim")})

    def healing(self) -> dict:
        """What the candidate is trained with."""
        return self.lesson() | {"cut": self.uris["narrow cut"], "reference": self.uris["reference"]}

    def lesson(self) -> dict:
        return {one: self.uris[one] for one in ("base", "training", "teacher")}

    def read_cut(self, phase: str, folder: Path) -> Cut:
        """What depth or narrow chose."""
        for name in ("cut.json", "cut.safetensors"):
            self.file(f"{phase} cut", name, folder / phase)
        return Cut.load(folder / phase)

    def file(self, label: str, name: str, folder: Path) -> Path:
        """One file of an artifact, downloaded."""
        uri = self.uris[label]
        files = self.store.get_json(uri)["files"]
        from effir.manifest import File

        self.store.download(uri.removesuffix(f"/{MANIFEST}"), {name: File(**files[name])}, folder)
        return folder / name


@pytest.fixture
def chain(s3_store: Store, tiny, tmp_path: Path):
    """Makes a chain over tiny data; keyword arguments change the spec."""
    tiny.write_model(tmp_path / "model")
    tiny.write_collection(tmp_path / "things")
    tiny.write_training(tmp_path / "train.jsonl")
    (tmp_path / "text.txt").write_text("\n\n".join(tiny.documents().values()))
    spec = {
        "base_model": str(tmp_path / "model"), "training_data": str(tmp_path / "train.jsonl"), "collections": str(tmp_path / "things"),
        "calibration_text": str(tmp_path / "text.txt"), "calibration_samples": 8, "calibration_tokens": 32, "pooling": "mean",
        "query_template": "{text}", "hard_negatives": 2, "variant": "1M1A", "slim_steps": 4, "slim_batch": 4, "keep_ratio": 0.5,
        "width_multiple": 8, "steps": 8, "reference_steps": 8, "batch": 8, "warmup_steps": 2, "checkpoint_every": 2, "teacher": "none",
        "regression_weight": 1.0, "max_query_tokens": 16, "max_document_tokens": 32, "max_training_tokens": 32, "dtype": "float32",
        "threads": 1, "shard_documents": 20, "learning_rate": 0.002, "lora_rank": 4, "lora_dropout": 0.1,
    }  # fmt: skip
    return lambda **changes: Chain(s3_store, spec | changes, f"run{abs(hash(str(changes)))}")


@dataclass
class Forked:
    """What each process of each command ended with, printed, and left as its word."""

    codes: list[list[int]]
    said: list[list[str]]
    words: list[list[str]]


@pytest.fixture
def forked(tmp_path: Path):
    """Carries out command lines in many processes each, by forked.py: [(command line, processes, room in bytes or None)]."""

    def carry_out(asked: list[tuple[list[str], int, int | None]]) -> Forked:
        folder, program = tmp_path / "forked", Path(__file__).with_name("forked.py")
        told = [{"command": command[3:], "count": count, "room": room} for command, count, room in asked]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        done = subprocess.run(
            [sys.executable, str(program), str(folder)],
            input=json.dumps(told),
            env=environment,
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert done.returncode == 0, done.stderr
        places = [[(folder / str(number), rank) for rank in range(one["count"])] for number, one in enumerate(told)]
        said = [[(place / f"{rank}.log").read_text() for place, rank in row] for row in places]
        words = [[json.loads((place / "ends" / f"{rank}.json").read_text())["sentence"] for place, rank in row] for row in places]
        return Forked(json.loads(done.stdout), said, words)

    return carry_out
