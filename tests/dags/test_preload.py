import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[2] / "dags" / "plugins" / "preload.py"
HOOK = "airflow.providers.amazon.aws.hooks.s3"


@pytest.mark.parametrize(("program", "loaded"), [("scheduler", True), ("api-server", False)])
def test_the_scheduler_alone_imports_what_tasks_need(program: str, loaded: bool, tmp_path: Path) -> None:
    code = f"import runpy, sys; sys.argv = ['airflow', {program!r}]; runpy.run_path({str(PLUGIN)!r}); print({HOOK!r} in sys.modules)"
    env = {"AIRFLOW_HOME": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(loaded)
