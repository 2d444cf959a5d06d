"""What our values tell the official Airflow chart, which cannot be rendered here."""

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .installs import ROOT, SOURCE, VALUE_FILES

KNOWN = yaml.safe_load((SOURCE.parents[1] / "tests" / "chart" / "airflow-chart.yaml").read_text())
AIRFLOW = yaml.safe_load((SOURCE / "values.yaml").read_text())["airflow"]
LONG_LIVED = ("scheduler", "triggerer", "dagProcessor", "apiServer")


def strangers(given: Any, known: Any, path: str = "airflow") -> list[str]:
    if not isinstance(given, dict) or known is None:
        return []
    return [f"{path}.{key}" for key in given if key not in known] + [
        one for key in given if key in known for one in strangers(given[key], known[key], f"{path}.{key}")
    ]


@pytest.mark.parametrize("name", VALUE_FILES)
def test_every_key_is_one_of_the_airflow_chart(name: str) -> None:
    given = dict(yaml.safe_load((SOURCE / name).read_text()).get("airflow", {}))
    given.pop("enabled", None)
    assert not strangers(given, KNOWN["keys"])


def test_the_keys_were_read_in_the_version_that_is_named() -> None:
    (airflow,) = yaml.safe_load((SOURCE / "Chart.yaml").read_text())["dependencies"]
    assert airflow["version"] == KNOWN["version"]
    assert airflow["condition"] == "airflow.enabled"


def test_airflow_is_the_version_that_the_dags_are_tested_with() -> None:
    pinned = re.search(r"^apache-airflow==(.+)$", (ROOT / "requirements" / "all.txt").read_text(), re.MULTILINE)
    assert pinned
    assert AIRFLOW["airflowVersion"] == pinned[1]


def test_airflow_is_confined_and_says_what_it_needs() -> None:
    assert AIRFLOW["securityContexts"]["pod"]["runAsNonRoot"] is True
    assert AIRFLOW["securityContexts"]["pod"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert AIRFLOW["securityContexts"]["containers"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {"name": "tmp", "mountPath": "/tmp"} in AIRFLOW["volumeMounts"]
    for name in (*LONG_LIVED, "migrateDatabaseJob"):
        for side in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(AIRFLOW[name]["resources"][side]), name


def test_nothing_of_the_official_image_is_asked_of_ours() -> None:
    for name in LONG_LIVED:
        assert AIRFLOW[name].get("logGroomerSidecar", {"enabled": False}) == {"enabled": False}, "runs a script of that image"
        if name != "apiServer":
            assert AIRFLOW[name]["livenessProbe"]["command"][:3] == ["airflow", "jobs", "check"]


@pytest.mark.parametrize("name", [name for name in VALUE_FILES if "existing" not in name])
def test_keys_of_airflow_are_named_and_never_made(name: str) -> None:
    given = AIRFLOW | yaml.safe_load((SOURCE / name).read_text()).get("airflow", {})
    assert given["fernetKeySecretName"] == given["apiSecretKeySecretName"] == given["jwtSecretName"] == given["data"]["metadataSecretName"]
    assert given["createUserJob"]["enabled"] is False, "that job makes admin with the password admin"
    if given["postgresql"]["enabled"]:
        assert given["postgresql"]["auth"] == {"existingSecret": given["data"]["metadataSecretName"], "postgresPassword": None}


def test_what_airflow_imports_there_is() -> None:
    classes = [AIRFLOW["config"]["core"]["auth_manager"], *(one["classpath"] for one in AIRFLOW["dagProcessor"]["dagBundleConfigList"])]
    found = importlib.util.find_spec("airflow")
    assert found
    assert found.submodule_search_locations
    for module in (one.rpartition(".")[0] for one in classes):
        assert (Path(found.submodule_search_locations[0]).parent / module.replace(".", "/")).with_suffix(".py").exists(), module


def test_the_user_is_written_where_the_auth_manager_looks(tmp_path: Path) -> None:
    """The api-server's command line, but for the server itself and with a folder in place of /tmp."""
    shell, flags, line = AIRFLOW["apiServer"]["args"]
    assert line.endswith("exec airflow api-server")
    assert AIRFLOW["config"]["core"]["simple_auth_manager_passwords_file"] == "/tmp/passwords.json"
    user = {"EFFIR_AIRFLOW_USER": "some one", "EFFIR_AIRFLOW_PASSWORD": "pa\"ss'\\word $HOME"}
    assert {one["name"] for one in AIRFLOW["apiServer"]["env"]} == set(user)
    ask = 'cat "$PASSWORDS"; stat -c %a "$PASSWORDS"; echo "$AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"; env | grep -c PASSWORD='
    line = line.replace("/tmp/passwords.json", '"$PASSWORDS"').replace("exec airflow api-server", ask + " || true")
    with_file = {"PATH": os.environ["PATH"], "PASSWORDS": str(tmp_path / "passwords.json")}
    done = subprocess.run([shell, flags, line], env=with_file | user, capture_output=True, text=True, check=True)
    written, mode, users, left = done.stdout.splitlines()
    assert json.loads(written) == {user["EFFIR_AIRFLOW_USER"]: user["EFFIR_AIRFLOW_PASSWORD"]}
    assert (mode, users, left) == ("600", "some one:admin", "0")
