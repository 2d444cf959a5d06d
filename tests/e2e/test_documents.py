"""Every command in the documents: run as it stands where it can be, and accounted for where it cannot.

What a reader types is whatever begins with a program's name in a block of shell: ```bash, or four spaces. HOW says of each, first match:

- `run`: done here, in order of pages, against a stack with a champion (whose name is put in for that of the documents)
- `check`: the whole command as far as what it asks for is checked, for that takes many minutes to be done
- `make`: the target is there; what it does, CI or its own tests do
- a test's file: does this command, or what stands behind it, on the real part
- `elsewhere: …`: why nothing here can
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docker/README.md", "helm/effir/README.md", "SECURITY.md"]
PAGES += [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = [
    "airflow", "api", "aws", "cp", "curl", "docker", "docker/engine", "docker/stack", "echo", "effir", "git", "helm", "kind", "kubectl",
    "make", "pip", "python", "python3", "source", "tar",
]  # fmt: skip
CLUSTER = "elsewhere: there is no Kubernetes here; tests/chart renders and validates what it would be given"
HOW = [
    (r"effir study .*--size", "tests/forecast/test_frontier.py"),
    (r"effir (run|frontier|study) ", "check"),
    (r"effir serve ", "serve"),
    (r"curl .*8001/v1/embeddings", "serve"),
    (r"effir (up|down|status)", "tests/services/test_local.py"),
    (r"effir rollback NAME --to|effir gc --(delete|older)", "check"),
    (r"effir rollback", "tests/e2e/test_promotion.py"),
    (r"effir plan .*--(hardware (here|mine)|against)", "tests/forecast/test_estimate.py"),
    (r"effir search ./notes", "tests/serve/test_server.py"),
    (r"(EFFIR_DATA=\S+ )?effir simulate-gate", "simulate"),
    (r"effir (plan|study|compare|env|encode|verify|search|gc|policies)\b|echo .*effir encode", "run"),
    (r"cp |source ", "run"),
    (r"python -m webbrowser", "elsewhere: opens a browser; tests/browser looks at that page"),
    (r"python -m effir.services.mlflow_access|MLFLOW_BACKEND", "tests/services/test_mlflow_access.py"),
    (r"python -c \"from effir.services.store", "tests/services/test_store.py"),
    (r"make ", "make"),
    (r"(STACK_RUNNER=\S+|GPU=1|REPOSITORY=\S+) make ", "make"),
    (r"docker/stack|docker (logs|stop|run|volume|exec)|tar -C docker|for volume", "tests/containers/test_compose.py"),
    (r"docker/engine", "tests/containers/test_engine.py"),
    (r"(kubectl|helm|kind|airflow) ", CLUSTER),
    (r"aws iam", "elsewhere: asks AWS; tests/services/test_roles.py holds the same policies against a real S3 server"),
    (r"api |TOKEN=|ID=", "tests/services/test_airflow.py"),
    (r"curl .*auth/token", "tests/services/test_airflow.py"),
    (r"tar -C .effir|git pull", "elsewhere: keeps a whole stack's folder, as docs/operations.md says when it was tried"),
    (r"python3 -c 'import json, sys; ", "tests/services/test_airflow.py"),
    (r"pip install", "tests/test_requirements.py"),
]


class Command(NamedTuple):
    """A command of a page, its comment taken off."""

    page: str
    line: int
    text: str

    @property
    def how(self) -> str | None:
        """The first of HOW that is about it."""
        return next((how for pattern, how in HOW if re.match(pattern, self.text)), None)


def commands(page: str) -> Iterator[Command]:
    """The commands of a page; a line that ends in a backslash goes on."""
    language, held, start = None, "", 0
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        if line.startswith("```"):
            language = None if language is not None else line[3:]
            continue
        if language not in (None, "", "bash") or (language is None and not line.startswith("    ")):
            continue
        text = re.sub(r"\s+#\s.*$", "", line.strip())
        start = start if held else number
        if text.endswith("\\"):
            held += text.removesuffix("\\")
            continue
        whole, held = held + text, ""
        if begins(whole):
            yield Command(page, start, whole)


def begins(text: str) -> bool:
    """Whether a line begins with a program, after variables that are set for it."""
    words = [word for word in text.split() if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    return bool(words) and words[0] in PROGRAMS


COMMANDS = [command for page in PAGES for command in commands(page)]


def chosen(how: str) -> list[Command]:
    """The commands that are dealt with in this way, each once."""
    return list({command.text: command for command in COMMANDS if command.how == how}.values())


def name(command: Command) -> str:
    return f"{command.page}:{command.line}"


def test_a_reader_is_shown_commands_that_somebody_answers_for() -> None:
    assert len(COMMANDS) > 100
    assert [f"{name(one)} {one.text}" for one in COMMANDS if one.how is None] == []
    files = {how for _, how in HOW if how.startswith("tests/")}
    assert [file for file in files if not (ROOT / file).is_file()] == []
    assert {how for _, how in HOW if not how.startswith(("tests/", "elsewhere: "))} == {"run", "check", "make", "serve", "simulate"}


@pytest.mark.parametrize("command", chosen("make"), ids=name)
def test_a_target_that_is_named_is_there(command: Command) -> None:
    (target,) = re.findall(r"make ([a-z-]+)", command.text)
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE), f"there is no target {target}"


@pytest.mark.parametrize("command", chosen("check"), ids=name)
def test_what_takes_long_is_right_as_far_as_it_is_checked_before(command: Command, tmp_path: Path) -> None:
    nobody = dict.fromkeys(("EFFIR_AIRFLOW_URL", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL_S3"), "http://127.0.0.1:9")
    login = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "EFFIR_AIRFLOW_USER", "EFFIR_AIRFLOW_PASSWORD"), "x")
    done = shell(command.text.replace("NAME", "tiny"), tmp_path, os.environ | nobody | login | {"EFFIR_STORE": "s3://effir"}, 120)
    told = [line for line in done.stderr.splitlines() if line.startswith("effir: ")]
    assert done.returncode and len(told) == 1 and "not reachable" in told[0], done.stderr[-2000:]


def test_the_gate_is_simulated_as_shown(tmp_path: Path) -> None:
    data = os.environ.get("EFFIR_DATA")
    if not data:
        pytest.skip("EFFIR_DATA names no folder with collections")
    for command in chosen("simulate"):
        assert re.fullmatch(r"EFFIR_DATA=\S+ effir simulate-gate( --\S+ (\"[^\"]*\"|\S+))*", command.text)
    short = ' --pairs "bm25 to bm25-short" --draws 10 --resamples 200 --queries 25 --documents 400'
    done = shell(f"effir simulate-gate{short}", tmp_path, os.environ | {"EFFIR_HOME": str(tmp_path)}, 300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def place(second: dict[str, Any], first: dict[str, Any], stack_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a clone in which the demo has run."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / ".effir").symlink_to(stack_home)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/activate").touch()
    (folder / "texts.txt").write_text("how to open a file\n")
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [page for page in PAGES if any(command.page == page for command in chosen("run"))])
def test_a_page_s_commands_do_what_they_say(page: str, place: Path, request: pytest.FixtureRequest, stack: Any) -> None:
    first, second, overrides = map(request.getfixturevalue, ("first", "second", "overrides"))
    runs = iter([first["dag_run_id"], second["dag_run_id"]] * 10)
    for command in (one for one in chosen("run") if one.page == page):
        text = re.sub(r"\bRUN\b", lambda _: next(runs), command.text.replace("effir-demo", "tiny"))
        text = re.sub(r"effir-20\S+-\S+", first["dag_run_id"], text)
        if text.startswith("effir search"):
            text = text.replace("stdlib-code", overrides["collections"]) + " --model models:/tiny@champion"
        done = shell(text, place, {**os.environ}, 300)
        assert done.returncode == 0, f"{name(command)} {text}: {done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr


@pytest.mark.timeout(300)
def test_the_server_of_the_documents_answers_the_request_of_the_documents(place: Path, second: dict[str, Any], stack: Any) -> None:
    (served, *_), asked = (
        [one.text.replace("effir-demo", "tiny") for one in chosen("serve") if one.text.startswith(program)] for program in ("effir", "curl")
    )
    command = [*tool("effir"), *shlex.split(served)[1:], "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=place) as server:
        try:
            address = server.stdout.readline().strip()
            assert len(asked) >= 2
            for request in asked:
                text = request.replace("http://127.0.0.1:8001", address).replace("| cut -c -100", "")
                (vector,) = json.loads(shell(text, place, {**os.environ}, 60).stdout)["data"]
                assert len(vector["embedding"]) == 64
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0


def shell(text: str, folder: Path, environment: dict[str, str], seconds: float) -> "subprocess.CompletedProcess[str]":
    """A line of the documents, with this environment's `effir` and `python`."""
    program = folder / "bin"
    program.mkdir(exist_ok=True)
    for called in ("effir", "python"):
        (program / called).write_text(f'#!/bin/sh\nexec {shlex.join(tool(called))} "$@"\n')
        (program / called).chmod(0o755)
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {text}"], cwd=folder, capture_output=True, text=True, timeout=seconds,
        env=environment | {"PATH": f"{program}:{os.environ['PATH']}"},
    )  # fmt: skip


def tool(called: str) -> list[str]:
    """How a program of the documents is started here."""
    return [sys.executable] if called == "python" else [sys.executable, "-m", "effir.cli"]
