from pathlib import Path

import pytest
import torch

from effir.manifest import MANIFEST
from effir.phases.compute import INDEX, KEPT, StoredCheckpoints
from effir.phases.job import Job
from effir.services.store import Store
from effir.spec import RunSpec


@pytest.fixture
def checkpoints(store: Store, tmp_path: Path) -> StoredCheckpoints:
    (tmp_path / "scratch").mkdir()
    return StoredCheckpoints(Job("finetune", "0", RunSpec(), {}, {}, {}, store, tmp_path / "out", tmp_path / "scratch"))


def trained() -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
    """A parameter and its optimiser."""
    weight = torch.nn.Parameter(torch.zeros(3))
    return {"weight": weight}, torch.optim.AdamW([weight])


def save(checkpoints: StoredCheckpoints, *steps: int) -> None:
    for step in steps:
        parameters, optimiser = trained()
        with torch.no_grad():
            parameters["weight"].fill_(step)
        checkpoints.save(step, parameters, optimiser, {"history": [step]})


def newest(checkpoints: StoredCheckpoints) -> float | None:
    """What the weight is after the newest checkpoint was put back."""
    parameters, optimiser = trained()
    return parameters["weight"][0].item() if checkpoints.load(parameters, optimiser) else None


def places(checkpoints: StoredCheckpoints) -> set[str]:
    listed = [uri.removeprefix(f"{checkpoints.prefix}/").partition("/")[0] for uri, _ in checkpoints.store.list(checkpoints.prefix)]
    return {one for one in listed if one != INDEX}


def test_however_long_a_training_is_two_are_kept_and_none_in_the_end(checkpoints: StoredCheckpoints) -> None:
    assert newest(checkpoints) is None
    for step in range(2, 14, 2):
        save(checkpoints, step)
        assert len(places(checkpoints)) <= KEPT
        assert newest(checkpoints) == step
    assert places(checkpoints) == {"000000010", "000000012"}
    assert not list(checkpoints.job.scratch.iterdir())
    checkpoints.clear()
    assert list(checkpoints.store.list(checkpoints.prefix)) == []


def test_what_a_killed_process_wrote_half_goes_with_the_next(checkpoints: StoredCheckpoints) -> None:
    save(checkpoints, 2)
    for step in (3, 5, 7):
        checkpoints.store.put_json(f"{checkpoints.prefix}/{step:09d}/state.json", {})
        checkpoints.store.put_json(f"{checkpoints.prefix}/{step:09d}/{MANIFEST}", {})
    assert newest(checkpoints) == 2, "the index does not name the others"
    save(checkpoints, 4)
    assert places(checkpoints) == {"000000002", "000000004"}


def test_a_damaged_one_is_passed_over(checkpoints: StoredCheckpoints, capsys: pytest.CaptureFixture[str]) -> None:
    save(checkpoints, 2, 4)
    checkpoints.store.put_json(f"{checkpoints.prefix}/000000004/state.json", {})
    assert newest(checkpoints) == 2
    assert "damaged and is passed over" in capsys.readouterr().err
    checkpoints.store.delete([f"{checkpoints.prefix}/000000002/{MANIFEST}"])
    assert newest(checkpoints) is None
