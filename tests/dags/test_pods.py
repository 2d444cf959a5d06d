import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from .fake_kubernetes import Cluster, End, kubeconfig

VERSIONS = ("1.29", "1.33", kubernetes_validate.latest_version())
PHASES = tuple(json.loads((Path(__file__).parents[2] / "dags" / "phases.json").read_text()))
TEMPLATE = """
apiVersion: v1
kind: Pod
metadata: {name: effir-task, labels: {app.kubernetes.io/instance: ours}, annotations: {safe-to-evict: "false"}}
spec:
  priorityClassName: low
  enableServiceLinks: false
  nodeSelector: {zone: a}
  containers:
    - name: base
      image: other:1
      imagePullPolicy: Never
      volumeMounts: [{name: data, mountPath: /data, readOnly: true}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data, readOnly: true}}]
"""
SETTINGS = {
    "image": "effir-task:0.1.0", "environment": ["EFFIR_STORE", "ABSENT"], "secrets": ["effir-s3"], "namespace": "effir",
    "service_account": "effir-task", "node_selector": {"gpu": "h100"}, "image_pull_secrets": ["registry"], "grace_seconds": 90,
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "phases": {
        "slim": {"gpus": 2, "processes": 2, "memory": "32Gi", "shm": "4Gi", "disk": "50Gi", "cpus": 7.5, "image": "effir-task:0.1.0-cuda"},
        "finetune": {"gpus": 1, "nodes": 3},
    },
    "roles": {"promote": {"secrets": ["effir-promote"], "service_account": "effir-promote"}},
}  # fmt: skip
BUILD = """
import job, pod, pods, settings
from kubernetes.client import ApiClient

def built(phase):
    told = context(f"arm.{phase}", map_index=2)
    task = pod.PodPhase(task_id=f"arm.{phase}", phase=phase)
    operator = pods.pod_of(task, task.command(told))
    made = operator.build_pod_request_obj(told)
    return job.job_of(made, operator.nodes, operator.subdomain) if isinstance(operator, job.TrainingJob) else made

plain = {phase: built(phase) for phase in settings.PHASES}
os.environ["EFFIR_RUNNER_SETTINGS"] = os.environ["WITH_TEMPLATE"]
print(json.dumps(ApiClient().sanitize_for_serialization([plain, {phase: built(phase) for phase in ("gate", "finetune")}])))
"""


