"""The test double for a cluster, asked by Kubernetes' own client and by Airflow's operator, on a real engine."""

import asyncio
import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

IMAGE = "python:3.11-slim-bookworm"
SPACE = "effir"
EATS = "import time; kept = []\nwhile True: kept.append(bytearray(4 << 20)); time.sleep(0.01)"
STOPS = """
import signal, sys, time
def stop(*_):
    print("effir: stopped", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""
TELLS = """
import json, os, resource
def writes(place):
    try:
        open(place + "/x", "w").close()
        return True
    except OSError as error:
        return error.strerror
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({
    "uid": os.getuid(), "root": writes("/"), "tmp": writes("/tmp"), "capabilities": status["CapBnd"], "privileges": status["NoNewPrivs"],
    "variables": {name: os.environ.get(name) for name in ("PLAIN", "NAME", "AWS_ACCESS_KEY_ID", "ONE")},
    "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize, "cores": os.cpu_count(),
}))
"""


@pytest.fixture(scope="module")
def kubeconfig(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The double as a program of its own; the file that clients find it by. It leaves no container behind."""
    folder = tmp_path_factory.mktemp("pods")
    (folder / "secrets.json").write_text(json.dumps({"effir-s3": {"AWS_ACCESS_KEY_ID": "key", "OTHER": "other"}}))
    program = Path(__file__).parent / "pods_api.py"
    command = [sys.executable, program, "--kubeconfig", folder / "config", "--secrets", folder / "secrets.json"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        deadline = time.monotonic() + 60
        while not (folder / "config").exists():
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield folder / "config"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (folder / "log").read_text()
    assert not engine("ps", "-aq", "--filter", f"label=effir.pods-api={process.pid}").stdout
    assert "Traceback" not in (folder / "log").read_text()


@pytest.fixture
def core(kubeconfig: Path) -> client.CoreV1Api:
    """Kubernetes' client, spoken to the double."""
    return client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))


def manifest(code: str, **more: Any) -> dict[str, Any]:
    """A pod that runs Python code."""
    base = {"name": "base", "image": IMAGE, "command": ["python", "-c"], "args": [code]} | more.pop("container", {})
    metadata = {"name": f"pod-{uuid.uuid4().hex[:8]}", "labels": {"task_id": "encode", "map_index": "3"}}
    return {"metadata": metadata, "spec": {"restartPolicy": "Never", "containers": [base], **more}}


def ended(core: client.CoreV1Api, pod: Any, eventually: Callable[..., Any]) -> Any:
    """A pod once it is over."""
    name = pod.metadata.name
    over = {"Succeeded", "Failed"}
    return eventually(lambda: (found := core.read_namespaced_pod(name, SPACE)).status.phase in over and found, 60)


def made(core: client.CoreV1Api, body: dict[str, Any]) -> Any:
    return core.create_namespaced_pod(SPACE, body)


def log(core: client.CoreV1Api, pod: Any, **how: Any) -> str:
    return core.read_namespaced_pod_log(pod.metadata.name, SPACE, _preload_content=False, **how).data.decode()


def test_a_pod_that_ends_well_and_what_it_said(core: client.CoreV1Api, eventually: Callable[..., Any]) -> None:
    pod = made(core, manifest("print('one'); print('two')"))
    assert pod.status.phase == "Pending"
    done = ended(core, pod, eventually)
    (told,) = done.status.container_statuses
    assert (done.status.phase, told.state.terminated.exit_code, told.state.terminated.reason) == ("Succeeded", 0, "Completed")
    assert told.state.terminated.started_at <= told.state.terminated.finished_at
    assert log(core, pod) == "one\ntwo\n"
    assert log(core, pod, tail_lines=1, timestamps=True).split(" ", 1)[1] == "two\n"
    reasons = [event.reason for event in core.list_namespaced_event(SPACE, field_selector=f"involvedObject.name={pod.metadata.name}").items]
    assert reasons == ["Created", "Started"]


def test_a_pod_that_refuses_its_input(core: client.CoreV1Api, eventually: Callable[..., Any]) -> None:
    done = ended(core, made(core, manifest("print('effir: k is 40'); raise SystemExit(2)")), eventually)
    ending = done.status.container_statuses[0].state.terminated
    assert (done.status.phase, ending.exit_code, ending.reason) == ("Failed", 2, "Error")


