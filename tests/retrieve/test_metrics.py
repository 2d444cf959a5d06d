import copy
import json
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from beir.retrieval.evaluation import EvaluateRetrieval

from effir.errors import BadInput
from effir.retrieve.metrics import BEIR_13, CUTOFFS, NAMES, beir_mean, means, mteb_result, per_query, read_run, separated, write_run
from effir.retrieve.search import Run

Qrels = dict[str, dict[str, int]]


def fuzzed(seed: int, ties: bool) -> tuple[Run, Qrels]:
    dice = np.random.default_rng(seed)
    documents = [f"d{number}" for number in range(60)]
    run: Run = {}
    qrels: Qrels = {}
    for number in range(12):
        judged = dice.choice(documents, dice.integers(1, 20), replace=False)
        qrels[f"q{number}"] = {str(one): int(grade) for one, grade in zip(judged, dice.integers(0, 4, len(judged)), strict=True)}
        qrels[f"q{number}"][str(judged[0])] = int(dice.integers(1, 4))
        found = dice.choice(documents, dice.integers(1, 60), replace=False)
        scores = dice.integers(0, 4, len(found)) if ties else dice.permutation(len(found))
        run[f"q{number}"] = {str(one): float(score) for one, score in zip(found, scores, strict=True)}
    return run, qrels


def ndcg_at_10(results: dict[str, float], grades: dict[str, int]) -> float:
    """Järvelin and Kekäläinen with linear gains, ties by ascending id."""
    order = sorted(results, key=lambda one: (-results[one], one))[:10]
    discounts = 1 / np.log2(np.arange(2, 12))
    gains = np.array([grades.get(one, 0) for one in order], float)
    ideal = np.array(sorted(grades.values(), reverse=True)[:10], float)
    return float(gains @ discounts[: len(gains)] / (ideal @ discounts[: len(ideal)]))


@pytest.mark.parametrize("seed", range(8))
def test_without_ties_every_value_is_pytrec_evals(seed: int) -> None:
    run, qrels = fuzzed(seed, ties=False)
    cut = ",".join(map(str, CUTOFFS))
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {f"ndcg_cut.{cut}", f"map_cut.{cut}", f"recall.{cut}", f"P.{cut}"}).evaluate(run)
    ours = per_query(run, qrels)
    for query, values in ours.items():
        assert set(values) == set(NAMES)
        for k in CUTOFFS:
            assert values[f"ndcg_at_{k}"] == theirs[query][f"ndcg_cut_{k}"]
            assert values[f"map_at_{k}"] == theirs[query][f"map_cut_{k}"]
            assert values[f"recall_at_{k}"] == theirs[query][f"recall_{k}"]
            assert values[f"precision_at_{k}"] == theirs[query][f"P_{k}"]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ties", [False, True])
def test_ndcg_is_the_formula_with_ties_by_id(seed: int, ties: bool) -> None:
    run, qrels = fuzzed(seed, ties)
    for query, values in per_query(run, qrels).items():
        assert values["ndcg_at_10"] == pytest.approx(ndcg_at_10(run[query], qrels[query]), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_beirs_evaluation_of_the_run_file_agrees_with_ties_too(seed: int, tmp_path: Path) -> None:
    run, qrels = fuzzed(seed, ties=True)
    write_run(run, tmp_path / "a" / "run.trec", "model")
    ours = means(per_query(run, qrels))
    theirs = EvaluateRetrieval.evaluate(copy.deepcopy(qrels), read_run(tmp_path / "a" / "run.trec"), list(CUTOFFS))
    for name, found in zip(("ndcg", "map", "recall", "precision"), theirs, strict=True):
        for label, value in found.items():
            assert abs(ours[f"{name}_at_{label.split('@')[1]}"] - value) <= 5e-6 + 1e-12, "BEIR rounds to five digits"


def test_a_query_that_found_nothing_counts_as_zero() -> None:
    qrels = {"q1": {"d1": 1}, "q2": {"d2": 1}, "q3": {"d3": 1}}
    found = per_query({"q1": {"d1": 1.0}, "q2": {}, "unjudged": {"d1": 1.0}}, qrels)
    assert list(found) == ["q1", "q2", "q3"]
    assert means(found)["ndcg_at_10"] == pytest.approx(1 / 3, abs=1e-15)


def test_separated_scores_fall_strictly_in_float32() -> None:
    given = {f"d{number}": 0.1 + (number % 3) * 1e-9 for number in range(50)}
    fixed = separated(given)
    assert list(fixed) == sorted(given)
    assert (np.diff(np.array(list(fixed.values()), np.float32)) < 0).all()
    assert np.abs(np.array(list(fixed.values())) - 0.1).max() < 1e-6


def test_a_run_file_survives_reading(tmp_path: Path) -> None:
    run = {"q": separated({"a": 0.123456789, "b": 0.1234567891, "c": -3.0}), "r": {"x": 1e-30}}
    write_run(run, tmp_path / "run.trec", "model")
    read = read_run(tmp_path / "run.trec")
    assert [list(one) for one in read.values()] == [list(one) for one in run.values()]
    for query, results in run.items():
        for document, score in results.items():
            assert np.float32(read[query][document]) == np.float32(score)
    assert (tmp_path / "run.trec").read_text().splitlines()[0].split()[:4] == ["q", "Q0", "a", "1"]


@pytest.mark.parametrize("line", ["q Q0 d 1 0.5", "q Q0 d 1 high model"])
def test_a_broken_run_file_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "run.trec").write_text(f"q Q0 d 1 0.5 m\n{line}\n")
    with pytest.raises(BadInput, match="line 2"):
        read_run(tmp_path / "run.trec")


def test_the_mean_of_13_needs_all_13_with_whole_corpora() -> None:
    scores = {name: number / 13 for number, name in enumerate(BEIR_13)}
    assert len(scores) == 13
    assert beir_mean(scores) == pytest.approx(6 / 13)
    assert beir_mean(scores | {"semanlink": 1.0}) == pytest.approx(6 / 13)
    assert beir_mean(scores, {"nq": True}) is None
    del scores["quora"]
    assert beir_mean(scores | {"semanlink": 1.0}) is None


def test_mtebs_format_has_its_fields() -> None:
    values = means(per_query({"q": {"d": 1.0}}, {"q": {"d": 1}}))
    result = json.loads(json.dumps(mteb_result("scifact", values, 2.5)))
    assert result["task_name"] == "SciFact"
    assert mteb_result("stdlib-code", values)["task_name"] == "stdlib-code"
    (row,) = result["scores"]["test"]
    assert row["main_score"] == row["ndcg_at_10"] == 1
    assert row["hf_subset"] == "default"
    assert {"dataset_revision", "task_name", "mteb_version", "scores", "evaluation_time", "kg_co2_emissions"} == set(result)
