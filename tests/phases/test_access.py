"""The judging phases on the real servers, each with the keys of its role alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effir.errors import BadInput
from effir.services import access, promotions, registry, roles
from effir.services.layout import Layout
from effir.spec import RunSpec

TABLE = roles.table(Path(__file__).parents[2] / "dags")


@pytest.fixture
def become(place: Layout, judged: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Go on with the keys of a role; the run lies where policies are about. Calls are written as Airflow does."""
    monkeypatch.setenv("EFFIR_STORE", access.STORE)
    judged.store.root = access.STORE

    def change(role: str) -> None:
        user = TABLE[role]["mlflow"]
        for name, value in (access.s3_variables(place, role) | access.mlflow_variables(place, user)).items():
            monkeypatch.setenv(name, value)

    return change


def test_each_phase_does_with_the_keys_of_its_role_and_only_promote_registers(judged: Any, become: Callable[[str], None]) -> None:
    become("decide")
    judged.run["mlflow_run_id"] = registry.begin_run(judged.run, RunSpec(name=judged.name))
    judged.prepare().execute("gate")
    for role in ("compute", "judge", "decide"):
        become(role)
        with pytest.raises(BadInput, match=r"does not let log do registered-models|these credentials may not write"):
            judged.execute("promote")
    assert promotions.champion(judged.store, judged.name) is None
    become("promote")
    assert judged.execute("promote")["output"]["model"]["version"] == "1"
    for role in ("compute", "judge"):
        become(role)
        with pytest.raises(BadInput, match=r"S3 refused s3://effir/artifacts/gate/.*: these credentials may not write it"):
            judged.execute("gate")
    become("decide")
    assert judged.execute("report")["output"]["summary"]["verdict"] == "promoted"
    become("reader")
    assert promotions.champion(judged.store, judged.name)["version"] == "1"
