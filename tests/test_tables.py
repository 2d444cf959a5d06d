from rich.console import Console

from effir.tables import show

SUMMARY = {
    "verdict": "rejected",
    "reasons": ["seen: the bound -0.0312 is below -0.03 [sic]"],
    "model": {"name": "tiny", "version": "4", "aliases": ["challenger"]},
    "params": {"reference": 1000, "candidate": 750, "reference_non_embedding": 800, "candidate_non_embedding": 550},
    "speedup": {"query": 1.25, "document": 1.5, "query_interval": [1.1, 1.4], "document_interval": [1.3, 1.7]},
    "quality": {"seen": {"reference": 0.5, "candidate": 0.48, "difference": -0.02, "interval": [-0.031, -0.009]}},
}
OVERVIEW = {
    "models": ["base", "candidate"],
    "collections": {"seen": {"base": {"ndcg_at_10": 0.1, "recall_at_100": 0.25}, "candidate": {"ndcg_at_10": 0.48, "recall_at_100": 1.0}}},
}


def test_everything_that_a_person_wants_is_shown() -> None:
    console = Console(record=True, width=120, file=None, quiet=False)
    with console.capture() as captured:
        show(SUMMARY, OVERVIEW, {"report": "s3://effir/report.html"}, console)
    text = captured.get()
    rows = [" ".join(line.split()) for line in text.splitlines()]
    for row in (
        "base 10.0 25.0",
        "candidate 48.0 100.0",
        "seen 50.0 48.0 -2.00 -3.10 to -0.90",
        "parameters 1,000 → 750 (-25.0%)",
        "without embeddings 800 → 550 (-31.2%)",
        "query speed-up 1.25× (95% interval 1.10 to 1.40)",
        "document speed-up 1.50× (95% interval 1.30 to 1.70)",
        "rejected tiny version 4",
        "· seen: the bound -0.0312 is below -0.03 [sic]",
        "report s3://effir/report.html",
    ):
        assert row in rows, text


def test_a_model_that_was_not_evaluated_on_a_collection_has_a_dash() -> None:
    console = Console(width=120)
    overview = {"models": ["champion"], "collections": {"seen": {}}}
    with console.capture() as captured:
        show(SUMMARY, overview, {}, console)
    assert "champion – –" in " ".join(captured.get().split())
