"""The tasks that make a model: prepare, teacher, importance, depth, slim, narrow, finetune."""

from dataclasses import replace

from effir.compress.needs import IMPORTANCE, LOOKS, NEURONS
from effir.compress.shapes import Backbone, count
from effir.forecast import flops
from effir.forecast.volume import Volume
from effir.forecast.work import (
    DRAWN,
    HASHED,
    MINILM_TOKENS,
    SENTENCE_TRANSFORMERS,
    TOKEN,
    Work,
    corpus_bytes,
    handling,
    lexical,
    positives,
    tokenising,
    training_documents,
    with_encoding,
    with_model,
    with_training,
)

# Seconds of a core of speed 1; docs/forecast.md says how each was measured.
STDLIB = 3.4  # to read the standard library's functions
VOCABULARY_ROW = 0.33e-3  # to read a GGUF file, per row of the vocabulary
CONVERTED = 5e-9  # to read a base model and write it, per parameter
CONFIGURED = 3.0  # to import what reads a model's configuration
EXPORTED = 19e-9  # to merge, write and digest a model, per parameter

COMPARED = 60  # bytes moved to compare two states, per dimension
GOLDEN_TEXTS, GOLDEN_TOKENS = 8, 54
MOMENTS = 12.0  # bytes of a checkpoint for each trained parameter
SCORE_ROW = 40  # bytes of a teacher's score, ids included
RERANKER_TOKENS = 8192
TIMINGS = 20  # how often narrow's timings amount to a pass through the whole model


def prepare(volume: Volume) -> Work:
    """Read, mine, convert and store; digests are formed twice, to name a part and to upload it."""
    spec, pool, training = volume.spec, volume.pool, volume.training
    core = STDLIB * ("stdlib-code" in spec.training_sources() + spec.collection_sources())
    core += sum(3 * handling(one.documents) for one in volume.collections) + handling(pool.documents) + handling(training.documents)
    if spec.hard_negatives and not pool.mined:
        core += lexical(pool.documents, training.queries.count)
    core += count(volume.whole)[0] * CONVERTED + VOCABULARY_ROW * volume.whole.vocabulary * volume.is_gguf()
    stored = volume.weights(volume.whole) + sum(map(corpus_bytes, volume.collections)) + corpus_bytes(training)
    network = sum(corpus_bytes(one) for one in (*volume.collections, pool) if one.far) / 3
    network += volume.weights(volume.whole) * volume.is_far()
    core += 2 * HASHED * stored
    return Work("prepare", "prepare", ("begin",), heavy=True, core=core, written=stored, stored=stored, network=network)


def teacher(volume: Volume) -> Work:
    """Every training query with its positives and hard negatives; a cross-encoder computes in float32."""
    spec, training = volume.spec, volume.training
    pairs = training.queries.count * (positives(volume) + spec.hard_negatives)
    scores = pairs * SCORE_ROW
    read = corpus_bytes(training)
    core = handling(training.documents) + HASHED * read
    work = Work("teacher", "teacher", ("prepare",), read=read, core=core, written=scores, stored=scores)
    if spec.teacher in {"none", "data"}:
        return work
    work = replace(work, devices=-1, heavy=True, core=work.core + SENTENCE_TRANSFORMERS)
    if spec.teacher == "minilm":
        outside = sum(
            flops.plain(flops.MINILM, one.tokens(MINILM_TOKENS).tolist(), one.count) for one in (training.queries, training.documents)
        )
        return replace(work, outside=outside, divided=tokenising(training))
    lengths = training.documents.tokens(RERANKER_TOKENS, around=round(training.queries.pieces) + 4)
    tokens = pairs * float(lengths.mean())
    return replace(
        work, float32=flops.plain(flops.RERANKER, lengths.tolist(), pairs), divided=tokens * TOKEN, tokens=tokens,
        network=4.0 * flops.RERANKER_WEIGHTS, memory=4.0 * flops.RERANKER_WEIGHTS,
    )  # fmt: skip


