import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from effir import cli
from effir.errors import BadInput, EffirError, OutOfMemory, OutOfReach, PeerLost, Stopped
from effir.services.store import Store
from effir.spec import RunSpec, profile_names, resolve
from effir.studies import STUDIES


def effir(*arguments: str, text: str | None = None, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as a person would, with no stack in reach."""
    command = [sys.executable, "-m", "effir.cli", *arguments]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("EFFIR_AIRFLOW", "MLFLOW"))} | settings
    return subprocess.run(command, capture_output=True, text=True, env=env, input=text, timeout=240)


def sentence(done: "subprocess.CompletedProcess[str]") -> str:
    """The one sentence that a command ended with; a traceback is a failure."""
    assert "Traceback" not in done.stderr, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("effir: ")
    return line.removeprefix("effir: ")


def test_help_names_every_command() -> None:
    said = effir("--help").stdout
    for command in (
        "up",
        "down",
        "status",
        "env",
        "run",
        "demo",
        "frontier",
        "study",
        "plan",
        "phase",
        "encode",
        "export",
        "gc",
        "verify",
        "policies",
        "search",
        "serve",
        "profiles",
        "spec",
    ):
        assert f"\n  {command}" in said, command


def test_what_there_is_to_choose_from() -> None:
    assert [line.split()[0] for line in effir("study").stdout.splitlines()] == list(STUDIES)
    assert effir("profiles").stdout.split() == profile_names()
    assert json.loads(effir("spec", "--schema").stdout)["profiles"] == profile_names()
    assert json.loads(effir("spec").stdout) == RunSpec().model_dump()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--profile", "domo"], "there is no profile 'domo'; choose one of: "),
        (["run", "--set", "lora_rnak=3"], "lora_rnak is not a field of the spec"),
        (["run", "--set", "keep_ratio=1.5"], "keep_ratio: "),
        (["run", "--set", "keep_ratio"], "--set keep_ratio does not parse: write --set key=value"),
        (["run", "--set", "variant=half"], "variant 'half' does not parse"),
        (["run", "--set", "variant=16M-30%", "--set", "keep_ratio=0.5"], "variant 16M-30% means keep_ratio 0.7, but keep_ratio is 0.5"),
        (["plan", "--base", "gpt-9"], "no sizes are known of 'gpt-9': choose one of mistral-7b-v0.1, llama-2-7b, "),
        (["plan", "--base", "llama-2-7b", "--variant", "half"], "variant 'half' does not parse"),
        (["plan", "--base", "llama-2-7b", "--variant", "33M"], "variant 33M drops 33 sub-layers, but the model has only 32 layers"),
        (["plan", "--base", "llama-2-7b", "--profile", "demo"], "--profile and --base exclude each other"),
        (["plan", "--speedup", "2", "--variant", "8A"], "--speedup and --parameters choose the cut themselves: leave out variant"),
        (["plan", "--base", "smollm2-135m", "--parameters", "9"], "9 parameters are out of reach: "),
        (["run", "--set", "target_speedup=0.5"], "target_speedup: "),
        (["run", "--set", "target_speedup=2", "--set", "variant=8M"], "a target chooses what is cut: "),
        (["frontier", "--variants", "8X"], "the arm '8X': variant '8X' does not parse: write "),
        (["frontier", "--variants", "8M", "--seeds", ""], "seeds is empty: "),
        (["frontier", "--variants", "8M", "--contrasts", "8A vs 8M"], "the contrast '8A vs 8M' names 8A, which is not among the variants"),
        (["frontier", "--variants", "8M"], "no stack runs in "),
        (["study", "guesswork"], "there is no study 'guesswork'; choose one of: "),
        (["study", "layer-sensitivity", "--profile", "demo"], "no stack runs in "),
        (["status"], "no stack runs in "),
        (["env"], "no stack runs in "),
        (["run"], "no stack runs in "),
        (["encode", "/absent"], "/absent is no folder: "),
        (["verify", "/absent"], "/absent is no folder: "),
        (["verify", "models:/absent@champion"], "no stack runs in "),
        (["phase", "depht", "--spec", "s3://a/b", "--result", "s3://a/c"], "there is no phase 'depht'; choose one of: begin, "),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = effir(*arguments, EFFIR_HOME=str(tmp_path / "home"))
    assert sentence(done).startswith(said)
    assert done.returncode == 2
    assert not (tmp_path / "home" / "last-run.json").exists()


def test_a_plan_as_json_and_as_a_table() -> None:
    arguments = ("plan", "--base", "mistral-7b-v0.1", "--variant", "16M-30%")
    found = json.loads(effir(*arguments, "--json").stdout)
    assert (found["variant"], found["dropped_mlp"], found["params_without_head"]) == ("16M-30%", 16, 3_446_448_128)
    shown = effir(*arguments, COLUMNS="100").stdout
    assert "mistral-7b-v0.1  16M-30%" in shown
    assert "3,446,448,128" in shown


def test_a_plan_is_of_the_recipe_and_what_is_set() -> None:
    found = json.loads(effir("plan", "--set", "variant=last8M-50%u", "--multiple", "512", "--json").stdout)
    assert found["base"] == "smollm2-135m-instruct"
    assert found["widths"]["layers"] == [512] * 22 + [0] * 8
    assert (found["width_multiple"], found["document_tokens"]) == (512, resolve("demo").max_document_tokens)
    chosen = json.loads(effir("plan", "--base", "smollm2-135m", "--speedup", "1.5", "--set", "max_document_tokens=99", "--json").stdout)
    assert 1.5 <= chosen["predicted_speedup"] == chosen["flop_bound_document"]
    assert (chosen["width_multiple"], chosen["document_tokens"]) == (64, 99)
    asked = ("--set", "target_speedup=1.5", "--set", "max_document_tokens=99")
    assert json.loads(effir("plan", "--base", "smollm2-135m", *asked, "--json").stdout) == chosen, "a recipe may have a target, too"


def test_an_unreachable_airflow_is_one_sentence(tmp_path: Path) -> None:
    settings = {
        "EFFIR_AIRFLOW_URL": "http://127.0.0.1:9",
        "EFFIR_HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    command = [sys.executable, "-m", "effir.cli", "run"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, timeout=240)
    assert sentence(done).startswith("Airflow at http://127.0.0.1:9 is not reachable")
    assert done.returncode == 2


def test_down_without_a_stack_is_no_error(tmp_path: Path) -> None:
    done = effir("down", EFFIR_HOME=str(tmp_path))
    assert done.returncode == 0
    assert "no stack was running" in done.stderr


def test_assignments_are_typed_by_the_spec() -> None:
    given = ["lora_rank=8", "margin=0.01", "name=123", "trust_remote_code=true", "collections=beir:scifact,/data/nfcorpus", "in_domain="]
    assert cli.overrides_of("demo", [*given, "margins="]) == {
        "lora_rank": 8, "margin": 0.01, "name": "123", "trust_remote_code": True,
        "collections": "beir:scifact,/data/nfcorpus", "in_domain": "", "margins": "",
    }  # fmt: skip


def test_an_assigned_variant_brings_its_width() -> None:
    assert cli.overrides_of("demo", ["variant=8A-30%u"]) == {"variant": "8A", "keep_ratio": 0.7, "width_rule": "uniform"}


# A phase by hand


def call(store: Store, spec: Any, **more: Any) -> list[str]:
    uri = f"{store.root}/runs/by-hand/calls/x.json"
    store.put_json(uri, {"run": {"id": "by-hand", "mlflow_run_id": None}, "inputs": {}, "arguments": {}} | spec | more)
    return ["--spec", uri, "--result", f"{store.root}/runs/by-hand/results/x.json"]


def test_a_phase_that_is_given_bad_input_writes_nothing(store: Store) -> None:
    addresses = call(store, {"profile": "demo", "overrides": {"collections": "/absent/seen", "in_domain": "", "margins": ""}})
    done = effir("phase", "prepare", *addresses)
    assert "/absent/seen" in done.stderr.strip().splitlines()[-1]
    assert done.stderr.strip().splitlines()[-1].startswith("effir: ")
    assert done.returncode == 2
    assert [uri for uri, _ in store.list(store.root)] == [addresses[1]], "the call is all there is"


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, 2, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, 75, "S3 at http://127.0.0.1:9 is not reachable"),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, 75, "MLflow at http://127.0.0.1:9 is not reachable"),
        ({"MLFLOW_TRACKING_URI": ""}, 2, "MLFLOW_TRACKING_URI must be the http address"),
    ],
)
def test_services_out_of_reach_are_one_sentence(store: Store, settings: dict[str, str], code: int, said: str) -> None:
    done = effir("phase", "begin", *call(store, {"profile": "demo"}), **settings)
    assert said in sentence(done)
    assert done.returncode == code


def test_an_absent_call_is_one_sentence(store: Store) -> None:
    done = effir("phase", "begin", "--spec", f"{store.root}/absent.json", "--result", f"{store.root}/result.json")
    assert sentence(done) == f"{store.root}/absent.json does not exist"
    assert done.returncode == 2


def test_a_phase_starts_at_once() -> None:
    code = "import sys, effir.cli, effir.phases.execute; print(*sys.modules)"
    began = time.process_time()
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "mlflow", "numpy", "scipy", "matplotlib"} & set(loaded)
    assert time.process_time() - began < 3


FULL = OSError(errno.ENOSPC, "No space left on device", "/data/x")
FULL_TOO = RuntimeError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("raised", "command", "code", "said"),
    [
        (BadInput("this is wrong"), "run", 2, "effir: this is wrong\n"),
        (EffirError("this failed"), "run", 1, "effir: this failed\n"),
        (Stopped("stopped"), "phase", 75, "effir: stopped\n"),
        (PeerLost("left alone"), "phase", 75, "effir: left alone\n"),
        (OutOfMemory("full"), "phase", 76, "effir: full\n"),
        (OutOfReach("S3 is not reachable"), "run", 2, "effir: S3 is not reachable\n"),
        (OutOfReach("S3 is not reachable"), "phase", 75, "effir: S3 is not reachable\n"),
        (FULL, "run", 2, "effir: the disk is full: free some space"),
        (FULL_TOO, "verify", 2, "effir: the disk is full: free some space"),
        (FULL, "phase", 1, "effir: the disk is full: free some space"),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: Exception, command: str, code: int, said: str
) -> None:
    def fail() -> None:
        raise raised

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(sys, "argv", ["effir", command])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    assert capsys.readouterr().err.startswith(said)


def test_what_is_not_expected_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cli.main()
