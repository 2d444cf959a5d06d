import functools
import json
from typing import Any

import kubernetes_validate
import pytest
from kubernetes_validate import utils

from .installs import ELSEWHERE, INSTALLS, NAMESPACE, Chart, containers, pick, pods

VERSIONS = sorted({version for version in utils.all_versions() if tuple(map(int, version.split(".")))[:2] >= (1, 29)})
ROLES = {"effir-task", "effir-services"}


@pytest.fixture(autouse=True, scope="module")
def _schemas_are_read_once() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


@pytest.mark.parametrize("name", INSTALLS)
def test_lint_has_nothing_to_say(chart: Chart, name: str) -> None:
    files, values = INSTALLS[name]
    ended = chart.run("lint", "--strict", str(chart.folder), files=tuple(one for one in files if one != "values.yaml"), values=values)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "WARNING" not in ended.stdout
    assert "1 chart(s) linted, 0 chart(s) failed" in ended.stdout


def test_every_manifest_is_valid_in_every_version_of_kubernetes(install: list[dict[str, Any]]) -> None:
    assert VERSIONS[0].startswith("1.29"), "the oldest that Chart.yaml allows"
    templates = [pod for made_by, pod in pods(install) if made_by == "pod template"]
    for one in [*install, *templates]:
        validate(json.dumps(one))


@functools.cache
def validate(manifest: str) -> None:
    """Raises where a manifest is not valid, or of a kind that is not known; most are the same in several installs."""
    for version in VERSIONS:
        kubernetes_validate.validate(json.loads(manifest), version, strict=True)


def test_the_validator_would_notice() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}}, VERSIONS[-1], strict=True
        )
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_validate.validate({"apiVersion": "example.com/v1", "kind": "Thing"}, VERSIONS[-1], strict=True)


def test_names_are_used_once(install: list[dict[str, Any]]) -> None:
    names = [(one["kind"], one["metadata"]["name"], one["metadata"].get("namespace")) for one in install]
    assert len(names) == len(set(names))
    for _, pod in pods(install):
        volumes = [one["name"] for one in pod["spec"].get("volumes", [])]
        assert len(volumes) == len(set(volumes))
        for container in containers(pod):
            mounts = container.get("volumeMounts", [])
            assert len({one["mountPath"] for one in mounts}) == len(mounts)


def test_every_name_begins_with_ours(chart: Chart) -> None:
    manifests = chart.render(values=ELSEWHERE | {"name": "other", "resourceQuota": {"pods": 9}})
    assert all(one["metadata"]["name"].startswith("other") for one in manifests)
    assert len(manifests) >= 8


def test_services_and_budgets_select_pods_that_there_are(install: list[dict[str, Any]]) -> None:
    labels = [pod["metadata"]["labels"] for _, pod in pods(install)]
    for one in install:
        if one["kind"] in {"Service", "PodDisruptionBudget"}:
            selector = one["spec"]["selector"].get("matchLabels", one["spec"]["selector"])
            assert any(selector.items() <= each.items() for each in labels), one["metadata"]["name"]


def test_services_lead_to_ports_that_are_open(install: list[dict[str, Any]]) -> None:
    for one in install:
        if one["kind"] == "Service" and one["spec"].get("clusterIP") != "None":
            (pod,) = (pod for _, pod in pods(install) if one["spec"]["selector"].items() <= pod["metadata"]["labels"].items())
            ports = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
            assert {port["targetPort"] for port in one["spec"]["ports"]} <= ports


def test_what_pods_refer_to_is_made_here_or_is_a_secret(install: list[dict[str, Any]]) -> None:
    made = {(one["kind"], one["metadata"]["name"]) for one in install}
    for made_by, pod in pods(install):
        assert ("ServiceAccount", pod["spec"]["serviceAccountName"]) in made
        for volume in pod["spec"].get("volumes", []):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in made, made_by


def test_long_lived_services_are_not_evicted_below_one(chart: Chart) -> None:
    manifests = chart.render(values={"s3": {"server": {"enabled": True}}})
    budgets = {one["metadata"]["name"]: one["spec"]["minAvailable"] for one in manifests if one["kind"] == "PodDisruptionBudget"}
    assert budgets == {"effir-mlflow": 1, "effir-s3": 1}
    assert pick(manifests, "StatefulSet", "effir-mlflow")["spec"]["replicas"] == 2


def test_task_pods_are_not_moved_while_they_run(install: list[dict[str, Any]]) -> None:
    (pod,) = {str(pod): pod for made_by, pod in pods(install) if made_by == "pod template"}.values()
    assert pod["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert pod["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"


def test_training_pods_have_names_before_they_are_ready(chart: Chart) -> None:
    service = pick(chart.render(), "Service", "effir-training")["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True


def test_phases_are_started_by_airflow_and_those_who_are_named(chart: Chart) -> None:
    (binding,) = (one for one in chart.render(values={"launchers": [{"name": "a", "namespace": "b"}]}) if one["kind"] == "RoleBinding")
    subjects = {(one["name"], one.get("namespace")) for one in binding["subjects"]}
    assert subjects == {("a", "b"), ("effir-scheduler", NAMESPACE), ("effir-triggerer", NAMESPACE)}
    (role,) = (one for one in chart.render() if one["kind"] == "Role")
    assert {(group, name) for rule in role["rules"] for group in rule["apiGroups"] for name in rule["resources"]} == {
        ("", "pods"), ("", "pods/log"), ("", "events"), ("batch", "jobs"), ("batch", "jobs/status"),
    }  # fmt: skip
    assert not any("*" in (*rule["verbs"], *rule["resources"]) for rule in role["rules"])


def test_an_airflow_elsewhere_gets_the_maps_that_it_mounts(chart: Chart) -> None:
    manifests = chart.render(("values-existing-airflow.yaml",))
    for name in ("effir-runner", "effir-environment"):
        here, there = (pick(manifests, "ConfigMap", name, space)["data"] for space in (NAMESPACE, "airflow"))
        assert here == there
    assert "cluster" not in {one["kind"].lower()[:7] for one in manifests}, "nothing that needs rights over the cluster"


def test_the_setup_comes_after_every_install_and_upgrade(chart: Chart) -> None:
    job = pick(chart.render(), "Job", "effir-setup")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "post-install,post-upgrade"
    assert "before-hook-creation" in job["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    assert job["spec"]["activeDeadlineSeconds"] > 900
