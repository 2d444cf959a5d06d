import random

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from effir.retrieve.encode import Encoder
from effir.retrieve.settings import Settings
from effir.train.contrastive import Contrastive
from effir.train.losses import Weights
from effir.train.plan import Group, Texts


@pytest.fixture
def tiny():
    """Makes a random 4-layer Llama backbone in float64."""

    def make(layers: int = 4, hidden: int = 32, width: int = 48, seed: int = 0) -> LlamaModel:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=96,
            hidden_size=hidden,
            intermediate_size=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        return LlamaModel(config).double().eval()

    return make


@pytest.fixture
def ids():
    """Two sequences of 9 tokens."""
    return torch.arange(18).view(2, 9) * 5 % 96


@pytest.fixture
def pairs():
    """Makes contrastive batches for a model: `steps` of `batch` queries with `negatives` hard negatives, of varied lengths."""

    class NoTokenizer:
        """Texts are token lists here already."""

        eos_token_id = 0

    def make(model, steps: int = 2, batch: int = 4, negatives: int = 1, **settings) -> Contrastive:
        dice = random.Random(0)
        model.requires_grad_(False)
        names = [f"q{number}" for number in range(batch * steps)]
        documents = {name: tuple(f"{name}-d{number}" for number in range(1 + negatives)) for name in names}
        groups = [Group(name, documents[name], frozenset(documents[name][:1])) for name in names]
        plan = [groups[start : start + batch] for start in range(0, len(groups), batch)]

        def tokens() -> list[int]:
            return [dice.randrange(1, 96) for _ in range(dice.randrange(2, 9))]

        shown = [document for name in names for document in documents[name]]
        texts = Texts({name: tokens() for name in names}, {one: tokens() for one in shown}, {one: one for one in shown})
        encoder = Encoder(model, NoTokenizer(), Settings(pooling="mean", append_eos=False))
        return Contrastive(encoder, texts, plan, Weights(0.2), **settings)

    return make


@pytest.fixture
def loss_by_hand():
    """InfoNCE of a step written out in float64, every text on its own through the model, without padding."""

    def loss(model, given: Contrastive, step: int) -> torch.Tensor:
        def embed(tokens: list[int]) -> torch.Tensor:
            mean = model(input_ids=torch.tensor([tokens]), use_cache=False).last_hidden_state[0].mean(0)
            return mean / mean.norm()

        groups = given.plan[step]
        columns = [document for group in groups for document in group.documents]
        documents = torch.stack([embed(given.texts.documents[one]) for one in columns])
        losses = []
        for group in groups:
            scores = documents @ embed(given.texts.queries[group.query_id]) / given.weights.temperature
            losses.append(scores.logsumexp(0) - scores[columns.index(group.documents[0])])
        return torch.stack(losses).mean()

    return loss
