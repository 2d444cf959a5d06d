import math
from dataclasses import replace

import numpy as np
import pytest

from effir.judge.gate import Candidate, judge


def test_an_equal_candidate_is_promoted(case, failing):
    for name in case.queries:
        case.set("candidate", name, case.values("reference", name))
    verdict = judge(*case.arguments())
    assert (verdict.verdict, verdict.reasons, failing(verdict)) == ("promoted", ["all 9 rules hold"], [])
    assert [rule.rule for rule in verdict.rules] == [
        "complete", "worthy_reference", "reference_not_collapsed", "not_inferior_to_reference", "not_inferior_to_reference",
        "mean_not_inferior_to_reference", "query_speedup", "document_speedup", "reloads",
    ]  # fmt: skip
    code, papers, mean = (rule.value for rule in verdict.rules if "inferior" in rule.rule)
    assert (code, papers) == (pytest.approx(0.05 ** (1 / 500) - 1, rel=0.1), pytest.approx(0.05 ** (1 / 1500) - 1, rel=0.1))
    assert code < mean < 0


def test_a_better_candidate_is_promoted(case):
    for name in case.queries:
        case.set("candidate", name, np.clip(case.values("reference", name) + 0.1, 0, 1))
    assert judge(*case.arguments()).verdict == "promoted"


def test_a_worse_candidate_is_rejected(case, failing):
    for name in case.queries:
        case.set("candidate", name, np.clip(case.values("reference", name) - 0.1, 0, 1))
    verdict = judge(*case.arguments())
    assert verdict.verdict == "rejected"
    assert failing(verdict) == [
        ("not_inferior_to_reference", "code"),
        ("not_inferior_to_reference", "papers"),
        ("mean_not_inferior_to_reference", None),
    ]
    assert verdict.reasons == [rule.text for rule in verdict.rules if not rule.passed]


def test_a_noisy_comparison_is_not_enough(case, failing):
    rng = np.random.default_rng(1)
    for name in case.queries:
        for model in ("base", "reference", "candidate"):
            case.set(model, name, case.values(model, name)[:60])
        noisy = case.values("reference", name) + rng.normal(0, 0.3, 60)
        noisy -= (noisy - case.values("reference", name)).mean()
        case.scores["candidate"][name] = replace(case.scores["candidate"][name], values=np.clip(noisy, 0, 1))
    verdict = judge(*case.arguments())
    assert verdict.verdict == "rejected"
    assert ("not_inferior_to_reference", "papers") in failing(verdict)
    rule = next(rule for rule in verdict.rules if rule.rule == "not_inferior_to_reference" and rule.collection == "papers")
    assert rule.value < -0.04 < rule.interval[1]


def test_a_collapse_on_one_collection_is_enough_to_reject(case, failing):
    case.set("candidate", "papers", np.zeros(1500))
    verdict = judge(*case.arguments())
    assert verdict.verdict == "rejected"
    assert failing(verdict) == [("not_inferior_to_reference", "papers"), ("mean_not_inferior_to_reference", None)]


def test_the_mean_has_its_own_margin(case, failing):
    for name in case.queries:
        case.set("candidate", name, np.clip(case.values("reference", name) - 0.022, 0, 1))
    assert failing(judge(*case.arguments())) == [("mean_not_inferior_to_reference", None)]


def test_the_exception_to_the_margin_counts_for_its_collection_alone(case, failing):
    case.limits["margin_mean"] = 0.05
    for name in case.queries:
        case.set("candidate", name, np.clip(case.values("reference", name) - 0.035, 0, 1))
    assert failing(judge(*case.arguments())) == [("not_inferior_to_reference", "code")]


def test_a_missing_collection_fails_and_is_named(case, failing):
    del case.scores["candidate"]["papers"]
    verdict = judge(*case.arguments())
    assert verdict.verdict == "rejected"
    assert failing(verdict)[0] == ("complete", None)
    assert "the candidate has no scores on papers" in verdict.reasons[0]


def test_an_undertrained_reference_makes_the_comparison_worthless(case, failing):
    shuffled = np.random.default_rng(2).permutation(case.values("base", "code"))
    for model in ("reference", "candidate"):
        case.set(model, "code", shuffled)
    verdict = judge(*case.arguments())
    assert (verdict.verdict, failing(verdict)) == ("rejected", [("worthy_reference", "code")])
    assert "no reference worth matching" in verdict.reasons[0]


def test_a_reference_that_lost_out_of_domain_has_collapsed(case, failing):
    for model in ("reference", "candidate"):
        case.set(model, "papers", case.values("base", "papers") * 0.2)
    assert failing(judge(*case.arguments())) == [("reference_not_collapsed", "papers")]


def test_a_reference_at_zero_has_collapsed_even_if_the_base_was_no_better(case, failing):
    for model in ("base", "reference", "candidate"):
        case.set(model, "papers", np.zeros(1500))
    assert failing(judge(*case.arguments())) == [("reference_not_collapsed", "papers")]


