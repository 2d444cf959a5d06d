"""A champion followed in a real registry."""

import gc
import json
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effir.errors import EffirError
from effir.export.loading import load_encoder
from effir.manifest import sha256_of
from effir.serve.metrics import Metrics
from effir.serve.watching import Watcher
from effir.services.rollback import rollback

from .load import TEXTS, drive

REQUESTS = int(os.environ.get("EFFIR_LOAD_REQUESTS", "300"))
MODELS = [Path(one) for one in os.environ.get("EFFIR_LOAD_MODELS", "").split(",") if one]
NEAR = {"float32": 1e-5, "bfloat16": 0.1}
"""How far a vector may be from the same text's in another batch, by the type that it is computed in (phases/verify.py)."""


def flip(folder: Path) -> None:
    """Flip the top exponent bit of one weight, and have effir.json agree, as one who tampers would."""
    weights = folder / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1 - 4 * 40] ^= 0x40
    weights.write_bytes(data)
    described = json.loads((folder / "model" / "effir.json").read_text())
    described["files"]["model.safetensors"] = sha256_of(weights)
    (folder / "model" / "effir.json").write_text(json.dumps(described))


def test_a_new_champion_takes_over_and_a_broken_one_does_not(
    shelf: Any, exported: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    shelf.crown(exported(0))
    watcher = Watcher(f"models:/{shelf.name}@champion", "cpu", Metrics(), said.append)
    first = watcher.served
    watcher.look()
    assert (watcher.served, said) == (first, [])

    assert shelf.crown(exported(1)) == "2"
    watcher.look()
    assert str(watcher.served.version) == f"{shelf.name}/2" and watcher.served is not first
    apart = [one.encoder.encode(["river"]) for one in (first, watcher.served)]
    assert np.abs(apart[1] - load_encoder(exported(1)).encode(["river"])).max() < 1e-6 < np.abs(apart[0] - apart[1]).max()

    second = watcher.served
    assert shelf.crown(exported(0), flip) == "3"
    for _ in range(3):
        watcher.look()
        assert watcher.served is second
    assert watcher.state()["refused"]["version"] == "3"
    assert "golden embeddings" in watcher.state()["refused"]["why"]
    assert len([line for line in said if "is refused" in line]) == 1, "it is not fetched again and again"
    assert b"effir_champion_refused 1.0" in watcher.metrics.text()
    old = weakref.ref(first)
    del first
    gc.collect()
    assert old() is None, "the version before takes no memory"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    watcher.look()
    assert watcher.served is second and "not reachable" in watcher.state()["problem"]
    monkeypatch.undo()


def test_the_champion_before_comes_back(shelf: Any, exported: Callable[[int], Path]) -> None:
    shelf.crown(exported(0))
    shelf.crown(exported(1), flip)
    with pytest.raises(EffirError, match="golden embeddings"):
        Watcher(f"models:/{shelf.name}@champion", "cpu", Metrics(), print)
    watcher = Watcher(f"models:/{shelf.name}/1", "cpu", Metrics(), print)
    rollback(shelf.store, shelf.name, None, "broken", who="test")
    watcher.source = f"models:/{shelf.name}@champion"
    watcher.look()
    assert watcher.state()["version"] == "1" and watcher.state()["refused"] is None


@pytest.mark.slow
def test_under_load_a_new_champion_takes_over_without_a_request_lost(
    shelf: Any, exported: Callable[[int], Path], serving: Callable[..., Any], tmp_path: Path
) -> None:
    """EFFIR_LOAD_REQUESTS=10000 for a longer one, EFFIR_LOAD_MODELS=FOLDER,FOLDER for other models than tiny ones.

    Every answer is compared with what the version that it names gives, and must be nearer to it than to the other version's.
    """
    first, second = MODELS or (exported(0), exported(1))
    expected = {version: load_encoder(folder).encode(TEXTS) for version, folder in (("1", first), ("2", second))}
    near = NEAR[json.loads((first / "model" / "config.json").read_text())["dtype"]]
    shelf.crown(first)

    def look(rows: list[int], answer: dict[str, Any], version: str) -> str | None:
        found = np.array([one["embedding"] for one in answer["data"]])
        if answer["model"] != f"{shelf.name}/{version}" or len(found) != len(rows):
            return f"the answer of {version} says {answer['model']}, {found.shape}"
        gaps = {name: np.linalg.norm(found - vectors[rows], axis=1).max() for name, vectors in expected.items()}
        return None if gaps[version] < near and gaps[version] == min(gaps.values()) else f"{version} differs: {gaps}"

    with serving(tmp_path, f"models:/{shelf.name}@champion", "--poll", "0.2") as server:
        crowning = threading.Thread(target=shelf.crown, args=(second,))
        outcome = drive(server.url, REQUESTS, 4, look=look, half_way=crowning.start)
        crowning.join()
        while server.get("health").json()["version"] != "2":
            time.sleep(0.2)
        after = drive(server.url, max(20, REQUESTS // 10), 4, look=look)
        assert server.end() == 0
    print(outcome.summary(), after.summary())
    assert outcome.wrong == after.wrong == []
    assert outcome.versions["1"] >= REQUESTS // 2 and set(after.versions) == {"2"}
