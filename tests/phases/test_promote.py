import json

import pytest
from mlflow.tracking import MlflowClient

from effir.errors import EffirError
from effir.manifest import MANIFEST, Manifest, code_version, content_of
from effir.services import promotions, registry
from effir.services.rollback import rollback
from effir.spec import RunSpec


def aliases(judged) -> dict[str, str]:
    return dict(MlflowClient().get_registered_model(judged.name).aliases)


def log(judged) -> list[dict]:
    """The records as they are stored, read without the log's own code."""
    objects = list(judged.store.list(f"{judged.store.root}/promotions/{judged.name}"))
    return [judged.store.get_json(f"{judged.store.root}/promotions/{judged.name}/{n}.json") for n in range(1, len(objects) + 1)]


def test_a_passed_candidate_is_crowned_by_reference_to_its_folder(judged):
    judged.run["mlflow_run_id"] = registry.begin_run(judged.run, RunSpec(name=judged.name))
    judged.prepare().execute("gate")
    judged.inputs["narrow"] = judged.publish("narrow", {})
    before = {uri for uri, _ in judged.store.list(f"{judged.store.root}/artifacts/finetune")}
    result = judged.execute("promote")
    assert result["output"]["model"] == {"name": judged.name, "version": "1", "aliases": ["challenger", "champion"]}
    version = MlflowClient().get_model_version(judged.name, "1")
    assert f"{version.source}/manifest.json" == judged.inputs["candidate"]
    assert {uri for uri, _ in judged.store.list(f"{judged.store.root}/artifacts/finetune")} == before
    assert version.run_id == judged.run["mlflow_run_id"]
    assert version.description == judged.read("gate", "verdict.md")
    assert version.tags["effir.verdict"] == "promoted"
    assert version.tags["effir.digest"] == judged.inputs["candidate"].rsplit("/", 2)[1]
    assert version.tags["effir.query_speedup"] == "1.3"
    assert version.tags["effir.parameters"] == "700"
    assert float(version.tags["effir.ndcg_at_10.code"]) > 0.4
    assert len(version.tags["effir.data.training"]) == 64
    assert {name for name in version.tags if name.startswith("effir.made.")} == {"effir.made.narrow"}
    assert version.tags["effir.made.narrow"] == judged.inputs["narrow"]
    run = MlflowClient().get_run(judged.run["mlflow_run_id"])
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {"training", "code", "papers"}


def test_the_champion_that_fails_this_run_s_rules_is_rejected_and_stays(judged):
    judged.crown()
    judged.spec["max_parameters"] = 10
    judged.prepare().execute("gate")
    result = judged.execute("promote")
    assert (result["output"]["verdict"], result["output"]["model"]["aliases"]) == ("rejected", ["champion"])
    assert "at most 10 are allowed" in result["output"]["reasons"][0]
    assert len(log(judged)) == 1 and aliases(judged) == {"champion": "1"}


def test_the_log_tells_who_what_when_why_and_from_what_to_what(judged):
    judged.crown("old weights")
    judged.offset["champion"] = 0.0
    judged.run |= {"by": "ada"}
    judged.prepare().execute("gate")
    judged.execute("promote")
    uri = judged.inputs["candidate"]
    manifest = Manifest.model_validate(judged.store.get_json(uri))
    first, record = log(judged)
    at = record.pop("at")
    assert first["at"] < at
    assert record == {
        "n": 2,
        "who": f"ada (Airflow run {judged.run['id']})",
        "action": "promote",
        "model": judged.name,
        "from": {"version": "1", "digest": judged.champion},
        "to": {
            "version": "2", "digest": manifest.digest, "manifest": uri, "source": uri.removesuffix(f"/{MANIFEST}"),
            "files": content_of(manifest.files),
        },
        "why": json.loads(judged.read("gate", "verdict.json"))["reasons"],
        "run": {"dag_run_id": judged.run["id"], "mlflow_run_id": None},
        "verdict": {"verdict": "promoted", "artifact": judged.inputs["gate"], "evaluation": judged.inputs["evaluate"]},
        "code": code_version("effir.phases.promote"),
    }  # fmt: skip
    assert json.loads(judged.read("promote", "promotion.json"))["record"]["n"] == 2


def test_the_old_champion_becomes_the_previous_one(judged):
    judged.offset["champion"] = 0.0
    judged.inputs["champion"] = judged.crown("old weights")
    judged.prepare().execute("gate")
    judged.execute("promote")
    assert aliases(judged) == {"champion": "2", "challenger": "2", "previous": "1"}


def test_a_rejected_candidate_leaves_the_champion_alone(judged):
    judged.offset |= {"champion": 0.0, "candidate": -0.2}
    judged.crown("old weights")
    judged.prepare().execute("gate")
    result = judged.execute("promote")
    assert result["output"]["model"] == {"name": judged.name, "version": "2", "aliases": ["challenger"]}
    assert aliases(judged) == {"champion": "1", "challenger": "2"}
    assert len(log(judged)) == 1
    version = MlflowClient().get_model_version(judged.name, "2")
    assert version.tags["effir.verdict"] == "rejected"
    assert version.description.startswith("# Rejected")


def test_the_champion_gets_no_second_version_and_no_second_record(judged):
    judged.prepare().execute("gate")
    judged.execute("promote")
    judged.execute("gate")
    result = judged.execute("promote")
    assert result["output"]["model"] == {"name": judged.name, "version": "1", "aliases": ["challenger", "champion"]}
    assert len(MlflowClient().search_model_versions(f"name = '{judged.name}'")) == 1
    assert len(log(judged)) == 1


