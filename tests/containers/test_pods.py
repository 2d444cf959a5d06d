"""A whole tiny run through KubernetesPodOperator, its pods real containers on the double of a cluster; and the same run as processes."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from effir.manifest import MANIFEST
from effir.services import local
from effir.services.airflow import Airflow
from effir.services.store import Store
from effir.train import examples

ROOT = Path(__file__).parents[2]
DAG = "effir_compress"
HANDED_ON = ["AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "MLFLOW_TRACKING_URI", "MLFLOW_S3_ENDPOINT_URL", "EFFIR_STORE", "NO_PROXY"]
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
MODELS = ("reference", "candidate")


@dataclass
class Outcome:
    """What a run left: its summary, the weights of both models, its tasks in Airflow, the stack's folder, its S3 keys; and its pods."""

    summary: dict[str, Any]
    weights: dict[str, bytes]
    tasks: list[dict[str, Any]]
    folder: Path
    keys: dict[str, str]
    pods: list[dict[str, Any]]

    def phases(self) -> list[str]:
        """Everything that ran a phase, as task-index."""
        ran = [task for task in self.tasks if task["operator"] in {"PodPhase", "ProcessPhase"}]
        return sorted(f"{task['task_id']} {task['map_index']}" for task in ran if task["state"] == "success")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A folder with what a run is made from, and the fields of its spec, which name it as s3:// addresses.

    Calibration text is read from files alone: pods see that one in a volume, at the path that it has here.
    """
    made = importlib.util.spec_from_file_location("tiny", ROOT / "tests" / "e2e" / "tiny.py")
    tiny = importlib.util.module_from_spec(made)
    made.loader.exec_module(tiny)
    folder = tmp_path_factory.mktemp("given")
    fields = tiny.overrides(folder, shard_documents=50)
    examples.save(examples.from_jsonl(folder / "training.jsonl"), folder / "training")
    (folder / "text").mkdir()
    (folder / "text.txt").rename(folder / "text" / "text.txt")
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    stored = {"base_model": "model", "training_data": "training", "collections": "seen"}
    fields |= {field: f"s3://effir/given/{name}" for field, name in stored.items()}
    fields["calibration_text"] = str(folder / "text" / "text.txt")
    return {"folder": folder, "stored": stored.values(), "fields": {name: value for name, value in fields.items() if value is not None}}


@contextmanager
def double(folder: Path, keys: dict[str, str]) -> Iterator[None]:
    """The double of a cluster, which has the keys of S3 as the Secret `effir-s3`, and containers on this machine's network."""
    (folder / "secrets.json").write_text(json.dumps({"effir-s3": keys}))
    files = [f"--{name}={folder / path}" for name, path in (("kubeconfig", "kubeconfig"), ("secrets", "secrets.json"), ("record", "pods"))]
    program = [sys.executable, Path(__file__).parent / "pods_api.py", "--network=host", *files]
    with (folder / "double.log").open("w") as log, subprocess.Popen(program, stdout=log, stderr=log) as process:
        try:
            while not (folder / "kubeconfig").exists():
                assert process.poll() is None, (folder / "double.log").read_text()
                time.sleep(0.1)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, (folder / "double.log").read_text()


def settings(folder: Path, image: str, text: Path) -> dict[str, Any]:
    """The Kubernetes runner's; the pod template mounts the calibration text."""
    mount = {"name": "text", "mountPath": str(text), "readOnly": True}
    spec = {"containers": [{"name": "base", "image": image, "volumeMounts": [mount]}], "restartPolicy": "Never"}
    template = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "effir"}}
    template |= {"spec": spec | {"volumes": [{"name": "text", "hostPath": {"path": str(text)}}]}}
    (folder / "pod.yaml").write_text(json.dumps(template))
    return {
        "image": image, "environment": HANDED_ON, "secrets": ["effir-s3"], "service_account": "effir-task", "namespace": "effir",
        "pod_template": str(folder / "pod.yaml"), "grace_seconds": 30,
        "resources": {"cpus": 2, "memory": "2Gi", "shm": "64Mi", "disk": "512Mi"},
    }  # fmt: skip


