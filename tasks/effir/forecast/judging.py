"""The tasks that judge a model: encode, evaluate, speed, verify, gate, promote, report; and all tasks of a run."""

from collections.abc import Iterator
from dataclasses import replace

from effir.forecast import flops, making
from effir.forecast.texts import Corpus
from effir.forecast.volume import Volume
from effir.forecast.work import (
    CORPUS_ROW,
    HASHED,
    MINILM_TOKENS,
    QUERY_ROW,
    SENTENCE_TRANSFORMERS,
    TOKEN,
    Work,
    corpus_bytes,
    handling,
    lexical,
    with_encoding,
    with_model,
)

# Seconds of a core of speed 1; docs/forecast.md says how each was measured.
RANKED = 1.2e-6  # to score and write one hit
RESCORED = 2.5e-9  # to score a proposed hit again, per dimension
MERGED = 0.3e-3  # to merge a block's hits of one query with those before
WIDENED = 5e-9  # to check and widen stored vectors, per number
RESAMPLED = 10e-9  # of the gate, per resample and cluster of queries, for each comparison
MLFLOW = 1.2  # to import it
SEARCHED, JUDGED, REGISTERED, REPORTED = 1.0, 0.1, 0.8, 2.5  # evaluate, gate, promote and report on no data at all

MODELS = ("base", "minilm", "reference", "candidate")
MINILM_WIDTH = 384
HITS, SLACK, BLOCK = 1000, 32, 1 << 24  # of evaluate and search
HIT_ROW = 55  # bytes of a line of a TREC run
ID = 16  # bytes of a document's id beside its vector
LOADERS = 4
CHECKED = 16  # texts of a kind that verify encodes again, and shards that it takes them from
SPEED_SHARDS = 8
PROBED, TURNS = 32, 5 / 24  # of speed, beside what is timed: texts encoded, and turns as a share of all
REFERENCE, CANDIDATE = "finetune reference", "finetune candidate"


def tasks(volume: Volume, devices: int) -> list[Work]:
    """Every task of `effir_compress` on so many devices, each after those that it waits for; nothing is cached, no champion is there."""
    encoded = list(_encodes(volume))
    names = tuple(one.name for one in encoded)
    mine = tuple(name for name in names if name.startswith("encode candidate "))
    return [
        Work("begin", "begin", slot=False),
        making.prepare(volume),
        making.importance(volume),
        Work("depth", "depth", ("importance",)),
        making.teacher(volume),
        making.slim(volume, devices),
        making.narrow(volume),
        making.finetune(volume, "reference", devices),
        making.finetune(volume, "candidate", devices),
        speed(volume),
        *encoded,
        _evaluate(volume, names),
        _verify(volume, mine),
        Work("gate", "gate", ("evaluate", "speed", "verify"), core=JUDGED + _resampling(volume)),
        Work("promote", "promote", ("gate",), slot=False, core=REGISTERED),
        Work("report", "report", ("promote",), slot=False, core=REPORTED),
    ]


def _encodes(volume: Volume) -> Iterator[Work]:
    for model in MODELS:
        for one in volume.collections:
            for shard in range(volume.shards(one)):
                yield _encode(volume, model, one, shard)


def _encode(volume: Volume, model: str, one: Corpus, shard: int) -> Work:
    """A shard of the corpus; the first one has the queries too."""
    spec = volume.spec
    documents = min(spec.shard_documents, one.documents.count - shard * spec.shard_documents)
    queries = one.queries.count if shard == 0 else 0
    read = documents * (one.documents.characters + CORPUS_ROW) + queries * (one.queries.characters + QUERY_ROW)
    core = handling(one.documents.at_most(documents))
    core += TOKEN * (documents * one.documents.pieces + queries * one.queries.pieces)
    stored = (documents + queries) * vector_bytes(volume, model)
    work = Work(
        f"encode {model} {one.name} {shard}", f"encode {model}", (REFERENCE, CANDIDATE), devices=1, heavy=True, read=read,
        core=core + HASHED * (stored + read), written=stored, stored=stored,
    )  # fmt: skip
    if model == "minilm":
        parts = [(one.documents, documents), (one.queries, queries)]
        outside = sum(flops.plain(flops.MINILM, text.tokens(MINILM_TOKENS).tolist(), number) for text, number in parts)
        return replace(work, core=work.core + SENTENCE_TRANSFORMERS, outside=outside)
    backbone = volume.cut if model == "candidate" else volume.whole
    work = with_model(volume, work, backbone)
    return with_encoding(volume, work, backbone, [(volume.documents(one), documents), (volume.queries(one), queries)])


