"""docker/engine and docker/build: what they refuse, in one sentence each."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def said(command: list[str], **settings: str) -> str:
    """The last line of a command that is refused."""
    done = subprocess.run([str(ROOT / "docker" / command[0]), *command[1:]], env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("arguments", [[], ["up"], ["sideways", "x"], ["down", "a", "b"]])
def test_a_wrong_call_is_told_the_right_one(arguments: list[str]) -> None:
    assert said(["engine", *arguments]).startswith("engine: say docker/engine ")


def test_a_folder_that_holds_no_engine_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    assert "was not made by `docker/engine up`" in said(["engine", "down", str(tmp_path)])
    assert (tmp_path / "mine").exists()


def test_nothing_to_end_is_no_error(tmp_path: Path) -> None:
    subprocess.run([ROOT / "docker" / "engine", "down", tmp_path / "absent"], check=True)


def test_a_build_without_an_engine_says_how_to_get_one(tmp_path: Path) -> None:
    assert "docker/engine up" in said(["build"], DOCKER_HOST=f"unix://{tmp_path}/absent.sock")


def test_an_image_that_is_not_known_is_not_built(engine: object) -> None:
    assert said(["build", "nonsense"]) == "build: there is no image nonsense: choose from task, task-cuda, airflow, mlflow"


def test_a_second_engine_is_refused(engine: object, tmp_path: Path) -> None:
    running = subprocess.run(["pgrep", "-x", "dockerd"], capture_output=True, text=True).stdout
    if os.getuid() or not running:
        pytest.skip("the engine in use is not a process here, or this is not root")
    assert "another Docker engine runs" in said(["engine", "up", str(tmp_path)])
