"""assess: one model on every collection, and how fast it is beside the reference: a row of a frontier.

What encode, evaluate and speed do for a run, in one process: a frontier has dozens of models and the collections are shared.
With the argument `weights` the model's weights become what a rival would make of them, and quality alone is measured.
"""

import json
from typing import TYPE_CHECKING, Any

from effir.compress.needs import WEIGHTS
from effir.phases import encode, evaluate, probing, speed, stored
from effir.phases.job import Job
from effir.spec import RunSpec

if TYPE_CHECKING:
    from effir.retrieve.encode import Encoder
    from effir.retrieve.search import Run

MEASURING = {*encode.FIELDS, *speed.FIELDS}
FIELDS = tuple(sorted(MEASURING | probing.USED["text"] - {"calibration"}))


def unused(spec: RunSpec, arguments: dict[str, Any]) -> set[str]:
    """BM25 knows none of the settings; calibration text is looked at by few of the rules that change weights."""
    if arguments["model"] == "bm25":
        return set(FIELDS)
    return probing.unused(WEIGHTS.get(arguments.get("weights", ""), "nothing"), spec) - MEASURING


def run(job: Job) -> dict[str, Any]:
    """Write scores.parquet and metrics.json as evaluate does, and speed.json where there is a reference to compare with."""
    from effir.compress import surgery
    from effir.phases.compute import ready
    from effir.retrieve import metrics

    model = job.arguments["model"]
    given = stored.collections(job)
    device = ready(job.spec)
    changed = job.arguments.get("weights", "")
    encoder: Encoder | None = None
    if model not in {"bm25", "minilm"}:
        encoder = _changed(job, device, changed) if changed else encode.own_encoder(job, device)
    turn = None if model == "bm25" else encode.encoding(job, device, encoder)
    rows: list[dict[str, Any]] = []
    table: dict[str, dict[str, float]] = {}
    for one in given.values():
        collection = one.collection
        found, cosine = (evaluate.lexical(one), None) if turn is None else _dense(job, one, turn)
        scores = metrics.per_query(found, collection.qrels)
        table[collection.name] = metrics.means(scores) | ({} if cosine is None else {"mean_query_cosine": cosine})
        rows += evaluate.rows_of(model, collection, scores)
        job.say(f"{model} on {collection.name}: nDCG@10 {100 * table[collection.name]['ndcg_at_10']:.1f}")
        for metric, value in table[collection.name].items():
            job.metric(f"{collection.name}/{metric}", value)
    evaluate.write_scores(rows, job.out / "scores.parquet")
    (job.out / "metrics.json").write_text(json.dumps({model: table}, indent=1, sort_keys=True))
    figures = {f"{name}/ndcg_at_10": scores["ndcg_at_10"] for name, scores in list(table.items())[:4]}
    if encoder is not None:
        figures["parameters"], figures["parameters_non_embedding"] = surgery.parameters(encoder.model)
        if job.has("reference") and not changed:
            # A sibling may read the same texts as other tokens.
            report = speed.measure(job, speed.load(job, "reference", device), encoder, same_tokens=False)
            (job.out / "speed.json").write_text(json.dumps(report, indent=1))
            figures |= speed.numbers(report)
    return figures


def _changed(job: Job, device: str, rule: str) -> "Encoder":
    """The input `model` with other weights."""
    from effir.compress import weights
    from effir.export import loading
    from effir.phases.compute import dtype_of
    from effir.retrieve.encode import Encoder
    from effir.retrieve.prepack import prepack

    folder = job.folder("model")
    model, tokenizer = loading.load_backbone(folder, dtype_of(job.spec)).to(device), loading.load_tokenizer(folder)
    batches = probing.text(job, tokenizer, device) if WEIGHTS[rule] == "text" else []
    with probing.counted(job, model):
        count = weights.change(model, rule, batches, lambda done, of: job.progress(done, of, f"batches, {rule}"))
    job.say(f"{rule}: {count:,} weights have other values; size and speed are those of the model as it was, and not measured")
    encoder = Encoder(prepack(model), tokenizer, loading.load_settings(folder), device)
    encoder.forward_passes = job.forward_passes
    return encoder


def _dense(job: Job, one: stored.Stored, turn: Any) -> tuple["Run", float]:
    """Exact search, one shard of vectors in memory at a time; and the mean cosine between two queries (isotropy, appendix A.6)."""
    import numpy as np

    from effir.retrieve.search import search

    name, asked = one.collection.name, one.collection.queries

    def encoded(texts: dict[str, str], kind: str) -> tuple[Any, list[str]]:
        return encode.finite(job, turn(list(texts.values()), kind), name), list(texts)

    def shard(number: int) -> tuple[Any, list[str]]:
        vectors, ids = encoded(one.texts(number), "document")
        return vectors.astype(np.float16), ids

    queries, query_ids = encoded(asked, "query")
    found = search(queries.astype(np.float16), query_ids, map(shard, range(len(one.shards))), evaluate.DEPTH)
    summed, count = queries.astype(np.float64).sum(0), len(queries)
    return found, float((summed @ summed - count) / max(1, count * (count - 1)))