def _evaluate(volume: Volume, after: tuple[str, ...]) -> Work:
    """BM25 and exact search on the processor, block by block: what can still be among the best is scored again."""
    core, operations, read, stored = SEARCHED, 0.0, 0.0, 0.0
    for one in volume.collections:
        documents, queries = one.documents.count, one.queries.count
        core += lexical(one.documents, queries)
        read += 2 * corpus_bytes(one)
        hits = queries * min(HITS, documents)
        stored += len((*MODELS, "bm25")) * hits * HIT_ROW
        for model in MODELS:
            searched = searching(one, MINILM_WIDTH if model == "minilm" else volume.whole.shape.hidden)
            core, operations = core + searched[0], operations + searched[1]
            read += (documents + queries) * vector_bytes(volume, model)
    core += HASHED * (read + stored)
    return Work("evaluate", "evaluate", after, slot=False, processor=operations, core=core, read=read, written=stored, stored=stored)


def searching(one: Corpus, width: int) -> tuple[float, float]:
    """Seconds of a core, and operations, of exact search of a collection by vectors of this width."""
    documents, queries = one.documents.count, one.queries.count
    blocks = -(-documents // max(1, BLOCK // width))
    ranked = queries * min(HITS, documents) * RANKED
    rescored = queries * (proposed(documents, width) * width * RESCORED + blocks * MERGED)
    return ranked + rescored + documents * width * WIDENED, 2.0 * queries * documents * width


def proposed(documents: int, width: int) -> float:
    """Documents that are scored again for one query: of block b of the corpus, those that rank among the best of b blocks.

    >>> proposed(3000, 4096), proposed(8192, 4096), proposed(500, 384)
    (1032.0, 1548.0, 500.0)
    """
    rows = max(1, BLOCK // width)
    return sum(min(HITS + SLACK, rows, documents) / block for block in range(1, -(-documents // rows) + 1))


def speed(volume: Volume) -> Work:
    """Both models by turns: the time is given, what comes before it is counted."""
    spec = volume.spec
    work = Work("speed", "speed", (REFERENCE, CANDIDATE), devices=1, heavy=True, seconds=spec.speed_seconds * (1 + TURNS))
    for backbone in (volume.whole, volume.cut):
        work = with_model(volume, work, backbone)
    work = _with_shards(volume, work, SPEED_SHARDS)
    one = volume.collections[0]
    return with_encoding(volume, work, volume.whole, [(volume.queries(one), PROBED), (volume.documents(one), PROBED)])


def _verify(volume: Volume, after: tuple[str, ...]) -> Work:
    """The golden texts by every loader in float32, and a few of the vectors that were evaluated, from a few shards."""
    model = with_model(volume, Work("", ""), volume.cut)
    sizes = [min(one.documents.count, CHECKED * volume.spec.shard_documents) + one.queries.count for one in volume.collections]
    vectors = sum(sizes) * vector_bytes(volume, "candidate")
    core = SENTENCE_TRANSFORMERS + MLFLOW + (LOADERS + 2) * model.core + HASHED * vectors
    work = Work("verify", "verify", after, devices=1, heavy=True, read=model.read + vectors, core=core)
    work = _with_shards(volume, replace(work, float32=LOADERS * making.golden(volume)), CHECKED)
    for one in volume.collections:
        parts = [(volume.documents(one), CHECKED), (volume.queries(one), CHECKED)]
        work = with_encoding(volume, work, volume.cut, parts)
    return replace(work, memory=2 * model.memory)


def _with_shards(volume: Volume, work: Work, shards: int) -> Work:
    """The same with so many shards of every collection read on top."""
    few = [replace(one, documents=one.documents.at_most(shards * volume.spec.shard_documents)) for one in volume.collections]
    read = sum(map(corpus_bytes, few))
    core = sum(handling(one.documents) for one in few) + HASHED * read
    return replace(work, read=work.read + read, core=work.core + core)


def _resampling(volume: Volume) -> float:
    """Seconds of the gate's resampling: against the reference, and of the reference against the base."""
    return 2 * RESAMPLED * volume.spec.resamples * sum(one.clusters or one.queries.count for one in volume.collections)


def vector_bytes(volume: Volume, model: str) -> float:
    """Bytes of a float16 vector as it is stored, id included."""
    return 2.0 * (MINILM_WIDTH if model == "minilm" else volume.whole.shape.hidden) + ID
