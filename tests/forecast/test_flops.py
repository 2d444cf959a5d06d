"""Counted operations and bytes against those that torch counts on a real model."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaModel

from effir.compress import shapes, slimming
from effir.compress.shapes import Backbone, Layer, Shape
from effir.forecast import flops
from effir.train import adapters

HIDDEN, NEURONS, HEADS, KEY_VALUE_HEADS, LAYERS, RANK = 48, 80, 4, 2, 3, 5


def llama(dtype: torch.dtype = torch.float32, attention: str = "eager", layers: int = LAYERS) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=HIDDEN, intermediate_size=NEURONS, num_hidden_layers=layers, num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS, head_dim=HIDDEN // HEADS, attn_implementation=attention,
    )  # fmt: skip
    return LlamaModel(config).to(dtype)


def backbone(layers: int = LAYERS) -> Backbone:
    size = HIDDEN // HEADS
    layer = Layer(HIDDEN, KEY_VALUE_HEADS * size, NEURONS)
    return Backbone(Shape(HIDDEN, (layer,) * layers), 64, size, HIDDEN, HIDDEN, 0, HIDDEN)


def written_out(tokens: int, texts: int) -> int:
    """Operations of all attention scores and weighted sums where attention is written out: every pair, causal or not."""
    return LAYERS * texts * 2 * 2 * tokens**2 * HIDDEN


def test_the_backbone_of_these_tests_is_the_model_of_these_tests() -> None:
    assert shapes.count(backbone())[0] == sum(one.numel() for one in llama().parameters())


def test_encoding_is_what_torch_counts() -> None:
    texts, tokens = 5, 11
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        llama()(input_ids=torch.zeros(texts, tokens, dtype=torch.long), use_cache=False)
    frequencies = 2 * texts * tokens * HIDDEN // HEADS // 2
    matrices = texts * tokens * flops.matrix_flops(backbone().shape)
    assert counted.get_total_flops() == pytest.approx(matrices + written_out(tokens, texts), abs=frequencies)
    half = LAYERS * texts * 2 * 2 * (tokens * (tokens + 1) // 2) * HIDDEN
    assert flops.encoding(backbone().shape, [tokens] * 2, texts) == matrices + half


def test_training_is_what_torch_counts_on_the_way_there_and_back() -> None:
    """But for the gradient of the first layer's input, which torch leaves out and the forecast does not."""
    texts, tokens = 4, 9
    adapted = adapters.attach(llama(), RANK, 8.0, 0.0)[0].base_model.model
    with FlopCounterMode(display=False) as counted:
        adapted(input_ids=torch.zeros(texts, tokens, dtype=torch.long), use_cache=False).last_hidden_state.sum().backward()
    key_value = HIDDEN // HEADS * KEY_VALUE_HEADS
    first = texts * tokens * 2 * (HIDDEN * (HIDDEN + 2 * key_value) + 3 * RANK * HIDDEN)
    causal = flops.encoding(backbone().shape, [tokens], texts) - texts * tokens * flops.matrix_flops(backbone().shape)
    wanted = flops.training(backbone(), [tokens], texts, RANK, cached=False) - 3 * causal + 3 * written_out(tokens, texts) - first
    assert counted.get_total_flops() == pytest.approx(wanted, abs=2 * texts * tokens * HIDDEN // HEADS)


def test_caching_gradients_costs_one_more_forward_pass() -> None:
    plain, cached = (flops.training(backbone(), [9], 4, RANK, cached) for cached in (False, True))
    forward = flops.encoding(backbone().shape, [9], 4) + 4 * 9 * 2 * flops.adapters(backbone(), RANK)
    assert cached - plain == pytest.approx(forward)


def test_adapters_are_those_that_peft_makes() -> None:
    assert flops.adapters(backbone(), RANK) == sum(one.numel() for one in adapters.attach(llama(), RANK, 8.0, 0.0)[1].values())


def test_a_plain_encoder_has_two_matrices_in_an_mlp() -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=32, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=60)
    model = BertModel(config, add_pooling_layer=False).eval()
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(input_ids=torch.zeros(3, 7, dtype=torch.long))
    assert counted.get_total_flops() == flops.plain(Shape(24, (Layer(24, 24, 60),) * 2, causal=False), [7], 3)


@pytest.mark.parametrize(("rank", "dropout"), [(5, 0.0), (5, 0.1), (0, 0.0)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_bytes_kept_for_the_way_back_are_what_torch_saves(dtype: torch.dtype, rank: int, dropout: float) -> None:
    """Two more layers on two lengths: what does not grow with both drops out."""
    kept = [saved(dtype, rank, dropout, layers, tokens) for layers, tokens in ((4, 64), (2, 64), (4, 32), (2, 32))]
    grown = (kept[0] - kept[1]) - (kept[2] - kept[3])
    each = flops.training_bytes(backbone(2), rank, dropout, dtype.itemsize)
    assert grown == pytest.approx(each * 2 * 32, rel=0.02)


def saved(dtype: torch.dtype, rank: int, dropout: float, layers: int, tokens: int) -> int:
    """Bytes of all tensors, but for weights, that torch saves for the way back of two texts."""
    model = llama(dtype, "sdpa", layers)
    trained = adapters.attach(model, rank, 8.0, dropout)[0].base_model.model if rank else model.requires_grad_(False)
    weights = {one.untyped_storage().data_ptr() for one in trained.parameters()}
    found: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    scales = nullcontext() if rank else slimming.scaled(trained, slimming.new_scales(trained))
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16, cache_enabled=False)
    with scales, mixed, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trained.train()(input_ids=torch.zeros(2, tokens, dtype=torch.long), use_cache=False).last_hidden_state.float().mean(1)
    return sum(size for size, _ in found.values())
