import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effir.errors import BadInput
from effir.manifest import describe
from effir.retrieve import index
from effir.retrieve.index import build, read, write
from effir.retrieve.search import search

RNG = np.random.default_rng(3)


def unit(count: int, width: int = 24) -> np.ndarray:
    made = RNG.normal(size=(count, width)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.fixture
def shards() -> list[tuple[np.ndarray, list[str]]]:
    """Vectors as phase encode stores them; two documents of different shards are the same."""
    made = [(unit(count).astype(np.float16), [f"d{number}-{row:02d}" for row in range(count)]) for number, count in enumerate((30, 30, 7))]
    made[2][0][3] = made[0][0][5]
    return made


def test_what_is_read_back_finds_what_exact_search_finds(tmp_path: Path, shards: Any) -> None:
    queries = np.concatenate([unit(8), shards[0][0][5:6].astype(np.float32)])
    names = [f"q{number}" for number in range(len(queries))]
    expected = search(queries, names, shards, 12)
    for made in (read(write(iter(shards), tmp_path / "made", collection="x")), build(shards)):
        assert made.about["documents"] == 67
        for name, hits in zip(names, made.search(queries, 12), strict=True):
            assert [hit.id for hit in hits] == list(expected[name])
            assert np.allclose([hit.score for hit in hits], list(expected[name].values()), atol=1e-6)
            assert all(hit.id in shards[hit.shard][1] for hit in hits)
    assert [hit.id for hit in made.search(queries[-1:], 2)[0]] == ["d0-05", "d2-03"], "equal scores by ascending id"
    assert len(made.search(queries[:1], 100)[0]) == 67


def test_the_same_vectors_give_the_same_bytes_and_the_files_hold_no_more_than_them(tmp_path: Path, shards: Any) -> None:
    files = [describe(write(shards, tmp_path / name, collection="x")) for name in "ab"]
    assert files[0] == files[1]
    assert sorted(files[0]) == ["00000.faiss", "00000.json", "00001.faiss", "00001.json", "00002.faiss", "00002.json", "index.json"]
    assert json.loads((tmp_path / "a" / "index.json").read_text()) == {"collection": "x", "dimensions": 24, "documents": 67}
    assert files[0]["00000.faiss"].size < 30 * 24 * 2 + 500, "half precision, as they were stored"


def test_only_one_shard_is_in_memory(tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    original = index.faiss.write_index
    monkeypatch.setattr(index.faiss, "write_index", lambda one, path: written.append(one.ntotal) or original(one, path))

    def lazily() -> Any:
        for number, shard in enumerate(shards):
            assert len(written) == number, "the shard before is written before the next one is asked for"
            yield shard

    write(lazily(), tmp_path / "made")
    assert written == [30, 30, 7]


def test_a_query_of_another_model_is_refused(shards: Any) -> None:
    with pytest.raises(BadInput, match=r"vectors of width 24, and the query is of shape \(1, 8\)"):
        build(shards).search(unit(1, 8), 3)


def test_what_does_not_go_together_is_refused(tmp_path: Path, shards: Any) -> None:
    for wrong in ([(unit(2), ["a"])], [(unit(1), ["a"]), (unit(1, 8), ["b"])], [(np.full((1, 4), np.nan), ["a"])]):
        with pytest.raises(ValueError, match=r"do not go with|not finite"):
            build(wrong)
    folder = write(shards, tmp_path / "made")
    (folder / "00001.faiss").write_bytes(b"no index")
    with pytest.raises(BadInput, match=r"00001\.faiss is no FAISS index"):
        read(folder)
    (folder / "00001.faiss").unlink()
    with pytest.raises(BadInput, match="no whole index"):
        read(folder)
