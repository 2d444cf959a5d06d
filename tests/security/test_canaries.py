"""After a whole run, no secret stands anywhere but in its own place; and the scan that says so finds what is put there."""

import base64
import gzip
import importlib.util
import io
import json
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from effir.services import local
from effir.services.airflow import Airflow
from effir.services.mlflow_api import Api
from effir.services.store import Store

HERE = Path(__file__).parent
BUCKETS = ("effir", "mlflow")
DAG = "effir_compress"


def load(path: Path) -> Any:
    given = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(given)
    given.loader.exec_module(module)
    return module


scanning = load(HERE / "scanning.py")


@pytest.fixture(scope="module")
def settings(stack_home: Path) -> Iterator[dict[str, str]]:
    """The environment reaches the session's stack as long as this module's tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFIR_HOME", str(stack_home))
        found = local.client_environment()
        for name, value in found.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture(scope="module")
def airflow(settings: dict[str, str]) -> Airflow:
    return Airflow(settings["EFFIR_AIRFLOW_URL"], settings["EFFIR_AIRFLOW_USER"], settings["EFFIR_AIRFLOW_PASSWORD"])


@pytest.fixture(scope="module")
def whole(airflow: Airflow, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a whole run: one that another test made, or else one made here."""
    for run in airflow.runs(DAG):
        if any(task["task_id"] == "report" and task["state"] == "success" for task in airflow.tasks(DAG, run["dag_run_id"])):
            return run["dag_run_id"]
    given = tiny.overrides(tmp_path_factory.mktemp("tiny"))
    assignments = [part for name, value in given.items() if value is not None for part in ("--set", f"{name}={value}")]
    done = subprocess.run([sys.executable, "-m", "effir.cli", "run", "--json", *assignments], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)["dag_run_id"]


def private(home: Path) -> list[Path]:
    """The places of the stack's own secrets: files beside its data that their owner alone may read."""
    there = (path for path in sorted((home / "stack").rglob("*")) if path.suffix in {".json", ".env", ".ini"} and path.is_file())
    return [path for path in there if not path.is_relative_to(home / "stack" / "s3") and not path.stat().st_mode & 0o077]


@pytest.fixture(scope="module")
def known(stack_home: Path, whole: str, canaries: dict[str, str]) -> dict[str, str]:
    """Every secret of the stack by name: those that it made for itself, and those that were planted in it."""
    made = json.loads((stack_home / "stack" / "secrets.json").read_text())
    keys = {key: path.name for path in private(stack_home) for key in re.findall(r"\b[0-9a-f]{64}\b", path.read_text())}
    return made | {f"{name}, {key[:4]}": key for key, name in keys.items() if key not in made.values()} | canaries


class Planted:
    """Canaries put where a scan has to look, each another one: token → where it should be found."""

    def __init__(self, home: Path, airflow: Airflow, run: str) -> None:
        self.places: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        logs = home / "stack" / "airflow" / "logs"
        task = next(path for path in sorted(logs.rglob("attempt=1.log")) if f"run_id={run}" in str(path))
        self.append(task, "log of a task", "run_id=", "password={}\n")
        self.append(home / "stack" / "logs" / "api-server.log", "log of a server", "api-server.log", "GET /?key={}\n")
        header = "Authorization: Basic {}\n"
        self.append(
            home / "stack" / "logs" / "mlflow.log", "header", "mlflow.log", header, lambda one: base64.b64encode(b"me:" + one).decode()
        )
        body = {"key": "planted", "value": {"inner": [self.new("xcom", "table xcom")]}, "map_index": -1}
        airflow._call("POST", f"dags/{DAG}/dagRuns/{run}/taskInstances/begin/xcomEntries", json=body)
        api = Api()
        (found, *_) = api.post("runs/search", experiment_ids=[one["experiment_id"] for one in experiments(api)], max_results=1)["runs"]
        self.mlflow_run = found["info"]["run_id"]
        api.post("runs/set-tag", run_id=self.mlflow_run, key="planted", value=self.new("tag", "mlflow.db, table tags"))
        self.keys = {
            "effir": ("planted/model.safetensors", b"\0" * 5000 + self.new("object", "s3://effir/planted/model").encode() + b"\1" * 5000),
            "mlflow": ("planted/page.gz", gzip.compress(self.new("gzip", "s3://mlflow/planted/page.gz").encode())),
        }
        store = Store()
        for bucket, (key, content) in self.keys.items():
            store.client.put_object(Bucket=bucket, Key=key, Body=content)
        store.client.put_object(Bucket="effir", Key="planted/scores.parquet", Body=parquet(self.new("parquet", "planted/scores.parquet")))

    def new(self, name: str, where: str) -> str:
        """A canary of its own."""
        self.places[name], self.tokens[name] = where, f"planted{secrets.token_hex(16)}"
        return self.tokens[name]

    def append(self, path: Path, name: str, where: str, line: str, spell: Any = bytes.decode) -> None:
        with path.open("a") as stream:
            stream.write(line.format(spell(self.new(name, where).encode())))

    def remove(self, airflow: Airflow, run: str) -> None:
        """Take away what a later test might stumble over."""
        store = Store()
        store.delete([*(f"s3://{bucket}/{key}" for bucket, (key, _) in self.keys.items()), "s3://effir/planted/scores.parquet"])
        Api().post("runs/delete-tag", run_id=self.mlflow_run, key="planted")
        airflow._call("DELETE", f"dags/{DAG}/dagRuns/{run}/taskInstances/begin/xcomEntries/planted")


