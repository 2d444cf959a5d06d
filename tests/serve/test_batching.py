import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effir.errors import BadInput
from effir.serve import model
from effir.serve.asking import Problem
from effir.serve.batching import Batcher
from effir.serve.limits import Limits
from effir.serve.metrics import Metrics
from effir.serve.model import Served

TEXTS = [" ".join(["the old river near the town"] * (1 + number % 5)) + f" {number}" for number in range(60)]


@pytest.fixture(scope="module")
def two(exported: Callable[[int], Path]) -> list[Served]:
    """Two versions."""
    return [model.load(str(exported(number)), model.find(str(exported(number)))) for number in (0, 1)]


def served(limits: Limits, act: Callable[[Batcher], Awaitable[Any]]) -> Any:
    """What `act` returns while a batcher works, which finishes what it accepted."""

    async def run() -> Any:
        batcher = Batcher(limits, Metrics())
        worker = asyncio.create_task(batcher.run())
        try:
            return await act(batcher)
        finally:
            await batcher.finish(worker)

    return asyncio.run(run())


def test_requests_that_come_together_go_together_and_each_gets_its_own(two: list[Served], monkeypatch: pytest.MonkeyPatch) -> None:
    first, seen = two[0], []
    expected = first.encoder.encode(TEXTS, "document")
    embed = first.encoder.embed
    monkeypatch.setattr(first.encoder, "embed", lambda tokens: seen.append([len(ids) for ids in tokens]) or embed(tokens))

    async def ask(batcher: Batcher) -> Any:
        return await asyncio.gather(*(batcher.embed(first, [text], "document") for text in TEXTS))

    found = served(Limits(batch_tokens=256, wait=0.5), ask)
    assert np.abs(np.concatenate([vectors for vectors, _ in found]) - expected).max() < 1e-6
    assert [count for _, count in found] == [len(ids) for ids in first.tokenize(TEXTS, "document")]
    assert len(seen) < len(TEXTS) / 2
    assert all(len(lengths) * max(lengths) <= 256 and lengths == sorted(lengths, reverse=True) for lengths in seen)


def test_a_lonely_request_waits_no_longer_than_told(two: list[Served]) -> None:
    async def ask(batcher: Batcher) -> float:
        await batcher.embed(two[0], ["warm"], "query")
        began = asyncio.get_running_loop().time()
        await batcher.embed(two[0], ["river"], "query")
        return asyncio.get_running_loop().time() - began

    assert served(Limits(wait=0.0), ask) < 0.8 <= served(Limits(wait=0.8), ask)


def test_each_request_is_answered_by_the_version_that_accepted_it(two: list[Served]) -> None:
    async def ask(batcher: Batcher) -> Any:
        return await asyncio.gather(*(batcher.embed(two[number % 2], [text], "query") for number, text in enumerate(TEXTS)))

    found = served(Limits(wait=0.2), ask)
    apart = [one.encoder.encode(TEXTS, "query") for one in two]
    assert np.abs(apart[0] - apart[1]).max() > 0.01
    for number, (vectors, _) in enumerate(found):
        assert np.abs(vectors[0] - apart[number % 2][number]).max() < 1e-6


def test_beyond_its_bound_the_queue_refuses_and_says_when_to_try_again(two: list[Served]) -> None:
    async def ask(batcher: Batcher) -> Any:
        asked = (batcher.embed(two[0], TEXTS[:4], "document") for _ in range(5))
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert batcher.texts == 0
        return found, await batcher.embed(two[0], TEXTS[:20], "document")

    found, large = served(Limits(queue_texts=10, wait=0.1), ask)
    refused = [one for one in found if isinstance(one, Problem)]
    assert len(refused) == 3 and {(one.status, one.retry_after) for one in refused} == {(503, 1)}
    assert all(one[0].shape == (4, 64) for one in found if not isinstance(one, Problem))
    assert large[0].shape == (20, 64), "alone, a request may be larger than the queue"


def test_one_request_that_fails_takes_no_other_with_it(two: list[Served], monkeypatch: pytest.MonkeyPatch) -> None:
    one = two[0]
    unknown = [one.encoder.model.config.vocab_size]
    tokenize = one.encoder.tokenize
    monkeypatch.setattr(one.encoder, "tokenize", lambda texts, kind: [unknown] if texts == ["bad"] else tokenize(texts, kind))

    async def ask(batcher: Batcher) -> Any:
        asked = (batcher.embed(one, [text], "document") for text in ("river", "bad", "lantern"))
        return await asyncio.gather(*asked, return_exceptions=True)

    good, bad, also = served(Limits(wait=0.3), ask)
    assert isinstance(bad, BadInput) and "the model knows only" in str(bad)
    assert good[0].shape == also[0].shape == (1, 64)


def test_what_was_accepted_is_answered_before_the_end(two: list[Served]) -> None:
    async def ask(batcher: Batcher) -> Any:
        asked = [asyncio.create_task(batcher.embed(two[0], [text], "document")) for text in TEXTS]
        await asyncio.sleep(0)
        return asked

    asked = served(Limits(wait=0.2, batch_tokens=64), ask)
    assert all(one.done() and one.result()[0].shape == (1, 64) for one in asked)
