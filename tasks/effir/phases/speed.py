"""speed: reference and candidate by turns, in one process, on the same real queries and documents."""

import json
import os
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir.errors import BadInput
from effir.phases import stored
from effir.phases.job import Job

if TYPE_CHECKING:
    from effir.retrieve.encode import Encoder

FIELDS = ("batch_tokens", "device", "dtype", "seed", "speed_documents", "speed_seconds", "threads")
KINDS = ("query", "document")
QUERY_BATCH = 64
ROUNDS = 12
PROTOCOL = (
    "Both models in one process by turns (ABBA), one untimed run each first, tokenised beforehand; queries in batches of up to "
    f"{QUERY_BATCH}, documents all at once, in length-sorted passes of at most batch_tokens padded tokens; ratio of medians "
    "over the rounds, 95% bootstrap interval over rounds; bound: ratio of matmul operations at actual lengths, causal attention included."
)
SHARDS = 8
Tokens = Sequence[Sequence[int]]
Part = tuple[int, Callable[[], Mapping[str, str]]]
"""Texts that are fetched together: how many, and what fetches them, by id."""


def run(job: Job) -> dict[str, Any]:
    """Write speed.json."""
    from effir.phases.compute import ready

    device = ready(job.spec)
    pair = load(job, "reference", device), load(job, "candidate", device)
    report = measure(job, *pair)
    (job.out / "speed.json").write_text(json.dumps(report, indent=1))
    return numbers(report)


def measure(job: Job, reference: "Encoder", candidate: "Encoder", same_tokens: bool = True) -> dict[str, Any]:
    """What speed.json holds; `tokens` are the reference's. Raises BadInput where the two should have the same tokens and have not."""
    from effir.judge.speed import flops, interleaved, shape_of, summary

    report: dict[str, Any] = {}
    for done, kind in enumerate(KINDS):
        chosen = _choose(job, kind)
        everything, theirs = reference.tokenize(chosen, kind), candidate.tokenize(chosen, kind)
        if same_tokens and theirs != everything:
            raise BadInput("the candidate's tokenizer or templates are not the reference's: their speeds do not compare")
        places = _one_round(job, reference, everything, kind)
        tokens, other = ([texts[place] for place in places] for texts in (everything, theirs))
        rounds = interleaved(_task(job, reference, tokens, kind), _task(job, candidate, other, kind), job.spec.speed_seconds / 2)
        lengths = [len(ids) for ids in tokens]
        bound = flops(shape_of(reference.model), lengths) / flops(shape_of(candidate.model), [len(ids) for ids in other])
        report[kind] = summary(rounds, bound, job.spec.seed) | {"texts": len(tokens), "tokens": sum(lengths), "rounds": len(rounds)}
        job.progress(done + 1, len(KINDS), f"{kind} {report[kind]['ratio']:.2f} times as fast, {report[kind]['of_bound']:.0%} of the bound")
    job.forward_passes += reference.forward_passes + candidate.forward_passes
    return report | {"machine": _machine(job, reference), "protocol": PROTOCOL}


def numbers(report: dict[str, Any]) -> dict[str, float]:
    """The four figures of a speed.json that matter."""
    return {f"{kind}_{name}": report[kind][key] for kind in KINDS for name, key in (("speedup", "ratio"), ("of_bound", "of_bound"))}


def load(job: Job, name: str, device: str) -> "Encoder":
    """The input called `name` as an Encoder."""
    from effir.export.loading import load_encoder
    from effir.phases.compute import dtype_of

    return load_encoder(job.folder(name), dtype_of(job.spec), device)


def _choose(job: Job, kind: str) -> list[str]:
    """A seeded choice of speed_documents real texts, as evenly over the collections as those allow."""
    given = [_parts(one, kind) for one in stored.collections(job).values()]
    given.sort(key=lambda parts: sum(size for size, _ in parts))
    chosen: list[str] = []
    for left, parts in zip(range(len(given), 0, -1), given, strict=True):
        wanted = -(-(job.spec.speed_documents - len(chosen)) // left)
        chosen += _take(parts, wanted, job.spec.seed)
    return chosen


def _parts(one: stored.Stored, kind: str) -> list[Part]:
    """All queries of a collection; or documents, from at most SHARDS shards evenly spread over the corpus."""
    if kind == "query":
        return [(len(one.collection.queries), lambda: one.collection.queries)]
    every = -(-len(one.shards) // SHARDS)
    return [(one.shards[number]["documents"], partial(one.texts, number)) for number in range(0, len(one.shards), every)]


def _take(parts: list[Part], count: int, seed: int) -> list[str]:
    """A seeded choice of at most `count` texts; one part is in memory at a time."""
    total = sum(size for size, _ in parts)
    places = random.Random(seed).sample(range(total), min(count, total))
    found: dict[int, str] = {}
    start = 0
    for size, fetch in parts:
        if wanted := [place for place in places if start <= place < start + size]:
            texts = list(fetch().values())
            found |= {place: texts[place - start] for place in wanted}
        start += size
    return [found[place] for place in places]


def _one_round(job: Job, encoder: "Encoder", tokens: Tokens, kind: str) -> list[int]:
    """Places of as many of the texts as the reference encodes in the time of one turn, evenly over their lengths."""
    from effir.judge.speed import spread_over_lengths

    lengths = [len(ids) for ids in tokens]
    probe = [tokens[place] for place in spread_over_lengths(lengths, min(len(tokens), 16))]
    task = _task(job, encoder, probe, kind)
    task()
    began = time.perf_counter()
    task()
    each = (time.perf_counter() - began) / len(probe)
    turn = job.spec.speed_seconds / 2 / (2 * ROUNDS)
    count = max(8, int(turn / each))
    if kind == "query" and count > QUERY_BATCH:
        count -= count % QUERY_BATCH
    return spread_over_lengths(lengths, min(len(tokens), count))


def _task(job: Job, encoder: "Encoder", tokens: Tokens, kind: str) -> Callable[[], Any]:
    """What is timed: every text encoded once."""
    from effir.retrieve.encode import pass_tokens

    size = QUERY_BATCH if kind == "query" else len(tokens)
    parts = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    limit = pass_tokens(encoder.device, job.spec.batch_tokens)
    return lambda: [encoder.encode_tokens(part, limit) for part in parts]


def _machine(job: Job, encoder: "Encoder") -> dict[str, Any]:
    import torch

    cuda = str(encoder.device).startswith("cuda")
    return {
        "processor": torch.cuda.get_device_name() if cuda else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": job.spec.dtype,
        "device": str(encoder.device),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The CPU's name as Linux gives it, otherwise the architecture."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
