import importlib
from typing import Any

import pytest

from effir.phases.execute import key_of
from effir.spec import RunSpec

INPUTS = {name: f"s3://effir/artifacts/{name}/{name}-1/manifest.json" for name in ("base", "calibration", "cut", "training")}


def key(phase: str, changed: str = "", **spec: Any) -> dict[str, Any]:
    """The key of a phase, with another artifact as the input `changed`."""
    inputs = INPUTS | ({changed: INPUTS[changed].replace("-1", "-2")} if changed else {})
    return key_of(phase, importlib.import_module(f"effir.phases.{phase}"), RunSpec(**spec), {"inputs": inputs})


@pytest.mark.parametrize(
    ("phase", "choice", "used"),
    [
        ("importance", {"importance_measure": "cosine"}, {"calibration"}),
        ("importance", {"importance_measure": "leave_one_out"}, {"training"}),
        ("importance", {"importance_measure": "random"}, set()),
        ("slim", {"neuron_score": "slimming"}, {"training"}),
        ("slim", {"neuron_score": "activation_norm"}, {"calibration"}),
        ("slim", {"neuron_score": "taylor"}, {"training"}),
        ("slim", {"neuron_score": "magnitude"}, set()),
        ("slim", {"neuron_score": "magnitude", "variant": "1M", "heal_steps": 1}, {"training"}),
        ("slim", {"neuron_score": "activation_norm", "variant": "1M", "heal_steps": 1}, {"calibration", "training"}),
    ],
)
def test_a_key_depends_on_the_inputs_that_are_used_and_no_others(phase: str, choice: dict[str, str], used: set[str]) -> None:
    plain = key(phase, **choice)
    assert {one for one in INPUTS if key(phase, one, **choice) != plain} == used | {"base", "cut"}


@pytest.mark.parametrize(
    ("phase", "choice", "used"),
    [
        ("importance", {"importance_measure": "cosine"}, {"calibration_tokens": 64, "seed": 1}),
        ("importance", {"importance_measure": "taylor"}, {"probe_steps": 3, "slim_batch": 3, "temperature": 0.5, "seed": 1}),
        ("importance", {"importance_measure": "depth"}, {"seed": 1}),
        ("slim", {"neuron_score": "slimming"}, {"slim_steps": 3, "slim_batch": 3, "temperature": 0.5, "slim_beta": 1.0, "seed": 1}),
        ("slim", {"neuron_score": "activation_norm"}, {"calibration_tokens": 64, "seed": 1}),
        ("slim", {"neuron_score": "taylor"}, {"probe_steps": 3, "slim_batch": 3, "temperature": 0.5, "seed": 1}),
        (
            "slim",
            {"neuron_score": "magnitude", "variant": "1M", "heal_steps": 1},
            {"slim_batch": 3, "temperature": 0.5, "seed": 1, "lora_rank": 3},
        ),
    ],
)
def test_a_key_depends_on_the_fields_that_are_used_and_no_others(phase: str, choice: dict[str, str], used: dict[str, Any]) -> None:
    plain = key(phase, **choice)
    every = {
        "calibration_tokens": 64, "probe_steps": 3, "slim_steps": 3, "slim_batch": 3, "slim_beta": 1.0, "temperature": 0.5, "seed": 1,
        "keep_ratio": 0.5, "lora_rank": 3,
    }  # fmt: skip
    assert {name: value for name, value in every.items() if key(phase, **choice, **{name: value}) != plain} == used


def test_another_choice_is_another_key() -> None:
    assert key("importance") != key("importance", importance_measure="l2")
    assert key("slim") != key("slim", neuron_score="taylor")