@pytest.fixture(scope="module")
def built(in_airflow: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """What is asked of Kubernetes for each phase, and with a template for two of them."""
    folder = tmp_path_factory.mktemp("runner")
    (folder / "pod.yaml").write_text(TEMPLATE)
    (folder / "settings.json").write_text(json.dumps(SETTINGS))
    (folder / "template.json").write_text(json.dumps(SETTINGS | {"pod_template": str(folder / "pod.yaml")}))
    (folder / "kubeconfig").write_text(kubeconfig("http://127.0.0.1:1"))
    return in_airflow(
        BUILD, EFFIR_RUNNER="kubernetes", EFFIR_RUNNER_SETTINGS=str(folder / "settings.json"), WITH_TEMPLATE=str(folder / "template.json"),
        KUBECONFIG=str(folder / "kubeconfig"), EFFIR_STORE="s3://store",
    )  # fmt: skip


@pytest.fixture(scope="module")
def asked(built: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return built[0]


def spec_of(made: dict[str, Any]) -> dict[str, Any]:
    return made["spec"]["template"]["spec"] if made["kind"] == "Job" else made["spec"]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_what_each_phase_gets(asked: dict[str, dict[str, Any]], version: str) -> None:
    assert set(asked) == set(PHASES)
    for made in asked.values():
        assert made["kind"] == ("Job" if made is asked["finetune"] else "Pod")
        kubernetes_validate.validate(made, version, strict=True)
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": spec_of(made)}, version, strict=True)


def test_every_pod_is_confined(asked: dict[str, dict[str, Any]]) -> None:
    for made in asked.values():
        spec = spec_of(made)
        assert spec["securityContext"] == {
            "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "runAsNonRoot": True, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert spec["automountServiceAccountToken"] is False
        assert spec["hostNetwork"] is False
        assert spec["restartPolicy"] == "Never"
        assert spec["terminationGracePeriodSeconds"] == 90


def test_a_phase_on_gpus(asked: dict[str, dict[str, Any]]) -> None:
    spec = asked["slim"]["spec"]
    (container,) = spec["containers"]
    limits = {"cpu": "7.5", "memory": "32Gi", "ephemeral-storage": "50Gi", "nvidia.com/gpu": "2"}
    assert container["resources"] == {"requests": limits, "limits": limits}
    assert container["image"] == "effir-task:0.1.0-cuda"
    assert spec["nodeSelector"] == SETTINGS["node_selector"]
    assert spec["tolerations"] == SETTINGS["tolerations"]
    assert {one["name"]: one["emptyDir"] for one in spec["volumes"]} == {
        "tmp": {"sizeLimit": "50Gi"}, "shm": {"medium": "Memory", "sizeLimit": "4Gi"},
    }  # fmt: skip
    assert {one["name"]: one["mountPath"] for one in container["volumeMounts"]} == {"tmp": "/tmp", "shm": "/dev/shm"}
    result = "s3://store/runs/manual__2026-10-01T00:00:00+00:00/results/arm.slim-2.json"
    assert container["args"][4:] == ["--result", result, "--processes", "2"]


def test_a_phase_without(asked: dict[str, dict[str, Any]]) -> None:
    spec = asked["gate"]["spec"]
    (container,) = spec["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert not spec.get("nodeSelector") and not spec.get("tolerations")
    assert container["env"] == [{"name": "EFFIR_STORE", "value": "s3://store"}]
    assert container["envFrom"] == [{"secretRef": {"name": "effir-s3"}}]
    assert (spec["serviceAccountName"], spec["imagePullSecrets"]) == ("effir-task", [{"name": "registry"}])


def test_another_roles_secret_is_named_in_no_pod(asked: dict[str, dict[str, Any]]) -> None:
    for phase, made in asked.items():
        spec = spec_of(made)
        named = [one["secretRef"]["name"] for one in spec["containers"][0]["envFrom"]]
        assert (named, spec["serviceAccountName"]) == (
            (["effir-s3", "effir-promote"], "effir-promote") if phase in {"promote", "rollback"} else (["effir-s3"], "effir-task")
        ), phase


def test_labels_tell_the_execution(asked: dict[str, dict[str, Any]]) -> None:
    labels = asked["gate"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "effir" and labels["app.kubernetes.io/component"] == "task"
    assert (labels["effir/phase"], labels["task_id"], labels["map_index"], labels["try_number"]) == ("gate", "arm.gate", "2", "1")
    assert labels["run_id"].startswith("manual__2026-10-01T0000000000")
    assert asked["gate"]["metadata"]["namespace"] == "effir"
    assert asked["gate"]["metadata"]["name"].startswith("effir-arm-gate-")


def test_a_template_is_filled_in(built: list[dict[str, dict[str, Any]]]) -> None:
    for made in built[1].values():
        spec = spec_of(made)
        (container,) = spec["containers"]
        assert (spec["priorityClassName"], spec["enableServiceLinks"]) == ("low", False)
        assert (container["image"], container["imagePullPolicy"]) == ("effir-task:0.1.0", "Never")
        assert [one["mountPath"] for one in container["volumeMounts"]] == ["/data", "/tmp", "/dev/shm"]
        assert spec["nodeSelector"] == ({"zone": "a"} if made["kind"] == "Pod" else {"gpu": "h100"})
        assert made["metadata"]["labels"]["app.kubernetes.io/instance"] == "ours"
        assert spec["securityContext"]["runAsUser"] == 10001
        kubernetes_validate.validate(made, VERSIONS[-1], strict=True)


CASES = {
    "done": (End(), [0, ""]),
    "bad input": (End(2, log="loading\neffir: k is 40, and there are 30 layers\n"), [2, "k is 40, and there are 30 layers"]),
    "failed": (End(1, log="Traceback\nValueError: w\u00f6rong\n"), [1, "ValueError: w\u00f6rong"]),
    "said nothing": (End(1), [1, "exit code 1, and no output"]),
    "stopped": (End(75, log="effir: stopped\n"), [75, "stopped"]),
    "memory": (End(137, reason="OOMKilled"), [76, "the container ran out of memory"]),
    "memory, said by the phase": (End(76, log="effir: no room\n"), [76, "no room"]),
    "killed": (End(137), [75, "the container was killed (137)"]),
    "evicted": (
        End(137, evicted="The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi."),
        [75, "the pod is lost: Evicted, The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi."],
    ),
    "too much disk": (
        End(137, evicted="Pod ephemeral local storage usage exceeds the total limit of containers 20Gi."),
        [1, "the pod is lost: Evicted, Pod ephemeral local storage usage exceeds the total limit of containers 20Gi."],
    ),
    "gone": (End(gone=True), [75, "the pod is gone"]),
    "no such image": (
        End(waiting="couldn't parse image"),
        [1, "the pod was given up: Image cannot be pulled, unable to start: InvalidImageName couldn't parse image couldn't parse image"],
    ),
    "refused": (
        End(refused="pods is forbidden: exceeded quota"), [1, "Kubernetes answered 403 Forbidden: pods is forbidden: exceeded quota"],
    ),
}  # fmt: skip
SCRIPT = """
found = {case: follow() for case in json.loads(os.environ["CASES"])}

told = context("depth")
task = pod.PodPhase(task_id="depth", phase="depth")
try:
    task.launch(task.command(told), told)
except TaskDeferred:
    told["ti"].try_number = 2
found["lost"] = follow("depth", told)

told = context("depth")
try:
    task.launch(task.command(told), told)
except TaskDeferred as deferred:
    found["deferred"] = deferred.trigger.serialize()[1]
    found["deferred"].pop("trigger_start_time")
task.on_kill()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def ended(in_cluster: Callable[..., Any]) -> tuple[dict[str, Any], Cluster]:
    """How pods ended, and what was asked of the fake."""
    ends = [*(end for end, _ in CASES.values()), End(75, log="effir: found again\n")]
    return in_cluster(SCRIPT, SETTINGS, ends, CASES=json.dumps(list(CASES)))


@pytest.mark.parametrize("case", CASES)
def test_how_a_pod_ended(ended: tuple[dict[str, Any], Cluster], case: str) -> None:
    assert ended[0][case] == CASES[case][1]


def test_a_lost_execution_leaves_its_pod_to_the_next_try(ended: tuple[dict[str, Any], Cluster]) -> None:
    assert ended[0]["lost"] == [75, "found again"]
    assert len(ended[1].made) == len(CASES) + 1, "one for each case but the refused one, one that was lost and found, one that was killed"


def test_a_killed_task_deletes_its_pod(ended: tuple[dict[str, Any], Cluster]) -> None:
    told = ended[0]["deferred"]
    assert (told["termination_grace_period"], told["on_kill_action"], told["logging_interval"]) == (90, "delete_pod", 60)
    assert ended[1].deleted[-1] == told["pod_name"] == ended[1].made[-1]["metadata"]["name"]


def test_pods_are_deleted(ended: tuple[dict[str, Any], Cluster]) -> None:
    assert ended[1].pods == {}
