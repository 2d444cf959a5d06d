"""The ways in which the tests install the chart, and what helps to read the manifests."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "helm" / "effir"
VALUE_FILES = ("values.yaml", *sorted(path.name for path in SOURCE.glob("values-*.yaml")))
NAMESPACE = "ml"
EVERYTHING: dict[str, Any] = {
    "images": {"registry": "registry.example.com/team/", "pullSecrets": ["registry"]},
    "runner": {
        "secrets": ["hub"], "phases": {"finetune": {"gpus": 8, "processes": 8, "nodes": 2, "memory": "256Gi"}},
        "roles": {"promote": {"secrets": ["effir-promote"], "service_account": "promoter"}},
    },
    "environment": {"HTTPS_PROXY": "http://proxy.example.com:3128"},
    "task": {
        "labels": {"team": "search"}, "annotations": {"owner": "search"}, "priorityClassName": "phases",
        "data": {"existingClaim": "collections", "mountPath": "/data"},
    },
    "deployments": [
        {"name": "nightly", "profile": "demo", "cron": "0 3 * * *", "deadline_hours": 6},
        {"name": "on_data", "profile": "demo", "assets": ["effir/training-data"], "overrides": {"lora_rank": 8}},
    ],
    "airflowUrl": "https://airflow.example.com",
    "s3": {"server": {"enabled": True, "storageClassName": "fast"}},
    "mlflow": {"upgradeDatabase": True, "usersSecret": "effir-mlflow-users", "allowedHosts": ["mlflow.example.com"]},
    "setup": {"connections": ["effir-connections"], "pools": [{"name": "compute", "slots": 16}]},
    "launchers": [{"name": "someone", "namespace": "elsewhere"}],
    "airflowNamespace": "airflow",
    "networkPolicy": {
        "hub": True, "s3Clients": [{"namespaceSelector": {}}],
        "mlflowClients": [{"podSelector": {"matchLabels": {"app": "ingress"}}}],
    },
    "serviceAccounts": {"task": {"annotations": {"role": "task"}}, "services": {"annotations": {"role": "services"}}},
    "priorityClass": {"create": True},
    "resourceQuota": {"requests.nvidia.com/gpu": "8", "pods": 100},
}  # fmt: skip
ELSEWHERE: dict[str, Any] = {
    "airflow": {"enabled": False},
    "mlflow": {"enabled": False, "trackingUri": "https://mlflow.example.com:8443"},
    "s3": {"endpoint": "https://s3.example.com", "existingSecret": ""},
    "setup": {"enabled": False},
    "networkPolicy": {"mlflow": [{"ipBlock": {"cidr": "10.9.0.0/16"}}], "s3": [{"ipBlock": {"cidr": "10.8.0.0/16"}}]},
}
INSTALLS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    **{name: ((name,), {}) for name in VALUE_FILES},
    "values-existing-airflow.yaml and values-gpu.yaml": (("values-existing-airflow.yaml", "values-gpu.yaml"), {}),
    "everything": ((), EVERYTHING),
    "all of it elsewhere": ((), ELSEWHERE),
}
WITH_PODS = {"StatefulSet", "Deployment", "Job"}


@dataclass
class Chart:
    """helm and the chart."""

    helm: Path
    folder: Path
    rendered: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def run(self, *command: str, files: tuple[str, ...] = (), values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """Run helm with these value files, and with these values on top."""
        given = [part for name in files for part in ("--values", str(self.folder / name))]
        own = ["--values", "-"] if values else []
        return subprocess.run(
            [str(self.helm), *command, *given, *own],
            input=json.dumps(values) if values else None,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def render(self, files: tuple[str, ...] = (), values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """The manifests of an install."""
        key = json.dumps([files, values])
        if key not in self.rendered:
            ended = self.run("template", "effir", str(self.folder), "--namespace", NAMESPACE, files=files, values=values)
            assert ended.returncode == 0, ended.stderr
            self.rendered[key] = [one for one in yaml.load_all(ended.stdout, Loader=yaml.CSafeLoader) if one]
        return self.rendered[key]

    def refusal(self, values: dict[str, Any]) -> str:
        """What helm says against these values."""
        ended = self.run("template", "effir", str(self.folder), "--namespace", NAMESPACE, values=values)
        assert ended.returncode != 0, "helm took them"
        return ended.stderr


def pick(manifests: list[dict[str, Any]], kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
    """The manifest of a kind and name."""
    found = [
        one for one in manifests
        if (one["kind"], one["metadata"]["name"]) == (kind, name) and namespace in (None, one["metadata"].get("namespace"))
    ]  # fmt: skip
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what makes it, pod with its metadata) of every pod; the template of task pods is one of them."""
    for one in manifests:
        if one["kind"] in WITH_PODS:
            yield f"{one['kind']} {one['metadata']['name']}", one["spec"]["template"]
        elif "pod.yaml" in one.get("data", {}):
            yield "pod template", yaml.safe_load(one["data"]["pod.yaml"])


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Every container of a pod, those that run first included."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