def experiments(api: Api) -> list[dict[str, Any]]:
    return api.post("experiments/search", max_results=100)["experiments"]


def parquet(text: str) -> bytes:
    import pyarrow
    from pyarrow import parquet as format_

    stream = io.BytesIO()
    format_.write_table(pyarrow.table({"text": [text] * 100}), stream, compression="zstd")
    return stream.getvalue()


@pytest.fixture(scope="module")
def planted(stack_home: Path, airflow: Airflow, whole: str, command_lines: set[bytes], eventually: Any) -> Iterator[Planted]:
    made = Planted(stack_home, airflow, whole)
    token = made.new("command line", "command lines")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"--password={token}"]) as process:
        eventually(lambda: any(token.encode() in line for line in set(command_lines)), seconds=30)
        process.kill()
    yield made
    made.remove(airflow, whole)


@pytest.fixture(scope="module")
def found(stack_home: Path, known: dict[str, str], planted: Planted, command_lines: set[bytes]) -> dict[str, list[str]]:
    """Name of a secret or a planted canary → where it stands."""
    own = {*private(stack_home), stack_home / "stack" / "s3"}  # what S3 holds is read through S3

    def places() -> Iterator[tuple[str, bytes]]:
        yield from scanning.files(stack_home, but=own)
        yield from scanning.objects(Store(), BUCKETS)
        yield "command lines", b"\n".join(set(command_lines))

    return scanning.scan(places(), known | planted.tokens)


@pytest.mark.timeout(1800)
def test_the_scan_finds_what_is_put_there(found: dict[str, list[str]], planted: Planted) -> None:
    assert len(planted.tokens) == 9
    for name, where in planted.places.items():
        assert any(where in place for place in found.get(name, [])), f"{name} was not found in {where}, but in {found.get(name)}"


@pytest.mark.timeout(1800)
def test_no_secret_stands_anywhere_but_in_its_own_place(found: dict[str, list[str]], known: dict[str, str], stack_home: Path) -> None:
    assert {"s3_key", "s3_secret", "airflow_password", "airflow_jwt", "airflow_fernet", "airflow_secret", "HF_TOKEN", "alerts"} <= set(
        known
    )
    assert {"secrets.json", "airflow-passwords.json"} <= {path.name for path in private(stack_home)}
    assert all(len(value) >= 32 for value in known.values())
    assert {name: places for name, places in found.items() if name in known} == {}


def test_the_run_was_there_to_be_scanned(whole: str, stack_home: Path, command_lines: set[bytes]) -> None:
    """Its logs, its calls and results, its model, its processes: a scan of nothing proves nothing."""
    logs = [str(path) for path in (stack_home / "stack" / "airflow" / "logs").rglob("*.log")]
    for task in ("begin", "prepare", "finetune_candidate", "encode", "promote", "report"):
        assert any(f"run_id={whole}" in path and f"task_id={task}/" in path for path in logs), task
    store = Store()
    assert len(list(store.list(f"s3://effir/runs/{whole}/results"))) > 10
    assert any(uri.endswith("model/model.safetensors") for uri, _ in store.list("s3://effir/artifacts/finetune"))
    lines = b"\n".join(set(command_lines))
    assert b"phase\0begin" in lines
    assert b"phase\0finetune" in lines


def test_the_processes_had_the_secrets(stack_home: Path, canaries: dict[str, str], whole: str) -> None:
    """The canary variable was there to be told: in the environment of the stack's own processes."""
    from effir.services import processes

    assert any(one.environ().get("HF_TOKEN") == canaries["HF_TOKEN"] for one in processes.of_stack(stack_home / "stack"))


def test_spellings() -> None:
    secret = "c0ffee+/=ä~" * 3
    for before in ("", "x", "xy", "xyz"):
        for coded in (base64.b64encode, base64.urlsafe_b64encode):
            text = coded(f"{before}{secret}and more".encode())
            assert scanning.scan([("there", b"..." + text)], {"one": secret}) == {"one": ["there"]}
    assert scanning.scan([("there", secret[:-1].encode())], {"one": secret}) == {}
    assert scanning.scan([("token", Fernet(Fernet.generate_key()).encrypt(secret.encode()))], {"one": secret}) == {}
