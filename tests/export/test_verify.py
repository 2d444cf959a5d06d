import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from effir.errors import BadInput, EffirError
from effir.export import verify as verifying
from effir.export.loading import load_encoder
from effir.export.verify import TOLERANCE, differences, verify
from effir.export.writer import GOLDEN_TEXTS
from effir.manifest import sha256_of
from effir.retrieve.settings import Settings

EVERY = {"effir", "transformers", "sentence-transformers", "mlflow"}


def sign(inner: Path, name: str) -> None:
    """Make effir.json agree with a changed file, as one who tampers would."""
    path = inner / "effir.json"
    described = json.loads(path.read_text())
    described["files"][name] = sha256_of(inner / name)
    path.write_text(json.dumps(described))


def flip(path: Path) -> None:
    """Flip the top exponent bit of one weight."""
    data = bytearray(path.read_bytes())
    data[-1 - 4 * 40] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_every_loader_gives_the_golden_embeddings(
    export: Callable[..., Any], family: str, pooling: str, request: pytest.FixtureRequest
) -> None:
    found = verify(export(family, settings=request.getfixturevalue(pooling)).folder)
    assert set(found) == EVERY
    assert max(found.values()) <= 1e-6


def test_every_cut_loads_everywhere(export: Callable[..., Any], cut: str) -> None:
    assert max(verify(export("Llama", cut).folder).values()) <= 1e-6


def test_with_a_tokenizer_that_adds_bos_and_pads_on_the_left(export: Callable[..., Any], byte_tokenizer: Callable[..., Any]) -> None:
    assert max(verify(export(tokenizer=byte_tokenizer(adds_bos=True, padding_side="left")).folder).values()) <= 1e-6


def test_texts_that_are_cut_are_cut_alike(export: Callable[..., Any]) -> None:
    """Query and document lengths differ and golden texts are longer than both."""
    short = Settings(pooling="last", query_template="q: {text}", max_query_tokens=8, max_document_tokens=12)
    assert max(verify(export(settings=short).folder).values()) <= 1e-6
    same = Settings(pooling="last", query_template="q: {text}", max_query_tokens=9, max_document_tokens=9)
    assert max(verify(export("Mistral", settings=same).folder).values()) <= 1e-6


def test_shorter_weights_are_compared_in_float32_and_mlflow_in_their_own_type(export: Callable[..., Any]) -> None:
    one = export(dtype=torch.bfloat16)
    found = verify(one.folder)
    assert set(found) == EVERY
    assert max(found.values()) <= 1e-6
    rounded = load_encoder(one.folder).encode(GOLDEN_TEXTS, "document")
    assert verifying.largest_gap(rounded, load_file(one.inner / "golden.safetensors")["document"]) > 1e-4


def test_the_inner_folder_alone_is_verified_without_mlflow(export: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copytree(export().inner, tmp_path / "copy")
    assert set(verify(tmp_path / "copy")) == EVERY - {"mlflow"}


def test_a_flipped_byte_is_noticed_by_its_digest_and_without_it(export: Callable[..., Any]) -> None:
    one = export()
    flip(one.inner / "model.safetensors")
    with pytest.raises(BadInput, match=r"model\.safetensors is not what effir wrote"):
        verify(one.folder)
    sign(one.inner, "model.safetensors")
    with pytest.raises(EffirError, match=r"loaded by effir: the largest difference is (\d|nan|inf)"):
        verify(one.folder)
    assert not max(differences(one.folder).values()) <= TOLERANCE


def test_golden_embeddings_that_are_not_the_models_are_noticed(export: Callable[..., Any]) -> None:
    one = export()
    golden = load_file(one.inner / "golden.safetensors")
    golden["document"][5, 3] += np.float32(3e-4)
    save_file(golden, one.inner / "golden.safetensors")
    sign(one.inner, "golden.safetensors")
    with pytest.raises(EffirError, match=r"3\.00e-04"):
        verify(one.folder)
    assert set(verify(one.folder, tolerance=1e-3)) == EVERY


def test_a_nan_never_passes(export: Callable[..., Any]) -> None:
    one = export()
    golden = load_file(one.inner / "golden.safetensors")
    golden["query"][0, 0] = np.nan
    save_file(golden, one.inner / "golden.safetensors")
    sign(one.inner, "golden.safetensors")
    with pytest.raises(EffirError, match="nan"):
        verify(one.folder)


@pytest.mark.parametrize(
    ("name", "key", "value", "loader"),
    [
        ("effir.json", "settings", {"pooling": "mean", "append_eos": False}, "effir"),
        ("1_Pooling/config.json", None, {"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}, "sentence-transformers"),
        ("config_sentence_transformers.json", "prompts", {"query": "search:\n"}, "sentence-transformers"),
    ],
)
def test_a_wrong_pooling_or_prompt_is_noticed(
    export: Callable[..., Any], name: str, key: str | None, value: dict[str, Any], loader: str
) -> None:
    one = export()
    described = json.loads((one.inner / name).read_text())
    (described[key] if key else described).update(value)
    (one.inner / name).write_text(json.dumps(described))
    if name != "effir.json":
        sign(one.inner, name)
    with pytest.raises(EffirError, match=f"loaded by {loader}"):
        verify(one.folder)


def test_another_tokenizer_is_noticed(export: Callable[..., Any]) -> None:
    one = export()
    path = one.inner / "tokenizer.json"
    described = json.loads(path.read_text())
    described["model"]["merges"] = described["model"]["merges"][:-20]
    path.write_text(json.dumps(described))
    sign(one.inner, "tokenizer.json")
    with pytest.raises(EffirError, match="other tokens"):
        verify(one.folder)


def test_a_loader_that_fails_is_named(export: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    one = export()
    (one.inner / "1_Pooling" / "config.json").write_text("{}")
    sign(one.inner, "1_Pooling/config.json")
    with pytest.raises(EffirError, match="cannot be loaded by sentence-transformers"):
        verify(one.folder)


def test_largest_distance() -> None:
    assert verifying.largest_distance(np.array([[0.0, 0.0], [3.0, 4.0]]), np.zeros((2, 2))) == 5.0
    assert verifying.largest_distance(np.ones((2, 2)), np.ones((3, 2))) == float("inf")


def test_largest_gap() -> None:
    assert verifying.largest_gap(np.ones((2, 2)), np.ones((2, 3))) == float("inf")
    assert verifying.largest_gap(np.array([1.0, 2.0], np.float16), np.array([1.0, 2.5], np.float32)) == 0.5
    assert np.isnan(verifying.largest_gap(np.array([np.nan]), np.array([0.0])))
