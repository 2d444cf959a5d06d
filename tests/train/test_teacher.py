import math

import pytest

from effir.errors import BadInput
from effir.retrieve.collections import Document
from effir.train import teacher
from effir.train.examples import Example, TrainingSet

CORPUS = {
    "cat": Document("", "A cat is a small animal that purrs."),
    "car": Document("", "A car is a vehicle with four wheels."),
    "sky": Document("Sky", "The sky is blue on a clear day."),
}


def training(**scores):
    return TrainingSet([Example("q", "which animal purrs", ["cat"], ["car", "sky"], **scores)], CORPUS)


def test_the_stand_in_prefers_the_right_document():
    scores, passes = teacher.score(training(), "minilm", "cpu")
    assert passes == 1
    assert scores["q"]["cat"] > max(scores["q"]["car"], scores["q"]["sky"]) + 0.2
    rounded, _ = teacher.score(training(), "minilm", "cpu", "bfloat16")
    assert all(abs(rounded["q"][name] - value) < 0.02 for name, value in scores["q"].items())


def test_scores_in_the_data_are_taken_raw():
    scores, passes = teacher.score(training(positive_scores=[9.5], negative_scores=[-2.0, 0.5]), "data", "cpu")
    assert (scores, passes) == ({"q": {"cat": 9.5, "car": -2.0, "sky": 0.5}}, 0)
    assert teacher.score(training(), "none", "cpu") == ({}, 0)
    with pytest.raises(BadInput, match="training query q has no scores"):
        teacher.score(training(), "data", "cpu")


def test_a_teacher_that_cannot_be_had():
    with pytest.raises(BadInput, match="teacher '/nowhere/reranker' cannot be loaded"):
        teacher.score(training(), "/nowhere/reranker", "cpu")


def test_entropy_of_the_groups():
    found = teacher.entropies(training(), {"q": {"cat": 1.0, "car": 1.0, "sky": 1.0}}, 0.05)
    assert found == [pytest.approx(math.log(3))]
