"""What one task has to do: operations, bytes and seconds of a core, whatever machine does it."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from effir.compress.shapes import Backbone, count
from effir.forecast import flops
from effir.forecast.texts import Corpus, Texts
from effir.forecast.volume import ITEM, Volume

# Seconds of a core of speed 1; docs/forecast.md says how each was measured.
DOCUMENT, CHARACTER = 3e-6, 6e-9  # to read or write one, as JSON
TOKEN = 1.7e-6  # to tokenise a text, per token before it is cut
INDEXED = 0.5e-6  # of BM25, per piece of a text and each of two passes
ASKED, MATCHED = 0.25e-3, 25e-9  # of BM25, per query, and per query and document
LOADED, TOKENIZER_ROW = 2.5e-9, 6e-6  # to load a model, per parameter, and per row of its vocabulary
LAID_OUT = 36e-6  # to draw one query's group of a batch
HASHED = 0.65e-9  # to digest a byte
SENTENCE_TRANSFORMERS = 1.4  # to import it
DRAWN = 0.5  # to draw a picture

MINILM_TOKENS = 256
CORPUS_ROW, QUERY_ROW = 60, 40  # bytes of JSON around a text
TRAINED = 16  # bytes of a trained parameter in memory: itself, its gradient, two moments


@dataclass(frozen=True)
class Work:
    """One task of the DAG.

    name: as last-run.json calls it; phase: the row that it is added to; after: names of the tasks before it
    devices: accelerators that it computes on, -1: all there are; slot: whether it waits for the pool; heavy: whether it imports torch
    encode, train, float32, outside: operations, by what `Hardware` calls their rates; processor: operations in float32 on the processor
    core: seconds of one core; divided: those that the processes of a phase divide; seconds: that pass whatever the machine
    traffic: bytes moved in a device's memory
    memory: bytes that the largest of its batches takes in a device, weights included
    read, written: bytes from and to S3; stored: bytes that stay there; network: bytes from a hub or an archive
    """

    name: str
    phase: str
    after: tuple[str, ...] = ()
    devices: int = 0
    slot: bool = True
    heavy: bool = False
    tokens: float = 0.0
    encode: float = 0.0
    train: float = 0.0
    float32: float = 0.0
    outside: float = 0.0
    processor: float = 0.0
    core: float = 0.0
    divided: float = 0.0
    seconds: float = 0.0
    traffic: float = 0.0
    memory: float = 0.0
    read: float = 0.0
    written: float = 0.0
    stored: float = 0.0
    network: float = 0.0


def with_model(volume: Volume, work: Work, backbone: Backbone) -> Work:
    """The same with a model that is read and loaded."""
    read = volume.weights(backbone)
    core = count(backbone)[0] * LOADED + backbone.vocabulary * TOKENIZER_ROW + HASHED * read
    memory = work.memory + count(backbone)[0] * ITEM[volume.spec.dtype]
    return replace(work, read=work.read + read, core=work.core + core, memory=memory)


def with_encoding(volume: Volume, work: Work, backbone: Backbone, parts: list[tuple[NDArray[np.integer], int]]) -> Work:
    """The same with texts encoded on top: (lengths that stand for all, count)."""
    encode = sum(flops.encoding(backbone.shape, lengths.tolist(), number) for lengths, number in parts)
    tokens = sum(float(lengths.mean()) * number for lengths, number in parts)
    held = volume.spec.batch_tokens * flops.encoding_bytes(backbone.shape, ITEM[volume.spec.dtype])
    return replace(work, encode=work.encode + encode, tokens=work.tokens + tokens, memory=work.memory + held)


def with_training(volume: Volume, work: Work, backbone: Backbone, steps: int, batch: int, rank: int, devices: int = 1) -> Work:
    """The same with contrastive steps on top, and the training data that they read.

    Devices divide a batch; where a device's share is more than a micro-batch, gradients are cached. Memory is that of mean texts.
    """
    spec, training = volume.spec, volume.training
    share = -(-batch // devices)
    held = min(spec.micro_batch or share, share)
    asked = steps * batch
    parts = [(volume.queries(training), asked), (training_documents(volume), asked * volume.group)]
    train = sum(flops.training(backbone, lengths.tolist(), number, rank, cached=held < share) for lengths, number in parts)
    tokens = sum(float(lengths.mean()) * number for lengths, number in parts)
    read = corpus_bytes(training)
    core = asked * LAID_OUT + handling(training.documents) + HASHED * read
    divided = tokenising(training) * min(1.0, asked / max(training.queries.count, 1))
    saved = flops.training_bytes(backbone, rank, spec.lora_dropout, ITEM[spec.dtype])
    memory = work.memory + held * tokens / max(asked, 1) * saved + TRAINED * flops.adapters(backbone, rank)
    work = replace(work, core=work.core + core, divided=work.divided + divided, read=work.read + read, memory=memory)
    return replace(work, train=work.train + train, tokens=work.tokens + tokens)


def training_documents(volume: Volume) -> NDArray[np.integer]:
    """Tokens of training documents as they are trained on."""
    return volume.documents(volume.training, volume.spec.max_training_tokens)


def positives(volume: Volume) -> float:
    """Relevant documents of a training query."""
    return volume.pool.pairs / max(volume.pool.queries.count, 1)


def handling(texts: Texts) -> float:
    """Seconds to read or write so many documents."""
    return texts.count * (DOCUMENT + texts.characters * CHARACTER)


def lexical(documents: Texts, queries: int) -> float:
    """Seconds of BM25 over a corpus that is gone through twice."""
    each = DOCUMENT + documents.characters * CHARACTER + documents.pieces * INDEXED
    return 2 * documents.count * each + queries * (ASKED + documents.count * MATCHED)


def tokenising(one: Corpus) -> float:
    """Seconds to tokenise all texts."""
    return TOKEN * (one.documents.count * one.documents.pieces + one.queries.count * one.queries.pieces)


def corpus_bytes(one: Corpus) -> float:
    """Bytes of a collection or a training set as it is stored."""
    return one.documents.count * (one.documents.characters + CORPUS_ROW) + one.queries.count * (one.queries.characters + QUERY_ROW)
