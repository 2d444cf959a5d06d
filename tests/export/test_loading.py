import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from effir.compress import surgery
from effir.errors import BadInput
from effir.export import loading
from effir.export.writer import GOLDEN_TEXTS
from effir.retrieve.encode import Encoder


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_top_and_inner_folder_load_alike(export: Callable[..., Any]) -> None:
    one = export()
    before = Encoder(one.model, one.tokenizer, one.settings).encode(GOLDEN_TEXTS, "query")
    for folder in (one.folder, one.inner):
        encoder = loading.load_encoder(folder)
        assert encoder.settings == one.settings
        assert not encoder.model.training
        np.testing.assert_allclose(encoder.encode(GOLDEN_TEXTS, "query"), before, atol=1e-6)
        assert loading.is_exported(folder)


def test_dtype_by_name_object_or_as_stored(export: Callable[..., Any]) -> None:
    one = export(dtype=torch.bfloat16)
    for asked, found in ((None, torch.bfloat16), ("float32", torch.float32), (torch.float32, torch.float32)):
        assert {parameter.dtype for parameter in loading.load_backbone(one.folder, asked).parameters()} == {found}


def test_a_plain_folder_loads_with_and_without_a_head(
    backbone: Callable[..., Any], byte_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    model = backbone("Llama")
    model.save_pretrained(tmp_path / "bare")
    byte_tokenizer().save_pretrained(tmp_path / "bare")
    transformers.LlamaForCausalLM(model.config).save_pretrained(tmp_path / "head")
    assert not loading.is_exported(tmp_path / "bare")
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(loading.load_backbone(tmp_path / "bare")(ids).last_hidden_state, model(ids).last_hidden_state)
    assert type(loading.load_backbone(tmp_path / "head")).__name__ == "LlamaModel"
    assert loading.load_tokenizer(tmp_path / "bare")("open")["input_ids"] == byte_tokenizer()("open")["input_ids"]
    with pytest.raises(BadInput, match=r"effir\.json"):
        loading.load_encoder(tmp_path / "bare")


def test_gemma2s_attention_is_capped_however_it_is_loaded(
    export: Callable[..., Any], backbone: Callable[..., Any], byte_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    """Scaled dot-product attention, which transformers 5.20 would choose, leaves the cap out and says nothing."""
    strict, ids = backbone("Gemma2", attn_logit_softcapping=0.01), torch.arange(20)[None]
    strict.save_pretrained(tmp_path / "plain")
    with torch.no_grad():
        expected = strict(ids).last_hidden_state
        for folder in (tmp_path / "plain", export("Gemma2", "nothing").folder):
            assert loading.load_backbone(folder).config._attn_implementation == "eager"
        assert torch.equal(loading.load_backbone(tmp_path / "plain")(ids).last_hidden_state, expected)
        uncapped = transformers.Gemma2Model.from_pretrained(tmp_path / "plain", attn_implementation="sdpa")
        assert (uncapped(ids).last_hidden_state - expected).abs().max() > 1e-4
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        transformers.AutoModel.from_pretrained(
            export("Gemma2", "widths").inner, trust_remote_code=True, local_files_only=True, attn_implementation="sdpa"
        )


def test_a_configuration_is_enough_to_count(export: Callable[..., Any], backbone: Callable[..., Any], family: str, tmp_path: Path) -> None:
    one = export(family)
    skeleton = surgery.skeleton(loading.load_config(one.folder))
    assert surgery.widths(skeleton) == surgery.widths(one.model) == [16, 32, 0]
    assert surgery.parameters(skeleton) == surgery.parameters(one.model)
    backbone(family).save_pretrained(tmp_path / "plain")
    assert surgery.widths(surgery.skeleton(loading.load_config(tmp_path / "plain"))) == [48] * 4
    rewrite(one.inner, model_type="effir_gpt9")
    with pytest.raises(BadInput, match="effir_gpt9"):
        loading.load_config(one.folder)


@pytest.mark.parametrize("exported", [True, False])
def test_missing_surplus_and_misshapen_weights_are_refused(
    export: Callable[..., Any], backbone: Callable[..., Any], tmp_path: Path, exported: bool
) -> None:
    if exported:
        source = export().inner
    else:
        source = tmp_path / "plain"
        backbone("Llama").save_pretrained(source)
    whole = load_file(source / "model.safetensors")
    norm = "layers.1.post_attention_layernorm.weight"
    wrong = {
        "missing": {name: weight for name, weight in whole.items() if name != norm},
        "not used": whole | {"layers.9.mlp.up_proj.weight": torch.ones(2, 2)},
        "shape|size": whole | {norm: torch.ones(31)},
    }
    for number, (problem, weights) in enumerate(wrong.items()):
        folder = tmp_path / f"wrong{number}"
        shutil.copytree(source, folder)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(BadInput, match=problem):
            loading.load_backbone(folder)


def test_a_config_that_promises_other_layers_is_refused(export: Callable[..., Any]) -> None:
    inner = export().inner
    table = json.loads((inner / "config.json").read_text())["per_layer_config"]
    rewrite(inner, per_layer_config=table | {"2": {"intermediate_size": 48}})
    with pytest.raises(BadInput, match="missing"):
        loading.load_backbone(inner)
    rewrite(inner, per_layer_config=table | {"0": {"intermediate_size": 20, "skip": ["attention"]}})
    with pytest.raises(BadInput):
        loading.load_backbone(inner)
    rewrite(inner, per_layer_config={})
    with pytest.raises(BadInput, match="no intermediate_size"):
        loading.load_backbone(inner)


def test_other_refusals(export: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"neither config\.json nor model/config\.json"):
        loading.load_backbone(tmp_path)
    one = export()
    (one.inner / "effir.json").write_text('{"settings": {"pooling": "last", "colour": "red"}}')
    with pytest.raises(BadInput, match=r"effir\.json"):
        loading.load_encoder(one.folder)
    rewrite(one.inner, model_type="effir_gpt9")
    with pytest.raises(BadInput, match="effir_gpt9"):
        loading.load_backbone(one.folder)
    (one.inner / "config.json").write_text("[]")
    with pytest.raises(BadInput, match="model_type"):
        loading.load_backbone(one.folder)


def test_pickled_weights_are_not_read(export: Callable[..., Any]) -> None:
    inner = export().inner
    (inner / "model.safetensors").rename(inner / "pytorch_model.bin")
    with pytest.raises(BadInput, match="cannot be loaded"):
        loading.load_backbone(inner)
