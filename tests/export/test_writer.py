import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from tokenizers import processors

from effir.compress import surgery
from effir.compress.cut import Cut
from effir.errors import BadInput
from effir.export import loading, writer
from effir.export.modeling_effir import ABSENT
from effir.export.verify import verify
from effir.retrieve.encode import Encoder
from effir.retrieve.settings import Settings


def test_the_folder_holds_what_the_contract_says(export: Callable[..., Any]) -> None:
    one = export()
    assert sorted(path.name for path in one.folder.iterdir()) == ["MLmodel", "conda.yaml", "model", "python_env.yaml", "requirements.txt"]
    assert sorted(path.relative_to(one.inner).as_posix() for path in one.inner.rglob("*") if path.is_file()) == [
        "1_Pooling/config.json", "2_Normalize/config.json", "README.md", "config.json", "config_sentence_transformers.json", "effir.json",
        "golden.json", "golden.safetensors", "model.safetensors", "modeling_effir.py", "modules.json", "sentence_bert_config.json",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert list(one.folder.parent.iterdir()) == [one.folder]
    files = json.loads((one.inner / "effir.json").read_text())["files"]
    assert files == writer.digests(one.inner)
    assert len(files) == 13


def test_golden_embeddings_are_those_of_the_model_in_memory(export: Callable[..., Any], mean: Settings) -> None:
    for one in (export(), export(settings=mean)):
        golden = load_file(one.inner / "golden.safetensors")
        about = json.loads((one.inner / "golden.json").read_text())
        encoder = Encoder(one.model, one.tokenizer, one.settings)
        assert about["texts"] == list(writer.GOLDEN_TEXTS)
        for kind in ("query", "document"):
            assert golden[kind].shape == (8, 32)
            assert golden[kind].dtype == np.float32
            np.testing.assert_allclose(golden[kind], encoder.encode(writer.GOLDEN_TEXTS, kind), atol=1e-6)
            assert about["tokens"][kind] == encoder.tokenize(writer.GOLDEN_TEXTS, kind)
        assert np.abs(golden["query"] - golden["document"]).max() > 1e-3


def test_config_states_every_layer(export: Callable[..., Any], cut: str) -> None:
    one = export("Qwen3", cut)
    config = json.loads((one.inner / "config.json").read_text())
    assert config["intermediate_size"] == ABSENT
    assert config["model_type"] == "effir_qwen3"
    assert config["num_hidden_layers"] == len(config["per_layer_config"]) == len(one.model.layers)
    assert [layer.get("intermediate_size", 0) for layer in config["per_layer_config"].values()] == surgery.widths(one.model)
    assert config["rope_parameters"]["rope_theta"] == config["rope_theta"] == 700.0
    assert config["head_dim"] == 8
    assert config["dtype"] == config["torch_dtype"] == "float32"


def test_scaled_rotary_embeddings_are_written_for_old_and_new_transformers(
    backbone: Callable[..., Any], byte_tokenizer: Callable[..., Any], last: Settings, tmp_path: Path
) -> None:
    model = backbone("Llama")
    scaled = {"rope_type": "linear", "factor": 4.0, "rope_theta": 900.0}
    model.config.rope_parameters = scaled
    model = type(model)(model.config)
    writer.write(model, byte_tokenizer(), None, last, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert config["rope_parameters"] == scaled
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert config["rope_theta"] == 900.0
    assert loading.load_backbone(tmp_path / "out").config.rope_parameters == scaled


def test_rotary_embeddings_by_kind_of_attention_are_kept(export: Callable[..., Any]) -> None:
    """The spellings of transformers 4 go beside them for Gemma 3, whose layers it can tell apart."""
    by_kind = {
        "full_attention": {"rope_type": "default", "rope_theta": 700.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 90.0},
    }
    for family in ("Gemma3Text", "ModernBert"):
        one = export(family)
        config = json.loads((one.inner / "config.json").read_text())
        assert config["rope_parameters"] == by_kind == loading.load_backbone(one.folder).config.rope_parameters
        old = [config.get(name) for name in ("rope_theta", "rope_local_base_freq", "rope_scaling")]
        assert old == ([700.0, 90.0, None] if family == "Gemma3Text" else [None, None, None])


def test_an_encoder_is_exported_with_a_tokenizer_without_eos(
    backbone: Callable[..., Any], byte_tokenizer: Callable[..., Any], everything: Cut, mean: Settings, tmp_path: Path
) -> None:
    tokenizer = byte_tokenizer(cls_token="<bos>", sep_token="<eos>", eos_token=None, bos_token=None)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)]
    )
    writer.write(surgery.apply(backbone("ModernBert"), everything), tokenizer, everything, mean, tmp_path / "out")
    assert max(verify(tmp_path / "out").values()) <= 1e-6