def importance(volume: Volume) -> Work:
    """One pass over calibration text with every state compared, or probing steps on training data, with gradients or many times without.

    In turns, half of the model is there on average: what has gone is not computed.
    """
    spec, layers = volume.spec, len(volume.whole.shape.layers)
    after = "finetune reference" if spec.importance_of == "reference" else "prepare"
    work = with_model(volume, Work("importance", "importance", (after,), heavy=True, core=DRAWN), volume.whole)
    need = IMPORTANCE[spec.importance_measure]
    if need == "text":
        work = _calibrated(volume, work, volume.whole)
        return replace(work, traffic=3 * layers * work.tokens * volume.whole.shape.hidden * COMPARED)
    if need == "nothing":
        return work
    work = replace(with_training(volume, work, volume.whole, spec.probe_steps, spec.slim_batch, rank=0), devices=1)
    turns = 2 * layers - 1
    passes = {"leave_one_out": 3 * layers + 1, "in_turn": 2 * layers + 1 + LOOKS * turns / 2}.get(spec.importance_measure)
    if passes is None:
        return work
    asked = spec.probe_steps * spec.slim_batch
    parts = [(volume.queries(volume.training), asked), (training_documents(volume), asked * volume.group)]
    return replace(work, train=0.0, encode=passes * with_encoding(volume, Work("", ""), volume.whole, parts).encode)


def slim(volume: Volume, devices: int) -> Work:
    """Self-slimming for every seed, or another score; nothing where every neuron stays."""
    spec = volume.spec
    work = Work("slim", "slim", ("depth",))
    if spec.keep_ratio == 1 and not spec.has_target():
        return work
    work = with_model(volume, replace(work, heavy=True), volume.whole)
    if spec.heal_steps:
        stored = volume.weights(volume.whole)
        work = with_training(volume, work, volume.shallow, spec.heal_steps, spec.slim_batch, spec.lora_rank, devices)
        work = replace(work, core=work.core + HASHED * stored, written=stored, stored=stored)
    if spec.neuron_score == "slimming":
        steps = spec.slim_steps * spec.slim_seeds
        return replace(with_training(volume, work, volume.shallow, steps, spec.slim_batch, rank=0, devices=devices), devices=-1)
    need = NEURONS[spec.neuron_score]
    if need == "text":
        return _calibrated(volume, work, volume.shallow)
    if need == "nothing":
        return work
    return replace(with_training(volume, work, volume.shallow, spec.probe_steps, spec.slim_batch, rank=0), devices=1)


def narrow(volume: Volume) -> Work:
    """It reads a configuration; with a target it also times stacks of layers."""
    read = volume.weights(volume.whole)
    work = Work("narrow", "narrow", ("slim", "importance"), read=read, core=DRAWN + HASHED * read)
    if not volume.spec.has_target():
        return replace(work, core=work.core + CONFIGURED)
    return replace(work, heavy=True, devices=1, encode=TIMINGS * flops.encoding(volume.whole.shape, [volume.spec.max_document_tokens], 8))


def finetune(volume: Volume, model: str, devices: int) -> Work:
    """Targets, training, checkpoints, export with its golden embeddings."""
    spec, training = volume.spec, volume.training
    candidate = model == "candidate"
    backbone, steps = (volume.cut, spec.steps) if candidate else (volume.whole, spec.reference_steps)
    after = ("narrow", "teacher", "finetune reference") if candidate else ("teacher",)
    work = with_model(volume, Work(f"finetune {model}", f"finetune {model}", after, devices=-1, heavy=True), volume.whole)
    fading = min(spec.fade_steps, steps) if candidate else 0
    if fading:
        work = with_training(volume, work, volume.whole, fading, spec.batch, spec.lora_rank, devices)
    work = with_training(volume, work, backbone, steps - fading, spec.batch, spec.lora_rank, devices)
    if candidate and (spec.regression_weight or spec.ranking_weight):
        asked, shown = min(training.queries.count, steps * spec.batch), min(training.documents.count, steps * spec.batch * volume.group)
        work = with_model(volume, work, volume.whole)
        work = with_encoding(volume, work, volume.whole, [(volume.queries(training), asked), (training_documents(volume), shown)])
    saved = (steps - 1) // spec.checkpoint_every if steps else 0
    moved = saved * flops.adapters(backbone, spec.lora_rank) * MOMENTS
    stored = volume.weights(backbone)
    return replace(
        work, processor=golden(volume), core=work.core + count(backbone)[0] * EXPORTED + HASHED * (stored + moved),
        written=moved + stored, stored=stored,
    )  # fmt: skip


def golden(volume: Volume) -> float:
    """Operations of the golden texts, as queries and as documents."""
    return 2 * flops.encoding(volume.cut.shape, [min(GOLDEN_TOKENS, volume.spec.max_document_tokens)], GOLDEN_TEXTS)


def _calibrated(volume: Volume, work: Work, backbone: Backbone) -> Work:
    """The same with one pass over the calibration text on top."""
    spec = volume.spec
    tokens = float(spec.calibration_samples * spec.calibration_tokens)
    encode = flops.encoding(backbone.shape, [spec.calibration_tokens], spec.calibration_samples)
    return replace(work, devices=1, tokens=tokens, encode=work.encode + encode, core=work.core + tokens * TOKEN)
