import pytest

from effir.arms import arms
from effir.phases.arms import shared
from effir.phases.frontier import score_name
from effir.spec import resolve

SPEC = resolve("demo", {"teacher": "none", "hard_negatives": 1})


def test_what_is_alike_is_there_once() -> None:
    parts = shared(SPEC, arms(SPEC, "8M, 8A:regression_weight=2, 8M-30%:weights=int8", "0,1"))
    assert [len(parts[name]) for name in ("teachers", "references", "scores", "arms")] == [1, 2, 2, 6]
    assert [one["caption"] for one in parts["references"]] == [{"seed": 0, "reference": 0}, {"seed": 1, "reference": 1}]
    assert [one["reference"] for one in parts["arms"]] == [0, 1] * 3
    assert [one["weights"] for one in parts["arms"]] == ["", "", "", "", "int8", "int8"]


def test_a_way_of_training_has_a_name_over_its_seeds() -> None:
    parts = shared(SPEC, arms(SPEC, "8M, 8A:pooling=last, 15M:pooling=last", "0,1"))
    assert [one["name"] for one in parts["references"]] == ["reference"] * 2 + ["reference of 8A:pooling=last"] * 2
    assert [one["reference"] for one in parts["arms"]] == [0, 1, 2, 3, 2, 3]


def test_a_teacher_has_its_own_references() -> None:
    parts = shared(SPEC, arms(SPEC, "8M, 8M:teacher=minilm:teacher_temperature=0.05, 8A:teacher=minilm:teacher_temperature=0.05", "0,1"))
    assert [one["spec"]["teacher"] for one in parts["teachers"]] == ["none", "minilm"]
    assert [one["teacher"] for one in parts["references"]] == [0, 0, 1, 1]
    assert [one["teacher"] for one in parts["arms"]] == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("variants", "scored"),
    [
        ("8M, 8M:cut=reference, 8A:importance_of=reference", [None, 0]),
        ("8M, 8A:calibration_text=training-documents", [None, None]),
        ("8M:importance_measure=depth, 8A:importance_measure=depth:calibration_text=training-documents", [None]),
    ],
)
def test_scores_are_of_the_base_or_of_a_reference_on_one_text_or_another(variants: str, scored: list[int | None]) -> None:
    assert [one["reference"] for one in shared(SPEC, arms(SPEC, variants, "0"))["scores"]] == scored


def test_every_set_of_scores_has_a_name_of_its_own() -> None:
    line = "8M, 8M:importance_measure=l2, 8M:importance_of=reference, 8A:importance_of=reference:pooling=last, 8A:calibration_samples=9"
    parts = shared(SPEC, arms(SPEC, line, "0,1"))
    names = [score_name(one, parts["scores"], parts["references"]) for one in parts["scores"]]
    assert len(set(names)) == len(names) == 10
    assert names[0] == "cosine of the base, calibration_samples=48, seed=0"
    assert names[6] == "cosine of the reference of 8A:importance_of=reference:pooling=last, calibration_samples=48, seed=0"


def test_a_model_of_its_own_is_a_base_and_no_reference() -> None:
    parts = shared(SPEC, arms(SPEC, "small=full:base_model=qwen2.5-1.5b,8M,8M:base_model=qwen2.5-1.5b:base_revision=old", "0,1"))
    assert [(one["base_model"], one["base_revision"]) for one in parts["bases"]] == [
        (SPEC.base_model, SPEC.base_revision), ("qwen2.5-1.5b", None), ("qwen2.5-1.5b", "old"),
    ]  # fmt: skip
    assert [one["base"] for one in parts["arms"]] == [1, 1, 0, 0, 2, 2]
    assert [one["caption"]["sibling"] for one in parts["arms"]] == [True, True, False, False, False, False]
    assert [one["base"] for one in parts["scores"]] == [1, 1, 0, 0, 2, 2]
    assert [one["spec"]["base_model"] for one in parts["references"]] == [SPEC.base_model] * 2
    assert [one["spec"]["base_model"] for one in parts["arms"]] == ["qwen2.5-1.5b"] * 2 + [SPEC.base_model] * 2 + ["qwen2.5-1.5b"] * 2