def test_a_window_that_begins_at_a_layer_moves_with_the_layers(
    backbone: Callable[..., Any], byte_tokenizer: Callable[..., Any], last: Settings, tmp_path: Path
) -> None:
    model = backbone("Qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=2)
    cut = Cut(4, drop_attention=[1], drop_mlp=[1])
    writer.write(surgery.apply(model, cut), byte_tokenizer(), cut, last, tmp_path / "out")
    again = loading.load_backbone(tmp_path / "out")
    assert again.config.layer_types == ["full_attention", "sliding_attention", "sliding_attention"]
    assert again.config.max_window_layers == 1
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).last_hidden_state, model(ids).last_hidden_state)


def test_an_exported_model_is_cut_and_exported_again(export: Callable[..., Any], tmp_path: Path) -> None:
    """Layers keep their numbers in the first base; the second cut counts the layers that it found."""
    first = export("Mistral", "blocks")
    model = loading.load_backbone(first.folder)
    cut = Cut(2, drop_attention=[0], neurons={0: np.arange(10), 1: np.arange(20)})
    surgery.apply(model, cut)
    writer.write(model, loading.load_tokenizer(first.folder), cut, first.settings, tmp_path / "second")
    again = loading.load_backbone(tmp_path / "second")
    assert surgery.widths(again) == [10, 20]
    assert again.config.effir == {"layers": [0, 3], "base_layers": 4}
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).last_hidden_state, model(ids).last_hidden_state)


def test_weights_keep_their_type_and_golden_is_float32(export: Callable[..., Any]) -> None:
    inner = export(dtype=torch.bfloat16).inner
    with safe_open(inner / "model.safetensors", framework="pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert json.loads((inner / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert load_file(inner / "golden.safetensors")["query"].dtype == np.float32


def test_mixed_types_are_stored_in_the_wider_one(
    backbone: Callable[..., Any], byte_tokenizer: Callable[..., Any], last: Settings, tmp_path: Path
) -> None:
    model = backbone("Llama").to(torch.bfloat16)
    model.layers[0].mlp.up_proj.to(torch.float32)
    writer.write(model, byte_tokenizer(), None, last, tmp_path / "out")
    assert {parameter.dtype for parameter in loading.load_backbone(tmp_path / "out").parameters()} == {torch.float32}


def test_it_goes_into_a_folder_that_holds_other_files(
    backbone: Callable[..., Any], byte_tokenizer: Callable[..., Any], last: Settings, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "training.json").write_text("{}")
    writer.write(backbone("Llama"), byte_tokenizer(), None, last, tmp_path / "out")
    assert (tmp_path / "out" / "training.json").is_file()
    with pytest.raises(BadInput, match="already holds a model"):
        writer.write(backbone("Llama"), byte_tokenizer(), None, last, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": Settings(query_template="{text} !")}, "prefixes only"),
        ({"cut": Cut(5)}, "leaves 5 of 5 layers and the model has 4"),
        ({"tokenizer": object()}, "no tokenizer.json"),
        ({"golden_texts": ["a", " "]}, "none of them empty"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    backbone: Callable[..., Any], byte_tokenizer: Callable[..., Any], last: Settings, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    given = {"tokenizer": byte_tokenizer(), "cut": None, "settings": last, "golden_texts": ["a"]} | change
    with pytest.raises(BadInput, match=message):
        writer.write(backbone("Llama"), given["tokenizer"], given["cut"], given["settings"], tmp_path / "out", given["golden_texts"])
    assert list(tmp_path.iterdir()) == []


def test_an_unmerged_adapter_is_refused(
    backbone: Callable[..., Any], byte_tokenizer: Callable[..., Any], last: Settings, tmp_path: Path
) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    model = inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), backbone("Llama"))
    with pytest.raises(BadInput, match="weights are"):
        writer.write(model, byte_tokenizer(), None, last, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_decoder_that_attends_both_ways_keeps_its_window(
    backbone: Callable[..., Any], byte_tokenizer: Callable[..., Any], everything: Cut, mean: Settings, tmp_path: Path
) -> None:
    """transformers halves such a window when it reads a configuration; EmbeddingGemma is one."""
    model = surgery.apply(backbone("Gemma3Text", use_bidirectional_attention=True), everything)
    writer.write(model, byte_tokenizer(), everything, mean, tmp_path / "out")
    assert loading.load_backbone(tmp_path / "out").config.sliding_window == model.config.sliding_window == 4
    assert max(verify(tmp_path / "out").values()) <= 1e-6
