import re
from collections.abc import Iterator
from typing import Any

import yaml

from .installs import Chart, containers, pick, pods

SECRET = re.compile(r"(?i)passw|secret|token|credential|private_?key|access_?key|api_?key|fernet")
NAMES = "secretKeyRef secretName secretRef secret secrets image_pull_secrets imagePullSecrets automountServiceAccountToken"
REFERENCES = set(NAMES.split())
WORD = re.compile(r"(?i)(postgres(ql)?|mysql|https?)://[^/\s@]+:[^/\s@]+@")
TASK = {"app.kubernetes.io/name": "effir", "app.kubernetes.io/instance": "effir", "app.kubernetes.io/component": "task"}
OF_A_JOB = [{"key": "batch.kubernetes.io/job-name", "operator": "Exists"}]
PROXY = {"ports": [{"port": 3128}], "to": [{"ipBlock": {"cidr": "10.1.0.1/32"}}]}
DNS = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}


def component(name: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": TASK | {"app.kubernetes.io/component": name}}}


def tcp(port: int, *peers: dict[str, Any]) -> dict[str, Any]:
    return {"ports": [{"protocol": "TCP", "port": port}], "to": list(peers)}


def test_every_pod_is_confined(install: list[dict[str, Any]]) -> None:
    for made_by, pod in pods(install):
        spec = pod["spec"]
        confined = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
        assert confined.items() <= spec["securityContext"].items(), made_by
        assert spec["automountServiceAccountToken"] is False, made_by
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), made_by
        assert not any("hostPath" in volume for volume in spec.get("volumes", [])), made_by
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }, made_by  # fmt: skip


def test_every_container_says_what_it_needs_and_may_have(install: list[dict[str, Any]]) -> None:
    for made_by, pod in pods(install):
        for container in containers(pod):
            for side in ("requests", "limits"):
                assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"][side]), f"{made_by}, {side}"


def test_every_image_is_pinned(install: list[dict[str, Any]]) -> None:
    for made_by, pod in pods(install):
        for container in containers(pod):
            assert re.search(r":(?!latest)[\w.-]*\d[\w.-]*$|@sha256:[0-9a-f]{64}$", container["image"]), f"{made_by}: {container['image']}"


def test_no_secret_is_written_down(install: list[dict[str, Any]]) -> None:
    for one in install:
        assert one["kind"] != "Secret"
        name = f"{one['kind']} {one['metadata']['name']}"
        for path, value in leaves(one | {"data": {}}):
            parts = [part for part in path if isinstance(part, str)]
            if any(SECRET.search(part) for part in parts):
                assert REFERENCES & set(parts), f"{name}: {path}"
            assert not WORD.search(str(value)), f"{name}: {path}"
        for variable in (variable for _, pod in pods([one]) for container in containers(pod) for variable in container.get("env", [])):
            assert "value" not in variable or not SECRET.search(variable["name"]), f"{name}: {variable['name']}"
        for key, text in one.get("data", {}).items():
            if key.endswith((".json", ".yaml")):
                for path, _ in leaves(yaml.safe_load(text)):
                    parts = [part for part in path if isinstance(part, str)]
                    assert not any(SECRET.search(part) for part in parts) or REFERENCES & set(parts), f"{name}: {key}: {path}"
            elif not key.endswith(".py"):
                assert not SECRET.search(key), f"{name}: {key}"
                assert not WORD.search(text), f"{name}: {key}"


def test_task_pods_reach_what_they_need_and_nothing_else(chart: Chart) -> None:
    policy = pick(chart.render(), "NetworkPolicy", "effir-task")["spec"]
    assert policy["podSelector"]["matchLabels"] == TASK
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    system = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    anywhere = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}
    assert policy["egress"] == [DNS | {"to": [system]}, tcp(443, anywhere), tcp(5000, component("mlflow"))]


def test_only_our_own_servers_are_reached_where_they_are_here(chart: Chart) -> None:
    policy = pick(chart.render(("values-local.yaml",)), "NetworkPolicy", "effir-task")["spec"]
    assert policy["egress"][1:] == [tcp(8333, component("s3")), tcp(5000, component("mlflow"))]


def test_servers_elsewhere_are_reached_on_their_ports(chart: Chart) -> None:
    values = {
        "s3": {"endpoint": "http://minio.storage:9000"},
        "mlflow": {"enabled": False, "trackingUri": "http://mlflow.example.com"},
        "networkPolicy": {"s3": [{"podSelector": {}}], "mlflow": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "hub": True, "egress": [PROXY]},
    }
    _, s3, mlflow, hub, proxy = pick(chart.render(values=values), "NetworkPolicy", "effir-task")["spec"]["egress"]
    assert proxy == PROXY
    assert s3 == tcp(9000, {"podSelector": {}})
    assert mlflow == tcp(80, {"ipBlock": {"cidr": "10.0.0.0/8"}})
    assert hub["ports"] == [{"protocol": "TCP", "port": 443}]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(hub["to"][0]["ipBlock"]["except"])


def test_only_trainings_on_several_nodes_are_let_in_and_by_each_other(install: list[dict[str, Any]]) -> None:
    several = {"matchLabels": TASK, "matchExpressions": OF_A_JOB}
    for one in install:
        if one["kind"] != "NetworkPolicy" or not one["spec"].get("ingress"):
            continue
        selector = one["spec"]["podSelector"]
        if selector["matchLabels"]["app.kubernetes.io/component"] == "task":
            assert selector == several
            assert one["spec"]["ingress"] == [{"from": [{"podSelector": several}]}]
            assert one["spec"]["egress"] == [{"to": [{"podSelector": several}]}]


def test_servers_are_reached_on_one_port_by_those_who_need_them(chart: Chart) -> None:
    manifests = chart.render(values={"s3": {"server": {"enabled": True}}})
    mlflow, s3, setup = (pick(manifests, "NetworkPolicy", f"effir-{name}")["spec"] for name in ("mlflow", "s3", "setup"))
    assert mlflow["ingress"] == [{"ports": [{"protocol": "TCP", "port": 5000}], "from": [component("task")]}]
    (into_s3,) = s3["ingress"]
    airflow = {"podSelector": {"matchLabels": {"tier": "airflow", "release": "effir"}}}
    assert into_s3 == {"ports": [{"protocol": "TCP", "port": 8333}], "from": [component("task"), component("mlflow"), airflow]}
    assert s3["egress"] == []
    assert setup["egress"][1]["to"] == [
        {"podSelector": {"matchLabels": {"tier": "airflow", "component": "api-server", "release": "effir"}}}
    ]


def test_policies_can_be_left_to_others(chart: Chart) -> None:
    assert not [one for one in chart.render(values={"networkPolicy": {"enabled": False}}) if one["kind"] == "NetworkPolicy"]


def test_mlflow_takes_calls_by_its_names_alone(chart: Chart) -> None:
    pod = pick(chart.render(values={"mlflow": {"allowedHosts": ["mlflow.example.com"]}}), "StatefulSet", "effir-mlflow")["spec"]["template"]
    hosts = {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {"effir-mlflow.ml:*", "localhost:*", "mlflow.example.com"} <= set(hosts)
    assert "*" not in hosts


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(one, (*path, key))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from leaves(one, (*path, number))
    else:
        yield path, value