@pytest.mark.parametrize(("kind", "rule"), [("query", "query_speedup"), ("document", "document_speedup")])
def test_too_slow(case, failing, kind, rule):
    case.speed[kind] = {"ratio": 1.09, "interval": [1.05, 1.2]}
    assert failing(judge(*case.arguments())) == [(rule, None)]
    case.speed[kind]["ratio"] = 1.1
    assert failing(judge(*case.arguments())) == []


@pytest.mark.parametrize("found", [{}, {"ratio": math.nan, "interval": [1, 2]}, {"ratio": 2.0, "interval": [1, math.inf]}, {"ratio": 2.0}])
def test_a_speed_that_was_not_measured_fails(case, failing, found):
    case.speed["query"] = found
    verdict = judge(*case.arguments())
    assert failing(verdict) == [("query_speedup", None)]
    assert verdict.reasons == ["no query speed-up was measured"]


def test_too_many_parameters(case, failing):
    case.limits["max_parameters"] = 999_999
    verdict = judge(*case.arguments())
    assert failing(verdict) == [("parameters", None)]
    assert verdict.reasons == ["the candidate has 1,000,000 parameters; at most 999,999 are allowed"]
    case.limits["max_parameters"] = 1_000_000
    assert judge(*case.arguments()).verdict == "promoted"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"candidate": "other"}, "is for other, not for this candidate"),
        ({"passed": False}, "does not give the embeddings that were evaluated"),
        ({"loaders": {"AutoModel": 1e-3}}, "AutoModel differs by 0.001 where 1e-05 is allowed"),
        ({"tolerances": {"AutoModel": 1e-8}}, "AutoModel differs by 1e-07 where 1e-08 is allowed"),
        ({"tolerance": None}, "does not give the embeddings"),
        ({"loaders": {"AutoModel": math.nan, "SentenceTransformer": 0.0}}, "does not give the embeddings"),
        ({"loaders": {}}, "nothing was loaded"),
        ({"files": {}}, "does not cover the candidate's files"),
        ({"files": {"model/config.json": "b" * 64}}, "model/model.safetensors"),
        ({"files": {"model/config.json": "b" * 64, "model/model.safetensors": "f" * 64}}, "model/model.safetensors"),
    ],
)
def test_a_stale_or_failed_proof(case, failing, spoil, says):
    case.proof |= spoil
    verdict = judge(*case.arguments())
    assert failing(verdict) == [("reloads", None)]
    assert says in verdict.reasons[0]


def test_a_candidate_below_the_champion_is_rejected(case, failing):
    case.champion = {"version": "3", "digest": "champ", "source": "s3://x"}
    for name in case.queries:
        case.set("champion", name, np.clip(case.values("reference", name) + 0.15, 0, 1))
    verdict = judge(*case.arguments())
    assert failing(verdict) == [
        ("not_inferior_to_champion", "code"),
        ("not_inferior_to_champion", "papers"),
        ("mean_not_inferior_to_champion", None),
    ]
    assert verdict.champion == {"version": "3", "digest": "champ"}


def test_a_champion_without_a_collection_cannot_be_beaten_there(case, failing):
    case.champion = {"version": "3", "digest": "champ"}
    case.set("champion", "code", case.values("base", "code"))
    verdict = judge(*case.arguments())
    assert failing(verdict) == [("not_inferior_to_champion", "papers"), ("mean_not_inferior_to_champion", None)]
    assert "the champion has no scores on papers" in verdict.reasons[0]


def test_the_champion_itself_is_judged_by_the_limits_and_not_against_itself(case, failing):
    case.champion = {"version": "3", "digest": "cand"}
    verdict = judge(*case.arguments())
    assert (verdict.verdict, verdict.reasons) == ("promoted", ["already champion"])
    assert not any("champion" in rule.rule for rule in verdict.rules) and len(verdict.rules) > 5
    case.limits["max_parameters"] = 10
    verdict = judge(*case.arguments())
    assert verdict.verdict == "rejected" and failing(verdict) == [("parameters", None)]
    case.scores = {}
    assert judge(*case.arguments()).verdict == "rejected", "a rule that cannot be judged does not hold"


def test_the_same_input_gives_the_same_verdict(case):
    assert judge(*case.arguments()).to_json() == judge(*case.arguments()).to_json()


def test_a_candidate_without_parameters_is_none(case, failing):
    case.limits["max_parameters"] = 10
    case.candidate = Candidate("cand", case.candidate.files, 0)
    assert failing(judge(*case.arguments())) == [("parameters", None)]


def test_each_way_of_loading_has_its_own_tolerance(case):
    case.proof |= {"loaders": {"effir": 1e-6, "mlflow": 4e-3}, "tolerances": {"effir": 1e-4, "mlflow": 1e-2}, "tolerance": 1e-2}
    rule = judge(*case.arguments()).rules[-1]
    assert (rule.passed, rule.value, rule.bound) == (True, 4e-3, 1e-2)
