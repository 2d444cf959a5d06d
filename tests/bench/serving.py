"""`effir serve` under load, beside the same server with SentenceTransformer in the place of our encoder."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.serve.load import Outcome, drive

from .material import Material
from .pairs import Pairs

THREADS = 8
REQUESTS = 100


def serving(material: Material, rounds: int) -> Pairs:
    """Requests of one to four queries of SciFact, eight at a time; the ratio is of requests a second."""
    texts = material.queries(50)
    found: dict[str, list[Outcome]] = {"ours": [], "peer": []}
    with server("ours", material.model) as ours, server("peer", material.model) as peer:
        addresses = {"ours": ours, "peer": peer}
        for address in addresses.values():
            checked(drive(address, THREADS * 2, THREADS, texts))
        for number in range(rounds):
            for name in ("ours", "peer") if number % 2 else ("peer", "ours"):
                found[name].append(checked(drive(addresses[name], REQUESTS, THREADS, texts)))
    told = {f"{name}_{figure}": _median(outcomes, figure) for name, outcomes in found.items() for figure in ("p50", "p99", "per_second")}
    pairs = zip(found["ours"], found["peer"], strict=True)
    return Pairs([peer.seconds / ours.seconds for ours, peer in pairs], None, told)


def checked(outcome: Outcome) -> Outcome:
    """The outcome, if every request was answered."""
    if outcome.wrong:
        raise AssertionError(f"{len(outcome.wrong)} requests failed, the first: {outcome.wrong[0]}")
    return outcome


def _median(outcomes: list[Outcome], figure: str) -> float:
    return float(sorted(one.summary()[figure] for one in outcomes)[len(outcomes) // 2])


@contextmanager
def server(kind: str, folder: Path) -> Iterator[str]:
    """The address of a server of this folder on loopback: `effir serve`, or the same with a peer's encoder."""
    module = ["effir.cli", "serve"] if kind == "ours" else ["tests.bench.peer_server"]
    command = [sys.executable, "-m", *module, str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip() if process.stdout else ""
        try:
            if not address:
                raise AssertionError(f"{' '.join(command)} did not start: {process.communicate()[1][-1000:]}")
            yield address
        finally:
            process.terminate()
            process.communicate(timeout=60)
