from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from effir.judge.gate import judge
from effir.judge.quality import FEWEST_CLUSTERS, Limits, compare


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1])
@pytest.mark.parametrize("model", ["reference", "candidate"])
def test_one_score_that_is_none_spoils_the_verdict(case, failing, model, value):
    values = case.values(model, "code")
    values[7] = value
    case.set(model, "code", values)
    verdict = judge(*case.arguments())
    assert verdict.verdict == "rejected"
    assert {("complete", None), ("not_inferior_to_reference", "code")} <= set(failing(verdict))
    assert f"the {model} has a score" in verdict.reasons[0]


def test_a_base_without_scores_leaves_the_reference_unproven(case, failing):
    del case.scores["base"]
    assert failing(judge(*case.arguments())) == [("worthy_reference", "code"), ("reference_not_collapsed", "papers")]


def test_queries_are_paired_by_their_id(case):
    limits = Limits(**case.limits)
    before = compare(case.scores, "reference", "candidate", "code", limits)
    order = np.random.default_rng(0).permutation(400)
    found = case.scores["reference"]["code"]
    case.scores["reference"]["code"] = replace(
        found,
        queries=tuple(found.queries[place] for place in order),
        clusters=tuple(found.clusters[place] for place in order),
        values=found.values[order],
    )
    after = compare(case.scores, "reference", "candidate", "code", limits)
    assert (after.estimate, after.lower(0.95)) == (before.estimate, before.lower(0.95))


def test_other_queries_cannot_be_compared(case, failing):
    found = case.scores["candidate"]["code"]
    case.scores["candidate"]["code"] = replace(found, queries=("new", *found.queries[1:]))
    verdict = judge(*case.arguments())
    assert ("not_inferior_to_reference", "code") in failing(verdict)
    assert "different queries of code" in " ".join(verdict.reasons)


def test_a_bound_needs_enough_independent_queries(case, failing):
    found = case.scores["candidate"]["code"]
    few = tuple(f"c{number % (FEWEST_CLUSTERS - 1)}" for number in range(400))
    case.scores["candidate"]["code"] = replace(found, clusters=few, values=case.values("reference", "code"))
    verdict = judge(*case.arguments())
    assert failing(verdict) == [("enough_queries", "code")]


def test_the_bound_is_that_of_a_t_test_where_that_applies(case):
    limits = Limits(**case.limits | {"resamples": 20_000})
    sample = compare(case.scores, "reference", "candidate", "papers", limits)
    difference = case.values("candidate", "papers") - case.values("reference", "papers")
    low = stats.ttest_1samp(difference, 0, alternative="greater").confidence_interval(0.95).low
    assert sample.lower(0.95) == pytest.approx(low, abs=2e-4)


def test_gains_are_judged_together(case, failing):
    """One gain at p = 0.03 is significant alone and, by Holm, not beside another one at 0.03."""
    rng = np.random.default_rng(4)
    for name, n in case.queries.items():
        base = rng.uniform(0.3, 0.6, n)
        gain = rng.normal(0, 0.1, n)
        if name == "code":
            gain = np.repeat(gain[::4], 4)
        groups = gain[::4] if name == "code" else gain
        gain = gain - gain.mean() + 1.88 * groups.std(ddof=1) / np.sqrt(len(groups))
        case.set("base", name, base)
        case.set("reference", name, base + gain)
        case.set("candidate", name, base + gain)
    assert [pair for pair in failing(judge(*case.arguments())) if pair[0] == "worthy_reference"] == []
    case.limits["in_domain"] = ("code", "papers")
    found = [pair for pair in failing(judge(*case.arguments())) if pair[0] == "worthy_reference"]
    assert found == [("worthy_reference", "code"), ("worthy_reference", "papers")]
