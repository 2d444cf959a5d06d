import math

import numpy as np
import pytest
import torch

from effir.train import losses
from effir.train.losses import Batch, Weights


def unit(rows, columns, seed):
    torch.manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, columns, dtype=torch.float64), dim=1)


def batch_of(queries, group, blocked=()):
    own = torch.arange(queries * group).view(queries, group)
    mask = torch.zeros(queries, queries * group, dtype=torch.bool)
    for row, column in blocked:
        mask[row, column] = True
    return Batch(own, mask)


def test_info_nce_is_equation_2_written_out():
    queries, documents = unit(3, 8, 0), unit(6, 8, 1)
    batch = batch_of(3, 2, blocked=[(0, 3), (2, 0)])
    expected = []
    for row in range(3):
        positive = math.exp(float(queries[row] @ documents[2 * row]) / 0.02)
        others = [column for column in range(6) if column != 2 * row and not batch.blocked[row, column]]
        expected.append(-math.log(positive / (positive + sum(math.exp(float(queries[row] @ documents[one]) / 0.02) for one in others))))
    assert np.isclose(float(losses.info_nce(queries @ documents.T, batch, 0.02)), np.mean(expected), rtol=1e-12)


def test_an_own_positive_is_never_blocked_but_its_twin_is():
    queries = unit(2, 4, 0)
    documents = queries[[0, 0]]
    blocked = Batch(torch.tensor([[0], [1]]), torch.ones(2, 2, dtype=torch.bool))
    assert float(losses.info_nce(queries @ documents.T, blocked, 0.02)) == 0.0
    assert losses.accuracy(queries @ documents.T, blocked) == 1.0


def test_distillation_is_kl_over_the_own_group():
    queries, documents = unit(2, 8, 2), unit(6, 8, 3)
    batch = batch_of(2, 3)
    teacher = torch.tensor([[3.0, 1.0, -2.0], [0.5, 0.0, 0.1]], dtype=torch.float64)
    expected = 0.0
    for row in range(2):
        target = np.exp(teacher[row].numpy() / 0.5)
        target /= target.sum()
        student = np.exp((queries[row] @ documents[batch.own[row]].T).numpy() / 0.02)
        student /= student.sum()
        expected += (target * np.log(target / student)).sum() / 2
    found = losses.distillation(queries @ documents.T, batch.own, teacher, Weights(0.02, 0.5))
    assert np.isclose(float(found), expected, rtol=1e-10)


def test_distillation_survives_a_wide_spread_of_scores():
    similarity = torch.tensor([[0.9, 0.1]], requires_grad=True)
    kl = losses.distillation(similarity, torch.tensor([[0, 1]]), torch.tensor([[0.0, 500.0]]), Weights(0.02, 1.0))
    kl.backward()
    assert torch.isfinite(kl)
    assert similarity.grad.abs().min() > 0


def test_ranking_is_kl_between_the_two_rankings_of_the_whole_batch():
    queries, documents, other_queries, other_documents = unit(2, 8, 2), unit(6, 8, 3), unit(2, 8, 4), unit(6, 8, 5)
    expected = 0.0
    for row in range(2):
        goal = np.exp((other_queries[row] @ other_documents.T).numpy() / 0.1)
        student = np.exp((queries[row] @ documents.T).numpy() / 0.1)
        goal, student = goal / goal.sum(), student / student.sum()
        expected += (goal * np.log(goal / student)).sum() / 2
    found = losses.ranking(queries @ documents.T, other_queries @ other_documents.T, 0.1)
    assert np.isclose(float(found), expected, rtol=1e-10)
    assert float(losses.ranking(queries @ documents.T, queries @ documents.T, 0.1)) == pytest.approx(0, abs=1e-12)


def test_regression_is_two_minus_two_cosines():
    first, second = unit(5, 8, 4), unit(5, 8, 5)
    assert torch.isclose(losses.regression(first, second), (2 - 2 * (first * second).sum(1)).mean())


def test_the_total_adds_what_was_asked_for():
    queries, documents = unit(2, 8, 6), unit(4, 8, 7)
    batch = batch_of(2, 2)
    batch.teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    batch.query_target, batch.document_target = unit(2, 8, 8), unit(4, 8, 9)
    loss, parts = losses.total(queries, documents, batch, Weights(0.02, 1.0, kl=0.5, regression=2.0, ranking=3.0))
    assert np.isclose(float(loss), parts["info_nce"] + 0.5 * parts["kl"] + 2 * parts["regression"] + 3 * parts["ranking"])
    alone, parts = losses.total(queries, documents, batch, Weights())
    assert float(alone) == parts["info_nce"] == parts["loss"]


def test_entropy_of_groups():
    even, sharp = losses.group_entropy(torch.tensor([[1.0, 1.0], [0.0, 100.0]]), 1.0)
    assert float(even) == pytest.approx(math.log(2))
    assert float(sharp) < 1e-9
