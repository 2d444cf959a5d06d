import importlib.util
import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from effir.judge.gate import judge
from effir.judge.report import Report, loss_curve, overview, render, steps

given = importlib.util.spec_from_file_location("made", Path(__file__).with_name("made.py"))
made: Any = importlib.util.module_from_spec(given)
given.loader.exec_module(made)


@pytest.fixture
def report(case) -> Report:
    return made.report(case)


class Page(HTMLParser):
    """Text, addresses and balance of a page's tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.addresses, self.open = "", [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in {"src", "href"}]
        if tag not in {"meta", "line", "polyline"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in {"line", "polyline", "circle"}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_stands_alone(report):
    source = render(report)
    page = Page(source)
    assert page.open == []
    assert {address for address in page.addresses if not address.startswith("#")} == {"http://127.0.0.1:8080/dags/x"}
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(re.findall(r'id="([^"]+)"', source))
    assert "<script" not in source
    assert "@import" not in source
    assert "url(" not in source
    assert "prefers-color-scheme: dark" in source


def test_the_verdict_comes_first_and_text_is_escaped(report):
    source = render(report)
    assert source.index('class="verdict promoted"') < source.index("<h2")
    assert "all &lt;9&gt; rules hold" in source
    assert "&lt;instruct&gt;" in source
    assert "how to &lt;open&gt; a file" in source and "open(file) &amp; friends" in source
    assert "a &lt;quick&gt; one" in source
    assert "<open>" not in source and "<quick>" not in source


def test_scores_are_shown_times_100_with_interval(report):
    text = re.sub(r"\s+", " ", Page(render(report)).text)
    assert "31.2" in text
    assert "50.0" in text
    assert "87.5" in text
    assert "+19.0" in text
    assert "+15.0 to +23.0" in text
    assert "1.909" in text
    assert "76%" in text
    assert "101.0 M" in text
    assert "0.0 → 63.1" in text


def test_every_rule_is_on_the_page(report):
    text = Page(render(report)).text
    assert all(rule["text"] in text for rule in report.verdict["rules"])


def test_a_rejected_run_of_the_champion_still_renders(report, case):
    case.champion = {"version": "4", "digest": "cand"}
    empty = {"verdict": "rejected", "quality": {}, "mean": None, "phases": [], "model": {"name": "x", "version": None, "aliases": []}}
    told = {"summary": report.summary | empty, "verdict": judge(*case.arguments()).to_json()}
    plain = replace(report, **told, training={}, tokens={}, layers=None, examples={}, links={})
    page = Page(render(plain))
    assert "rejected" in page.text
    assert page.open == []
    assert {"#wins-and-losses", "#layers", "#training"}.isdisjoint(page.addresses)


def test_headings_are_in_order_and_tables_have_heads(report):
    source = render(report)
    levels = [int(level) for level in re.findall(r"<h([1-6])", source)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all('scope="' in head for head in re.findall(r"<th\b[^>]*>", source))
    labels = re.findall(r'<div class="wide[^"]*" role="region" tabindex="0" aria-label="([^"]+)"', source)
    assert len(labels) == len(set(labels)) == source.count('<div class="wide')
    assert source.count("<svg") == source.count('role="img" aria-label="') == 5


def test_shards_of_a_model_are_one_step(report):
    found = {one["name"]: one for one in steps(report.summary["phases"])}
    assert found["encode candidate"] == {
        "name": "encode candidate", "tasks": 2, "cached": 0, "seconds": 10.0, "forward_passes": 1030, "share": 1.0,
    }  # fmt: skip
    assert found["slim"]["cached"] == 1 and found["slim"]["share"] == pytest.approx(0.125)


def test_overview_orders_models_and_leaves_means_out():
    table = overview(made.metrics())
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
