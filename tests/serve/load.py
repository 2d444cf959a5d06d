"""Load for a running `effir serve`: python -m tests.serve.load URL --requests 10000 --threads 8

Any server with OpenAI's /v1/embeddings will do, so that two can be compared. Prints how long requests took and how many failed.
"""

import argparse
import itertools
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

TEXTS = [f"{word} {number}" for number in range(8) for word in ("the old river", "a bright lantern", "orchard", "glacier in the morning")]


@dataclass
class Outcome:
    """What came of it. versions: how many answers each version gave; wrong: one sentence each."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """In seconds and requests per second."""
        cuts = statistics.quantiles(self.latencies, n=100)
        told = {"requests": len(self.latencies), "wrong": len(self.wrong), "versions": dict(self.versions)}
        times = {"p50": round(cuts[49], 4), "p95": round(cuts[94], 4), "p99": round(cuts[98], 4), "most": round(max(self.latencies), 4)}
        return told | {"seconds": round(self.seconds, 1), "per_second": round(len(self.latencies) / self.seconds, 1)} | times


def drive(
    url: str,
    count: int,
    threads: int,
    texts: Sequence[str] = TEXTS,
    look: Callable[[list[int], dict[str, Any], str], str | None] | None = None,
    half_way: Callable[[], None] = lambda: None,
) -> Outcome:
    """Send `count` requests of one to four texts from so many threads; `half_way` is called once half of them are answered.

    look: given the numbers of the texts, the answer and its version, says what is wrong with it, or None.
    """
    outcome, numbers, lock, began = Outcome(), itertools.count(), threading.Lock(), time.monotonic()

    def work() -> None:
        session = requests.Session()
        while (number := next(numbers)) < count:
            rows = [(number + step) % len(texts) for step in range(1 + number % 4)]
            start, problem, version = time.monotonic(), None, ""
            try:
                answer = session.post(f"{url}/v1/embeddings", json={"input": [texts[row] for row in rows]}, timeout=120)
                version = answer.headers.get("x-effir-version", "")
                problem = answer.text[:200] if answer.status_code != 200 else look(rows, answer.json(), version) if look else None
            except requests.RequestException as error:
                problem = f"{type(error).__name__}: {error}"
            with lock:
                outcome.latencies.append(time.monotonic() - start)
                outcome.versions[version] += 1
                if problem:
                    outcome.wrong.append(problem)
                half = len(outcome.latencies) == count // 2
            if half:
                half_way()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    outcome.seconds = time.monotonic() - began
    return outcome


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=8)
    given = parser.parse_args()
    print(json.dumps(drive(given.url.rstrip("/"), given.requests, given.threads).summary(), indent=1))


if __name__ == "__main__":
    main()
