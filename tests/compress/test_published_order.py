"""The order in which Mistral-7B-v0.1 loses its MLPs, against the published one. Needs the weights, C4 and a GPU (or hours)."""

import json
import os
from pathlib import Path

import pytest
import torch

from effir.compress import importance, variants
from effir.compress.calibration import pack
from effir.export.loading import load_backbone, load_tokenizer

PUBLISHED = [26, 27, 25, 24, 23, 22, 29, 28]
SAMPLES, TOKENS = 256, 2048


def weights() -> Path | None:
    """The folder mistral-7b-v0.1 in EFFIR_MODELS, where there is one."""
    folder = Path(os.environ.get("EFFIR_MODELS", "")) / "mistral-7b-v0.1"
    return folder if os.environ.get("EFFIR_MODELS") and (folder / "config.json").is_file() else None


@pytest.mark.gpu
@pytest.mark.timeout(3600)
def test_the_first_eight_mlps_of_mistral() -> None:
    folder, data = weights(), os.environ.get("EFFIR_DATA")
    if folder is None:
        pytest.skip("no weights of Mistral-7B-v0.1: set EFFIR_MODELS to a folder that holds mistral-7b-v0.1")
    if not data:
        pytest.skip("no C4: set EFFIR_DATA to a folder that holds c4/c4_en_full_docs.jsonl")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_backbone(folder, torch.bfloat16).to(device)
    texts = [json.loads(line)["text"] for line in (Path(data) / "c4" / "c4_en_full_docs.jsonl").read_text().splitlines()]
    packed = pack(load_tokenizer(folder), texts, SAMPLES, TOKENS, 0)
    batches = ((torch.tensor([one], device=device), torch.ones(1, TOKENS, device=device)) for one in packed)
    order = variants.ranking(importance.measure(model, batches).mean["mlp"])
    assert order[: len(PUBLISHED)] == PUBLISHED
