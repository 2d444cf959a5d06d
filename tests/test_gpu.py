"""Surgery, a training step, encoding and export on CUDA in bfloat16. Needs torch and transformers, not mlflow, beir or faiss."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from effir.compress import surgery
from effir.compress.cut import Cut
from effir.retrieve.encode import Encoder
from effir.retrieve.settings import Settings
from effir.train import adapters
from effir.train.contrastive import Contrastive
from effir.train.loop import Schedule, fit
from effir.train.losses import Weights
from effir.train.plan import Group, Texts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE HERE: nothing is tested on a GPU"),
]  # fmt: skip


class Letters:
    """One token a letter."""

    eos_token_id = 1

    def __call__(self, texts, truncation, max_length, add_special_tokens):
        return {"input_ids": [[ord(letter) % 64 + 2 for letter in text][:max_length] for text in texts]}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=80, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2
    )
    cut = Cut(4, drop_attention=[3], drop_mlp=[1], neurons={0: np.arange(128)})
    model = surgery.apply(LlamaModel(config).to(torch.bfloat16), cut)
    return Encoder(model.eval(), Letters(), Settings(pooling="mean", append_eos=False), "cuda")


def test_cut_model_encodes_as_on_the_cpu(encoder):
    texts = ["a text", "another, longer text", "x" * 60]
    on_gpu = encoder.encode(texts)
    on_cpu = Encoder(encoder.model.float(), Letters(), encoder.settings, "cpu").encode(texts)
    assert np.abs(on_gpu - on_cpu).max() < 0.02


def test_a_training_step_learns_and_the_merged_model_follows(encoder):
    names = [f"q{number}" for number in range(8)]
    texts = Texts(
        dict(zip(names, encoder.tokenize([f"query {name} {name}" for name in names], "query"), strict=True)),
        {f"{name}d": ids for name, ids in zip(names, encoder.tokenize([f"text about {name}" for name in names], "document"), strict=True)},
        {f"{name}d": name for name in names},
    )
    plan = [[Group(name, (f"{name}d",), frozenset([f"{name}d"])) for name in names]] * 30
    adapted, parameters = adapters.attach(encoder.model, 8, 16, 0.0)
    one = Encoder(adapted.base_model.model, Letters(), encoder.settings, "cuda")
    step = Contrastive(one, texts, plan, Weights(0.05), micro_batch=4, mixed=True)
    history = fit(parameters, step.step_loss, Schedule(30, 3e-3))
    assert history[-1]["loss"] < history[0]["loss"]
    adapted.eval()
    before = one.encode(["text about q3"])
    merged = Encoder(adapters.merge(adapted), Letters(), encoder.settings, "cuda")
    assert np.abs(before - merged.encode(["text about q3"])).max() < 0.03


def test_an_exported_model_loads_on_the_gpu(encoder, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from effir.export import loading, writer

    inner = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "what": 2, "sky": 3}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")
    cut = Cut(4, drop_attention=[3], drop_mlp=[1], neurons={0: np.arange(128)})
    writer.write(encoder.model, tokenizer, cut, encoder.settings, tmp_path / "made")
    loaded = loading.load_encoder(tmp_path / "made", torch.bfloat16, "cuda")
    expected = Encoder(encoder.model, loaded.tokenizer, encoder.settings, "cuda").encode(["what sky what"])
    assert np.abs(loaded.encode(["what sky what"]) - expected).max() < 0.01
