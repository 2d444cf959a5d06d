"""Who may know whom (docs/architecture.md, The border), read from the source; ruff bans the same from each side."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARIES = ("compress", "train", "retrieve", "judge", "export")
OUTSIDE = {"boto3", "botocore", "requests", "mlflow", "airflow", "socket"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize(
    "path", [path for name in LIBRARIES for path in (ROOT / "tasks" / "effir" / name).glob("*.py")], ids=lambda path: path.stem
)
def test_libraries_are_pure(path: Path) -> None:
    for name in imports(path):
        assert not name.startswith(("effir.services", "effir.phases", "effir.cli")), name
        assert name.partition(".")[0] not in OUTSIDE or (path.parent.name == "export" and name.startswith("mlflow")), name
    assert "os.environ" not in path.read_text()
    assert "getenv" not in path.read_text()


@pytest.mark.parametrize(
    ("place", "line"), [("tasks/effir/x.py", "import airflow\n"), ("dags/x.py", "import torch\n"), ("dags/x.py", "import effir\n")]
)
def test_the_linter_stops_who_crosses(place: str, line: str) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--stdin-filename", str(ROOT / place), "-"]
    assert subprocess.run(command, input=line, capture_output=True, text=True, cwd=ROOT).returncode == 1
    assert subprocess.run(command, input="import json\n", capture_output=True, text=True, cwd=ROOT).returncode == 0
