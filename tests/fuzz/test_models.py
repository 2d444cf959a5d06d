"""Models that others made: config.json, safetensors headers, tokenizer files, and what effir exports beside them."""

import importlib.util
import json
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effir import bases, modelfiles
from effir.compress import shapes
from effir.errors import BadInput
from effir.export import loading
from effir.retrieve.encode import Encoder
from effir.retrieve.settings import Settings

TINY = Path(__file__).parents[1] / "e2e" / "tiny.py"
DEEP = b"[" * 100_000
ROOM = 6 << 30
Change = Callable[[Path], None]


def put(name: str, data: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(data) and None


def cut(name: str, length: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length]) and None


def values(name: str, **changes: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))

    return change


def inner(path: str, value: Any) -> Change:
    """A value deep in tokenizer.json, by its path with dots."""

    def change(folder: Path) -> None:
        found = place = json.loads((folder / "tokenizer.json").read_text())
        *above, last = path.split(".")
        for name in above:
            place = place[name]
        place[last] = value
        (folder / "tokenizer.json").write_text(json.dumps(found))

    return change


def header(text: bytes | None = None, length: int | None = None, **first: Any) -> Change:
    """Another header in front of the same numbers, another length of it, or other values for its first tensor."""

    def change(folder: Path) -> None:
        data = (folder / "model.safetensors").read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        found = json.loads(data[8 : 8 + size])
        found[next(name for name in found if name != "__metadata__")] |= first
        told = json.dumps(found).encode() if text is None else text
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(told) if length is None else length) + told + data[8 + size :])

    return change


def renamed(one: str, other: str) -> Change:
    return lambda folder: (folder / one).rename(folder / other) and None


