import pytest

from effir.arms import arms, contrast_list
from effir.errors import BadInput
from effir.spec import resolve
from effir.studies import STUDIES, find


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_parses_and_compares_its_own_arms(name: str) -> None:
    study = find(name)
    for base in ("smollm2-135m", "mistral-7b-v0.1"):
        asked = study.form(base, "0,1")
        found = arms(resolve("demo"), asked["variants"], asked["seeds"])
        assert len(found) == 2 * len(study.arms)
        assert contrast_list(asked["contrasts"], {one.name for one in found}) == list(study.contrasts)
    assert study.question.endswith("?") and study.published.endswith(".")


@pytest.mark.parametrize(("base", "fewest"), [("smollm2-135m", 99_100_000), ("mistral-7b-v0.1", 4_926_000_000)])
def test_as_many_parameters_as_a_variant_leaves(base: str, fewest: int) -> None:
    chosen = arms(resolve("demo"), find("equal-size").form(base, "0")["variants"], "0")[0]
    assert chosen.name == "chosen" and chosen.spec.target_parameters == pytest.approx(fewest, rel=1e-3)


def test_an_unknown_study() -> None:
    with pytest.raises(BadInput, match="there is no study 'x'; choose one of: layer-sensitivity"):
        find("x")


@pytest.mark.parametrize(("text", "said"), [("8M", "does not parse"), ("8M vs 9M", "names 9M, which is not among the variants")])
def test_a_contrast_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        contrast_list(text, ["8M", "8A"])
