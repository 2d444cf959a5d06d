import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from effir.retrieve.encode import Encoder
from effir.retrieve.settings import Settings
from effir.train.plan import Group, Texts


class NoTokenizer:
    """Texts are token lists here already."""

    eos_token_id = 0


@pytest.fixture
def backbone():
    """Makes a random 3-layer Llama in float64 (or another type)."""

    def make(dtype=torch.float64, seed=0):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=80, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2
        )
        return LlamaModel(config).to(dtype).eval()

    return make


@pytest.fixture
def encoder():
    """Makes an encoder of a backbone, mean pooling."""
    return lambda model: Encoder(model, NoTokenizer(), Settings(pooling="mean", append_eos=False))


@pytest.fixture
def problem():
    """Makes (plan, texts): `steps` steps of `batch` groups with `negatives` hard negatives, of varied lengths."""

    def make(steps=1, batch=6, negatives=2, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def tokens():
            length = int(torch.randint(2, 9, (1,), generator=generator))
            return torch.randint(1, 80, (length,), generator=generator).tolist()

        names = [f"q{number}" for number in range(batch * steps)]
        documents = {f"{name}-d{number}": tokens() for name in names for number in range(1 + negatives)}
        groups = [Group(name, tuple(f"{name}-d{number}" for number in range(1 + negatives)), frozenset([f"{name}-d0"])) for name in names]
        plan = [groups[start : start + batch] for start in range(0, len(groups), batch)]
        return plan, Texts({name: tokens() for name in names}, documents, {name: name for name in documents})

    return make
