"""Requests put together into batches: what arrives while the model computes goes through it together next.

A request belongs to the version of the model that accepted it, which answers all of it; so versions change between batches, and none
is dropped. All of this runs in one event loop; only the model's own work is done in a thread.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from effir.serve.asking import Problem
from effir.serve.limits import Limits
from effir.serve.metrics import Metrics
from effir.serve.model import Served


@dataclass(eq=False)
class Waiting:
    """A request in the queue: its token ids, and the vectors that it waits for."""

    served: Served
    tokens: list[list[int]]
    answer: "asyncio.Future[np.ndarray]"
    since: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> int:
        """Tokens of all its texts."""
        return sum(map(len, self.tokens))


class Batcher:
    """A bounded queue, and the one thread in which models compute."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self.texts = 0
        self._waiting: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "model")

    async def embed(self, served: Served, texts: Sequence[str], kind: str) -> tuple[np.ndarray, int]:
        """Unit vectors (n, d), float32, and how many tokens the texts had. Raises Problem (503) where the queue is full."""
        if self.texts and self.texts + len(texts) > self.limits.queue_texts:
            told = f"{self.texts} texts are waiting, and {self.limits.queue_texts} may: try again"
            raise Problem(503, told, code="overloaded", retry_after=1)
        self._count(len(texts))
        try:
            tokens = await asyncio.to_thread(served.tokenize, texts, kind)
            one = Waiting(served, tokens, asyncio.get_running_loop().create_future())
            self._waiting.append(one)
            self._arrived.set()
            return await one.answer, one.size
        finally:
            self._count(-len(texts))

    async def run(self) -> None:
        """Answer what waits, until cancelled."""
        while True:
            batch = await self._gather()
            if await self._answer(batch) or len(batch) == 1:
                continue
            for one in batch:
                await self._answer([one])

    async def finish(self, worker: "asyncio.Task[None]") -> None:
        """Answer everything that was accepted, then stop `run`."""
        while self.texts and not worker.done():
            await asyncio.sleep(0.01)
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
        self._thread.shutdown()

    async def _gather(self) -> list[Waiting]:
        """The next requests of one version, in the order of their coming, up to the token budget.

        The first one waits for company until `wait` seconds after it came, or the budget is full.
        """
        while not self._waiting:
            await self._more(None)
        due = self._waiting[0].since + self.limits.wait
        while (left := due - time.monotonic()) > 0 and sum(one.size for one in self._waiting) < self.limits.batch_tokens:
            await self._more(left)
        batch = [self._waiting.popleft()]
        room = self.limits.batch_tokens - batch[0].size
        while self._waiting and self._waiting[0].served is batch[0].served and (room := room - self._waiting[0].size) >= 0:
            batch.append(self._waiting.popleft())
        return batch

    async def _more(self, seconds: float | None) -> None:
        self._arrived.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), seconds)

    async def _answer(self, batch: list[Waiting]) -> bool:
        """Compute a batch; False where that failed and it is worth while to try each request alone, whose fault is not another's."""
        tokens = [ids for one in batch for ids in one.tokens]
        self.metrics.batch(len(tokens))
        loop = asyncio.get_running_loop()
        try:
            vectors = await loop.run_in_executor(self._thread, batch[0].served.embed, tokens, self.limits.batch_tokens)
        except Exception as error:
            if len(batch) == 1 and not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return False
        start = 0
        for one in batch:
            if not one.answer.done():
                one.answer.set_result(vectors[start : start + len(one.tokens)])
            start += len(one.tokens)
        return True

    def _count(self, more: int) -> None:
        self.texts += more
        self.metrics.queue.set(self.texts)
