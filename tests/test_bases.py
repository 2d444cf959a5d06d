import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from effir.bases import count_parameters, local_files, write_base
from effir.errors import BadInput
from effir.export.loading import load_backbone


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole language model, with an LM head of its own."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {"<eos>": 0, "<unk>": 1} | {f"word{number}": number + 2 for number in range(38)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>", unk_token="<unk>").save_pretrained(folder)
    return folder


def copied(source: Path, target: Path) -> Path:
    import shutil

    return shutil.copytree(source, target)


def test_a_language_model_becomes_its_bare_backbone(language_model: Path, tmp_path: Path) -> None:
    base = write_base(str(language_model), tmp_path / "base", dtype="float32")
    written, original = load_file(tmp_path / "base" / "model.safetensors"), load_file(language_model / "model.safetensors")
    assert not any("lm_head" in name for name in written)
    assert {f"model.{name}" for name in written} == {name for name in original if "lm_head" not in name}
    assert all(torch.equal(tensor, original[f"model.{name}"]) for name, tensor in written.items())
    assert (base.kind, base.layers) == ("llama", 3)
    assert (
        base.parameters
        == sum(tensor.numel() for tensor in written.values())
        == AutoModel.from_pretrained(tmp_path / "base").num_parameters()
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "base")("word3 word4")["input_ids"] == [5, 6]


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text", "modernbert"])
def test_other_architectures_come_with_other_heads(kind: str, language_model: Path, tmp_path: Path) -> None:
    """Their language models' heads are left behind when a base is written, and when such a folder is loaded as it is."""
    common = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    config = AutoConfig.for_model(kind, **common, **special if kind == "modernbert" else {"num_key_value_heads": 2, "head_dim": 8})
    # Eager: transformers' sdpa leaves out Gemma 2's soft cap.
    settings = {"attn_implementation": "eager"} if kind == "gemma2" else {}
    whole = (AutoModelForMaskedLM if kind == "modernbert" else AutoModelForCausalLM).from_config(config, **settings)
    source = copied(language_model, tmp_path / "source")
    whole.save_pretrained(source)
    base = write_base(str(source), tmp_path / "base", dtype="float32")
    assert (base.kind, base.layers, base.parameters) == (kind, 3, whole.base_model.num_parameters())
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = whole.eval().base_model(ids).last_hidden_state
        for folder in (source, tmp_path / "base"):
            assert torch.equal(load_backbone(folder)(ids).last_hidden_state, expected)


def test_weights_are_kept_in_the_data_type_asked_for_and_bytes_repeat(language_model: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_base(str(language_model), tmp_path / name, dtype="bfloat16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "one" / "model.safetensors").values()} == {torch.bfloat16}
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_an_exported_model_is_taken_as_it_is(language_model: Path, tmp_path: Path) -> None:
    exported = copied(language_model, tmp_path / "exported" / "model")
    config = json.loads((exported / "config.json").read_text()) | {"model_type": "effir_llama"}
    (exported / "config.json").write_text(json.dumps(config))
    (exported / "golden.json").write_text("{}")
    base = write_base(str(exported.parent), tmp_path / "base", dtype="float32")
    assert (base.kind, base.layers, base.parameters) == ("effir_llama", 3, count_parameters(language_model))
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == (language_model / "model.safetensors").read_bytes()
    assert not (tmp_path / "base" / "golden.json").exists()


def test_an_unsupported_architecture_names_the_supported_ones(tmp_path: Path) -> None:
    BertConfig().save_pretrained(tmp_path / "bert")
    sentence = "is of type 'bert', which is not supported; supported are: llama, .*, modernbert; to add one, describe it in"
    with pytest.raises(BadInput, match=sentence):
        write_base(str(tmp_path / "bert"), tmp_path / "base", dtype="float32")
    assert not (tmp_path / "base").exists()


def test_missing_weights_are_not_filled_with_random_ones(language_model: Path, tmp_path: Path) -> None:
    broken = copied(language_model, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"incomplete: 1 weights are missing, among them .*layers\.1\.mlp\.up_proj\.weight"):
        write_base(str(broken), tmp_path / "base", dtype="float32")


def test_pickled_weights_are_not_read(language_model: Path, tmp_path: Path) -> None:
    pickled = copied(language_model, tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="safetensors or GGUF are needed"):
        write_base(str(pickled), tmp_path / "base", dtype="float32")


def test_a_missing_tokenizer_is_said(language_model: Path, tmp_path: Path) -> None:
    bare = copied(language_model, tmp_path / "bare")
    for path in bare.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(BadInput, match="no tokenizer"):
        write_base(str(bare), tmp_path / "base", dtype="float32")


@pytest.mark.parametrize("source", ["/nowhere/model", "./nowhere", "nowhere.gguf"])
def test_a_path_that_does_not_exist_is_not_looked_up_on_the_hub(source: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist on this machine"):
        write_base(source, tmp_path / "base", dtype="float32")


def test_a_folder_without_a_config_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no config\.json"):
        write_base(str(tmp_path), tmp_path / "base", dtype="float32")


def test_a_hub_out_of_reach_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match="could not be loaded from the hub: check its name and the network, or download it"):
        write_base("nobody/no-such-model", tmp_path / "base", dtype="float32")


def test_a_gguf_file_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"not a model" * 10)
    with pytest.raises(BadInput, match=r"weights of .*broken\.gguf could not be read"):
        write_base(str(tmp_path / "broken.gguf"), tmp_path / "base", dtype="float32")


def test_a_gguf_file_gives_the_weights_inside(language_model: Path, tmp_path: Path) -> None:
    path = write_gguf(language_model, tmp_path / "tiny.gguf")
    base = write_base(str(path), tmp_path / "base", dtype="float32")
    original, written = load_file(language_model / "model.safetensors"), load_file(tmp_path / "base" / "model.safetensors")
    assert base.layers == 3
    name = "layers.2.mlp.down_proj.weight"
    assert torch.allclose(written[name], original[f"model.{name}"], atol=0, rtol=0)


@pytest.mark.slow
def test_the_packaged_model_is_whole(tmp_path: Path) -> None:
    base = write_base("smollm2-135m-instruct", tmp_path / "base", dtype="bfloat16")
    assert (base.kind, base.layers, base.parameters) == ("llama", 30, 134_515_008)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    model = AutoModel.from_pretrained(tmp_path / "base", dtype=torch.float32)
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).last_hidden_state[0, -1] @ model.embed_tokens.weight.T
    assert tokenizer.decode(int(logits.argmax())).strip() == "Paris", "tied embeddings serve as its head"


def test_local_files_are_listed_without_loading(language_model: Path) -> None:
    assert {path.name for path in local_files(str(language_model))} >= {"config.json", "model.safetensors"}
    assert local_files("org/model") == []


def write_gguf(folder: Path, path: Path) -> Path:
    import gguf

    config = LlamaConfig.from_pretrained(folder)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<eos>", *(chr(97 + number % 26) * (1 + number // 26) for number in range(39))])
    writer.add_token_merges(["a a", "b b"])
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in load_file(folder / "model.safetensors").items():
        stem = names.get_name(name.removesuffix(".weight"))
        array = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = array.reshape(heads, 2, array.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(tensor.shape)
        writer.add_tensor(f"{stem}.weight", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
