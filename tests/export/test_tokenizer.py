from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from effir.errors import BadInput
from effir.export import tokenizer
from effir.retrieve.encode import Encoder
from effir.retrieve.settings import Settings

TEXTS = ["", "a", "what is this?", "ends with <eos>", "x" * 200]


class Backbone:
    """As much of a model as the Encoder's tokenising needs."""

    def to(self, device: str) -> "Backbone":
        return self


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_it_tokenises_as_the_encoder_does_with_the_base(
    tmp_path: Path, byte_tokenizer: Callable[..., Any], request: pytest.FixtureRequest, adds_bos: bool, pooling: str
) -> None:
    settings = request.getfixturevalue(pooling)
    base = byte_tokenizer(adds_bos=adds_bos, padding_side="left")
    tokenizer.save(tokenizer.portable(base, settings), tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    before = Encoder(Backbone(), base, settings)  # type: ignore[arg-type]
    after = Encoder(Backbone(), loaded, settings)  # type: ignore[arg-type]
    for kind in ("query", "document"):
        given = [text for text in TEXTS if text != "ends with <eos>"]
        assert after.tokenize(given, kind) == before.tokenize(given, kind)
    batch = loaded(["a", "longer than that"], padding=True)
    assert batch["attention_mask"][0][0] == 1
    assert batch["attention_mask"][0][-1] == 0
    assert set(batch) == {"input_ids", "attention_mask"}


def test_every_text_ends_in_eos(tmp_path: Path, byte_tokenizer: Callable[..., Any], last: Settings) -> None:
    eos = byte_tokenizer().eos_token_id
    tokenizer.save(tokenizer.portable(byte_tokenizer(adds_bos=True), last), tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for length in (None, 2, 3, 9):
        for ids in loaded(TEXTS, truncation=length is not None, max_length=length)["input_ids"]:
            assert ids[0] == 0
            assert ids[-1] == eos
            assert eos not in ids[1:-2]
            assert length is None or len(ids) <= length


def test_one_that_adds_eos_itself_gets_no_second(byte_tokenizer: Callable[..., Any], last: Settings) -> None:
    base = tokenizer.portable(byte_tokenizer(), last)
    assert tokenizer.portable(base, last)("a")["input_ids"] == base("a")["input_ids"]


def test_after_a_byte_level_step_the_template_is_added(byte_tokenizer: Callable[..., Any], last: Settings) -> None:
    base = byte_tokenizer()
    base.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    assert tokenizer.ends_with_eos(tokenizer.portable(base, last))


def test_refusals(byte_tokenizer: Callable[..., Any], last: Settings) -> None:
    base = byte_tokenizer()
    base.backend_tokenizer.post_processor = processors.BertProcessing(("<bos>", 0), ("<bos>", 0))
    with pytest.raises(BadInput, match="BertProcessing"):
        tokenizer.portable(base, last)
    with pytest.raises(BadInput, match="no eos token"):
        tokenizer.portable(byte_tokenizer(eos_token=None), last)
    with pytest.raises(BadInput, match=r"no tokenizer\.json"):
        tokenizer.portable(object(), last)


def test_an_encoders_tokenizer_has_cls_and_sep_and_no_eos(
    byte_tokenizer: Callable[..., Any], mean: Settings, last: Settings, tmp_path: Path
) -> None:
    """As ModernBERT's."""
    marks = {"cls_token": "<bos>", "sep_token": "<eos>", "pad_token": "<eos>", "eos_token": None, "bos_token": None}
    base = byte_tokenizer(**marks)
    base.backend_tokenizer.post_processor = processors.TemplateProcessing("<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)])
    tokenizer.save(tokenizer.portable(base, mean), tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS)["input_ids"] == base(TEXTS)["input_ids"]
    assert loaded("")["input_ids"] == [0, 1]
    assert (loaded.cls_token, loaded.sep_token, loaded.pad_token, loaded.eos_token) == ("<bos>", "<eos>", "<eos>", None)
    with pytest.raises(BadInput, match=r"no eos token.*use pooling = mean"):
        tokenizer.portable(base, last)
    for without in (byte_tokenizer(**marks), byte_tokenizer(**marks | {"pad_token": None})):
        with pytest.raises(BadInput, match="no eos token"):
            tokenizer.portable(without, mean)


def test_without_a_pad_token_eos_pads(byte_tokenizer: Callable[..., Any], mean: Settings) -> None:
    assert tokenizer.portable(byte_tokenizer(pad_token=None), mean).pad_token == "<eos>"
