import json
import re

import numpy as np
import pytest

from effir.errors import EffirError
from effir.manifest import code_version, digest_of
from effir.phases.gate import FIELDS, limits_of, read_scores
from effir.services import promotions
from effir.services.rollback import rollback
from effir.spec import RunSpec


def test_a_sound_candidate_is_promoted_with_verdict_in_both_forms(judged):
    result = judged.prepare().execute("gate")
    verdict = json.loads(judged.read("gate", "verdict.json"))
    assert (verdict["verdict"], result["output"]["verdict"]) == ("promoted", "promoted")
    assert result["output"]["reasons"] == verdict["reasons"] == ["all 9 rules hold"]
    assert verdict["n"] == {"code": {"queries": 80, "clusters": 40}, "papers": {"queries": 60, "clusters": 60}}
    assert verdict["candidate"] == {"digest": judged.inputs["candidate"].rsplit("/", 2)[1], "parameters": 700}
    assert (verdict["champion"], verdict["resamples"]) == (None, 1000)
    assert judged.read("gate", "verdict.md").startswith("# Promoted")
    assert (result["numbers"]["promoted"], result["numbers"]["rules_failed"]) == (1, 0)


def test_a_worse_candidate_is_rejected_and_the_phase_is_done(judged):
    judged.offset["candidate"] = -0.1
    result = judged.prepare().execute("gate")
    assert result["output"]["verdict"] == "rejected"
    assert any("on code" in reason for reason in result["output"]["reasons"])


def test_the_gate_is_evaluated_anew_each_time(judged):
    judged.prepare()
    first, second = judged.execute("gate"), judged.execute("gate")
    assert (first["cached"], second["cached"]) == (False, False)
    assert first["digest"] != second["digest"]


def test_the_champion_itself_is_judged_by_this_run_s_rules(judged):
    judged.prepare()
    assert judged.crown() == judged.inputs["candidate"]
    result = judged.execute("gate")
    assert (result["output"]["verdict"], result["output"]["reasons"]) == ("promoted", ["already champion"])
    judged.spec["max_parameters"] = 10
    result = judged.execute("gate")
    assert result["output"]["verdict"] == "rejected" and "at most 10 are allowed" in result["output"]["reasons"][0]


def test_the_candidate_has_to_match_the_champion_too(judged):
    judged.offset["champion"] = 0.2
    judged.inputs["champion"] = judged.crown("better weights")
    result = judged.prepare().execute("gate")
    assert result["output"]["verdict"] == "rejected"
    assert result["output"]["champion"]["version"] == "1"
    assert all("of the champion" in reason for reason in result["output"]["reasons"])


def test_a_champion_crowned_meanwhile_whose_scores_nobody_has_stops_the_gate(judged):
    judged.prepare()
    judged.crown("other weights")
    with pytest.raises(promotions.Overtaken, match=r"version 1 of .* was crowned while this run was under way.*trigger the run again"):
        judged.execute("gate")


def crowned_by_a_run(judged, **changes):
    """Another run of the same model crowns a better candidate, after this one has evaluated; `changes` of what it did differently."""
    with pytest.MonkeyPatch.context() as patch:
        better = judged.offset | {"candidate": 0.1}
        for name, value in {"offset": better, "weights": "better weights", "inputs": {}, "run": {"id": "another"}}.items():
            patch.setattr(judged, name, value)
        for name, value in changes.items():
            patch.setattr(judged, name, value)
        judged.prepare().execute("gate")
        assert judged.execute("promote")["output"]["verdict"] == "promoted"


def test_a_champion_crowned_meanwhile_is_compared_by_the_scores_that_crowned_it(judged):
    judged.prepare()
    crowned_by_a_run(judged)
    result = judged.execute("gate")
    assert (result["output"]["verdict"], result["output"]["champion"]["version"]) == ("rejected", "1")
    stated = [one for one in json.loads(judged.read("gate", "verdict.json"))["statements"] if one["against"] == "champion"]
    assert {one["collection"]: round(one["difference"], 1) for one in stated} == {"code": -0.1, "papers": -0.1}


@pytest.mark.parametrize("changes", [{"encoding": "another way"}, {"data": {"code": "one version", "papers": "another"}}])
def test_scores_on_other_data_or_from_other_settings_are_not_compared(judged, changes):
    judged.prepare()
    crowned_by_a_run(judged, **changes)
    with pytest.raises(promotions.Overtaken, match="on other data or settings"):
        judged.execute("gate")


@pytest.mark.parametrize(("model", "phase", "what"), [("candidate", "evaluate", "vectors"), ("reference", "speed", "speed")])
def test_evidence_about_another_model_is_refused(judged, model, phase, what):
    judged.prepare()
    other = dict(judged.inputs)
    judged.inputs = {}
    judged.weights = "other weights"
    if model == "reference":
        judged.model = lambda name, weights, make=judged.model: make(name, weights + (" more" if name == model else ""))
    judged.prepare()
    judged.inputs[phase] = other[phase]
    with pytest.raises(EffirError, match=f"the {what} of the {model} are of .*trigger the run again"):
        judged.execute("gate")


def test_what_was_taken_back_is_not_crowned_again(judged):
    judged.crown("old weights")
    judged.crown()
    rollback(judged.store, judged.name, None, "users complain", who="somebody")
    judged.offset["champion"], judged.champion = 0.0, judged.model("candidate", "old weights").rsplit("/", 2)[1]
    result = judged.prepare().execute("gate")
    (reason,) = result["output"]["reasons"]
    assert result["output"]["verdict"] == "rejected"
    assert re.search(r"version 2, which somebody took back on \d{4}-\d\d-\d\d \(users complain\); `effir rollback .* --to 2`", reason)
    rollback(judged.store, judged.name, "2", "", who="somebody")
    assert judged.execute("gate")["output"]["reasons"] == ["already champion"]


def test_the_verdict_names_data_files_and_code(judged):
    judged.prepare().execute("gate")
    told = json.loads(judged.read("gate", "verdict.json"))
    files = judged.store.get_json(judged.inputs["candidate"])["files"]
    assert told["data"] == judged.data
    assert told["files"] == digest_of({path: file["sha256"] for path, file in files.items()})
    assert told["code"] == code_version("effir.phases.gate")


def test_the_spec_decides_the_limits():
    spec = RunSpec(collections="code,papers", margins="papers=0.04", in_domain="code", max_parameters=5, seed=3)
    limits = limits_of(spec)
    assert (limits.collections, limits.in_domain, limits.margins) == (("code", "papers"), ("code",), {"papers": 0.04})
    assert all(
        getattr(limits, name) == getattr(spec, name) for name in FIELDS if name not in {"name", "collections", "in_domain", "margins"}
    )


def test_scores_are_read_by_model_and_collection(judged, tmp_path):
    path = tmp_path / "scores.parquet"
    path.write_bytes(judged.scores()["scores.parquet"])
    found = read_scores(path)
    assert set(found) == set(judged.offset)
    assert found["base"]["code"].clusters[:3] == ("m0", "m0", "m1")
    assert found["base"]["papers"].queries[-1] == "q59"
    assert found["base"]["code"].values.dtype == np.float64
