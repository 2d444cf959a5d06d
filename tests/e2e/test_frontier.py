"""A frontier on a tiny model, through real S3, MLflow and Airflow, as a person starts it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from effir.services.store import Store

TEMPLATE = "{{ 7*7 }} {text}"
SPARSE = "sparse=1A:cut=reference:steps=0:teacher=minilm:teacher_temperature=0.05:weights=wanda_2_4"
LOST = "lost=full:base_model=/there/is/none"
CHOSEN = "chosen=full:neuron_score=magnitude:{}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a tiny frontier is made from."""
    given = importlib.util.spec_from_file_location("tiny", Path(__file__).parent / "tiny.py")
    module = importlib.util.module_from_spec(given)
    given.loader.exec_module(module)
    found = module.overrides(
        tmp_path_factory.mktemp("tiny"), name="tiny-frontier", reference_steps=4, speed_seconds=0.5, query_template=TEMPLATE
    )
    module.write_model(tmp_path_factory.getbasetemp() / "sibling", layers=2)
    return {name: value for name, value in found.items() if value is not None and name not in {"variant", "keep_ratio"}}


def frontier(home: Path, overrides: dict[str, Any], variants: str, *options: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, what last-frontier.json holds, what was said) of `effir frontier`."""
    settings = [part for name, value in overrides.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "effir.cli", "frontier", "--profile", "demo", "--variants", variants, *settings, *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFIR_HOME", str(home))
        patch.delenv("EFFIR_AIRFLOW_URL", raising=False)
        done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode in {0, 1} and "effir: " not in done.stderr, done.stderr[-3000:]
    return done.returncode, json.loads((home / "last-frontier.json").read_text()), done.stdout


@pytest.fixture(scope="module")
def first(stack_home: Path, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], str]:
    """A frontier whose third arm is another model, and two of whose arms cannot be: no cut is so fast, no base is there."""
    sibling = f"small=full:base_model={tmp_path_factory.getbasetemp() / 'sibling'}"
    return frontier(stack_home, tiny, f"{SPARSE},{CHOSEN.format('target_speedup=999')},{sibling},{LOST}")


@pytest.mark.timeout(1800)
def test_an_arm_that_fails_does_not_sink_the_others(first: tuple[int, dict[str, Any], str], stack: Any) -> None:
    code, found, said = first
    assert code == 1
    assert found["failed"] == [{"arm": "chosen", "seed": 0}, {"arm": "lost", "seed": 0}]
    assert stack.airflow.run("effir_frontier", found["dag_run_id"])["state"] == "success"
    rows = {row["arm"]: row for row in found["rows"]}
    assert list(rows) == ["base", "bm25", "minilm", "reference", "reference of chosen", "sparse", "small"]
    for name in ("sparse", "small"):
        assert rows[name]["parameters"] < rows["reference"]["parameters"]
        assert rows[name]["interval"][0] <= rows[name]["difference"] <= rows[name]["interval"][1]
        assert -1 < rows[name]["cosine"] < 1
        assert name in said
    assert rows["small"]["speedup"]["document"][0] > 0
    assert [name for name, row in rows.items() if row["sibling"]] == ["small"] and rows["small"]["bound"]["document"] > 1.5
    assert rows["base"]["speedup"] == rows["sparse"]["speedup"] == {}
    page = Store().get_bytes(found["report"]).decode()
    assert all(name in page for name in rows)


def test_a_template_that_somebody_typed_reaches_every_phase_as_text(first: tuple[int, dict[str, Any], str], stack: Any) -> None:
    run = f"s3://effir/runs/{first[1]['dag_run_id']}"
    calls = {uri.rsplit("/", 1)[1]: Store().get_json(uri) for uri, _ in Store().list(f"{run}/calls")}
    asked = [call["spec"]["query_template"] for call in calls.values() if "spec" in call]
    assert {"references-0.json", "importance-0.json", "arm.finetune-0.json"} < set(calls)
    assert set(asked) == {TEMPLATE}


@pytest.mark.timeout(1800)
def test_changing_one_arm_recomputes_that_arm_alone(
    first: tuple[int, dict[str, Any], str], stack_home: Path, tiny: dict[str, Any], stack: Any
) -> None:
    size = next(row["parameters"] for row in first[1]["rows"] if row["arm"] == "reference")
    variants = f"{SPARSE},{CHOSEN.format(f'target_parameters={round(0.9 * size)}')}"
    code, found, printed = frontier(stack_home, tiny, variants, "--contrasts", "sparse vs chosen", "--json")
    assert code == 0 and not found["failed"]
    assert json.loads(printed) == found and [one["after"] for one in found["contrasts"]] == ["chosen"]
    computed = [phase for phase in found["phases"] if not phase["cached"] and phase["name"].split()[0] not in {"arms", "frontier"}]
    assert computed and all("chosen" in phase["name"] for phase in computed), computed
    chosen = next(row for row in found["rows"] if row["arm"] == "chosen")
    assert chosen["parameters"] <= 0.9 * size
