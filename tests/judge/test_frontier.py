from dataclasses import replace
from itertools import product
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from effir.judge.agreement import Agreement
from effir.judge.frontier import Entry, contrasts, rows
from effir.judge.frontier_page import render, standalone
from effir.judge.quality import Limits, Scores
from effir.spec import resolve

LIMITS = Limits(collections=("code", "papers"), in_domain=("code",), margin=0.03, margin_mean=0.02, resamples=2000)
DICE = np.random.default_rng(0)
TRUTH = {name: DICE.beta(2, 3, 200) for name in ("code", "papers")}


def scores(gain: float, noise: float = 0.05, seed: int = 1) -> dict[str, Scores]:
    rng = np.random.default_rng(seed)
    queries = tuple(f"q{number}" for number in range(200))
    return {name: Scores(queries, queries, np.clip(values + gain + rng.normal(0, noise, 200), 0, 1)) for name, values in TRUTH.items()}


def timed(ratio: float) -> dict[str, Any]:
    return {kind: {"ratio": ratio, "interval": [ratio - 0.02, ratio + 0.03], "bound": ratio * 1.02} for kind in ("query", "document")}


def entries() -> list[Entry]:
    landmarks = [
        Entry("bm25", scores(-0.2), landmark=True),
        *(Entry("reference", scores(0, seed=seed), seed, seed, landmark=True, parameters=100) for seed in (0, 1)),
    ]
    arms = [
        Entry(name, scores(gain, seed=10 + seed), seed, seed, speed=timed(ratio + seed / 50), parameters=80, cosine=0.2 + seed / 10)
        for name, gain, ratio in (("8A", -0.02, 1.2), ("8M", -0.15, 1.1), ("last8B", -0.1, 1.4))
        for seed in (0, 1)
    ]
    return landmarks + arms


def test_a_row_is_an_arm_over_its_seeds() -> None:
    found = {row.arm: row for row in rows(entries(), LIMITS)}
    assert list(found) == ["bm25", "reference", "8A", "8M", "last8B"]
    row, given = found["8A"], [entry for entry in entries() if entry.arm == "8A"]
    means = [np.mean([one.values.mean() for one in entry.scores.values()]) for entry in given]
    assert row.seeds == (0, 1)
    assert row.mean == pytest.approx(np.mean(means))
    assert row.spread == pytest.approx(np.std(means, ddof=1))
    assert row.speedup["document"] == pytest.approx((np.sqrt(1.2 * 1.22), 1.18, 1.25))
    assert row.parameters == 80 and row.cosine == pytest.approx(0.25)
    assert found["reference"].cosine is None
    assert found["bm25"].speedup == {} and found["bm25"].difference is None


def test_the_difference_is_from_the_reference_of_the_same_seed() -> None:
    given = entries()
    row = next(row for row in rows(given, LIMITS) if row.arm == "8M")
    arm, reference = ([entry for entry in given if entry.arm == name] for name in ("8M", "reference"))
    pairs = [
        np.mean([two.scores[name].values.mean() - one.scores[name].values.mean() for name in TRUTH])
        for one, two in zip(reference, arm, strict=True)
    ]
    assert row.difference == pytest.approx(np.mean(pairs))
    assert row.interval[0] < row.difference < row.interval[1] < 0


def test_arms_that_are_trained_in_another_way_have_a_reference_of_their_own() -> None:
    given = entries()
    other = Entry("reference of taught", scores(0.1, seed=5), 0, 2, landmark=True, parameters=100)
    arm = Entry("taught", scores(0.1, seed=6), 0, 2, speed=timed(1.3), parameters=80)
    found = {row.arm: row for row in rows([*given, other, arm], LIMITS)}
    assert found["taught"].difference == pytest.approx(found["taught"].mean - found["reference of taught"].mean)
    assert found["reference of taught"].speedup["document"] == (1.0, 1.0, 1.0)
    assert all(found[row.arm].difference == row.difference for row in rows(given, LIMITS))


def test_the_best_are_those_that_no_other_beats() -> None:
    assert {row.arm for row in rows(entries(), LIMITS) if row.best} == {"reference", "8A", "last8B"}


def test_an_arm_that_lost_a_seed_is_compared_on_the_seeds_that_it_has() -> None:
    given = [entry for entry in entries() if (entry.arm, entry.seed) != ("8A", 1)]
    row = next(row for row in rows(given, LIMITS) if row.arm == "8A")
    first = next(entry for entry in given if entry.arm == "reference" and entry.seed == 0)
    assert row.seeds == (0,) and row.spread is None
    assert row.difference == pytest.approx(row.mean - np.mean([one.values.mean() for one in first.scores.values()]))


