import json

import numpy as np
import pytest

from effir.errors import EffirError
from effir.phases.gate import FIELDS, limits_of, read_scores
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


def test_the_champion_itself_needs_no_new_trial(judged):
    judged.prepare()
    assert judged.crown() == judged.inputs["candidate"]
    result = judged.execute("gate")
    assert (result["output"]["verdict"], result["output"]["reasons"]) == ("promoted", ["already champion"])


def test_the_candidate_has_to_match_the_champion_too(judged):
    judged.offset["champion"] = 0.2
    judged.prepare().inputs["champion"] = judged.crown("better weights")
    result = judged.execute("gate")
    assert result["output"]["verdict"] == "rejected"
    assert result["output"]["champion"]["version"] == "1"
    assert all("of the champion" in reason for reason in result["output"]["reasons"])


def test_a_champion_crowned_meanwhile_stops_the_gate(judged):
    judged.prepare()
    judged.crown("other weights")
    with pytest.raises(EffirError, match=r"version 1 of .* was crowned while this run was under way.*trigger the run again"):
        judged.execute("gate")


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
