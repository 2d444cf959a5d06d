import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as some
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers

from effir.compress import surgery
from effir.compress.cut import Cut
from effir.errors import BadInput, EffirError
from effir.export import decilm, formats, writer
from effir.export.verify import verify
from effir.manifest import sha256_of
from effir.retrieve.settings import Settings

from . import loops

KNOWN = ("Llama", "Mistral", "Qwen2")
SOME_CUTS = ("everything", "mlps", "attentions", "nothing")
READERS = {"decilm": ("fused", "plain"), "llama.cpp": ("fused", "plain", "llama.cpp")}


def llama_tokenizer() -> Any:
    """Bytes as a fallback, and 44 letters, as Llama's and Mistral's tokenizers have them."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"etaoinshrdlucmfwypvbgkqjxzETAOINSHRDLU.,"]
    pieces = pieces[:300]
    made = Tokenizer(
        models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def changed(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON file and sign it, as one who tampers would."""
    path, signed = folder / name, folder / "effir.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    about = json.loads(signed.read_text())
    about["files"][name] = sha256_of(path)
    signed.write_text(json.dumps(about))


@pytest.mark.parametrize("name", SOME_CUTS)
@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("to", READERS)
def test_engines_compute_the_golden_embeddings(export: Callable[..., Any], tmp_path: Path, known: str, name: str, to: str) -> None:
    folder = tmp_path / "made"
    found = formats.export(export(known, name, tokenizer=llama_tokenizer()).folder, to, folder)
    assert found["decilm"] <= 1e-6
    assert loops.schema(json.loads((folder / "config.json").read_text())) == []
    for reader in READERS[to]:
        assert loops.farthest(folder, reader) <= 1e-6, reader
    assert verify(folder) == found