def test_a_champion_from_before_the_log_is_what_the_first_record_goes_from(judged):
    to = judged.register(judged.model("candidate", "old weights"))
    registry.point(judged.name, "champion", to["version"])
    judged.offset["champion"], judged.champion = 0.0, to["digest"]
    judged.prepare().execute("gate")
    judged.execute("promote")
    (record,) = log(judged)
    assert (record["n"], record["from"]) == (1, {"version": "1", "digest": to["digest"]})
    assert aliases(judged) == {"champion": "2", "challenger": "2", "previous": "1"}


def test_after_a_lost_race_the_candidate_is_judged_against_the_winner(judged, monkeypatch):
    judged.prepare().execute("gate")
    ours = dict(judged.inputs)
    with monkeypatch.context() as patch:
        for name, value in {"inputs": {}, "weights": "other weights", "offset": judged.offset | {"candidate": 0.001}}.items():
            patch.setattr(judged, name, value)
        judged.prepare().execute("gate")
        judged.execute("promote")
    judged.inputs = ours
    result = judged.execute("promote")
    verdict = json.loads(judged.read("promote", "verdict.json"))
    assert (result["output"]["verdict"], verdict["champion"]["version"]) == ("promoted", "1")
    assert any(rule["rule"] == "not_inferior_to_champion" for rule in verdict["rules"])
    first, second = log(judged)
    assert second["from"] == {"version": "1", "digest": first["to"]["digest"]}
    assert second["verdict"]["artifact"] == judged.inputs["promote"]
    assert aliases(judged) == {"champion": "2", "challenger": "2", "previous": "1"}


def test_after_a_lost_race_against_a_better_one_the_candidate_is_rejected(judged, monkeypatch):
    judged.prepare().execute("gate")
    ours = dict(judged.inputs)
    with monkeypatch.context() as patch:
        for name, value in {"inputs": {}, "weights": "other weights", "offset": judged.offset | {"candidate": 0.2}}.items():
            patch.setattr(judged, name, value)
        judged.prepare().execute("gate")
        judged.execute("promote")
    judged.inputs = ours
    result = judged.execute("promote")
    assert (result["output"]["verdict"], result["output"]["model"]["aliases"]) == ("rejected", ["challenger"])
    assert MlflowClient().get_model_version(judged.name, "2").description.startswith("# Rejected")
    assert aliases(judged) == {"champion": "1", "challenger": "2"}


def test_a_champion_that_nobody_compared_stops_the_promotion(judged):
    judged.prepare().execute("gate")
    judged.crown("other weights")
    with pytest.raises(promotions.Overtaken, match=r"version 1 of .* was crowned while this run was under way.*trigger the run again"):
        judged.execute("promote")
    assert aliases(judged) == {"champion": "1"}
    assert promotions.Overtaken.exit_code == 2, "a retry would not help"


def test_a_verdict_about_another_candidate_is_refused(judged):
    judged.prepare().execute("gate")
    judged.inputs["candidate"] = judged.model("candidate", "other weights")
    with pytest.raises(EffirError, match="about another candidate"):
        judged.execute("promote")
    assert promotions.champion(judged.store, judged.name) is None


def test_other_bytes_under_the_same_digest_are_refused(judged):
    judged.prepare().execute("gate")
    uri = judged.inputs["candidate"]
    manifest = judged.store.get_json(uri)
    manifest["files"]["model/model.safetensors"]["sha256"] = "0" * 64
    judged.store.put_json(uri, manifest)
    with pytest.raises(EffirError, match="not those that were judged"):
        judged.execute("promote")
    assert promotions.champion(judged.store, judged.name) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"approved": False, "by": "ada"}, "turned down by ada"),
        ({"approved": False, "by": None}, "nobody approved it within 24 hours"),
        (None, "nobody approved it within 24 hours"),
    ],
)
def test_without_a_yes_the_candidate_is_a_challenger(judged, answer, reason):
    judged.spec["approval"] = True
    judged.prepare().execute("gate")
    result = judged.execute("promote", approval=answer)
    assert (result["output"]["verdict"], result["output"]["reasons"]) == ("rejected", [reason])
    assert aliases(judged) == {"challenger": "1"}
    assert log(judged) == []


def test_with_a_yes_it_is_crowned_and_the_log_says_whose(judged):
    judged.spec["approval"] = True
    judged.prepare().execute("gate")
    judged.execute("promote", approval={"approved": True, "by": "ada"})
    (record,) = log(judged)
    assert record["why"] == ["all 9 rules hold", "approved by ada"]
    assert aliases(judged) == {"champion": "1", "challenger": "1"}


def test_a_yes_holds_only_against_the_champion_that_was_shown(judged):
    judged.spec["approval"] = True
    judged.offset["champion"] = 0.0
    first, _ = judged.crown("first weights"), judged.crown("old weights")
    judged.prepare().execute("gate")
    rollback(judged.store, judged.name, None, "", who="somebody")
    judged.champion = first.rsplit("/", 2)[1]
    gate = judged.inputs["gate"]
    judged.prepare()
    judged.inputs["gate"] = gate
    result = judged.execute("promote", approval={"approved": True, "by": "ada"})
    assert result["output"]["verdict"] == "rejected"
    assert result["output"]["reasons"] == [
        "approved by ada in comparison with another champion than the one that stands by now: trigger the run again"
    ]
    assert aliases(judged)["champion"] == "1"


def test_a_try_that_was_killed_after_it_crowned_is_made_good(judged):
    judged.prepare().execute("gate")
    first = judged.execute("promote")["output"]["model"]
    judged.store.delete([judged.inputs.pop("promote")])
    assert judged.execute("promote")["output"]["model"] == first
    assert promotions.champion(judged.store, judged.name)["version"] == first["version"]
    assert len(log(judged)) == 1
