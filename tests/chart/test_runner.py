"""What the chart tells the runner, given to the runner itself: dags/settings.py, dags/pods.py and Airflow's own operator."""

import importlib.util
import json
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import kubernetes_validate
import pytest
import yaml

from .installs import EVERYTHING, INSTALLS, NAMESPACE, ROOT, Chart, containers, pick

DAGS = ROOT / "dags"
BUILD = """
import json, os, sys
from types import SimpleNamespace
sys.path.insert(0, sys.argv[1])
from kubernetes.client import ApiClient
from job import TrainingJob, job_of
from pods import pod_of

made = {}
for name in ("begin", "finetune"):
    operator = pod_of(SimpleNamespace(task_id=name, phase=name, execution_timeout=None), ["phase", name, "--spec", "s3://x", "--result", "s3://y"])
    pod = operator.build_pod_request_obj(dry_run=True)
    several = isinstance(operator, TrainingJob)
    made[name] = ApiClient().sanitize_for_serialization(job_of(pod, operator.nodes, operator.subdomain) if several else pod)
print(json.dumps(made))
"""


@pytest.fixture(scope="module")
def settings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("settings_of_dags", DAGS / "settings.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def told(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return json.loads(pick(manifests, "ConfigMap", "effir-runner", NAMESPACE)["data"]["runner.json"])


def environment(manifests: list[dict[str, Any]]) -> dict[str, str]:
    return pick(manifests, "ConfigMap", "effir-environment", NAMESPACE)["data"]


def test_dags_take_the_settings(install: list[dict[str, Any]], settings: ModuleType) -> None:
    read = settings.parse(told(install), "runner.json", "kubernetes")
    assert read.namespace == NAMESPACE
    pick(install, "ServiceAccount", read.service_account)
    pick(install, "Service", read.training_service)
    assert set(read.environment) <= set(environment(install))
    assert {"EFFIR_STORE", "MLFLOW_TRACKING_URI", "AWS_DEFAULT_REGION"} <= set(read.environment)
    assert not {"EFFIR_AIRFLOW_URL", "EFFIR_DEPLOYMENTS"} & set(read.environment), "tasks have no use for what is Airflow's"


def test_settings_lie_where_airflow_is_told_to_look(chart: Chart) -> None:
    airflow = yaml.safe_load((chart.folder / "values.yaml").read_text())["airflow"]
    (mount,) = (one for one in airflow["volumeMounts"] if one["name"] == "effir")
    (volume,) = (one for one in airflow["volumes"] if one["name"] == "effir")
    variables = {one["name"]: one["value"] for one in airflow["env"]}
    listed = {"indexes": [{"name": "demo", "collections": "semanlink"}]}
    manifests = chart.render(values=listed | {"deployments": [{"name": "nightly", "profile": "demo", "cron": "@daily"}]})
    files = {f"{mount['mountPath']}/{name}" for name in pick(manifests, "ConfigMap", volume["configMap"]["name"])["data"]}
    named = {environment(manifests)[name] for name in ("EFFIR_DEPLOYMENTS", "EFFIR_INDEXES")}
    assert {variables["EFFIR_RUNNER_SETTINGS"], told(manifests)["pod_template"]} | named == files
    assert variables["EFFIR_RUNNER"] == "kubernetes"
    pick(manifests, "ConfigMap", yaml.safe_load(airflow["extraEnvFrom"])[0]["configMapRef"]["name"])


def test_phases_with_gpus_run_in_the_image_for_them(chart: Chart, settings: ModuleType) -> None:
    read = settings.parse(told(chart.render(("values-gpu.yaml",))), "runner.json", "kubernetes")
    for phase in settings.PHASES:
        wanted = read.of(phase)
        assert wanted.image == ("effir-task:0.1.0-cuda" if wanted.resources.gpus else "effir-task:0.1.0"), phase
        assert bool(wanted.node_selector) == bool(wanted.resources.gpus)
    assert read.of("finetune").resources.gpus == read.of("finetune").resources.processes == 4
    everywhere = {"runner": {"resources": {"gpus": 1}, "phases": {"begin": {"gpus": 0, "processes": 2, "image": "small:1.0"}}}}
    read = settings.parse(told(chart.render(values=everywhere)), "runner.json", "kubernetes")
    assert (read.of("encode").image, read.of("begin").image) == ("effir-task:0.1.0-cuda", "small:1.0")


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({}, "effir-task:0.1.0"),
        ({"registry": "r.example.com/team/"}, "r.example.com/team/effir-task:0.1.0"),
        ({"task": {"repository": "other", "tag": "9"}}, "other:9"),
        ({"task": {"tag": "9", "digest": f"sha256:{'0' * 64}"}}, f"effir-task@sha256:{'0' * 64}"),
    ],
)
def test_images_can_be_named(chart: Chart, values: dict[str, Any], image: str) -> None:
    assert told(chart.render(values={"images": values}))["image"] == image


def test_s3_keys_reach_every_phase_by_the_name_of_their_secret(chart: Chart) -> None:
    assert told(chart.render(values={"runner": {"secrets": ["hub"]}}))["secrets"] == ["effir-s3", "hub"]
    assert told(chart.render(values={"s3": {"existingSecret": ""}}))["secrets"] == []


def test_a_role_is_let_in_with_its_own_secret_and_the_others_with_the_one_for_all(chart: Chart, settings: ModuleType) -> None:
    own = {"promote": {"secrets": ["effir-promote"], "service_account": "promoter"}}
    read = settings.parse(told(chart.render(values={"runner": {"secrets": ["hub"], "roles": own}})), "runner.json", "kubernetes")
    for phase in settings.PHASES:
        promotes = phase in {"promote", "rollback"}
        secrets = ("hub", "effir-promote" if promotes else "effir-s3")
        account = "promoter" if promotes else "effir-task"
        assert read.access_of(phase) == settings.Access(secrets, (), account), phase


