import pytest

from effir.arms import arms, contrast_list
from effir.errors import BadInput
from effir.spec import resolve
from effir.studies import STUDIES, find


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_parses_and_compares_its_own_arms(name: str) -> None:
    study = find(name)
    found = arms(resolve("demo"), ",".join(study.arms), "0,1")
    assert len(found) == 2 * len(study.arms)
    text = ", ".join(f"{before} vs {after}" for before, after in study.contrasts)
    assert contrast_list(text, {one.name for one in found}) == list(study.contrasts)
    assert study.question.endswith("?") and study.published.endswith(".")


def test_an_unknown_study() -> None:
    with pytest.raises(BadInput, match="there is no study 'x'; choose one of: layer-sensitivity"):
        find("x")


@pytest.mark.parametrize(("text", "said"), [("8M", "does not parse"), ("8M vs 9M", "names 9M, which is not among the variants")])
def test_a_contrast_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        contrast_list(text, ["8M", "8A"])
