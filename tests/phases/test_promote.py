import json

import pytest
from mlflow.tracking import MlflowClient

from effir.errors import EffirError
from effir.services import registry
from effir.spec import RunSpec


def aliases(judged) -> dict[str, str]:
    return dict(MlflowClient().get_registered_model(judged.name).aliases)


def test_a_passed_candidate_is_crowned_by_reference_to_its_folder(judged):
    judged.run["mlflow_run_id"] = registry.begin_run(judged.run, RunSpec(name=judged.name))
    judged.prepare().execute("gate")
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
    assert json.loads(judged.read("promote", "promotion.json"))["after"]["version"] == "1"
    run = MlflowClient().get_run(judged.run["mlflow_run_id"])
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {"training", "code", "papers"}


def test_the_old_champion_becomes_the_previous_one(judged):
    judged.offset["champion"] = 0.0
    judged.prepare().inputs["champion"] = judged.crown("old weights")
    judged.execute("gate")
    judged.execute("promote")
    assert aliases(judged) == {"champion": "2", "challenger": "2", "previous": "1"}


def test_a_rejected_candidate_leaves_the_champion_alone(judged):
    judged.offset |= {"champion": 0.0, "candidate": -0.2}
    judged.prepare().inputs["champion"] = judged.crown("old weights")
    judged.execute("gate")
    result = judged.execute("promote")
    assert result["output"]["model"] == {"name": judged.name, "version": "2", "aliases": ["challenger"]}
    assert aliases(judged) == {"champion": "1", "challenger": "2"}
    version = MlflowClient().get_model_version(judged.name, "2")
    assert version.tags["effir.verdict"] == "rejected"
    assert version.description.startswith("# Rejected")


def test_the_champion_gets_no_second_version(judged):
    judged.prepare().execute("gate")
    judged.execute("promote")
    judged.execute("gate")
    result = judged.execute("promote")
    assert result["output"]["model"] == {"name": judged.name, "version": "1", "aliases": ["challenger", "champion"]}
    assert len(MlflowClient().search_model_versions(f"name = '{judged.name}'")) == 1


def test_a_champion_crowned_between_gate_and_promote_stops_the_promotion(judged):
    judged.prepare().execute("gate")
    judged.crown("other weights")
    with pytest.raises(EffirError, match=r"is version 1 by now, and the candidate was judged against nobody.*judged again"):
        judged.execute("promote")
    assert aliases(judged) == {"champion": "1"}


def test_a_verdict_about_another_candidate_is_refused(judged):
    judged.prepare().execute("gate")
    judged.inputs["candidate"] = judged.model("candidate", "other weights")
    with pytest.raises(EffirError, match="about another candidate"):
        judged.execute("promote")
    assert registry.champion(judged.name) is None


def test_a_try_that_was_killed_after_it_crowned_is_made_good(judged):
    judged.prepare().execute("gate")
    first = judged.execute("promote")["output"]["model"]
    judged.store.delete([judged.inputs.pop("promote")])
    assert judged.execute("promote")["output"]["model"] == first
    assert registry.champion(judged.name)["version"] == first["version"]