def outcome(home: Path, given: dict[str, Any], image: str | None = None) -> Outcome:
    """A run on an embedded stack of its own: in pods of an image, or else as processes."""
    home.mkdir()
    runner = {"EFFIR_RUNNER": "kubernetes" if image else "process", "EFFIR_RUNNER_SETTINGS": str(home / "runner.json")}
    (home / "runner.json").write_text(json.dumps(settings(home, image, given["folder"] / "text") if image else {}))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EFFIR_AIRFLOW_URL", raising=False)
        for name, value in (runner | {"EFFIR_HOME": str(home), "KUBECONFIG": str(home / "kubeconfig")}).items():
            patch.setenv(name, value)
        began = time.monotonic()
        local.up()
        try:
            known = local.client_environment()
            for name, value in known.items():
                patch.setenv(name, value)
            for name in given["stored"]:
                Store().upload(given["folder"] / name, f"s3://effir/given/{name}")
            print(f"\nthe stack was up after {time.monotonic() - began:.0f} s", file=sys.stderr)
            keys = {name: known[name] for name in KEYS}
            with double(home, keys) if image else nullcontext():
                summary = run(given["fields"])
            print(f"the run was over after {time.monotonic() - began:.0f} s", file=sys.stderr)
            results = f"s3://effir/runs/{summary['dag_run_id']}/results"
            made = {name: Store().get_json(f"{results}/finetune_{name}.json")["manifest"] for name in MODELS}
            weights = {name: Store().get_bytes(made[name].replace(MANIFEST, "model/model.safetensors")) for name in MODELS}
            airflow = Airflow(known["EFFIR_AIRFLOW_URL"], "admin", known["EFFIR_AIRFLOW_PASSWORD"])
            tasks, folder = airflow.tasks(DAG, summary["dag_run_id"]), local.folder()
        finally:
            local.down()
    pods = [json.loads(line) for line in (home / "pods").read_text().splitlines()] if image else []
    return Outcome(summary, weights, tasks, folder, keys, pods)


def run(fields: dict[str, Any]) -> dict[str, Any]:
    """The summary of a run, as a person starts it."""
    told = [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "effir.cli", "run", "--profile", "demo", "--json", *told]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True)
    assert done.returncode in {0, 3}, done.stderr[-5000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def pods(processes: Outcome, given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Outcome:
    """The run in pods. The images come last, as the other process builds them while this one runs phases as processes."""
    return outcome(tmp_path_factory.mktemp("pods") / "home", given, request.getfixturevalue("images")["task"])


@pytest.fixture(scope="module")
def processes(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The same run as processes, on a stack that knows nothing of the other."""
    return outcome(tmp_path_factory.mktemp("processes") / "home", given)


@pytest.mark.timeout(1800)
def test_pods_and_processes_come_to_the_same(processes: Outcome, pods: Outcome) -> None:
    for found in (pods, processes):
        again = sum(max(task["try_number"] - 1, 0) for task in found.tasks)
        served = [phase["name"] for phase in found.summary["phases"] if phase["cached"]]
        assert len(served) <= again, f"{served} were there before the run, which tried {again} tasks again"
    assert pods.phases() == processes.phases() and processes.pods == []
    assert pods.summary["verdict"] == processes.summary["verdict"] == "promoted"
    for name in MODELS:
        assert pods.weights[name] == processes.weights[name], f"{name} differs by {differ(pods.weights[name], processes.weights[name])}"
    assert pods.summary["metric"] == "ndcg_at_10" and pods.summary["quality"] == processes.summary["quality"]
    assert pods.summary["params"] == processes.summary["params"]


@pytest.mark.timeout(1800)
def test_every_phase_ran_in_a_pod_of_its_own_and_may_do_little(pods: Outcome, images: dict[str, str]) -> None:
    seen = []
    for one in pods.pods:
        labels = one["pod"]["metadata"]["labels"]
        seen.append(f"{labels['task_id']} {labels.get('map_index', -1)}")
        assert one["container"] == {"user": "10001:10001", "read_only": True, "image": images["task"]}, labels
        assert one["pod"]["spec"]["serviceAccountName"] == "effir-task" and not one["pod"]["spec"]["automountServiceAccountToken"]
    assert sorted(set(seen)) == pods.phases()
    assert len(seen) > 15 and {one["operator"] for one in pods.tasks if f"{one['task_id']} {one['map_index']}" in seen} == {"PodPhase"}


@pytest.mark.timeout(1800)
def test_no_secret_is_in_manifests_logs_or_xcom(pods: Outcome) -> None:
    manifests = json.dumps([one["pod"] for one in pods.pods])
    assert all(one["pod"]["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "effir-s3"}}] for one in pods.pods)
    home = pods.folder / "airflow"
    logs = "".join(path.read_text(errors="replace") for path in home.glob("logs/**/*.log"))
    database = b"".join(path.read_bytes() for path in home.glob("airflow.db*"))
    assert "prepare: " in logs and "documents" in logs and b"/artifacts/finetune/" in database
    for value in (value for name, value in pods.keys.items() if not name.endswith("USERNAME")):
        assert value not in manifests and value not in logs and value.encode() not in database


def differ(one: bytes, other: bytes) -> float:
    """The largest relative difference of a weight matrix of two models."""
    ours, theirs = load(one), load(other)
    assert ours.keys() == theirs.keys()
    return max(float(torch.linalg.norm(value - theirs[name]) / torch.linalg.norm(value)) for name, value in ours.items())
