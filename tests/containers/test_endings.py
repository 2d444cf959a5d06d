"""A training in containers of the task image, started by the Docker runner: stopped, killed for its memory, and gone on with."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from effir.manifest import MANIFEST
from effir.phases.execute import execute
from effir.services.store import Store

ROOT = Path(__file__).parents[2]
ROOM = "800Mi"
SPEC = {
    "calibration_samples": 8, "calibration_tokens": 32, "pooling": "mean", "query_template": "{text}", "hard_negatives": 4, "steps": 0,
    "slim_steps": 0, "keep_ratio": 1.0, "variant": "full", "reference_steps": 6, "batch": 50, "warmup_steps": 2, "checkpoint_every": 1000,
    "teacher": "none", "max_query_tokens": 16, "max_document_tokens": 32, "max_training_tokens": 32, "batch_tokens": 1024,
    "dtype": "float32", "threads": 1, "learning_rate": 2e-4, "lora_rank": 4, "lora_dropout": 0.0,
}  # fmt: skip
TRAIN = """
import json, sys, types
sys.path.insert(0, sys.argv[1])
import container
from airflow.sdk.exceptions import AirflowRescheduleException

told, errors = json.loads(sys.argv[2]), []
begun = {"output": {"spec": told["spec"], "mlflow_run_id": None}}
ti = types.SimpleNamespace(
    dag_id="effir_test_endings", task_id="finetune", map_index=-1, try_number=1, start_date=None,
    xcom_push=lambda key, value: errors.append(value), xcom_pull=lambda task_ids: begun,
)
task = container.DockerPhase(task_id="finetune", phase="finetune", inputs=told["inputs"], arguments={"model": "reference"})
while True:
    try:
        result = task.execute({"ti": ti, "run_id": told["run"], "task_reschedule_count": len(errors)})
        break
    except AirflowRescheduleException:
        print("the same try goes on", flush=True)
print(json.dumps([errors, result]))
"""


@dataclass
class Training:
    """A fine-tuning as the Docker runner executes it, again and again until it is done, in a store prefix of its own."""

    engine: Any
    settings: dict[str, str]
    told: dict[str, Any]
    image: str
    folder: Path

    def __call__(self, name: str, memory: str = "8Gi", stop: bool = False) -> "Ended":
        """Run it to its end; SIGTERM goes to the first container, if that is wanted, once it has trained a step."""
        run = f"{name}-{time.time_ns()}"
        path = self.folder / f"{run}.json"
        handed = [one for one in self.settings if one.startswith(("AWS_", "NO_")) and "KEY" not in one]
        resources = {"cpus": 2, "memory": memory, "shm": "64Mi", "disk": "512Mi"}
        handed_on = {"environment": [*handed, "EFFIR_STORE"], "secrets": [one for one in self.settings if "KEY" in one]}
        told = {"image": self.image, "network": "host", "grace_seconds": 60, "resources": resources} | handed_on
        path.write_text(json.dumps(told))
        about = {"endpoint_url": self.settings["AWS_ENDPOINT_URL_S3"], "region_name": self.settings["AWS_DEFAULT_REGION"]}
        login = {"login": self.settings["AWS_ACCESS_KEY_ID"], "password": self.settings["AWS_SECRET_ACCESS_KEY"]}
        environment = os.environ | self.settings | {
            "AIRFLOW_HOME": str(self.folder / "airflow"), "EFFIR_RUNNER": "docker", "EFFIR_RUNNER_SETTINGS": str(path),
            "AIRFLOW_CONN_EFFIR_S3": json.dumps({"conn_type": "aws", "extra": about} | login), "EFFIR_STORE": f"s3://effir/{run}",
        }  # fmt: skip
        command = [sys.executable, "-c", TRAIN, str(ROOT / "dags"), json.dumps(self.told | {"run": run})]
        said = []
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout:
                said.append(line)
                if stop and line.startswith("finetune: "):
                    stop = False
                    (container,) = self.engine("ps", "-q", "--filter", f"label=effir.run={run}").stdout.split()
                    self.engine("kill", "--signal", "TERM", container)
                if line.startswith("the same try goes on"):
                    said.append(f"checkpoints: {checkpoints(run)}\n")
        assert process.returncode == 0, "".join(said)[-5000:]
        assert not self.engine("ps", "-aq", "--filter", f"label=effir.run={run}").stdout
        errors, result = json.loads(said[-1])
        return Ended(run, "".join(said), errors, result)


@dataclass
class Ended:
    """What came of it: everything that was said, how its failed executions ended, and the phase's result."""

    run: str
    said: str
    errors: list[dict[str, Any]]
    result: dict[str, Any]

    def weights(self) -> bytes:
        """The weights of the exported model."""
        return Store().get_bytes(self.result["manifest"].replace(MANIFEST, "model/model.safetensors"))


