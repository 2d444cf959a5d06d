import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from effir.errors import BadInput
from effir.export import formats
from effir.export.loading import load_encoder
from effir.export.onnx_encoder import OnnxEncoder
from effir.export.verify import verify
from effir.export.writer import GOLDEN_TEXTS
from effir.retrieve.settings import Settings

TEXTS = ["", "a", "what is this?", "x y " * 90]


def snippet(folder: Path) -> dict[str, Any]:
    """The code in the folder's README.md, run as a person would."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"folder": folder}
    exec(code, names)
    return names


def test_a_causal_model_pooled_at_its_last_token(export: Callable[..., Any], tmp_path: Path) -> None:
    """Lengths of queries and documents differ and are reached; weights of 16 bits are computed with in 32."""
    short = Settings(pooling="last", query_template="q: {text}", max_query_tokens=8, max_document_tokens=12)
    one, folder = export("Llama", settings=short, dtype=torch.bfloat16), tmp_path / "made"
    found = formats.export(one.folder, "onnx", folder)
    assert found["onnxruntime"] <= 1e-6
    assert verify(folder) == found
    encoder, expected = OnnxEncoder(folder), load_encoder(one.folder, torch.float32)
    for kind in ("query", "document"):
        assert encoder.tokenize(TEXTS, kind) == expected.tokenize(TEXTS, kind)
        for texts in (TEXTS, TEXTS[:1], list(GOLDEN_TEXTS) * 5):
            np.testing.assert_allclose(encoder.encode(texts, kind), expected.encode(texts, kind), atol=1e-6)
    assert encoder.encode([]).shape == (0, 32)
    golden = load_file(folder / "golden.safetensors")
    names = snippet(folder)
    for kind, vectors in golden.items():
        np.testing.assert_allclose(names["encode"](list(GOLDEN_TEXTS), kind), vectors, atol=1e-6)


def test_an_encoder_pooled_by_the_mean(export: Callable[..., Any], mean: Settings, tmp_path: Path) -> None:
    one, folder = export("ModernBert", settings=mean), tmp_path / "made"
    assert formats.export(one.folder, "onnx", folder)["onnxruntime"] <= 1e-6
    np.testing.assert_allclose(OnnxEncoder(folder).encode(TEXTS), load_encoder(one.folder).encode(TEXTS), atol=1e-6)
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
    assert not list(folder.rglob("*.py"))


def test_without_the_packages_it_says_what_to_install(export: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(BadInput, match=r"pip install 'effir\[export\]'"):
        formats.export(export().folder, "onnx", tmp_path / "made")
    assert not (tmp_path / "made").exists()
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    shutil.copytree(export("Mistral").inner, tmp_path / "other")
    with pytest.raises(BadInput, match=r"pip install 'effir\[export\]'"):
        OnnxEncoder(tmp_path / "other")
