import io
import json
from pathlib import Path

import pytest
from mlflow.artifacts import download_artifacts
from mlflow.tracking import MlflowClient

from effir.manifest import digest_of
from effir.services import registry
from effir.spec import RunSpec

PHASES = [{"name": "slim", "state": "success", "cached": True, "seconds": 1.25, "forward_passes": 0}]
SUMMARY = {"dag_run_id", "spec_digest", "verdict", "reasons", "model", "params", "speedup", "metric", "quality", "mean", "phases", "report"}
IMPORTANCE = {"measure": "cosine"} | {kind: {"mean": [0.5, 0.2, 0.1], "error": [0.01] * 3} for kind in ("attention", "mlp", "block")}
CUT = {"layers": 3, "drop_attention": [1], "drop_mlp": [2], "widths": {"0": 8}}


@pytest.fixture
def reported(judged):
    judged.run["mlflow_run_id"] = registry.begin_run(judged.run, RunSpec(name=judged.name))
    judged.prepare().execute("gate")
    judged.execute("promote")
    pictured = {"importance.png": b"\x89PNG importance", "importance.json": json.dumps(IMPORTANCE).encode()}
    judged.inputs["importance"] = judged.publish("importance", pictured, numbers={"tokens": 4321})
    judged.inputs["cut"] = judged.publish("cut", {"cut.json": json.dumps(CUT).encode()})
    return judged, judged.execute("report", phases=PHASES)


def test_the_summary_has_the_fields_of_last_run_json(reported):
    judged, result = reported
    summary = result["output"]["summary"]
    assert set(summary) == SUMMARY
    assert summary["spec_digest"] == digest_of(RunSpec(**judged.spec).model_dump())
    assert (summary["dag_run_id"], summary["verdict"], summary["metric"]) == (judged.run["id"], "promoted", "ndcg_at_10")
    assert summary["model"] == {"name": judged.name, "version": "1", "aliases": ["challenger", "champion"]}
    assert summary["params"] == {"reference": 1000, "candidate": 700, "reference_non_embedding": 800, "candidate_non_embedding": 500}
    assert summary["speedup"] == {"query": 1.3, "document": 1.4, "query_interval": [1.28, 1.32], "document_interval": [1.38, 1.42]}
    assert summary["phases"] == PHASES
    assert set(summary["quality"]) == {"code", "papers"}


def test_the_difference_lies_in_its_interval(reported):
    for found in reported[1]["output"]["summary"]["quality"].values():
        assert set(found) == {"reference", "candidate", "difference", "interval"}
        assert found["difference"] == pytest.approx(found["candidate"] - found["reference"], abs=1e-12)
        assert found["interval"][0] < found["difference"] < found["interval"][1]


def test_the_overview_has_every_model_on_every_collection(reported):
    table = reported[1]["output"]["overview"]
    assert table["models"] == ["base", "bm25", "minilm", "reference", "candidate"]
    assert all(set(models["bm25"]) == {"ndcg_at_10", "recall_at_100"} for models in table["collections"].values())


def test_the_page_is_stored_where_the_summary_says_and_in_mlflow(reported, tmp_path):
    judged, result = reported
    page = judged.store.get_bytes(result["output"]["report"]).decode()
    assert result["output"]["report"] == result["output"]["summary"]["report"]
    assert judged.read("report", "report.html") == page
    assert page.startswith("<!doctype html>")
    for shown in ("promoted", judged.inputs["candidate"].rsplit("/", 2)[1], "polyline", "2.13.0", "scoring layers 4,321"):
        assert shown in page
    assert "1 of 3 attentions and 1 MLPs are gone; 24 of 48 neurons stay" in page
    picture = download_artifacts(f"runs:/{judged.run['mlflow_run_id']}/importance.png", dst_path=str(tmp_path))
    assert Path(picture).read_bytes() == b"\x89PNG importance"
    copy = download_artifacts(f"runs:/{judged.run['mlflow_run_id']}/report.html", dst_path=str(tmp_path))
    with open(copy, encoding="utf-8") as stream:
        assert stream.read() == page


def test_wins_and_losses_are_those_of_the_scores_with_their_texts(reported):
    judged, result = reported
    page = judged.read("report", "report.html")
    scores = read_columns_of(judged)
    gains = {key: scores["candidate", *key] - scores["reference", *key] for key in {key[1:] for key in scores}}
    for name in judged.queries:
        mine = sorted((key for key in gains if key[0] == name), key=lambda key: gains[key])
        for _, query in [*mine[:5], *mine[-5:]]:
            assert f"<q>where is {query[1:]}?</q>" in page
            assert f"&lt;{name}&gt; document d{query[1:]}<" in page
    assert page.count("<article>") == 4 * 5
    assert page.count("</span> this one</dd>") == 4 * 5, "the candidate ranked the right one first"
    assert result["output"]["headline"] in result["output"]["note"]


def read_columns_of(judged) -> dict:
    """(model, collection, query) → nDCG@10."""
    import pyarrow.parquet

    data = judged.store.get_bytes(judged.inputs["evaluate"].replace("manifest.json", "scores.parquet"))
    rows = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    return {(row["model"], row["collection"], row["query_id"]): row["ndcg_at_10"] for row in rows}


def test_the_mlflow_run_ends_with_the_result(reported):
    judged, result = reported
    run = MlflowClient().get_run(judged.run["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["effir.verdict"] == "promoted"
    assert run.data.tags["effir.report"] == result["output"]["report"]
    quality = result["output"]["summary"]["quality"]
    assert run.data.metrics["code/ndcg_at_10"] == pytest.approx(quality["code"]["candidate"])
    assert run.data.metrics["reference/code/ndcg_at_10"] == pytest.approx(quality["code"]["reference"])
    assert run.data.metrics["speedup_query"] == 1.3
    assert run.data.metrics["mean/candidate"] == pytest.approx(sum(found["candidate"] for found in quality.values()) / 2)
    assert run.data.metrics["parameters_share"] == pytest.approx(500 / 800)
    assert run.data.tags["mlflow.note.content"] == result["output"]["note"]


def test_a_run_that_mlflow_does_not_know_is_reported_all_the_same(judged):
    judged.prepare().execute("gate")
    judged.execute("promote")
    result = judged.execute("report")
    assert result["output"]["summary"]["phases"] == []
    assert judged.store.exists(result["output"]["report"])
