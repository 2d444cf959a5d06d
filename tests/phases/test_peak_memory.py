"""Peak memory of whatever goes through a corpus, in a fresh process each, at a corpus and at ten times that corpus.

`EFFIR_MEMORY_DOCUMENTS=20000 pytest -s tests/phases/test_peak_memory.py` measures with 20,000 and 200,000 passages and prints the figures.
"""

import importlib.util
import json
import os
import random
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effir.manifest import Manifest, digest_of
from effir.retrieve.collections import Collection, Corpus, save_folder
from effir.retrieve.files import Document
from effir.services.store import Store

LARGE = os.environ.get("EFFIR_MEMORY_DOCUMENTS")
DOCUMENTS = int(LARGE or 1000)
SHARD = DOCUMENTS // 4
LETTERS, WORDS = (6, 60) if LARGE else (40, 100)
"""A passage; by default long words, so that there is much text and little work."""
TEXT = (LETTERS + 1) * WORDS
WIDTH = 576
SPEC = {"dtype": "float32", "device": "cpu", "threads": 1, "pooling": "mean", "max_document_tokens": 8, "max_query_tokens": 8}
PEAK = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
PHASE = f"import sys; from effir.phases.execute import execute; execute(*sys.argv[1:]); {PEAK}"
COPY = f"""
import sys
from pathlib import Path
from effir.retrieve.collections import load_folder, sample, save_folder
found = load_folder(Path(sys.argv[1]))
save_folder(sample(found, None, len(found.corpus) - 1, 0), Path(sys.argv[2]), shard_documents={SHARD})
{PEAK}
"""


def passages(count: int) -> Iterator[tuple[str, Document]]:
    dice = random.Random(0)
    words = ["".join(dice.choices(string.ascii_lowercase, k=LETTERS)) for _ in range(5000)]
    texts = [" ".join(dice.choices(words, k=WORDS)) for _ in range(500)]
    return ((f"d{number}", Document("", f"passage {number} {texts[number % 500]}")) for number in range(count))


def collection(count: int) -> Collection:
    queries = {f"q{number}": document.text[:200] for number, (_, document) in enumerate(passages(20))}
    return Collection("big", Corpus(count, lambda: passages(count)), queries, {query: {f"d{query[1:]}": 1} for query in queries})


def peak(code: str, *arguments: str) -> float:
    """Megabytes."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) / 1024


class Measured:
    """A collection of so many documents, stored in shards, and what its phases take."""

    def __init__(self, store: Store, folder: Path, count: int) -> None:
        self.store, self.folder, self.count = store, folder / str(count), count
        self.collection = self.publish("collection", save_folder(collection(count), self.folder / "stored", shard_documents=SHARD))

    def publish(self, phase: str, folder: Path, inputs: dict[str, str] | None = None, **arguments: Any) -> str:
        key = {"arguments": arguments, "inputs": inputs or {}, "count": self.count, "code": "", "libraries": {}, "spec": {}}
        digest = digest_of({"phase": phase} | key)
        about: dict[str, Any] = {"files": {}, "numbers": {}, "seconds": 0, "forward_passes": 0, "created": ""}
        self.store.publish(Manifest(phase=phase, digest=digest, key=key, **about), folder)
        return f"{self.store.artifact(phase, digest)}/manifest.json"

    def vectors(self, shard: int) -> str:
        """A shard of random vectors of a model that nobody trained."""
        folder = self.folder / f"vectors-{shard}"
        folder.mkdir()
        dice = np.random.default_rng(shard)
        np.save(folder / "corpus.npy", dice.standard_normal((SHARD, WIDTH), np.float32).astype(np.float16))
        (folder / "corpus_ids.json").write_text(json.dumps([f"d{shard * SHARD + row}" for row in range(SHARD)]))
        if shard == 0:
            np.save(folder / "queries.npy", dice.standard_normal((20, WIDTH), np.float32).astype(np.float16))
            (folder / "queries_ids.json").write_text(json.dumps([f"q{row}" for row in range(20)]))
        inputs = {"collection": self.collection.rsplit("/", 2)[1], "model": "0" * 64}
        return self.publish("encode", folder, inputs, model="candidate", collection="big", shard=shard)

    def run(self, phase: str, inputs: dict[str, Any], **arguments: Any) -> float:
        call = {"run": {"id": "r"}, "spec": SPEC, "inputs": inputs, "arguments": arguments}
        base = f"{self.store.root}/runs/{self.count}"
        self.store.put_json(f"{base}/calls/{phase}.json", call)
        return peak(PHASE, phase, f"{base}/calls/{phase}.json", f"{base}/results/{phase}.json")


@pytest.fixture(scope="module")
def both(s3_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Measured, Measured]]:
    folder = tmp_path_factory.mktemp("memory")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (s3_server | {"EFFIR_STORE": f"s3://effir/{folder.name}-{time.time_ns()}"}).items():
            patch.setenv(name, value)
        yield Measured(Store(), folder, DOCUMENTS), Measured(Store(), folder, 10 * DOCUMENTS)


def growth(what: str, measure: Callable[[int], float]) -> tuple[float, float]:
    """How peak memory grows from a corpus to ten times that corpus: as a share, and in bytes a document. It is also printed."""
    with ThreadPoolExecutor(2) as pool:
        small, large = pool.map(measure, (0, 1))
    share, each = large / small - 1, (large - small) * 2**20 / (9 * DOCUMENTS)
    print(f"\n{what}: {small:.0f} MB at {DOCUMENTS:,} documents, {large:.0f} MB at {10 * DOCUMENTS:,}: {share:+.1%}, {each:.0f} bytes each")
    return share, each


def test_encoding_a_shard_takes_no_more_memory_where_there_are_more_shards(both: tuple[Measured, Measured], tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parents[1] / "e2e" / "tiny.py")
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    model = tiny.write_model(tmp_path / "model", layers=2, width=32)

    def encode(which: int) -> float:
        inputs = {"model": both[which].publish("base", model), "collection": both[which].collection}
        return both[which].run("encode", inputs, model="base", collection="big", shard=2)

    share, each = growth("encode", encode)
    assert share < 0.1
    assert each < TEXT / 4


def test_searching_and_scoring_take_no_more_memory_where_there_are_more_shards(both: tuple[Measured, Measured]) -> None:
    def evaluate(which: int) -> float:
        encodes = [both[which].vectors(shard) for shard in range(both[which].count // SHARD)]
        return both[which].run("evaluate", {"encodes": encodes, "collections": [both[which].collection]})

    share, each = growth("evaluate", evaluate)
    assert share < 0.1
    assert each < TEXT / 4


def test_reading_sampling_and_storing_a_collection_keeps_its_ids_alone(tmp_path: Path) -> None:
    def copy(which: int) -> float:
        folder = save_folder(collection(DOCUMENTS * (1, 10)[which]), tmp_path / f"given-{which}")
        return peak(COPY, str(folder), str(tmp_path / f"stored-{which}"))

    _, each = growth("reading and storing", copy)
    assert each < 600
