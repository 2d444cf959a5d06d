import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effir.forecast.volume import Volume, volume
from effir.spec import parse

SMALL = {
    "base_model": "smollm2-135m-instruct", "pooling": "mean", "query_template": "{text}", "hard_negatives": 1, "variant": "last4B",
    "calibration_samples": 8, "calibration_tokens": 64, "slim_steps": 3, "slim_batch": 4, "keep_ratio": 0.9, "steps": 10,
    "reference_steps": 10, "batch": 8, "checkpoint_every": 4, "teacher": "minilm", "regression_weight": 1.0, "shard_documents": 20,
    "max_document_tokens": 64, "max_training_tokens": 48, "max_query_tokens": 16, "speed_seconds": 6.0,
}  # fmt: skip


def write(folder: Path, documents: list[str], queries: list[str], split: str = "test") -> Path:
    """A collection in BEIR layout; query n is about document n, and one more query has no relevant document."""
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{number}", "title": "", "text": text} for number, text in enumerate(documents)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [*queries, "a query that nothing answers"]
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": f"q{n}", "text": text}) + "\n" for n, text in enumerate(asked)))
    judged = [f"q{number}\td{number}\t1\n" for number in range(len(queries))] + [f"q{len(queries)}\td0\t0\n"]
    (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Volume]:
    """The volume of a small recipe on 50 documents and 12 queries, for training and for testing."""

    def make(**changes: Any) -> Volume:
        texts = [f"The {number}th harbour lies near an old town. " * (1 + number % 5) for number in range(50)]
        queries = [f"harbour number {number}" for number in range(12)]
        where = {split: tmp_path / split for split in ("train", "test")}
        for split, folder in where.items():
            if not folder.exists():
                write(folder, texts, queries, split)
        spec = parse(SMALL | {"training_data": str(where["train"]), "collections": str(where["test"])} | changes)
        return volume(spec, lambda source: Path(source) if Path(source).exists() else None)

    return make
