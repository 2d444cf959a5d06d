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
    order = np.random.default_rng(0).permutation(2000)
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
    few = tuple(f"c{number % (FEWEST_CLUSTERS - 1)}" for number in range(2000))
    case.scores["candidate"]["code"] = replace(found, clusters=few, values=case.values("reference", "code"))
    verdict = judge(*case.arguments())
    assert failing(verdict)[0] == ("enough_queries", "code")


def test_the_bound_is_that_of_a_t_test_where_that_applies(case):
    limits = Limits(**case.limits | {"resamples": 20_000})
    sample = compare(case.scores, "reference", "candidate", "papers", limits)
    difference = np.append(case.values("candidate", "papers") - case.values("reference", "papers"), -1.0)
    low = stats.ttest_1samp(difference, 0, alternative="greater").confidence_interval(0.95).low
    assert sample.lower(0.95) == pytest.approx(low, abs=2e-4)


def test_gains_are_judged_together(case, failing):
    """One gain at p = 0.03 is significant alone and, by Holm, not beside another one at 0.03."""
    rng = np.random.default_rng(4)
    for name, n in case.queries.items():
        base = rng.uniform(0.3, 0.6, n)
        gain = rng.normal(0, 0.05, n)
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


def test_better_is_stated_only_where_it_survives_all_comparisons(case):
    """p = 0.02 on each of two collections is significant alone, and not among the four directions that are tested together."""
    rng = np.random.default_rng(5)
    for name, n in case.queries.items():
        gain = np.repeat(rng.normal(0, 0.05, n // 4), 4) if name == "code" else rng.normal(0, 0.05, n)
        groups = gain[::4] if name == "code" else gain
        gain += 2.05 * groups.std(ddof=1) / np.sqrt(len(groups)) - gain.mean()
        case.set("reference", name, np.full(n, 0.5))
        case.set("candidate", name, 0.5 + gain)
    alone = judge(*case.arguments()[:5], replace(Limits(**case.limits), collections=("code",))).statements
    assert [(one.collection, one.significant, "better than the reference" in one.text) for one in alone] == [("code", True, True)]
    both = judge(*case.arguments()).statements
    assert [(one.collection, one.significant) for one in both] == [("code", False), ("papers", False)]
    assert all("neither better nor worse" in one.text for one in both)
    assert both[0].p == pytest.approx(2 * alone[0].p, rel=0.2)


def test_worse_and_better_are_stated_of_every_model_compared_with(case):
    case.champion = {"version": "3", "digest": "champ"}
    for name in case.queries:
        case.set("candidate", name, np.clip(case.values("reference", name) + 0.05, 0, 1))
        case.set("champion", name, np.clip(case.values("reference", name) + 0.1, 0, 1))
    found = judge(*case.arguments())
    assert [one.text.split(":")[0] for one in found.statements] == [
        "on code the candidate is better than the reference", "on papers the candidate is better than the reference",
        "on code the candidate is worse than the champion", "on papers the candidate is worse than the champion",
    ]  # fmt: skip
    assert "- on papers the candidate is worse than the champion" in found.to_markdown()