def test_mean_pooling_travels(export: Callable[..., Any], mean: Settings, tmp_path: Path) -> None:
    formats.export(export(settings=mean).folder, "decilm", tmp_path / "made")
    assert loops.farthest(tmp_path / "made", "fused") <= 1e-6
    pooling = json.loads((tmp_path / "made" / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"]
    assert not pooling["pooling_mode_lasttoken"]
    assert [module["path"] for module in json.loads((tmp_path / "made" / "modules.json").read_text())][-1] == "2_Normalize"


def test_llamacpp_would_lose_the_attention_of_a_layer_without_mlp(export: Callable[..., Any], tmp_path: Path) -> None:
    """The trap, and the way out: its converter asks every layer for a key that is not there."""
    formats.export(export("Llama", "mlps").folder, "decilm", tmp_path / "made")
    blocks = json.loads((tmp_path / "made" / "config.json").read_text())["block_configs"]
    assert [block["ffn"].get("ffn_mult", "absent") for block in blocks][1] == "absent"
    with pytest.raises(KeyError, match="ffn_mult"):
        loops.farthest(tmp_path / "made", "llama.cpp")
    changed(tmp_path / "made", "config.json", lambda told: [block["ffn"].setdefault("ffn_mult", None) for block in told["block_configs"]])
    assert loops.Engine(tmp_path / "made", "llama.cpp").vector([5, 6, 7], "last") @ loops.Engine(tmp_path / "made", "fused").vector(
        [5, 6, 7], "last"
    ) < 0.99  # fmt: skip


@given(some.integers(1, 60_000), some.integers(1, 20_000))
def test_every_reader_makes_the_same_width_of_a_multiplier(neurons: int, hidden: int) -> None:
    wide = decilm._wide(neurons, "decilm")
    multiplier = 3 * (wide - 128) / (2 * hidden)
    assert wide % 256 == 0
    assert neurons <= wide < neurons + 256
    assert wide == loops.width(multiplier, hidden) == loops.width(multiplier, hidden, 6) == decilm.width_of(multiplier, hidden)


def test_its_configuration_has_attributes_and_stock_classes_refuse_it(export: Callable[..., Any], tmp_path: Path) -> None:
    formats.export(export("Llama", "mlps").folder, "decilm", tmp_path / "made")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "made", trust_remote_code=True)
    assert [block.ffn.no_op for block in config.block_configs] == [False, True, False, True]
    assert [hasattr(block.ffn, "ffn_mult") for block in config.block_configs] == [True, False, True, False]
    assert config.rope_parameters["rope_theta"] == config.rope_theta == 700.0
    config.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["block_configs"] == config.block_configs
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoConfig.from_pretrained(tmp_path / "made", trust_remote_code=False)
    with pytest.raises(RuntimeError, match="negative dimension"):
        transformers.LlamaModel.from_pretrained(tmp_path / "made")


@pytest.mark.parametrize("family_without_place", ["Qwen3", "Gemma2", "Gemma3Text", "ModernBert"])
def test_families_that_the_schema_has_no_place_for(export: Callable[..., Any], tmp_path: Path, family_without_place: str) -> None:
    with pytest.raises(BadInput, match="parts that NemotronNAS' schema does not"):
        formats.export(export(family_without_place).folder, "decilm", tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("options", "to", "message"),
    [
        ({"hidden_act": "gelu"}, "decilm", "activation gelu"),
        ({"mlp_bias": True}, "decilm", "biases in its MLPs"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 9.0}},
            "decilm",
            "rotary embeddings of the kind dynamic",
        ),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 9.0}}, "llama.cpp", "of the kind linear"),
        ({"head_dim": 16}, "llama.cpp", "heads of 16"),
        ({"is_causal": False}, "decilm", "attends both ways"),
    ],
)
def test_what_engines_would_compute_otherwise_is_refused(
    backbone: Callable[..., Any], last: Settings, options: dict[str, Any], to: str, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        decilm.check(backbone("Llama", **options), last, to)


def test_texts_longer_than_the_window_are_refused(backbone: Callable[..., Any]) -> None:
    short, long = (Settings(max_query_tokens=8, max_document_tokens=tokens) for tokens in (16, 17))
    model = backbone("Mistral", sliding_window=16)
    model.config.model_type = "effir_mistral"
    decilm.check(model, short, "decilm")
    assert decilm.describe(model, "decilm")["max_position_embeddings"] == 16
    with pytest.raises(BadInput, match="texts of 17 tokens and sees 16"):
        decilm.check(model, long, "decilm")


def test_no_attention_at_all_is_refused(
    backbone: Callable[..., Any], byte_tokenizer: Callable[..., Any], last: Settings, tmp_path: Path
) -> None:
    cut = Cut(4, drop_attention=[0, 1, 2, 3])
    writer.write(surgery.apply(backbone("Llama"), cut), byte_tokenizer(), cut, last, tmp_path / "out")
    with pytest.raises(BadInput, match="no attention left"):
        formats.export(tmp_path / "out", "decilm", tmp_path / "made")


def test_llamacpp_reads_few_tokenizers(export: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="tokenizers of Llama and Mistral only"):
        formats.export(export().folder, "llama.cpp", tmp_path / "made")
    told = tmp_path / "tokenizer.json"
    llama_tokenizer().backend_tokenizer.save(str(told))
    decilm.check_tokenizer(told, 300)
    with pytest.raises(BadInput, match="embeds 320 tokens and its tokenizer has 300"):
        decilm.check_tokenizer(told, 320)


def test_what_was_changed_is_noticed(export: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "made"
    formats.export(export("Llama", "widths").folder, "decilm", folder)
    (folder / "extra.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match=r"extra\.safetensors is not among the files"):
        verify(folder)
    (folder / "extra.safetensors").unlink()
    code = folder / "configuration_decilm.py"
    written = code.read_text()
    code.write_text(written + "\nprint('ran')\n")
    with pytest.raises(BadInput, match="code that this effir did not write"):
        verify(folder)
    code.write_text(written)
    changed(folder, "config.json", lambda told: told.update(rope_theta=1.0, rope_parameters={"rope_type": "default", "rope_theta": 1.0}))
    with pytest.raises(EffirError, match="loaded by decilm: the largest difference"):
        verify(folder)
    changed(folder, "config.json", lambda told: told["block_configs"][0]["ffn"].update(no_op=True))
    with pytest.raises(BadInput, match=r"not what its config\.json says"):
        verify(folder)


def test_zeros_are_all_that_is_added(export: Callable[..., Any], tmp_path: Path) -> None:
    one = export("Qwen2", "everything", dtype=torch.bfloat16)
    formats.export(one.folder, "decilm", tmp_path / "made")
    before, after = load_file(one.inner / "model.safetensors"), load_file(tmp_path / "made" / "model.safetensors")
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    for name, weight in after.items():
        kept = before.get(name.removeprefix("model."))
        if kept is None:
            assert name.endswith("layernorm.weight") or not weight.any(), name
        else:
            window = weight[tuple(slice(size) for size in kept.shape)]
            assert torch.equal(window, kept)
            assert weight.count_nonzero() == kept.count_nonzero()
    assert {f"model.{name}" for name in before} <= set(after)


def test_a_wrong_folder_is_not_left_behind(export: Callable[..., Any], tmp_path: Path) -> None:
    one = export()
    golden = load_file(one.inner / "golden.safetensors")
    golden["query"] = -golden["query"]
    save_file(golden, one.inner / "golden.safetensors")
    changed(one.inner, "golden.json", lambda told: None)
    about = json.loads((one.inner / "effir.json").read_text())
    about["files"]["golden.safetensors"] = sha256_of(one.inner / "golden.safetensors")
    (one.inner / "effir.json").write_text(json.dumps(about))
    with pytest.raises(EffirError, match=r"does not give the golden embeddings.*nothing was kept"):
        formats.export(one.folder, "decilm", tmp_path / "new" / "made")
    assert list((tmp_path / "new").iterdir()) == []


def test_refusals(export: Callable[..., Any], tmp_path: Path) -> None:
    one = export()
    with pytest.raises(BadInput, match=r"choose one of decilm, llama\.cpp, onnx"):
        formats.export(one.folder, "gguf", tmp_path / "made")
    (tmp_path / "made").mkdir()
    with pytest.raises(BadInput, match="exists already"):
        formats.export(one.folder, "decilm", tmp_path / "made")
