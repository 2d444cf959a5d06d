import pytest
import torch
from transformers import LlamaConfig, LlamaModel


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
