"""A champion changes in the real Airflow, and the DAG effir_reindex runs by itself: its index answers."""

import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from effir.export import writer
from effir.export.loading import load_encoder
from effir.manifest import MANIFEST, Manifest, content_of, digest_of
from effir.retrieve.settings import Settings
from effir.searching import search
from effir.services import indexes, promotions, registry
from effir.services.store import Store

DAG = "effir_reindex"
NAME = "reindexed"
"""What the stack's indexes.json names (tests/conftest.py)."""


@pytest.fixture(scope="module")
def tiny() -> Any:
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def crown(tiny: Any, folder: Path, number: int) -> Path:
    """Another champion, a model that loads; its exported folder."""
    base = tiny.write_model(folder / f"base-{number}", layers=number, width=32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    settings = Settings(pooling="mean", append_eos=False, query_template="{text}", max_query_tokens=16, max_document_tokens=32)
    made, store = folder / f"made-{number}", Store()
    writer.write(transformers.LlamaModel.from_pretrained(base, dtype=torch.float32), tokenizer, None, settings, made)
    digest = digest_of({"of": NAME, "number": number})
    empty = {"key": {}, "files": {}, "numbers": {}, "seconds": 1, "forward_passes": 0, "created": "now"}
    manifest = store.publish(Manifest(phase="finetune", digest=digest, **empty), made)
    source = store.artifact("finetune", digest)
    to = {"digest": digest, "manifest": f"{source}/{MANIFEST}", "source": source, "files": content_of(manifest.files)}
    about = {"run_id": None, "digest": digest, "manifest": to["manifest"], "description": "", "tags": {"effir.files": to["files"]}}
    to["version"] = registry.register(NAME, source, **about)
    promotions.record(store, NAME, "promote", promotions.champion(store, NAME), to, why=[], who="test", code="c")
    promotions.settle(store, NAME)
    return made


@pytest.mark.timeout(600)
def test_a_new_champion_is_followed_by_its_index(stack: Any, eventually: Callable[..., Any], tiny: Any, tmp_path: Path) -> None:
    tiny.write_collection(stack.home / "faq")
    first = crown(tiny, tmp_path, 1)
    crown(tiny, tmp_path, 2)
    eventually(lambda: stack.airflow.dag(DAG), 120)
    before = {run["dag_run_id"] for run in stack.airflow.runs(DAG)}
    broken: list[str] = []
    over = threading.Event()

    def read() -> None:
        """A consumer that asks all the time: there is no index, or a whole one."""
        while not over.wait(0.2):
            try:
                indexes.fetch(Store(), NAME, "faq", tmp_path)
            except Exception as error:
                broken.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    stack.airflow.trigger("effir_rollback", {"name": NAME, "why": "to see the index follow"})

    def followed() -> Any:
        return next((run for run in stack.airflow.runs(DAG) if run["dag_run_id"] not in before and run["state"] == "success"), None) and (
            indexes.current(Store(), NAME, "faq")
        )

    pointer = eventually(followed, 240)
    over.set()
    reader.join()
    assert {sentence.partition(" in s3://")[0] for sentence in broken} <= {f"there is no index of faq by {NAME}"}
    assert (pointer["model"]["version"], pointer["documents"]) == ("1", 50)
    run = stack.airflow.run(DAG, pointer["run"])
    assert run["run_type"] == "asset_triggered"

    texts, encoder = tiny.documents(), load_encoder(first)
    vectors, query = encoder.encode(list(texts.values())).astype(np.float16), encoder.encode(["quiet river"], "query")[0]
    expected = [list(texts)[row] for row in np.argsort(-(vectors.astype(np.float64) @ query), kind="stable")[:5]]
    told = search(str(stack.home / "faq"), "quiet river", f"models:/{NAME}@champion", 5, print)
    assert told["index"] == pointer["digest"] and [hit["id"] for hit in told["hits"]] == expected
