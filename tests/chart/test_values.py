import json
from typing import Any

import pytest
import yaml

from .installs import ROOT, SOURCE, VALUE_FILES, Chart

SCHEMA = json.loads((SOURCE / "values.schema.json").read_text())
GPUS = {"gpus": 4, "processes": 8}


@pytest.mark.parametrize(
    ("values", "place", "reason"),
    [
        ({"mlfow": {"enabled": True}}, "", "additional properties 'mlfow' not allowed"),
        ({"s3": {"secretKey": "hunter2"}}, "/s3", "additional properties 'secretKey' not allowed"),
        ({"runner": {"phases": {"finetun": {"gpus": 1}}}}, "/runner/phases", "additional properties 'finetun' not allowed"),
        ({"runner": {"phases": {"finetune": {"gpu": 1}}}}, "/runner/phases/finetune", "additional properties 'gpu' not allowed"),
        ({"runner": {"resources": {"memory": "8GB"}}}, "/runner/resources/memory", "'8GB' does not match"),
        ({"runner": {"resources": {"gpus": -1}}}, "/runner/resources/gpus", "minimum: got -1, want 0"),
        ({"runner": {"resources": {"gpus": 0.5}}}, "/runner/resources/gpus", "got number, want integer"),
        ({"runner": {"grace_seconds": "2m"}}, "/runner/grace_seconds", "got string, want integer"),
        ({"runner": {"tolerations": [{"key": "gpu", "operator": "Exist"}]}}, "/runner/tolerations/0/operator", "'Exists', 'Equal'"),
        ({"images": {"pullPolicy": "Sometimes"}}, "/images/pullPolicy", "'IfNotPresent', 'Always', 'Never'"),
        ({"images": {"task": {"digest": "sha256:abc"}}}, "/images/task/digest", "'sha256:abc' does not match"),
        ({"s3": {"endpoint": "s3.example.com"}}, "/s3/endpoint", "'s3.example.com' does not match"),
        ({"s3": {"store": "/mnt/effir"}}, "/s3/store", "'/mnt/effir' does not match"),
        ({"mlflow": {"replicas": 0}}, "/mlflow/replicas", "minimum: got 0, want 1"),
        ({"mlflow": {"resources": {"limits": {"memory": 2048}}}}, "/mlflow/resources/limits/memory", "got number, want string"),
        ({"networkPolicy": {"dns": "kube-dns"}}, "/networkPolicy/dns", "got string, want array"),
        ({"launchers": [{"name": "airflow-worker"}]}, "/launchers/0", "missing property 'namespace'"),
        ({"indexes": [{"name": "demo"}]}, "/indexes/0", "missing property 'collections'"),
        ({"deployments": [{"name": "nightly", "cron": "@daily"}]}, "/deployments/0", "missing property 'profile'"),
        ({"setup": {"pools": [{"name": "compute", "slots": 0}]}}, "/setup/pools/0/slots", "minimum: got 0, want 1"),
        ({"name": "Effir_1"}, "/name", "'Effir_1' does not match"),
        ({"environment": {"NO-PROXY": "x"}}, "/environment", "additional properties 'NO-PROXY' not allowed"),
        ({"environment": {"WORKERS": 4}}, "/environment/WORKERS", "got number, want string"),
        ({"airflow": {"enabled": "no"}}, "/airflow/enabled", "got string, want boolean"),
    ],
)
def test_the_schema_refuses_wrong_values_and_says_where(chart: Chart, values: dict[str, Any], place: str, reason: str) -> None:
    told = chart.refusal(values)
    (line,) = (line for line in told.splitlines() if line.startswith("- at "))
    assert line.startswith(f"- at '{place}': "), told
    assert reason in line


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"images": {"task": {"tag": "latest"}}}, "images.task.tag is latest, which may be another image tomorrow: name a version"),
        ({"airflow": {"defaultAirflowTag": "latest"}}, "airflow.defaultAirflowTag is latest"),
        (
            {"s3": {"endpoint": "http://s3", "server": {"enabled": True}}},
            "s3.endpoint names a server, and s3.server.enabled starts another",
        ),
        ({"s3": {"existingSecret": "", "server": {"enabled": True}}}, "s3.server needs keys: name a Secret"),
        ({"mlflow": {"trackingUri": "http://mlflow"}}, "mlflow.trackingUri names a server, and mlflow.enabled starts another"),
        ({"mlflow": {"enabled": False}}, "mlflow.enabled is false: say in mlflow.trackingUri where MLflow is"),
        ({"mlflow": {"existingSecret": ""}}, "mlflow.replicas is above 1, and SQLite serves one"),
        ({"airflow": {"enabled": False}}, "setup.airflowUrl is empty and airflow.enabled is false: say where Airflow's api-server is"),
        ({"networkPolicy": {"s3": []}}, "networkPolicy.s3 is empty: name the peers that are your S3 server"),
        ({"mlflow": {"enabled": False, "trackingUri": "http://mlflow"}}, "networkPolicy.mlflow is empty: name the peers"),
        ({"networkPolicy": {"dns": []}}, "networkPolicy.dns is empty: name the peers that answer DNS"),
        ({"priorityClass": {"create": True}}, "priorityClass.create makes a class: name it in task.priorityClassName"),
        ({"runner": {"phases": {"finetune": GPUS}}}, "runner.phases.finetune wants 8 processes on 4 GPUs: at most one a GPU"),
        ({"runner": {"resources": GPUS}}, "runner.resources wants 8 processes on 4 GPUs: at most one a GPU"),
        (
            {"runner": {"phases": {"finetune": {"gpus": 4, "nodes": 2}}}},
            "runner.phases.finetune takes 8 GPUs, and the pool compute in setup.pools has 4 slots: it would wait forever",
        ),
        ({"deployments": [{"name": "x", "profile": "demo"}]}, "deployments: x needs either cron or assets, to say when it runs"),
        ({"deployments": [{"name": "x", "profile": "demo", "cron": "@daily"}] * 2}, "deployments: two are called x"),
        (
            {"environment": {"HF_TOKEN": "hf_x"}},
            "environment.HF_TOKEN looks like a secret: put it into a Secret and name that in runner.secrets",
        ),
        (
            {"airflow": {"fernetKey": "x"}},
            "airflow.fernetKey holds a secret: put it into a Secret and name that in airflow.fernetKeySecretName",
        ),
        ({"airflow": {"jwtSecret": "x"}}, "airflow.jwtSecret holds a secret"),
        (
            {"airflow": {"data": {"metadataSecretName": ""}}},
            "airflow.data.metadataSecretName is empty: name a Secret that holds the database's",
        ),
        ({"airflow": {"jwtSecretName": None}}, "airflow.jwtSecretName is empty, so that a key would be made and written into the release"),
        ({"airflow": {"postgresql": {"enabled": True}}}, "airflow.postgresql.auth.existingSecret is empty, so that the password would be"),
        ({"airflow": {"createUserJob": {"enabled": True}}}, "airflow.createUserJob makes a user whose password stands in the values"),
        ({"name": "other"}, "name is other: let airflow.volumes and airflow.extraEnvFrom name other-runner and other-environment"),
    ],
)
def test_values_that_do_not_go_together_are_refused_in_a_sentence(chart: Chart, values: dict[str, Any], sentence: str) -> None:
    assert sentence in chart.refusal(values)