def test_a_pod_that_takes_too_much_memory(core: client.CoreV1Api, eventually: Callable[..., Any]) -> None:
    done = ended(core, made(core, manifest(EATS, container={"resources": {"limits": {"memory": "64Mi", "cpu": "500m"}}})), eventually)
    ending = done.status.container_statuses[0].state.terminated
    assert (done.status.phase, ending.exit_code, ending.reason) == ("Failed", 137, "OOMKilled")


def test_a_pod_is_confined_and_knows_what_it_was_told(core: client.CoreV1Api, eventually: Callable[..., Any]) -> None:
    container = {
        "env": [
            {"name": "PLAIN", "value": "yes"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "ONE", "valueFrom": {"secretKeyRef": {"name": "effir-s3", "key": "OTHER"}}},
        ],
        "envFrom": [{"secretRef": {"name": "effir-s3"}}],
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}],
    }
    volumes = [{"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}}, {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}}]
    context = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}
    pod = made(core, manifest(TELLS, container=container, volumes=volumes, securityContext=context))
    ended(core, pod, eventually)
    told = json.loads(log(core, pod))
    assert (told["uid"], told["root"], told["tmp"], told["shm"]) == (10001, "Read-only file system", True, 8 << 20)
    assert (int(told["capabilities"], 16), told["privileges"]) == (0, "1")
    assert told["variables"] == {"PLAIN": "yes", "NAME": pod.metadata.name, "AWS_ACCESS_KEY_ID": "key", "ONE": "other"}


def test_a_deleted_pod_is_asked_to_stop_and_is_gone(core: client.CoreV1Api, eventually: Callable[..., Any]) -> None:
    pod = made(core, manifest(STOPS))
    name = pod.metadata.name
    stream = eventually(lambda: core.read_namespaced_pod_log(name, SPACE, follow=True, _preload_content=False), 60)
    lines = (line for chunk in stream.stream() for line in chunk.decode().splitlines())
    assert next(lines) == "ready"
    assert core.delete_namespaced_pod(name, SPACE, grace_period_seconds=20).metadata.deletion_timestamp
    assert list(lines) == ["effir: stopped"]
    assert eventually(lambda: name not in {one.metadata.name for one in core.list_namespaced_pod(SPACE).items}, 30)
    with pytest.raises(ApiException) as gone:
        core.read_namespaced_pod(name, SPACE)
    assert gone.value.status == 404


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"container": {"image": "effir/absent:1"}}, "ErrImageNeverPull"),
        ({"container": {"envFrom": [{"secretRef": {"name": "absent"}}]}}, "CreateContainerConfigError"),
        ({"securityContext": {"runAsNonRoot": True, "runAsUser": 0}}, "CreateContainerConfigError"),
    ],
)
def test_a_pod_that_cannot_start_waits_and_says_why(
    core: client.CoreV1Api, eventually: Callable[..., Any], more: dict[str, Any], reason: str
) -> None:
    pod = made(core, manifest("", **more))
    look = lambda: core.read_namespaced_pod(pod.metadata.name, SPACE).status.container_statuses[0].state.waiting  # noqa: E731
    assert eventually(lambda: (told := look()).reason == reason and told.message, 30)


@pytest.mark.parametrize("more", [{"restartPolicy": "Always"}, {"initContainers": [{}]}, {"volumes": [{"name": "x", "configMap": {}}]}])
def test_what_the_double_cannot_do_is_refused(core: client.CoreV1Api, more: dict[str, Any]) -> None:
    with pytest.raises(ApiException) as refused:
        made(core, manifest("", **more))
    assert refused.value.status == 422
    assert "double" in json.loads(refused.value.body)["message"]


def test_pods_are_found_by_their_labels(core: client.CoreV1Api) -> None:
    pod = made(core, manifest("", container={"image": "effir/absent:1"}))
    name = pod.metadata.name
    core.patch_namespaced_pod(name, SPACE, {"metadata": {"labels": {"already_checked": "True", "run": name}}})
    for selector, there in (
        (f"run={name}", True), (f"run={name},already_checked!=True", False), (f"run={name},!airflow-worker", True),
        (f"run={name},!already_checked", False), (f"run={name},task_id", True), (f"run!={name}", False), (f"run={name},map_index=4", False),
    ):  # fmt: skip
        found = {one.metadata.name for one in core.list_namespaced_pod(SPACE, label_selector=selector).items}
        assert (name in found) is there, selector
    assert core.list_namespaced_pod("other").items == []


