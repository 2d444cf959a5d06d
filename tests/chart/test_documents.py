import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from .installs import ROOT, SOURCE, VALUE_FILES, Chart, containers, pods

PAGE = ROOT / "docs" / "cluster.md"
MADE = re.compile(r"^kubectl create secret generic (?:[^\n]*\\\n)*[^\n]*$", re.MULTILINE)
IN_COMMENTS = re.compile(r"`(kubectl create secret generic [^`]*)`")
OF_AIRFLOW = {"connection", "fernet-key", "api-secret-key", "jwt-secret", "username", "password"}
SCRIPTS = ROOT / "helm"


def test_the_readme_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(SCRIPTS / "readme"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readme_tells_every_value() -> None:
    told = re.findall(r"^\| `([\w.]+)` \|", (SOURCE / "README.md").read_text(), re.MULTILINE)
    for key in yaml.safe_load((SOURCE / "values.yaml").read_text()):
        assert any(one == key or one.startswith(f"{key}.") for one in told), key
    assert set(VALUE_FILES[1:]) == set(re.findall(r"^\| `(values-[\w-]+\.yaml)` \|", (SOURCE / "README.md").read_text(), re.MULTILINE))


def secrets(tools: Path, text: str) -> dict[str, list[set[str]]]:
    """Name → keys of each Secret that the commands in a text make, by kubectl itself."""
    found: dict[str, list[set[str]]] = defaultdict(list)
    path = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tools)}
    for command in [*MADE.findall(text), *IN_COMMENTS.findall(text)]:
        line = f"password=x promote=x operator=x log=x reader=x; {command} --dry-run=client --output json"
        done = subprocess.run(["bash", "-euc", line], capture_output=True, text=True, env=path)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        made = json.loads(done.stdout)
        found[made["metadata"]["name"]].append(set(made["data"]))
    return found


def test_commands_make_secrets_with_the_keys_that_are_read(tools: Path, chart: Chart) -> None:
    made = secrets(tools, PAGE.read_text())
    airflows = {"effir-airflow", "effir-airflow-user", "effir-connections", "effir-alerts"}
    assert set(made) == {"effir-s3", "effir-mlflow", "effir-promote", "effir-mlflow-users"} | airflows
    assert made["effir-mlflow-users"] == [{"users.json"}]
    (promoter,) = made["effir-promote"]
    assert promoter == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
    for keys in made["effir-s3"]:
        assert keys == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    whole, local = made["effir-airflow"]
    assert (whole, local) == (OF_AIRFLOW, OF_AIRFLOW | {"postgres-password"})
    assert made["effir-airflow-user"] == [{"username", "password"}]
    assert made["effir-alerts"] == [{"AIRFLOW_CONN_EFFIR_ALERTS"}]
    for name, key in read_by_pods(chart.render()):
        assert any(key in keys for keys in made[name]), f"{name}, {key}"
    values = yaml.safe_load((SOURCE / "values.yaml").read_text())
    for one in values["airflow"]["apiServer"]["env"]:
        reference = one["valueFrom"]["secretKeyRef"]
        assert all(reference["key"] in keys for keys in made[reference["name"]])


def test_commands_in_the_values_make_the_same_secrets(tools: Path) -> None:
    unwrapped = re.sub(r"\n *# ", " ", (SOURCE / "values.yaml").read_text())
    made, told = secrets(tools, unwrapped), secrets(tools, PAGE.read_text())
    assert set(made) == {"effir-s3", "effir-mlflow"}
    assert all(keys == told[name][0] for name, (keys,) in made.items())


def read_by_pods(manifests: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """(Secret, key) that pods read one by one."""
    found = set()
    for _, pod in pods(manifests):
        for container in containers(pod):
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    found.add((reference["name"], reference["key"]))
        for volume in pod["spec"].get("volumes", []):
            named = volume.get("secret", {})
            found |= {(named["secretName"], item["key"]) for item in named.get("items", []) if item["key"] != "token"}
    assert found
    return found


def test_values_on_the_page_are_values_of_the_charts(chart: Chart) -> None:
    roles, ours, theirs, git = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL))
    for values in (roles, ours, git):
        assert chart.render(values=values)
    airflow = yaml.safe_load((SOURCE / "values.yaml").read_text())["airflow"]
    for key in ("env", "volumes", "volumeMounts"):
        assert all(one in airflow[key] for one in theirs[key]), key
    assert theirs["extraEnvFrom"] in airflow["extraEnvFrom"]


def test_values_that_the_page_names_there_are() -> None:
    values = yaml.safe_load((SOURCE / "values.yaml").read_text())
    sections = "images|runner|task|s3|mlflow|setup|networkPolicy|serviceAccounts"
    for path in re.findall(rf"`((?:{sections})\.[\w.]+)`", PAGE.read_text()):
        found: Any = values
        for part in path.split("."):
            assert part in found, path
            found = found[part]


@pytest.fixture(scope="module")
def get() -> ModuleType:
    """The script helm/get."""
    found = ModuleType("helm_get")
    SourceFileLoader(found.__name__, str(SCRIPTS / "get")).exec_module(found)
    return found


def test_a_program_that_is_not_the_pinned_one_is_not_taken(get: ModuleType, tools: Path, tmp_path: Path) -> None:
    (tmp_path / "helm").write_bytes(b"#!/bin/sh\necho another helm\n")
    assert get.right(tools / "helm")
    assert get.right(tools / "kubectl")
    assert not get.right(tmp_path / "helm")
    assert not get.right(tmp_path / "kubectl")


def test_several_may_put_a_program_in_place_at_once(get: ModuleType, tmp_path: Path) -> None:
    content = b"x" * (8 << 20)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: get.place(tmp_path / "tools" / "helm", content), range(32)))
    assert [path.name for path in (tmp_path / "tools").iterdir()] == ["helm"]
    assert (tmp_path / "tools" / "helm").read_bytes() == content