def test_airflow_and_mlflow_may_have_keys_of_their_own(chart: Chart) -> None:
    def named(manifests: list[dict[str, Any]]) -> list[str]:
        pods = [pick(manifests, *one)["spec"]["template"] for one in (("Job", "effir-setup"), ("StatefulSet", "effir-mlflow"))]
        return [one["secretRef"]["name"] for pod in pods for container in containers(pod) for one in container.get("envFrom", [])]

    assert set(named(chart.render())) == {"effir-s3"}
    assert set(named(chart.render(values={"s3": {"launchSecret": "launch", "trackingSecret": "tracking"}}))) == {"launch", "tracking"}


def test_mlflow_asks_for_logins_where_it_has_users(chart: Chart) -> None:
    users = {"mlflow": {"usersSecret": "effir-mlflow-users"}, "runner": {"secrets": ["effir-mlflow-login"]}}
    (server,) = containers(pick(chart.render(values=users), "StatefulSet", "effir-mlflow")["spec"]["template"])
    assert server["command"][:4] == ["python", "-m", "mlflow_access", "/run/effir/users.json"]
    (open_server,) = containers(pick(chart.render(), "StatefulSet", "effir-mlflow")["spec"]["template"])
    assert open_server["command"][:2] == ["mlflow", "server"]
    assert server["command"][4:] == open_server["command"][2:]
    users["runner"] = {"roles": {"promote": {"secrets": ["effir-promote"]}}}
    assert "phases of the role compute have none: name a Secret with MLFLOW_TRACKING_USERNAME" in chart.refusal(users)


@pytest.fixture(scope="module")
def built(chart: Chart, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the runner asks of Kubernetes with the chart's template, on one node and on two."""
    folder = tmp_path_factory.mktemp("etc")
    manifests = chart.render(*INSTALLS["everything"])
    data = pick(manifests, "ConfigMap", "effir-runner", NAMESPACE)["data"]
    (folder / "pod.yaml").write_text(data["pod.yaml"])
    (folder / "runner.json").write_text(data["runner.json"].replace("/etc/effir/", f"{folder}/"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "EFFIR"))}
    mine = {"AIRFLOW_HOME": str(folder), "EFFIR_RUNNER": "kubernetes", "EFFIR_RUNNER_SETTINGS": str(folder / "runner.json")}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(DAGS)], env=kept | environment(manifests) | mine, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def pods_of(built: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    job = built["finetune"]["spec"]["template"]
    return [built["begin"], {"apiVersion": "v1", "kind": "Pod", "metadata": job["metadata"] | {"name": "x"}, "spec": job["spec"]}]


def test_what_the_runner_adds_to_the_template_is_valid(built: dict[str, dict[str, Any]]) -> None:
    assert built["finetune"]["kind"] == "Job", "two nodes"
    for version in ("1.29", kubernetes_validate.latest_version()):
        for one in (*built.values(), *pods_of(built)):
            kubernetes_validate.validate(one, version, strict=True)


def test_template_and_runner_do_not_get_in_each_others_way(built: dict[str, dict[str, Any]]) -> None:
    for pod in pods_of(built):
        (container,) = containers(pod)
        for names in (
            [one["name"] for one in pod["spec"]["volumes"]],
            [one["mountPath"] for one in container["volumeMounts"]],
            [one["name"] for one in container["env"]],
            [one["name"] for one in pod["spec"]["imagePullSecrets"]],
        ):
            assert len(names) == len(set(names)), names
        assert {"/tmp", "/dev/shm", "/data"} == {one["mountPath"] for one in container["volumeMounts"]}


def test_what_the_template_says_is_still_there(built: dict[str, dict[str, Any]]) -> None:
    for pod in pods_of(built):
        assert pod["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        assert EVERYTHING["task"]["labels"].items() <= pod["metadata"]["labels"].items()
        assert pod["spec"]["priorityClassName"] == "phases"
        assert pod["spec"]["enableServiceLinks"] is False
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsUser"] == 10001
        assert containers(pod)[0]["securityContext"]["readOnlyRootFilesystem"] is True
        assert containers(pod)[0]["image"].startswith("registry.example.com/team/effir-task:0.1.0")


def test_policies_and_names_hold_for_the_pods_that_are_made(chart: Chart, built: dict[str, dict[str, Any]]) -> None:
    manifests = chart.render(*INSTALLS["everything"])
    policies = [one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"]
    alone, several = pods_of(built)
    several["metadata"]["labels"]["batch.kubernetes.io/job-name"] = "what Kubernetes adds"
    assert len([one for one in policies if selects(one["podSelector"], alone)]) == 1
    assert len([one for one in policies if selects(one["podSelector"], several)]) == 2
    service = pick(manifests, "Service", "effir-training")
    assert service["spec"]["selector"].items() <= several["metadata"]["labels"].items()
    assert several["spec"]["subdomain"] == "effir-training"
    (meeting,) = (one for one in containers(several)[0]["args"] if f".effir-training.{NAMESPACE}:" in one)
    assert int(meeting.rpartition(":")[2]) == service["spec"]["ports"][0]["port"]


def selects(selector: dict[str, Any], pod: dict[str, Any]) -> bool:
    labels = pod["metadata"]["labels"]
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "Exists" for one in expressions)
    return selector["matchLabels"].items() <= labels.items() and all(one["key"] in labels for one in expressions)


def test_dags_would_notice_a_wrong_key(settings: ModuleType, chart: Chart) -> None:
    wrong = told(chart.render()) | {"service_acount": "x"}
    with pytest.raises(ValueError, match="service_acount"):
        settings.parse(wrong, "runner.json", "kubernetes")
