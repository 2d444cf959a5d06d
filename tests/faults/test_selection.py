"""A seeded selection of `make faults`, for every change: some faults of each kind that befalls a phase, on the session's stack."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e import tiny

from effir.services import garbage, local
from effir.services.airflow import Airflow

from . import phase_faults, proxy, work
from .bench import Bench, Row, undisturbed

SEED = 6
STEPS = {step.label: step for step in work.STEPS}
KILLS = {"prepare": "KILL", "slim": "TERM", "reference": "KILL", "candidate": "TERM", "encode candidate 0": "KILL", "promote": "KILL"}
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def bench(stack_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A tiny run that nothing disturbed, and what is needed to disturb its phases."""
    folder = tmp_path_factory.mktemp("faults")
    spec = tiny.overrides(folder / "data", name=f"faults-{time.time_ns()}", **work.SPEC)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFIR_HOME", str(stack_home))
        for name, value in local.client_environment().items():
            patch.setenv(name, value)
        s3 = os.environ["AWS_ENDPOINT_URL_S3"]
        with proxy.started(s3) as between, work.warm(folder / "warm") as start:
            run = work.Run(start, spec, f"s3://effir/{spec['name']}/run", s3)
            yield undisturbed(run, between, random.Random(SEED))


def came_well(row: Row) -> None:
    assert row.injected and (row.lost, row.wrong, row.remarks) == (0, 0, [])


@pytest.mark.parametrize("label", KILLS)
def test_a_killed_phase_goes_on_to_the_same_bits(bench: Bench, label: str) -> None:
    row = Row("kill")
    phase_faults.killed(bench, row, STEPS[label], signal.Signals[f"SIG{KILLS[label]}"])
    came_well(row)


@pytest.mark.parametrize("kind", [kind for kind in proxy.KINDS if kind != "stale list"])
def test_an_s3_that_does_it_wrong(bench: Bench, kind: str) -> None:
    row = Row(kind)
    phase_faults.s3_fault(bench, row, kind, 0.2, tuple(STEPS[label] for label in ("importance", "candidate", "evaluate")))
    came_well(row)


def test_listings_that_lag_behind(bench: Bench) -> None:
    row = Row("stale list")
    phase_faults.stale_lists(bench, row, 1)
    came_well(row)


def test_too_little_memory(bench: Bench) -> None:
    row = Row("out of memory")
    phase_faults.short_of_memory(bench, row, STEPS["reference"])
    came_well(row)


def test_too_small_a_disk(bench: Bench) -> None:
    row = Row("disk full")
    if not phase_faults.short_of_disk(bench, row, STEPS["candidate"]):
        pytest.skip("NO SMALL DISK CAN BE MOUNTED HERE, which takes root: nothing is tested of a full one")
    came_well(row)


def test_mlflow_is_restarted_meanwhile(bench: Bench) -> None:
    row = Row("MLflow restart")
    phase_faults.without(bench, row, STEPS["reference"], "mlflow")
    came_well(row)


def test_after_gc_the_champion_is_still_there_and_verifies(
    bench: Bench, idle: Airflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    name, store = bench.base.spec["name"], bench.base.store
    gone = garbage.remove(store, idle, garbage.find(store, idle, garbage.Limits(0, 0)))
    assert {one.place.split("/")[-2] for one in gone if one.kind == "artifacts"} >= {"encode", "report"}
    for label in ("base", "training", "teacher", "importance", "depth", "slim", "narrow", "reference", "candidate"):
        phase, digest = bench.base.uris[label].split("/")[-3:-1]
        assert store.find(phase, digest), label
    done = subprocess.run([sys.executable, "-m", "effir.cli", "verify", f"models:/{name}@champion"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert max(json.loads(done.stdout).values()) < 1e-2
