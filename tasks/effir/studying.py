"""`effir study NAME --size`: how long a study takes, on machines that are not here."""

from collections.abc import Iterator
from typing import Any

from effir.arms import arms
from effir.errors import BadInput
from effir.forecast import frontier, show
from effir.forecast.hardware import find
from effir.forecast.volume import volume
from effir.phases.arms import shared
from effir.sources import local
from effir.spec import resolve
from effir.studies import Study

PAPER = "mistral-7b-paper"


def sizes(study: Study, profile: str, given: dict[str, Any], seeds: str) -> Iterator[str]:
    """A line for two cores and one for a GPU, with the profile as it is asked for, and one for the paper's recipe on eight.

    Raises BadInput where the profile's data are not there, or a target is out of its base model's reach.
    """
    for recipe, overrides, machine in ((profile, given, "cpu2"), (profile, given, "h100x1"), (PAPER, {}, "h100x8")):
        spec = resolve(recipe, overrides)
        asked = study.form(spec.base_model, seeds)
        found = arms(spec, asked["variants"], asked["seeds"])
        try:
            seconds = frontier.wall(shared(spec, found), volume(spec, local), find(machine))
        except BadInput as error:
            if recipe == profile:
                raise
            yield f"{recipe} on {machine}: it cannot be run there: {error}"
            continue
        yield f"{recipe} on {machine}: {len(found)} arms, about {show.span(seconds)}"