def test_a_contrast_is_between_arms_on_common_seeds() -> None:
    (found,) = contrasts(entries(), [("8M", "8A")], LIMITS)
    assert found.difference == pytest.approx(0.13, abs=0.02) and found.interval and found.interval[0] > 0.08
    assert found.p is not None and found.p < 0.002
    apart = [replace(entry, seed=2) if entry.arm == "8M" else entry for entry in entries()]
    (none,) = contrasts(apart, [("8M", "8A")], LIMITS)
    assert none.problem == "8M and 8A have no seed in common" and none.p is None


def test_p_is_that_of_the_mean_over_the_collections() -> None:
    few = {"code": np.array([0.1, 0.4, 0.3]), "papers": np.array([0.2, 0.6, 0.1, 0.5])}
    gained = {"code": np.array([0.5, 0.5, 0.2]), "papers": np.array([0.3, 0.9, 0.0, 0.5])}

    def entry(arm: str, given: dict[str, np.ndarray]) -> Entry:
        names = {name: tuple(f"{name}{place}" for place in range(len(one))) for name, one in given.items()}
        return Entry(arm, {name: Scores(names[name], names[name], one) for name, one in given.items()}, 0, 0)

    (found,) = contrasts([entry("8M", few), entry("8A", gained)], [("8M", "8A")], LIMITS)
    differences = np.concatenate([(gained[name] - few[name]) / len(few[name]) for name in few])
    flips = [np.dot(signs, differences) for signs in product((1, -1), repeat=len(differences))]
    share = np.mean(np.array(flips) >= differences.sum() - 1e-9)
    assert found.p == pytest.approx(2 * share)


def test_the_page_shows_every_arm_and_what_failed() -> None:
    page = render(
        rows(entries(), LIMITS),
        {"8A": "8A=8A:lora_rank=4"},
        contrasts(entries(), [("8M", "8A"), ("8M", "bm25")], LIMITS),
        [{"arm": "<15M>", "seed": 3}],
        resolve("demo"),
        "2026-01-01 00:00 UTC",
        {"name": "toys", "question": "Does <it> help?", "published": "Yes."},
        [Agreement("cosine <a>", "random", 0.5, None, 3)],
    )
    assert "<h2>Study: toys</h2>" in page and "Does &lt;it&gt; help?" in page and "Published: Yes." in page
    assert page.count("<title>8A: ") == 1 + len(TRUTH)
    assert "&lt;15M&gt;, seed 3" in page and "<15M>" not in page
    assert "8M and bm25 have no seed in common" in page
    assert "<li>8A: <code>8A:lora_rank=4</code></li>" in page
    assert "http" not in page


def test_siblings_are_joined_with_the_references() -> None:
    given = [replace(entry, sibling=entry.arm == "last8B") for entry in entries()]
    names = {
        one.tag.rpartition("}")[2] + "." + one.get("class", "")
        for one in ElementTree.fromstring(standalone(rows(entries(), LIMITS))).iter()
    }
    assert "polyline.line siblings" not in names
    drawn = ElementTree.fromstring(standalone(rows(given, LIMITS)))
    (line,) = [one for one in drawn.iter("{http://www.w3.org/2000/svg}polyline") if one.get("class") == "line siblings"]
    dots = {one[0].text.partition(":")[0]: one for one in drawn.iter("{http://www.w3.org/2000/svg}g") if one.get("class") == "arm"}
    centres = [
        next(f"{part.get('cx')},{part.get('cy')}" for part in dots[name] if part.tag.endswith("circle")) for name in ("reference", "last8B")
    ]
    assert line.get("points").split() == centres
    page = render(rows(given, LIMITS), {}, [], [], resolve("demo"), "2026-01-01 00:00 UTC")
    assert "dotted line" in page and "dotted line" not in render(rows(entries(), LIMITS), {}, [], [], resolve("demo"), "now")


def test_the_picture_stands_alone() -> None:
    found = ElementTree.fromstring(standalone(rows(entries(), LIMITS)))
    assert found.tag == "{http://www.w3.org/2000/svg}svg"
    assert "svg .dot" in (found[0].text or "")
    titles = [one.text or "" for one in found.iter("{http://www.w3.org/2000/svg}title")]
    assert any(title.startswith("8A: ") for title in titles)
    assert standalone([]) == ""
