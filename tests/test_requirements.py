import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
EXTRAS = ("cpu", "stack", "test")


def pins() -> dict[str, Version]:
    lines = (ROOT / "requirements" / "all.txt").read_text().splitlines()
    return {name: Version(version) for name, version in (line.split("==") for line in lines)}


def test_the_pins_are_versions_and_nothing_else() -> None:
    for line in [
        *(ROOT / "requirements" / "all.txt").read_text().splitlines(),
        *(ROOT / "requirements" / "demo.txt").read_text().splitlines(),
    ]:
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line), line
        assert not line.startswith(("nvidia-", "cuda-", "triton")), line
    assert ("faiss-cpu" in pins()) != ("faiss-gpu" in pins())


def test_the_pins_are_what_the_project_asks_for() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, groups = told["project"], told["dependency-groups"]
    asked = [*project["dependencies"], *(one for extra in EXTRAS for one in project["optional-dependencies"][extra])]
    asked += [one for group in groups.values() for one in group]
    found = pins()
    for one in map(Requirement, asked):
        assert found[one.name.lower()] in one.specifier, f"{one}: run make lock"


def test_a_machine_with_gpus_adds_pins_and_changes_none() -> None:
    lines = (ROOT / "requirements" / "cuda.txt").read_text().splitlines()
    added = {name: Version(version) for name, version in (line.split("==") for line in lines)}
    assert not added.keys() & pins().keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for one in map(Requirement, project["optional-dependencies"]["gpu"]):
        assert added[one.name.lower()] in one.specifier, f"{one}: run make lock"
    assert {"faiss-gpu", "triton"} < added.keys()


@pytest.mark.parametrize("python", ["/absent/python3", "/bin/true-but-absent"])
def test_set_up_without_python_says_what_is_missing(python: str) -> None:
    done = subprocess.run([str(ROOT / "requirements" / "setup")], env=os.environ | {"PYTHON": python}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"effir: {python} is absent or older than Python 3.11; install Python 3.11 or newer, or name one with PYTHON=…\n"


def test_set_up_without_venv_says_what_to_install(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "requirements").mkdir(parents=True)
    (copy / "requirements" / "setup").write_text((ROOT / "requirements" / "setup").read_text())
    bare = tmp_path / "python3"
    bare.write_text('#!/bin/sh\n[ "$1" = -c ] || { mkdir -p .venv; exit 1; }\n')
    for path in (bare, copy / "requirements" / "setup"):
        path.chmod(0o755)
    done = subprocess.run([str(copy / "requirements" / "setup")], env=os.environ | {"PYTHON": str(bare)}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "apt-get install python3-venv" in done.stderr
    assert not (copy / ".venv").exists()


def test_help_lists_what_a_person_types() -> None:
    said = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "lint", "setup", "test-gpu", "test-containers", "images", "audit", "licences", "sbom", "help"):
        assert f"make {target} " in said
