"""The queries on which candidate and reference differ most, with their texts and what each model ranked first."""

import textwrap
from collections.abc import Collection, Mapping
from typing import Any

from effir.judge.examples import Example, largest
from effir.judge.quality import Scores
from effir.phases import stored
from effir.phases.job import Job
from effir.retrieve.files import document_text

MODELS = ("reference", "candidate")
LONGEST = 180


def examples(job: Job, scores: Mapping[str, Mapping[str, Scores]]) -> dict[str, Any]:
    """Collection → {"wins": […], "losses": […]}, each {query, before, after, relevant, first: {model: {text, relevant}}}; texts cut short.

    A collection on which one of the two has no scores is left out.
    """
    parts = job.manifest("prepare").parts
    names = [name for name in job.spec.collection_names() if all(name in scores.get(model, {}) for model in MODELS)]
    return {name: _of_collection(job, stored.collection(job, parts[name]), scores) for name in names}


def _of_collection(job: Job, found: stored.Stored, scores: Mapping[str, Mapping[str, Scores]]) -> dict[str, Any]:
    judged, name = found.collection, found.collection.name
    chosen = largest(scores["reference"][name], scores["candidate"][name])
    queries = {one.query for side in chosen.values() for one in side}
    first = {model: ranked_first(job.file("evaluate", f"runs/{model}/{name}.trec").open(encoding="utf-8"), queries) for model in MODELS}
    relevant = {query: max(judged.qrels[query], key=lambda one: judged.qrels[query][one]) for query in queries}
    texts = _texts(found, {*relevant.values(), *(document for ranked in first.values() for document in ranked.values())})

    def told(one: Example) -> dict[str, Any]:
        tops = {model: first[model].get(one.query) for model in MODELS}
        return {
            "query": shortened(judged.queries[one.query]),
            "before": one.before,
            "after": one.after,
            "relevant": texts[relevant[one.query]],
            "first": {
                model: {"text": texts[document], "relevant": judged.qrels[one.query].get(document, 0) > 0}
                for model, document in tops.items()
                if document
            },
        }

    return {side: [told(one) for one in given] for side, given in chosen.items()}


def ranked_first(lines: Any, queries: Collection[str]) -> dict[str, str]:
    """Query id → id of the document that a TREC run (an open file of lines) ranks first, for these queries; the file is closed."""
    found: dict[str, str] = {}
    with lines:
        for line in lines:
            query, _, document, rank, *_ = line.split()
            if rank == "1" and query in queries:
                found[query] = document
    return found


def _texts(found: stored.Stored, wanted: set[str]) -> dict[str, str]:
    """Texts of these documents; the corpus is gone through a shard at a time until all of them have come."""
    texts: dict[str, str] = {}
    for key, document in found.collection.corpus.items():
        if key in wanted:
            texts[key] = shortened(document_text(document))
            if len(texts) == len(wanted):
                break
    return {key: texts.get(key, "(not in the corpus)") for key in wanted}


def shortened(text: str) -> str:
    """A text on one line, cut at a word."""
    return textwrap.shorten(text, LONGEST, placeholder=" …") or textwrap.shorten(text[:LONGEST], LONGEST, placeholder="") or "(empty)"
