import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "dags"
PARSE = """
import json, sys, time

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "mlflow", "effir", "numpy"}:
            raise ImportError(f"{name} is out of reach here")

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
import airflow.sdk
began = time.process_time()
try:
    import compress
except Exception as error:
    print(error, file=sys.stderr)
seconds = time.process_time() - began

from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
"""


def parse(script: str, **environment: str) -> Any:
    """What a fresh interpreter prints as JSON after it parsed the DAGs with torch and the like out of reach."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "EFFIR"))}
    with tempfile.TemporaryDirectory() as home:
        env = kept | {"AIRFLOW_HOME": home} | environment
        done = subprocess.run([sys.executable, "-c", PARSE + script, str(DAGS)], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def parse_dags() -> Callable[..., Any]:
    """Parse the DAGs in a fresh interpreter: a script that prints JSON, and settings by name."""
    return parse
