"""A report as a run would make it, without a run."""

from typing import Any

from effir.judge.gate import judge
from effir.judge.layers import Layers
from effir.judge.report import Report, overview

LAYERS = 6


def metrics() -> dict[str, Any]:
    one = {"ndcg_at_10": 0.3125, "recall_at_100": 0.875, "map_at_10": 0.2}
    return {"bm25": {"code": one}, "candidate": {"code": one | {"ndcg_at_10": 0.5}}, "reference": {"code": one}, "mean_13": {"bm25": 0.4}}


def layers(**changes: Any) -> Layers:
    """Six layers: the last lost both sub-layers, the fifth its attention, the second half of its neurons."""
    scores = {"attention": [0.4, 0.1, 0.02, 0.03, 0.01, 0.004], "mlp": [0.9, 0.05, 0.04, 0.06, 0.03, 0.02]}
    error = {kind: [value / 10 for value in values] for kind, values in scores.items()}
    given = {
        "measure": "cosine",
        "importance": scores,
        "error": error,
        "full": [64] * 6,
        "left": [64, 32, 64, 64, 64, 0],
        "dropped": [4, 5],
    }
    return Layers(**given | changes)


def report(case: Any) -> Report:
    """The page's content; case: what the gate judges."""
    found = {"reference": 0.31, "candidate": 0.5, "difference": 0.19, "interval": [0.15, 0.23]}
    side = {
        "reference": [2.0, 2.2, 2.1], "candidate": [1.0, 1.1, 1.2], "ratio": 1.9091, "interval": [1.8, 2.0], "bound": 2.5,
        "of_bound": 0.76364,
    }  # fmt: skip
    example = {
        "query": "how to <open> a file", "before": 0.0, "after": 0.6309, "relevant": "open(file) & friends",
        "first": {"reference": {"text": "close()", "relevant": False}, "candidate": {"text": "open(file) & friends", "relevant": True}},
    }  # fmt: skip
    return Report(
        summary={
            "dag_run_id": "manual__1", "spec_digest": "d" * 64, "verdict": "promoted", "reasons": ["all <9> rules hold"],
            "quality": {"code": found}, "mean": found, "model": {"name": "effir-demo", "version": "4", "aliases": ["champion"]},
            "metric": "ndcg_at_10", "report": "s3://effir/report.html",
            "params": {"reference": 134515008, "candidate": 101000000, "reference_non_embedding": 106203456, "candidate_non_embedding": 7},
            "speedup": {"query": 1.31, "document": 1.42, "query_interval": [1.28, 1.33], "document_interval": [1.4, 1.45]},
            "phases": [
                {"name": "slim", "state": "success", "cached": True, "seconds": 1.25, "forward_passes": 0},
                {"name": "encode candidate code 0", "state": "success", "cached": False, "seconds": 4.5, "forward_passes": 30},
                {"name": "encode candidate code 1", "state": "success", "cached": False, "seconds": 5.5, "forward_passes": 1000},
            ],
        },
        verdict=judge(*case.arguments()).to_json(), overview=overview(metrics()),
        speed={"query": side, "document": side, "protocol": "by turns", "machine": {"processor": "a <quick> one"}},
        spec={
            "name": "effir-demo", "base_model": "smollm2", "variant": "1M", "margin": 0.03, "margin_mean": 0.02,
            "query_template": "<instruct>{text}",
        },
        provenance=[{"name": "candidate", "phase": "finetune", "digest": "e" * 64, "created": "2026-01-01", "seconds": 12.5}],
        environment={"torch": "2.13.0"}, created="2026-01-01 00:00 UTC", training={"reference": [(1, 2.0), (2, 1.0)]},
        tokens={"training the reference": 123456}, layers=layers(), examples={"code": {"wins": [example], "losses": []}},
        links={"Airflow run": "http://127.0.0.1:8080/dags/x", "Folder": "s3://effir/artifacts", "Odd": "javascript:alert(1)"},
    )  # fmt: skip
