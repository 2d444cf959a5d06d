"""Retrieval metrics by pytrec_eval, as BEIR computes them, per query and as exact means; run files; MTEB's result format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytrec_eval

from effir.errors import BadInput
from effir.retrieve.search import Run

Qrels = Mapping[str, Mapping[str, int]]

CUTOFFS = (1, 3, 5, 10, 100, 1000)
MEASURES = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P"}
NAMES = tuple(f"{measure}_at_{k}" for measure in MEASURES for k in CUTOFFS)
MTEB_TASKS = {
    "arguana": "ArguAna",
    "climate-fever": "ClimateFEVER",
    "dbpedia-entity": "DBPedia",
    "fever": "FEVER",
    "fiqa": "FiQA2018",
    "hotpotqa": "HotpotQA",
    "nfcorpus": "NFCorpus",
    "nq": "NQ",
    "quora": "QuoraRetrieval",
    "scidocs": "SCIDOCS",
    "scifact": "SciFact",
    "trec-covid": "TRECCOVID",
    "webis-touche2020": "Touche2020",
}
BEIR_13 = tuple(MTEB_TASKS)


def per_query(run: Run, qrels: Qrels) -> dict[str, dict[str, float]]:
    """Query id → metric (`ndcg_at_10`, …) → value in 0 to 1, for every query of the judgements.

    Ties are settled by ascending document id before pytrec_eval sees them (see `separated`); a query for which nothing
    was found scores 0 everywhere, where pytrec_eval would leave it out of the mean.
    """
    wanted = {f"{name}.{','.join(map(str, CUTOFFS))}" for name in MEASURES.values()}
    evaluator = pytrec_eval.RelevanceEvaluator({query: dict(grades) for query, grades in qrels.items()}, wanted)
    found = evaluator.evaluate({query: separated(run[query]) for query in qrels if run.get(query)})
    return {
        query: {
            f"{name}_at_{k}": float(found[query][f"{trec}_{k}"]) if query in found else 0.0
            for name, trec in MEASURES.items()
            for k in CUTOFFS
        }
        for query in qrels
    }


def means(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean over queries of every metric, not rounded (BEIR's own rounds to five digits)."""
    return {name: float(np.mean([values[name] for values in scores.values()])) for name in NAMES}


def beir_mean(by_collection: Mapping[str, float], pooled: Mapping[str, bool] | None = None) -> float | None:
    """Mean over the 13 BEIR sets that papers average; None unless all of them are there, with their whole corpora."""
    if any(name not in by_collection or (pooled or {}).get(name) for name in BEIR_13):
        return None
    return float(np.mean([by_collection[name] for name in BEIR_13]))


def separated(results: Mapping[str, float]) -> dict[str, float]:
    """The same ranking with strictly falling float32 scores: best first, ties by ascending id.

    TREC's evaluators rank ties by descending id and read scores as float32; with a score that ties nudged down by one
    float32 step, every evaluator sees one and the same order.

    >>> list(separated({"b": 1.0, "a": 1.0, "c": 2.0}))
    ['c', 'a', 'b']
    """
    given = np.fromiter(results.values(), np.float64, len(results))
    single = given.astype(np.float32)
    if (single == given).all() and (single[1:] < single[:-1]).all():
        return dict(results)
    fixed: dict[str, float] = {}
    previous = np.float32(np.inf)
    for document in sorted(results, key=lambda one: (-np.float32(results[one]), one)):
        previous = min(np.float32(results[document]), np.nextafter(previous, np.float32(-np.inf)))
        fixed[document] = float(previous)
    return fixed


def write_run(run: Run, path: Path, tag: str) -> None:
    """Write a TREC run file (query Q0 document rank score tag) whose scores fall strictly, so that any evaluator agrees."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for query, results in run.items():
            for rank, (document, score) in enumerate(separated(results).items(), 1):
                stream.write(f"{query} Q0 {document} {rank} {score:.9g} {tag}\n")


def read_run(path: Path) -> Run:
    """Read a TREC run file. Raises BadInput naming file and line."""
    run: Run = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        columns = line.split()
        try:
            query, _, document, _, score, _ = columns
            run.setdefault(query, {})[document] = float(score)
        except ValueError:
            raise BadInput(f"{path}, line {number}: expected `query Q0 document rank score tag`") from None
    return run


def mteb_result(collection: str, metrics: Mapping[str, float], seconds: float | None = None) -> dict[str, Any]:
    """One collection's metrics in the form of MTEB's result files (TaskResult)."""
    row: dict[str, Any] = dict(metrics) | {"main_score": metrics["ndcg_at_10"], "hf_subset": "default", "languages": ["eng-Latn"]}
    return {
        "dataset_revision": "",
        "task_name": MTEB_TASKS.get(collection, collection),
        "mteb_version": None,
        "scores": {"test": [row]},
        "evaluation_time": seconds,
        "kg_co2_emissions": None,
    }
