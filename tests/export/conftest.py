import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from effir.compress import surgery
from effir.compress.cut import Cut
from effir.export import writer
from effir.retrieve.settings import Settings

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3Text", "ModernBert")
WIDTH = 48
CUTS: dict[str, Any] = {
    "nothing": None,
    "mlps": Cut(4, drop_mlp=[1, 3]),
    "all mlps": Cut(4, drop_mlp=[0, 1, 2, 3]),
    "attentions": Cut(4, drop_attention=[0, 2]),
    "blocks": Cut(4, drop_attention=[1, 2], drop_mlp=[1, 2]),
    "first block": Cut(4, drop_attention=[0], drop_mlp=[0]),
    "widths": Cut(4, neurons={0: np.arange(3, 35), 2: np.array([0, 7, 9, 47])}),
    "width nought": Cut(4, neurons={1: np.arange(0)}),
    "everything": Cut(4, drop_attention=[0, 2], drop_mlp=[2, 3], neurons={0: np.arange(16), 1: np.arange(8, 40)}),
}
LAST = Settings(pooling="last", query_template="find:\n{text}", max_query_tokens=64, max_document_tokens=96)
MEAN = Settings(pooling="mean", append_eos=False, query_template="find: {text}", document_template="text: {text}")


def settings_of(family: str) -> dict[str, Any]:
    """A tiny configuration; local attention is narrower than the golden texts are long."""
    common = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": WIDTH}
    rotary = {"rope_type": "default", "rope_theta": 700.0}
    by_kind = {"rope_parameters": {"full_attention": rotary, "sliding_attention": rotary | {"rope_theta": 90.0}}}
    if family == "ModernBert":
        special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1, "cls_token_id": 0, "sep_token_id": 1}
        return common | by_kind | special | {"local_attention": 8}
    decoder = common | {"num_key_value_heads": 2, "head_dim": 8, "rope_parameters": rotary}
    gemma = {"sliding_window": 6, "query_pre_attn_scalar": 8}
    return decoder | {"Gemma2": gemma, "Gemma3Text": gemma | by_kind | {"sliding_window_pattern": 2}}.get(family, {})


def backbone(family: str, **options: Any) -> Any:
    torch.manual_seed(7)
    config = getattr(transformers, f"{family}Config")(**settings_of(family) | options)
    model = getattr(transformers, f"{family}Model")(config).eval()
    if family == "Gemma2":
        model.set_attn_implementation("eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def byte_tokenizer(**special: Any) -> Any:
    """Bytes and a few merges; pad is eos, and it adds nothing to a text: as SmolLM2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<bos>", "<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(writer.GOLDEN_TEXTS, trainer)
    if special.pop("adds_bos", False):
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<eos>"} | special
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `family` or `cut` runs for every family or cut."""
    for name, values in (("family", FAMILIES), ("cut", CUTS)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values)


@dataclass
class Exported:
    folder: Path
    model: Any
    tokenizer: Any
    settings: Settings
    cut: Cut | None
    inner: Path = field(init=False)

    def __post_init__(self) -> None:
        self.inner = self.folder / "model"


@pytest.fixture(name="backbone")
def backbone_fixture() -> Callable[..., Any]:
    return backbone


@pytest.fixture(name="byte_tokenizer")
def tokenizer_fixture() -> Callable[..., Any]:
    return byte_tokenizer


@pytest.fixture
def everything() -> Cut:
    return CUTS["everything"]


@pytest.fixture
def last() -> Settings:
    return LAST


@pytest.fixture
def mean() -> Settings:
    return MEAN


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A tiny backbone, cut and exported: once for every family, cut and settings."""
    made: dict[tuple[str, str, Settings], Path] = {}

    def write(family: str, cut: str, settings: Settings) -> Path:
        key = (family, cut, settings)
        if key not in made:
            folder = tmp_path_factory.mktemp("written") / "exported"
            writer.write(cut_backbone(family, cut), byte_tokenizer(), CUTS[cut], settings, folder)
            made[key] = folder
        return made[key]

    return write


def cut_backbone(family: str, cut: str) -> Any:
    model = backbone(family)
    if CUTS[cut] is not None:
        surgery.apply(model, CUTS[cut])
    return model


@pytest.fixture
def export(tmp_path: Path, written: Callable[..., Path]) -> Callable[..., Exported]:
    """Cut a tiny backbone in memory and export it, into a folder of the test's own."""

    def make(
        family: str = "Llama", cut: str = "everything", settings: Settings = LAST, *, tokenizer: Any = None, dtype: Any = None
    ) -> Exported:
        model, folder = cut_backbone(family, cut), tmp_path / f"{family}-{cut}-{settings.pooling}"
        own = bool(tokenizer or dtype)
        tokenizer = tokenizer or byte_tokenizer()
        if own:
            writer.write(model.to(dtype), tokenizer, CUTS[cut], settings, folder)
        else:
            shutil.copytree(written(family, cut, settings), folder)
        return Exported(folder, model, tokenizer, settings, CUTS[cut])

    return make