def checkpoints(run: str) -> int:
    """How many whole checkpoints lie in a store."""
    return sum(uri.endswith(f"/{MANIFEST}") for uri, _ in Store().list(f"s3://effir/{run}/checkpoints"))


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest relative difference of a weight matrix."""
    assert one.keys() == other.keys()
    return max(float((value - other[name]).norm() / value.norm()) for name, value in one.items())


@pytest.fixture(scope="module")
def training(
    engine: Any, images: dict[str, str], s3_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Training]:
    """A tiny model that is wide enough for some 800 MB of activations, and what its training needs, in S3."""
    folder = tmp_path_factory.mktemp("endings")
    given = importlib.util.spec_from_file_location("tiny", ROOT / "tests" / "e2e" / "tiny.py")
    tiny = importlib.util.module_from_spec(given)
    given.loader.exec_module(tiny)
    spec = SPEC | {
        "base_model": str(tiny.write_model(folder / "model", width=256)),
        "training_data": str(tiny.write_training(folder / "training.jsonl")),
        "collections": str(tiny.write_collection(folder / "seen")), "calibration_text": str(tiny.write_text(folder / "text.txt")),
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (s3_server | {"EFFIR_STORE": f"s3://effir/endings-{time.time_ns()}"}).items():
            patch.setenv(name, value)
        prepared = phase("prepare", spec, {})
        teacher = phase("teacher", spec, {"training": prepared["parts"]["training"]})
        inputs = {name: prepared["parts"][name] for name in ("base", "training")} | {"teacher": teacher["manifest"]}
        yield Training(engine, s3_server, {"spec": spec, "inputs": inputs}, images["task"], folder)


def phase(name: str, spec: dict[str, Any], inputs: dict[str, str]) -> dict[str, Any]:
    """A phase's result, computed here."""
    store = Store()
    call, result = (f"{store.root}/runs/given/{kind}/{name}.json" for kind in ("calls", "results"))
    store.put_json(call, {"run": {"id": "given"}, "spec": spec, "inputs": inputs, "arguments": {}})
    return execute(name, call, result)


@pytest.fixture(scope="module")
def whole(training: Training) -> Ended:
    """A training that nothing came between."""
    ended = training("whole")
    assert ended.errors == []
    return ended


def test_a_stopped_training_goes_on_from_its_checkpoint_to_the_same_bits(training: Training, whole: Ended) -> None:
    stopped = training("stopped", stop=True)
    (error,) = stopped.errors
    assert error["exit_code"] == 75 and "a retry goes on from there" in error["sentence"], error
    first, second = stopped.said.split("the same try goes on")
    assert "checkpoints: 1" in second
    assert "finetune: 6 of 6" not in first
    assert "finetune: resuming after step" in second and "finetune: 6 of 6" in second
    assert not stopped.result["cached"] and stopped.result["manifest"] != whole.result["manifest"]
    assert stopped.weights() == whole.weights()
    assert checkpoints(stopped.run) == 0


def test_a_training_killed_for_its_memory_holds_less_of_the_same_batch(training: Training, whole: Ended) -> None:
    killed = training("killed", memory=ROOM)
    codes = [error["exit_code"] for error in killed.errors]
    assert codes and set(codes) == {76}, killed.errors
    assert "the container ran out of memory" in killed.errors[0]["sentence"]
    told = Store().get_json(f"s3://effir/{killed.run}/runs/{killed.run}/pressure/finetune.json")
    call = Store().get_json(f"s3://effir/{killed.run}/runs/{killed.run}/calls/finetune.json")
    assert told["halvings"] == call["halvings"] == len(codes)
    assert not killed.result["cached"] and killed.result["digest"] == whole.result["digest"]
    assert 0 < differ(load(whole.weights()), load(killed.weights())) < 1e-5
