import re
from html.parser import HTMLParser

import pytest

from effir.judge.gate import judge
from effir.judge.report import Report, loss_curve, overview, render

PNG = b"\x89PNG\r\n\x1a\n"


def metrics() -> dict:
    one = {"ndcg_at_10": 0.3125, "recall_at_100": 0.875, "map_at_10": 0.2}
    return {"bm25": {"code": one}, "candidate": {"code": one | {"ndcg_at_10": 0.5}}, "reference": {"code": one}, "mean_13": {"bm25": 0.4}}


@pytest.fixture
def report(case) -> Report:
    quality = {"code": {"reference": 0.31, "candidate": 0.5, "difference": 0.19, "interval": [0.15, 0.23]}}
    side = {
        "reference": [2.0, 2.2, 2.1],
        "candidate": [1.0, 1.1, 1.2],
        "ratio": 1.9091,
        "interval": [1.8, 2.0],
        "bound": 2.5,
        "of_bound": 0.76364,
    }
    return Report(
        summary={
            "dag_run_id": "manual__1", "spec_digest": "d" * 64, "verdict": "promoted", "reasons": ["all <9> rules hold"],
            "quality": quality, "model": {"name": "effir-demo", "version": "4", "aliases": ["champion"]}, "metric": "ndcg_at_10",
            "report": "s3://effir/report.html",
            "params": {"reference": 134515008, "candidate": 101000000, "reference_non_embedding": 106203456, "candidate_non_embedding": 7},
            "speedup": {"query": 1.31, "document": 1.42, "query_interval": [1.28, 1.33], "document_interval": [1.4, 1.45]},
            "phases": [{"name": "slim", "state": "success", "cached": True, "seconds": 1.25, "forward_passes": 0}],
        },
        verdict=judge(*case.arguments()).to_json(), overview=overview(metrics()),
        speed={"query": side, "document": side, "protocol": "by turns", "machine": {}},
        spec={"name": "effir-demo", "margin": 0.03, "query_template": "<instruct>{text}"},
        provenance=[{"name": "candidate", "phase": "finetune", "digest": "e" * 64, "created": "2026-01-01", "seconds": 12.5}],
        environment={"torch": "2.13.0"}, created="2026-01-01 00:00 UTC", training={"reference": [(1, 2.0), (2, 1.0)]},
        images={"Importance": PNG}, links={"Airflow run": "http://127.0.0.1:8080/dags/x", "Folder": "s3://effir/artifacts"},
    )  # fmt: skip


class Page(HTMLParser):
    """Text, addresses and balance of a page's tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.addresses, self.open = "", [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in {"src", "href"}]
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in {"line", "polyline"}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_stands_alone(report):
    source = render(report)
    page = Page(source)
    assert page.open == []
    assert [address for address in page.addresses if not address.startswith(("data:image/png;base64,", "http://127.0.0.1:8080"))] == []
    assert "<script" not in source
    assert "@import" not in source
    assert "url(" not in source
    assert "prefers-color-scheme: dark" in source


def test_the_verdict_comes_first_and_text_is_escaped(report):
    source = render(report)
    assert source.index('class="verdict promoted"') < source.index("<h2>")
    assert "all &lt;9&gt; rules hold" in source
    assert "&lt;instruct&gt;" in source


def test_scores_are_shown_times_100_with_interval(report):
    text = re.sub(r"\s+", " ", Page(render(report)).text)
    assert "31.2" in text
    assert "50.0" in text
    assert "87.5" in text
    assert "+19.0" in text
    assert "+15.0 to +23.0" in text
    assert "1.909" in text
    assert "76%" in text
    assert "101,000,000" in text


def test_every_rule_is_on_the_page(report):
    text = Page(render(report)).text
    assert all(rule["text"] in text for rule in report.verdict["rules"])


def test_a_rejected_run_of_the_champion_still_renders(report, case):
    case.champion = {"version": "4", "digest": "cand"}
    summary = report.summary | {"verdict": "rejected", "quality": {}, "phases": [], "model": {"name": "x", "version": None, "aliases": []}}
    plain = Report(
        **report.__dict__ | {"summary": summary, "verdict": judge(*case.arguments()).to_json(), "training": {}, "images": {}, "links": {}}
    )
    assert "rejected" in Page(render(plain)).text


def test_overview_orders_models_and_leaves_means_out():
    table = overview(metrics())
    assert table["models"] == ["bm25", "reference", "candidate"]
    assert table["collections"] == {
        "code": {
            "bm25": {"ndcg_at_10": 0.3125, "recall_at_100": 0.875},
            "reference": {"ndcg_at_10": 0.3125, "recall_at_100": 0.875},
            "candidate": {"ndcg_at_10": 0.5, "recall_at_100": 0.875},
        }
    }


@pytest.mark.parametrize("training", [[{"loss": 2.0}, {"accuracy": 0.5}, {"loss": 1.0}], {"history": [{"loss": 2.0}, {}, {"loss": 1.0}]}])
def test_loss_curve_counts_steps_from_one(training):
    assert loss_curve(training) == [(1, 2.0), (3, 1.0)]