def test_nobody_gets_in_without_the_token(kubeconfig: Path) -> None:
    told = json.loads(kubeconfig.read_text())
    assert kubeconfig.stat().st_mode & 0o077 == 0
    told["users"][0]["user"]["token"] = "wrong"
    with pytest.raises(ApiException) as refused:
        client.CoreV1Api(config.new_client_from_config_dict(told)).list_namespaced_pod(SPACE)
    assert refused.value.status == 401


def test_the_pods_of_a_job_fall_together(kubeconfig: Path, core: client.CoreV1Api, eventually: Callable[..., Any]) -> None:
    batch = client.BatchV1Api(config.new_client_from_config(str(kubeconfig)))
    name = f"job-{uuid.uuid4().hex[:8]}"
    code = "import os, sys, time; sys.exit(3) if os.environ['JOB_COMPLETION_INDEX'] == '1' else time.sleep(60)"
    spec = manifest(code, subdomain="effir-training", terminationGracePeriodSeconds=1)["spec"]
    told = {"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": 0, "template": {"spec": spec}}
    batch.create_namespaced_job(SPACE, {"metadata": {"name": name}, "spec": told})
    job = eventually(lambda: (found := batch.read_namespaced_job(name, SPACE)).status.conditions and found, 60)
    assert (job.status.failed, job.status.conditions[0].type) == (1, "Failed")
    left = lambda: core.list_namespaced_pod(SPACE, label_selector=f"job-name={name}").items  # noqa: E731
    (failed,) = eventually(lambda: len(found := left()) == 1 and found, 30)
    assert failed.metadata.annotations["batch.kubernetes.io/job-completion-index"] == "1"
    batch.delete_namespaced_job(name, SPACE, propagation_policy="Background")
    assert eventually(lambda: not left(), 30)


class Instance:
    """A task instance, as far as the operator asks."""

    dag_id, task_id, map_index, try_number = "effir_compress", "encode", 3, 1

    def xcom_push(self, key: str, value: Any) -> None:
        pass


@pytest.fixture
def operator(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Airflow's operator, unchanged, for a pod that runs Python code."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", "kubernetes://")
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    def make(code: str, **settings: Any) -> Any:
        where = {"config_file": str(kubeconfig), "in_cluster": False, "namespace": SPACE, "image": IMAGE}
        told = {"cmds": ["python", "-c"], "arguments": [code], "do_xcom_push": False, "startup_check_interval_seconds": 1}
        return KubernetesPodOperator(task_id="encode", name="encode", **where, **told, **settings)

    return make


def context() -> dict[str, Any]:
    return {"ti": Instance(), "run_id": f"run-{uuid.uuid4().hex[:8]}", "dag": object(), "task_state_store": None}


def test_airflows_operator_follows_a_pod_and_deletes_it(operator: Any, core: client.CoreV1Api, capsys: Any, eventually: Any) -> None:
    task = operator("import time; print('one', flush=True); time.sleep(2); print('two')")
    task.execute(context())
    said = capsys.readouterr().out
    assert said.index("[base] one") < said.index("[base] two")
    name = task.pod.metadata.name
    assert eventually(lambda: name not in {one.metadata.name for one in core.list_namespaced_pod(SPACE).items}, 30)


def test_airflows_triggerer_waits_for_a_pod_that_fails(operator: Any, capsys: Any) -> None:
    from airflow.sdk.exceptions import AirflowException, TaskDeferred

    task, told = operator("import time; time.sleep(2); print('effir: k is 40'); raise SystemExit(2)", deferrable=True), context()
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(told)

    async def follow() -> dict[str, Any]:
        return (await anext(deferred.value.trigger.run())).payload

    event = asyncio.run(follow())
    assert event["status"] == "failed"
    with pytest.raises(AirflowException):
        task.trigger_reentry(told, event)
    assert "effir: k is 40" in capsys.readouterr().out