def test_the_schema_knows_every_phase() -> None:
    phases = json.loads((ROOT / "dags" / "phases.json").read_text())
    assert set(SCHEMA["properties"]["runner"]["properties"]["phases"]["properties"]) == set(phases)


def test_the_schema_knows_every_value_and_nothing_else() -> None:
    values = yaml.safe_load((SOURCE / "values.yaml").read_text())
    assert set(SCHEMA["properties"]) - {"global"} == set(values)
    assert list(open_objects(SCHEMA)) == [
        "properties.global",
        "properties.deployments.items.properties.overrides",
        "properties.indexes.items",
        "properties.airflow",
        PEERS,
    ]


PEERS = "definitions.peers.items"


def open_objects(schema: Any, path: tuple[str, ...] = ()) -> Any:
    """Objects of the schema in which anything may stand."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "additionalProperties" not in schema:
            yield ".".join(path)
        for key, one in schema.items():
            yield from open_objects(one, (*path, key))


@pytest.mark.parametrize("name", VALUE_FILES)
def test_value_files_hold_nothing_that_is_not_in_the_values(name: str) -> None:
    everything = yaml.safe_load((SOURCE / "values.yaml").read_text())
    everything.pop("airflow")
    given = yaml.safe_load((SOURCE / name).read_text())
    given.pop("airflow", None)
    assert not strangers(given, everything)


def strangers(given: Any, known: Any, path: str = "") -> list[str]:
    """Paths that are in the one and not in the other; a value that is empty by default may hold anything."""
    if not isinstance(given, dict) or not known:
        return []
    here = [f"{path}{key}" for key in given if key not in known]
    return here + [one for key, value in given.items() if key in known for one in strangers(value, known[key], f"{path}{key}.")]
