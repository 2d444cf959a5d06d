from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effir.errors import BadInput
from effir.spec import RunSpec, collection_name, load_profile, parse, profile_names, resolve


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_resolves(name: str) -> None:
    spec = resolve(name)
    assert {key: getattr(spec, key) for key in load_profile(name)} == load_profile(name)
    assert spec.reference_steps >= spec.steps


def test_the_profiles_that_are_promised() -> None:
    assert {"demo", "demo-aggressive", "mistral-7b-paper"} <= set(profile_names())


def test_the_demo_fixes_its_margins_within_what_was_allowed() -> None:
    for name in ("demo", "demo-aggressive"):
        spec = resolve(name)
        assert spec.margin <= 0.03
        assert spec.margin_mean <= 0.02
        assert set(spec.margin_by_name()) <= {"semanlink"}
        assert spec.margin_by_name().get("semanlink", 0) <= 0.04


def test_the_defaults_are_the_paper_s() -> None:
    spec = RunSpec()
    assert (spec.calibration_samples, spec.calibration_tokens, spec.slim_steps) == (256, 2048, 500)
    assert (spec.temperature, spec.lora_rank, spec.lora_alpha, spec.pooling) == (0.02, 32, 64.0, "last")


def test_an_override_wins_and_an_empty_one_does_not() -> None:
    spec = resolve("demo", {"lora_rank": 5, "steps": None})
    assert spec.lora_rank == 5
    assert spec.steps == resolve("demo").steps


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"lora_rnak": 5}, "lora_rnak is not a field of the spec"),
        ({"keep_ratio": 0}, "keep_ratio: .*greater than 0.*got 0"),
        ({"keep_ratio": 1.2}, "keep_ratio: .*less than or equal to 1"),
        ({"variant": "8X"}, r"variant '8X' does not parse: write full, .*8A .*-30%.*-30%u"),
        ({"variant": "8X-30%"}, "variant '8X-30%' does not parse"),
        ({"variant": "16M-30%", "keep_ratio": 0.5}, r"variant 16M-30% means keep_ratio 0.7, but keep_ratio is 0.5"),
        ({"variant": "16M-30%", "slim_steps": 0}, "or a target, needs slim_steps above 0"),
        ({"slim_steps": 0, "target_speedup": 1.5, "neuron_score": "slimming"}, "or a target, needs slim_steps above 0"),
        ({"variant": "16M", "keep_ratio": 1.0, "heal_steps": 5}, "heal_steps trains between dropping sub-layers and narrowing MLPs"),
        ({"variant": "-30%", "heal_steps": 5}, "heal_steps trains between dropping sub-layers and narrowing MLPs"),
        ({"target_speedup": 1.5, "heal_steps": 5}, "heal_steps trains between dropping sub-layers and narrowing MLPs"),
        ({"width_rule": "equal"}, "width_rule: .*'global' or 'uniform'"),
        ({"name": "no spaces"}, "name: .*pattern"),
        ({"query_template": "find"}, r"query_template: must contain \{text\} exactly once"),
        ({"steps": 10, "reference_steps": 9}, r"reference_steps \(9\) is less than steps \(10\)"),
        ({"slim_steps": 0, "keep_ratio": 0.5}, "or a target, needs slim_steps above 0"),
        ({"importance_measure": "entropy"}, "importance_measure: .*'cosine'.*got 'entropy'"),
        ({"neuron_score": "cosine"}, "neuron_score: .*'slimming'"),
        ({"probe_steps": 0}, "probe_steps: .*greater than or equal to 1"),
        ({"collections": "beir:scifact,/data/scifact"}, "the same name twice"),
        ({"collections": "beir:scifact", "in_domain": "nfcorpus"}, "in_domain names nfcorpus, which is not among the collections"),
        ({"collections": "beir:scifact", "margins": "nfcorpus=0.1"}, "margins names nfcorpus"),
        ({"margins": "scifact=2"}, "margins: .*pattern"),
        ({"lora_rank": "many"}, "lora_rank: .*integer"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as caught:
        parse(wrong)
    assert "\n" not in str(caught.value)


def test_neurons_may_be_ranked_without_slimming() -> None:
    assert parse({"slim_steps": 0, "keep_ratio": 0.5, "neuron_score": "magnitude"}).keep_ratio == 0.5


def test_every_wrong_field_is_named() -> None:
    with pytest.raises(BadInput) as caught:
        parse({"lora_rank": 0, "batch": 1, "absent": 2})
    assert all(name in str(caught.value) for name in ("lora_rank", "batch", "absent"))


def test_an_unknown_profile_is_named_with_those_there_are() -> None:
    with pytest.raises(BadInput, match=r"no profile 'domo'; choose one of: demo, .*mistral-7b-paper"):
        resolve("domo")


def test_a_variant_may_set_the_width() -> None:
    assert width_of(parse({"variant": "last8M-25%u"})) == ("last8M", 0.75, "uniform")
    assert width_of(parse({"variant": "-10%"})) == ("full", 0.9, "global")
    assert width_of(RunSpec.model_validate_json('{"variant": "16M-30%", "keep_ratio": 0.7}')) == ("16M", 0.7, "global")
    assert parse({"variant": "16M-30%"}) == parse({"variant": "16M", "keep_ratio": 0.7})


def test_the_width_of_an_override_s_variant_wins_over_the_profile() -> None:
    assert load_profile("demo")["keep_ratio"] == 0.95
    assert width_of(resolve("demo", {"variant": "8A-40%u"})) == ("8A", 0.6, "uniform")
    assert width_of(resolve("demo", {"variant": "8A"})) == ("8A", 0.95, "global")
    with pytest.raises(BadInput, match=r"variant 8A-40% means keep_ratio 0.6, but keep_ratio is 0.7"):
        resolve("demo", {"variant": "8A-40%", "keep_ratio": "0.7"})


def width_of(spec: RunSpec) -> tuple[str, float, str]:
    return spec.variant, spec.keep_ratio, spec.width_rule


def test_margins_and_collections_by_name() -> None:
    spec = parse({"collections": "beir:scifact, /data/nfcorpus/ ,s3://bucket/x/semanlink", "margins": "scifact=.5, semanlink=0.04"})
    assert spec.collection_names() == ["scifact", "nfcorpus", "semanlink"]
    assert spec.collection_sources()[1] == "/data/nfcorpus/"
    assert spec.margin_by_name() == {"scifact": 0.5, "semanlink": 0.04}
    assert spec.in_domain_names() == spec.collection_names()


@given(st.text("abcdefgh0123456789-_", min_size=1), st.sampled_from(["beir:{}", "/data/{}", "/data/{}/", "s3://bucket/{}", "{}"]))
def test_a_collection_s_name_is_its_last_part(name: str, written: str) -> None:
    assert collection_name(written.format(name)) == name


def test_a_spec_survives_json() -> None:
    spec = resolve("demo")
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_target_takes_the_place_of_a_variant() -> None:
    found = resolve("demo", {"target_speedup": 1.5})
    assert (found.variant, found.keep_ratio, found.target_speedup) == ("full", 1.0, 1.5)
    assert RunSpec(target_parameters=1000).variant == "full"
    with pytest.raises(BadInput, match="a target chooses what is cut"):
        resolve("demo", {"target_speedup": 1.5, "variant": "8M"})
    with pytest.raises(BadInput, match=r"target_speedup: .*greater than 1"):
        resolve("demo", {"target_speedup": 1})
