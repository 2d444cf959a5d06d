import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from effir.judge.comparison import Run, compare_runs, render
from effir.judge.quality import Scores

DICE = np.random.default_rng(3)
TRUTH = {name: DICE.beta(2, 3, 150) for name in ("code", "papers", "talk")}


def scores(values: np.ndarray) -> Scores:
    queries = tuple(f"q{number}" for number in range(len(values)))
    return Scores(queries, queries, values)


def run(gain: float, **changes: Any) -> Run:
    found = {name: scores(np.clip(values + gain * (name == "code"), 0, 1)) for name, values in TRUTH.items()}
    summary = {
        "dag_run_id": f"run<{gain}>", "verdict": "promoted", "model": {"name": "x", "version": "1", "aliases": []}, "report": "s3://x",
        "params": {"candidate": 1234567, "candidate_non_embedding": 765432},
        "speedup": {"query": 1.2, "document": 1.3, "query_interval": [1.1, 1.3], "document_interval": [1.2, 1.4]},
    }  # fmt: skip
    return Run(summary, {"base_model": "b", "steps": 3, "seed": 0} | changes, found, dict.fromkeys(TRUTH, "one version"))


def test_a_difference_is_the_second_minus_the_first_query_by_query() -> None:
    found = compare_runs(run(0.0), run(0.2), resamples=2000)
    one = found["collections"]["code"]
    expected = np.mean(np.clip(TRUTH["code"] + 0.2, 0, 1) - TRUTH["code"])
    assert one["difference"] == pytest.approx(expected)
    assert one["interval"][0] < expected < one["interval"][1] and one["interval"][0] > 0
    assert one["significant"] and one["p"] < 0.01
    same = found["collections"]["papers"]
    assert same["difference"] == 0 and not same["significant"] and same["interval"][0] < 0 < same["interval"][1]
    assert found["mean"]["difference"] == pytest.approx(expected / 3) and found["mean"]["collections"] == 3


def test_the_other_way_round_the_sign_turns() -> None:
    there, back = compare_runs(run(0.0), run(0.2), resamples=500), compare_runs(run(0.2), run(0.0), resamples=500)
    assert back["collections"]["code"]["difference"] == pytest.approx(-there["collections"]["code"]["difference"])
    assert back["collections"]["code"]["significant"]


def test_what_cannot_be_compared_says_why() -> None:
    first, second = run(0.0), run(0.2)
    fewer = {name: one for name, one in second.scores.items() if name != "talk"}
    other = replace(second, scores=fewer, data=second.data | {"papers": "another version"})
    found = compare_runs(first, other, resamples=500)
    assert found["collections"]["talk"]["problem"] == "the second run was not evaluated on talk"
    assert found["collections"]["talk"]["second"] is None
    assert found["collections"]["papers"]["problem"] == "the two runs were evaluated on different versions of papers"
    assert found["mean"] is None
    shorter = replace(second, scores=second.scores | {"code": scores(TRUTH["code"][:-1])})
    assert compare_runs(first, shorter, 500)["collections"]["code"]["problem"] == (
        "the first run and the second run were scored on different queries of code"
    )


def test_only_settings_that_differ_are_told() -> None:
    assert compare_runs(run(0.0), run(0.0, steps=4, extra="<b>"), resamples=500)["settings"] == {"steps": [3, 4], "extra": [None, "<b>"]}


def test_the_page_stands_alone_and_escapes() -> None:
    page = render(compare_runs(run(0.0), run(0.2, steps="<b>"), resamples=500))
    assert "run&lt;0.2&gt;" in page and "&lt;b&gt;" in page and "<b>" not in page
    assert "http" not in page and "<script" not in page
    assert len(re.findall("<circle", page)) == 4
    assert "dashed" not in re.search(r'aria-label="(Difference[^"]*)"', page).group(1)