def sharded(index: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_bytes(index)

    return change


TENSOR = b'"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
WEIGHTS: dict[str, Change] = {
    "empty": put("model.safetensors", b""),
    "four bytes": put("model.safetensors", b"abcd"),
    "text": put("model.safetensors", b"these are no weights, only a text"),
    "a pickle": put("model.safetensors", b"\x80\x04cposix\nsystem\n(S'false'\ntR."),
    "a pickle beside": renamed("model.safetensors", "pytorch_model.bin"),
    "cut in the numbers": cut("model.safetensors", 3000),
    "cut in the header": cut("model.safetensors", 100),
    "numbers too many": lambda folder: put("model.safetensors", (folder / "model.safetensors").read_bytes() + b"\0" * 64)(folder),
    "a header of 16 EiB": put("model.safetensors", b"\xff" * 8 + b"{}"),
    "a header of 4 EiB": header(length=2**62),
    "a header longer than the file": header(length=90_000_000),
    "a header of nothing": header(length=0),
    "a header that is no JSON": header(b"x" * 64),
    "a header that is a list": header(b"[]"),
    "a header nested deeply": header(DEEP),
    "a header in UTF-16": header('{"a": 1}'.encode("utf-16")),
    "a tensor twice": header(b"{" + TENSOR + b", " + TENSOR + b"}"),
    "tensors on top of each other": header(b"{" + TENSOR + b", " + TENSOR.replace(b'"a"', b'"b"') + b"}"),
    "metadata that is a number": header(b'{"__metadata__": 1, ' + TENSOR + b"}"),
    "a shape below zero": header(shape=[-1, 16]),
    "a shape beyond 64 bits": header(shape=[2**62, 16]),
    "a shape of fractions": header(shape=[1.5]),
    "a shape of words": header(shape=["one"]),
    "a shape that does not fit": header(shape=[7]),
    "an unknown type": header(dtype="F99"),
    "offsets below zero": header(data_offsets=[-4, 4]),
    "offsets turned round": header(data_offsets=[8, 4]),
    "offsets beyond the file": header(data_offsets=[0, 10**12]),
    "no offsets": header(data_offsets=[]),
    "an index that is a list": sharded(b"[]"),
    "an index that is no JSON": sharded(b"{"),
    "an index nested deeply": sharded(DEEP),
    "an index without files": sharded(b'{"metadata": {}, "weight_map": {}}'),
    "an index that climbs": sharded(b'{"metadata": {}, "weight_map": {"norm.weight": "../../../etc/passwd"}}'),
}
CONFIG: dict[str, Change] = {
    "empty": put("config.json", b""),
    "null": put("config.json", b"null"),
    "a list": put("config.json", b"[]"),
    "cut": cut("config.json", 60),
    "nested deeply": put("config.json", DEEP),
    "Latin-1": put("config.json", b'{"model_type": "\xe9"}'),
    "a field twice": put("config.json", b'{"model_type": "llama", "model_type": "mistral"}'),
    "no type": put("config.json", b"{}"),
    "a type that is a number": values("config.json", model_type=7),
    "a type that is a list": values("config.json", model_type=["llama"]),
    "a type that nobody knows": values("config.json", model_type="evil"),
    "a type of another kind": values("config.json", model_type="t5"),
    "sizes as text": values("config.json", hidden_size="16"),
    "a size below zero": values("config.json", hidden_size=-16),
    "a size of zero": values("config.json", hidden_size=0),
    "a size beyond memory": values("config.json", hidden_size=2**40),
    "a larger size than the weights": values("config.json", hidden_size=32),
    "neurons beyond memory": values("config.json", intermediate_size=2**40),
    "more neurons than weights": values("config.json", intermediate_size=4096),
    "words beyond memory": values("config.json", vocab_size=2**40),
    "more words than weights": values("config.json", vocab_size=4000),
    "no heads": values("config.json", num_attention_heads=0),
    "heads that do not divide": values("config.json", num_attention_heads=3),
    "heads null": values("config.json", num_attention_heads=None),
    "layers below zero": values("config.json", num_hidden_layers=-1),
    "no layers": values("config.json", num_hidden_layers=0),
    "fewer layers than weights": values("config.json", num_hidden_layers=1),
    "more layers than weights": values("config.json", num_hidden_layers=3),
    "layers beyond memory": values("config.json", num_hidden_layers=10**9),
    "layers a word": values("config.json", num_hidden_layers="two"),
    "layers a fraction": values("config.json", num_hidden_layers=2.5),
    "layers true": values("config.json", num_hidden_layers=True),
    "a number NaN": values("config.json", rms_norm_eps=float("nan")),
    "a number Infinity": values("config.json", rope_theta=float("inf")),
    "an unknown activation": values("config.json", hidden_act="evil"),
    "rope that is a text": values("config.json", rope_parameters="x"),
    "an unknown rope": values("config.json", rope_scaling={"rope_type": "evil"}),
    "an unknown attention": values("config.json", _attn_implementation="evil"),
    "padding beyond the words": values("config.json", pad_token_id=10**6),
}
TOKENIZER: dict[str, Change] = {
    "empty": put("tokenizer.json", b""),
    "a list": put("tokenizer.json", b"[]"),
    "cut": cut("tokenizer.json", 500),
    "nested deeply": put("tokenizer.json", DEEP),
    "Latin-1": put("tokenizer.json", b"\xe9\xe9"),
    "no model": inner("model", None),
    "an unknown model": inner("model.type", "Evil"),
    "a vocabulary that is a list": inner("model.vocab", ["a"]),
    "a token below zero": inner("model.vocab.river", -1),
    "a token as text": inner("model.vocab.river", "1"),
    "a token beyond 32 bits": inner("model.vocab.river", 2**40),
    "an unknown cutter": inner("pre_tokenizer", {"type": "Evil"}),
    "a pattern that does not end": inner(
        "pre_tokenizer", {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
    ),
    "an added token below zero": inner("added_tokens", [{"id": -1}]),
    "a later version": inner("version", "99"),
    "truncation to less than nothing": inner(
        "truncation", {"max_length": 0, "strategy": "LongestFirst", "stride": 5, "direction": "Right"}
    ),
    "a table that makes its library panic": inner("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "settings empty": put("tokenizer_config.json", b""),
    "settings a list": put("tokenizer_config.json", b"[]"),
    "settings nested deeply": put("tokenizer_config.json", DEEP),
    "settings in Latin-1": put("tokenizer_config.json", b"{\xe9}"),
    "a class that is a number": values("tokenizer_config.json", tokenizer_class=7),
    "an eos that is a number": values("tokenizer_config.json", eos_token=7),
    "an eos that is a list": values("tokenizer_config.json", eos_token=["a"]),
    "an added token by a word": values("tokenizer_config.json", added_tokens_decoder={"x": {"content": "a"}}),
    "further tokens that are a text": values("tokenizer_config.json", extra_special_tokens="x"),
}
SETTINGS: dict[str, object] = {
    "empty": b"",
    "a list": [],
    "no settings": {},
    "settings null": {"settings": None},
    "an unknown setting": {"settings": {"evil": 1}},
    "an unknown pooling": {"settings": {"pooling": "max"}},
    "a pooling that is a list": {"settings": {"pooling": ["last"]}},
    "tokens as text": {"settings": {"max_query_tokens": "16"}},
    "no tokens": {"settings": {"max_document_tokens": 0}},
    "tokens below zero": {"settings": {"max_query_tokens": -1}},
    "a template without its place": {"settings": {"query_template": "query:"}},
    "a template that is null": {"settings": {"document_template": None}},
    "eos perhaps": {"settings": {"append_eos": "perhaps"}},
}
GGUF = {"empty": b"", "the first bytes": b"GGUF", "text": b"no weights", "counts beyond memory": b"GGUF\x03\0\0\0" + b"\xff" * 16}
FAULTS = {
    f"{kind}: {name}": fault
    for kind, table in (("weights", WEIGHTS), ("config", CONFIG), ("tokenizer", TOKENIZER), ("settings", SETTINGS), ("gguf", GGUF))
    for name, fault in table.items()
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location("tiny", TINY)
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    return tiny.write_model(tmp_path_factory.mktemp("good") / "model", layers=2, width=16)


@pytest.fixture
def model(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


@pytest.fixture
def little_room():
    """Whoever asks for more memory than a few GiB beyond what is in use now gets none."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("fault", [*(f"weights: {one}" for one in WEIGHTS), *(f"config: {one}" for one in CONFIG)])
def test_a_damaged_model_is_refused_with_its_place(model, tmp_path, refusal, fault):
    FAULTS[fault](model)
    out = tmp_path / "out"
    assert str(model) in refusal(lambda: bases.write_base(str(model), out, dtype="float32"))
    assert not (out / "config.json").exists(), "nothing is left that looks like a model"
    assert str(model) in refusal(lambda: loading.load_backbone(model))


@pytest.mark.parametrize("fault", CONFIG)
def test_a_damaged_configuration_is_planned_or_refused(model, refusal, fault):
    CONFIG[fault](model)
    try:
        shapes.find(str(model))
    except BadInput:
        assert str(model) in refusal(lambda: shapes.find(str(model)))


@pytest.mark.parametrize("fault", TOKENIZER)
def test_a_damaged_tokenizer_is_refused_with_its_place(model, tmp_path, refusal, fault):
    TOKENIZER[fault](model)
    assert str(model) in refusal(lambda: loading.load_tokenizer(model))
    assert str(model) in refusal(lambda: bases.write_base(str(model), tmp_path / "out", dtype="float32"))


@pytest.mark.parametrize("fault", SETTINGS)
def test_damaged_settings_are_refused_with_their_place(model, refusal, fault):
    found = SETTINGS[fault]
    (model / "effir.json").write_bytes(found if isinstance(found, bytes) else json.dumps(found).encode())
    assert "effir.json" in refusal(lambda: loading.load_settings(model))


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("fault", GGUF)
def test_a_damaged_gguf_is_refused_with_its_place(tmp_path, refusal, fault):
    path = tmp_path / "model.gguf"
    path.write_bytes(GGUF[fault])
    assert str(path) in refusal(lambda: bases.write_base(str(path), tmp_path / "out", dtype="float32"))


@pytest.mark.parametrize(
    "change",
    [inner("model.vocab.river", 10**6), inner("model.unk_token", "absent"), inner("model.vocab", {})],
    ids=["a token that the model does not know", "no token for unknown words", "no words"],
)
def test_a_tokenizer_that_does_not_fit_is_found_with_the_first_text(model, refusal, change):
    change(model)
    settings = Settings(pooling="mean", append_eos=False)
    encoder = Encoder(loading.load_backbone(model), loading.load_tokenizer(model), settings)
    assert "token" in refusal(lambda: encoder.encode(["the river of nowhere"]))


def test_a_sound_model_is_taken(model, tmp_path):
    found = bases.write_base(str(model), tmp_path / "out", dtype="float32")
    assert (found.kind, found.layers) == ("llama", 2)
    assert found.parameters == sum(weight.numel() for weight in loading.load_backbone(model).parameters())
    assert len(loading.load_tokenizer(model)) == 35


def test_odd_but_legal_models_are_taken(model):
    values("config.json", architectures=None, transformers_version="5", num_key_value_heads=None, comment={"a": [1]})(model)
    assert modelfiles.config(model)["num_key_value_heads"] is None
    (model / "config.json").write_bytes((model / "config.json").read_bytes().replace(b",", b",\r\n"))
    values("config.json", num_key_value_heads=2)(model)
    assert loading.load_backbone(model).config.num_hidden_layers == 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40), st.integers(0, 2600), st.integers(0, 40))
def test_any_header_is_read_or_refused(good, tmp_path, refusal, junk, start, length):
    data = (good / "model.safetensors").read_bytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(data[:start] + junk + data[start + length :])
    try:
        modelfiles.tensor_shapes(path)
    except BadInput:
        assert str(path) in refusal(lambda: modelfiles.tensor_shapes(path))
