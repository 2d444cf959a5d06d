import pytest

from effir.errors import BadInput
from effir.retrieve.collections import Document
from effir.train import plan as plans
from effir.train.examples import Example, TrainingSet


def training(queries=8, documents=30):
    corpus = {f"d{number}": Document("", f"text {number}") for number in range(documents)}
    examples = [Example(f"q{number}", f"query {number}", [f"d{number}"], [f"d{number + 10}"][: number % 2]) for number in range(queries)]
    return TrainingSet(examples, corpus)


def test_groups_have_one_size_and_no_positive_among_negatives():
    plan = plans.lay_out(training(), 4, 6, 3, seed=1)
    assert len(plan) == 6
    for group in (group for step in plan for group in step):
        assert len(group.documents) == len(set(group.documents)) == 4
        assert not set(group.documents[1:]) & group.relevant
        number = int(group.query_id[1:])
        assert number % 2 == 0 or f"d{number + 10}" in group.documents


def test_a_step_depends_on_seed_and_number_alone():
    assert plans.lay_out(training(), 4, 6, 2, seed=1)[:3] == plans.lay_out(training(), 4, 3, 2, seed=1)
    assert plans.lay_out(training(), 4, 3, 2, seed=1) != plans.lay_out(training(), 4, 3, 2, seed=2)


def test_refusals():
    with pytest.raises(BadInput, match="8 queries, fewer than one batch of 16"):
        plans.lay_out(training(), 16, 1, 1, seed=0)
    with pytest.raises(BadInput, match="too few documents for 5 hard negatives"):
        plans.lay_out(training(4, 4), 2, 1, 5, seed=0)
