import pytest

from effir.arms import SHARED, arms, seed_list
from effir.errors import BadInput
from effir.phases import prepare
from effir.spec import resolve

SPEC = resolve("demo", {"lora_rank": 8})


def test_every_variant_with_every_seed() -> None:
    found = arms(SPEC, "8M, last4B\n15A", "0,7")
    assert [(one.name, one.seed) for one in found] == [(name, seed) for name in ("8M", "last4B", "15A") for seed in (0, 7)]
    assert all(one.spec.variant == one.name and one.spec.seed == one.seed and one.spec.lora_rank == 8 for one in found)


def test_a_variant_says_all_about_widths_and_the_profile_nothing() -> None:
    assert SPEC.keep_ratio < 1
    plain, narrow, uniform = arms(SPEC, "8M,8M-30%,-20%u", "0")
    assert (plain.spec.variant, plain.spec.keep_ratio) == ("8M", 1)
    assert (narrow.spec.variant, narrow.spec.keep_ratio, narrow.spec.width_rule) == ("8M", 0.7, "global")
    assert (uniform.spec.variant, uniform.spec.keep_ratio, uniform.spec.width_rule) == ("full", 0.8, "uniform")


def test_an_arm_has_settings_of_its_own() -> None:
    first, second = arms(SPEC, "8M:importance_measure=l2:regression_weight=0,8M:cut=reference:steps=0", "0")
    assert (first.spec.importance_measure, first.spec.regression_weight, first.cut) == ("l2", 0, "base")
    assert (second.spec.steps, second.cut, second.spec.importance_of) == (0, "reference", "reference")


def test_what_is_cut_and_whose_sub_layers_are_ranked_are_two_questions() -> None:
    found = arms(SPEC, "8M,8M:importance_of=reference,8M:cut=reference,8M:cut=reference:importance_of=base", "0")
    told = [(one.cut, one.spec.importance_of) for one in found]
    assert told == [("base", "base"), ("base", "reference"), ("reference", "reference"), ("reference", "base")]


def test_an_arm_may_have_a_name() -> None:
    first, second = arms(SPEC, "chosen one = full:target_speedup=1.5, 8M", "0")
    assert (first.name, first.spec.target_speedup, second.name) == ("chosen one", 1.5, "8M")
    assert first.line == "chosen one = full:target_speedup=1.5"


def test_an_arm_may_have_other_weights_in_the_end() -> None:
    plain, rounded = arms(SPEC, "8M,8M:weights=nf4", "0")
    assert (plain.weights, rounded.weights) == ("", "nf4") and plain.spec == rounded.spec


def test_an_arm_may_be_another_model() -> None:
    spec = resolve("demo", {"base_revision": "v1", "regression_weight": 5.0, "importance_of": "reference"})
    same, other, cut = arms(spec, "full,full:base_model=models:/small@champion:steps=3,8M:base_model=s3://models/a", "0")
    assert other.spec.base_model == "models:/small@champion" and other.spec.steps == 3
    assert cut.spec.base_model == "s3://models/a"
    assert (same.spec.base_revision, same.spec.regression_weight, same.spec.importance_of) == ("v1", 5, "reference")
    assert (other.spec.base_revision, other.spec.regression_weight, other.spec.importance_of) == (None, 0, "base")
    assert [one.whole for one in (same, other, cut)] == [True, True, False]
    assert not any(one.whole for one in arms(spec, "full:target_speedup=1.5,full:weights=nf4,-10%", "0"))


def test_what_the_data_are_prepared_by_is_shared() -> None:
    """But for models, hard negatives (as many are mined as any arm wants), calibration text (training documents are there), seed, dtype."""
    assert set(SHARED) == set(prepare.FIELDS) - {"base_model", "base_revision", "hard_negatives", "calibration_text", "seed", "dtype"}
    assert arms(SPEC, "8M:calibration_text=training-documents", "0")[0].spec.calibration_text == "training-documents"


@pytest.mark.parametrize(
    ("variants", "seeds", "said"),
    [
        ("a=8M,a=9M", "0", "variants names a twice"),
        ("reference=8M", "0", "the arm 'reference=8M' has the name reference, which stands for something else"),
        ("=8M", "0", "the arm '=8M' has the name ''"),
        ("<a>=8M", "0", "the arm '<a>=8M' has the name '<a>'"),
        ("", "0", "variants is empty"),
        (" , ", "0", "variants is empty"),
        ("8M", "", "seeds is empty"),
        ("8M", "0,x", "seeds has 'x'"),
        ("8M", "1,1", "seeds has '1'"),
        ("8M", "-1", "seeds has '-1'"),
        ("8M,4A,8M", "0", "variants names 8M twice"),
        ("8X", "0", "the arm '8X': variant '8X' does not parse"),
        ("8M,small=full:target_parameters=9", "0", "the arm 'small=full:target_parameters=9': 9 parameters are out of reach: "),
        ("8M:lora_rank", "0", "the arm '8M:lora_rank' does not parse"),
        (
            "full:base_model=small:regression_weight=1",
            "0",
            "the arm 'full:base_model=small:regression_weight=1' has a base_model of its own",
        ),
        ("8M:base_model=small:cut=reference", "0", "the arm '8M:base_model=small:cut=reference' has a base_model of its own"),
        ("8M:a:lora_rank=1", "0", "the arm '8M:a:lora_rank=1' does not parse"),
        ("8M:lora_rank=0", "0", "the arm '8M:lora_rank=0': lora_rank"),
        ("8M:nothing=1", "0", "the arm '8M:nothing=1': nothing is not a field"),
        ("8M:cut=teacher", "0", "the arm '8M:cut=teacher' has cut=teacher: choose one of base, reference"),
        ("8M:weights=2", "0", "the arm '8M:weights=2' has weights='2': choose one of int8, nf4, magnitude_2_4, wanda_2_4"),
        ("8M:training_examples=9", "0", "the arm '8M:training_examples=9' sets training_examples, which all arms share"),
        ("8M:calibration_text=my.txt", "0", "the arm '8M:calibration_text=my.txt' has a calibration_text of its own: it may be training-"),
        ("8M:seed=1", "0", "the arm '8M:seed=1' sets seed, which all arms share: set it for the whole frontier"),
        ("8M:importance_of=teacher", "0", "the arm '8M:importance_of=teacher': importance_of"),
    ],
)
def test_what_does_not_parse_is_said(variants: str, seeds: str, said: str) -> None:
    with pytest.raises(BadInput, match="^" + said.replace("(", r"\(")):
        arms(SPEC, variants, seeds)


def test_seeds() -> None:
    assert seed_list(" 3,0 ") == [3, 0]
