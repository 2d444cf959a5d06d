import json

import numpy as np

from effir.judge.gate import judge
from effir.judge.verdict import Rule, Verdict


def test_json_has_every_field_and_no_nan(case):
    case.set("candidate", "papers", np.full(1500, np.nan))
    plain = json.loads(json.dumps(judge(*case.arguments()).to_json(), allow_nan=False))
    assert set(plain) == {
        "verdict",
        "reasons",
        "rules",
        "method",
        "n",
        "resamples",
        "seed",
        "confidence",
        "champion",
        "candidate",
        "statements",
    }
    assert plain["n"]["code"] == {"queries": 2000, "clusters": 500}
    assert all({"rule", "passed", "text"} <= set(rule) for rule in plain["rules"])


def test_markdown_tells_every_rule_with_value_bound_and_outcome(case):
    case.speed["query"] = {"ratio": 1.05, "interval": [1.0, 1.1]}
    verdict = judge(*case.arguments())
    text = verdict.to_markdown()
    assert text.startswith("# Rejected\n")
    assert f"- {verdict.reasons[0]}\n" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| rule")]
    assert len(rows) == len(verdict.rules)
    assert "| query_speedup |  | 1.05 | 1.1 | **fails** | query encoding is 1.05 times as fast" in text
    assert "2000 resamples, seed 0" in text
    assert "code 2000 in 500 clusters" in text


def test_markdown_names_the_champion_it_was_judged_against(case):
    assert "champion at the time: none" in judge(*case.arguments()).to_markdown()
    case.champion = {"version": "3", "digest": "cand"}
    assert "champion at the time: version 3 (cand)" in judge(*case.arguments()).to_markdown()


def test_a_verdict_comes_back_from_json_with_what_else_was_told_left_out(case):
    verdict = judge(*case.arguments())
    told = json.loads(json.dumps(verdict.to_json() | {"data": {}, "code": "c"}))
    assert Verdict.from_json(told).to_json() == json.loads(json.dumps(verdict.to_json()))
    assert Verdict.from_json(told).to_markdown() == verdict.to_markdown()


def test_one_more_rule_decides_if_it_does_not_hold(case):
    promoted = judge(*case.arguments())
    assert promoted.verdict == "promoted"
    approved, refused = promoted.but(Rule("approved", True, "yes")), promoted.but(Rule("approved", False, "no"))
    assert (approved.verdict, approved.reasons) == ("promoted", [*promoted.reasons, "yes"])
    assert (refused.verdict, refused.reasons) == ("rejected", ["no"])
    again = refused.but(Rule("other", False, "nor that"))
    assert (again.verdict, again.reasons) == ("rejected", ["no", "nor that"])
    assert "| approved |  |  |  | **fails** | no |" in refused.to_markdown()
