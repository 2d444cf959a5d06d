from dataclasses import replace

import numpy as np
import pytest

from effir.judge.quality import Limits, not_inferior
from effir.judge.significance import paired_bootstrap
from effir.judge.simulation import LAWS, Pairs, Rate, by_query, drawn, holds, most, pass_rate

LIMITS = Limits((), (), margin=0.05, margin_mean=0.05, resamples=300)
DRAWS = 300


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Scores as retrieval gives them: many exact ties, many at 0 and 1, few large differences."""
    rng = np.random.default_rng(0)
    reference = rng.choice([0.0, 0.39, 0.43, 0.5, 0.63, 1.0], 300, p=[0.25, 0.1, 0.1, 0.1, 0.15, 0.3])
    moved = rng.random(300) < 0.25
    return Pairs(reference, np.where(moved, rng.permutation(reference), reference))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("target", [-0.05, -0.02, 0.0])
def test_a_law_has_exactly_the_difference_asked_for(pairs, law, target):
    found = LAWS[law](pairs, target)
    assert found.difference == pytest.approx(target, abs=1e-9)
    assert found.weights.sum() == pytest.approx(1)
    for scores in (found.reference, found.candidate):
        assert 0 <= scores.min() <= scores.max() <= 1
    ties = found.weights[found.reference == found.candidate].sum()
    before = (pairs.reference == pairs.candidate).mean()
    assert ties < before if law == "shifted" else ties >= 0.8 * before


@pytest.mark.parametrize("law", ["exchanged", "broken"])
@pytest.mark.parametrize("target", [0.01, -0.9])
def test_a_difference_that_losses_cannot_give_is_refused(pairs, law, target):
    with pytest.raises(ValueError, match="cannot be had"):
        LAWS[law](pairs, target)


def test_draws_are_of_the_law_and_clusters_are_copies(pairs):
    law = LAWS["exchanged"](pairs, -0.05)
    reference, candidate = drawn(law, 6000, 3, np.random.default_rng(0))
    assert (candidate.values - reference.values).mean() == pytest.approx(-0.05, abs=0.02)
    assert len(set(reference.clusters)) == 2000
    assert (candidate.values[::3] == candidate.values[2::3]).all()
    alone, _ = drawn(law, 6000, 3, np.random.default_rng(0), told=False)
    assert len(set(alone.clusters)) == 6000
    assert (alone.values == reference.values).all()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("queries", [25, 100])
def test_a_candidate_at_the_margin_passes_no_more_often_than_the_level(pairs, law, queries):
    rate = pass_rate({"x": LAWS[law](pairs, -0.05)}, queries, LIMITS, DRAWS)
    assert rate.within(0.05), f"{rate.share:.1%} of the draws pass"


def percentile(scores, limits):
    """A gate that trusts the sample to have shown everything: the plain percentile bootstrap."""
    difference = scores["candidate"]["x"].values - scores["reference"]["x"].values
    draws = difference[np.random.default_rng(limits.seed).integers(0, len(difference), (300, len(difference)))].mean(axis=1)
    return np.quantile(draws, 0.05) > -limits.margin


def wrong_end(scores, limits):
    """A gate that takes the bound at its wrong end."""
    return paired_bootstrap(scores["reference"]["x"].values, scores["candidate"]["x"].values, None, 300).lower(0.05) > -limits.margin


def no_bound(scores, limits):
    """A gate that looks at the mean alone."""
    return (scores["candidate"]["x"].values - scores["reference"]["x"].values).mean() > -limits.margin


@pytest.mark.parametrize("rules", [percentile, wrong_end, no_bound])
def test_the_same_check_finds_a_wrong_gate(pairs, rules):
    assert not pass_rate({"x": LAWS["broken"](pairs, -0.05)}, 25, LIMITS, DRAWS, rules=rules).within(0.05)


def test_clusters_ignored_are_found_and_clusters_respected_hold(pairs):
    law = {"x": LAWS["exchanged"](pairs, -0.05)}
    respected, ignored = (pass_rate(law, 500, LIMITS, DRAWS, copies=5, told=told) for told in (True, False))
    assert respected.within(0.05)
    assert not ignored.within(0.05)


def test_power_grows_with_queries_and_few_are_never_enough(pairs):
    law = {"x": LAWS["exchanged"](pairs, 0.0)}
    shares = [pass_rate(law, queries, LIMITS, 100).share for queries in (9, 25, 300, 1000)]
    assert shares[0] == 0, "fewer than ten clusters"
    assert shares == sorted(shares)
    assert shares[1] < 0.1 < 0.5 < shares[-1]


def test_all_rules_together_need_no_correction(pairs):
    laws = {"x": LAWS["exchanged"](pairs, -0.05), "y": LAWS["exchanged"](pairs, 0.0)}
    assert pass_rate(laws, 200, replace(LIMITS, margin_mean=0.99), DRAWS).within(0.05)


def test_the_gate_that_is_simulated_is_the_gate(case):
    limits = replace(Limits(**case.limits), in_domain=())
    assert holds(case.scores, limits)
    assert all(rule.passed for rule in not_inferior("reference", case.scores, limits))
    case.set("candidate", "papers", np.zeros(1500))
    assert not holds(case.scores, limits)


def test_the_largest_share_is_two_standard_errors_above_the_level():
    assert most(0.05, 2000) == pytest.approx(0.05 + 2 * 0.0048734)
    assert Rate(119, 2000).within(0.05)
    assert not Rate(120, 2000).within(0.05)


def test_scores_are_paired_by_query():
    found = by_query([{"a": 0.1, "b": 0.2}, {"b": 0.4, "a": 0.3}])
    assert (found.reference.tolist(), found.candidate.tolist()) == ([0.1, 0.2], [0.3, 0.4])
