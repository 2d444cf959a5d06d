"""Further tuning on top of an exported model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from effir.compress.anatomy import anatomy_of
from effir.export.loading import load_backbone, load_encoder
from effir.export.writer import GOLDEN_TEXTS

IDS = torch.arange(2 * 9).reshape(2, 9) % 300


@pytest.mark.parametrize("known", ["Llama", "Gemma3Text", "ModernBert"])
def test_lora_trains_a_step_is_saved_and_found_again(export: Callable[..., Any], tmp_path: Path, known: str) -> None:
    folder = export(known).folder
    torch.manual_seed(0)
    targets = list(anatomy_of(load_backbone(folder)).projections)
    adapted = get_peft_model(load_backbone(folder), LoraConfig(r=2, target_modules=targets))
    before = adapted(input_ids=IDS).last_hidden_state.detach()
    optimiser = torch.optim.AdamW([weight for weight in adapted.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(2):  # the first step moves B, which begins at zero; with the second A moves, too
        optimiser.zero_grad()
        adapted(input_ids=IDS).last_hidden_state.square().mean().backward()
        optimiser.step()
    adapted.eval()
    with torch.no_grad():
        trained = adapted(input_ids=IDS).last_hidden_state
        adapted.save_pretrained(tmp_path / "adapter")
        again = PeftModel.from_pretrained(load_backbone(folder), tmp_path / "adapter").eval()
        found = again(input_ids=IDS).last_hidden_state
    assert (trained - before).abs().max() > 1e-3
    assert torch.equal(found, trained)
    assert sorted(path.suffix for path in (tmp_path / "adapter").glob("adapter_model*")) == [".safetensors"]


def test_an_adapter_goes_onto_a_sentence_transformer(export: Callable[..., Any]) -> None:
    from sentence_transformers import SentenceTransformer

    one = export("Llama")
    model = SentenceTransformer(str(one.inner), trust_remote_code=True, local_files_only=True, device="cpu")
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    texts = list(GOLDEN_TEXTS)
    expected = load_encoder(one.folder).encode(texts, "query")
    np.testing.assert_allclose(model.encode_query(texts, show_progress_bar=False), expected, atol=1e-6)
    assert any("lora" in name and weight.requires_grad for name, weight in model.named_parameters())
