import pytest
import torch
from torch import nn
from transformers import (
    Gemma3TextConfig,
    Gemma3TextModel,
    LlamaConfig,
    LlamaModel,
    ModernBertConfig,
    ModernBertModel,
    Qwen2Config,
    Qwen2Model,
)

from effir.compress.surgery import parameters
from effir.retrieve.prepack import Prepacked, prepack

TINY = {"vocab_size": 80, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SPECIAL = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
BUILDS = {
    "llama": lambda: LlamaModel(LlamaConfig(**TINY, num_key_value_heads=1)),
    "qwen2, which has biases": lambda: Qwen2Model(Qwen2Config(**TINY, num_key_value_heads=1)),
    "gemma3, whose gate is no SiLU": lambda: Gemma3TextModel(Gemma3TextConfig(**TINY, num_key_value_heads=1, head_dim=8)),
    "modernbert": lambda: ModernBertModel(ModernBertConfig(**TINY, **SPECIAL)),
}


@pytest.mark.parametrize("rows", [1, 7, 130])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("silu", [False, True])
def test_a_layer_is_the_product_in_double_precision(rows: int, bias: bool, silu: bool) -> None:
    torch.manual_seed(0)
    linear, states = nn.Linear(48, 33, bias), torch.randn(2, rows, 48)
    product = states.double() @ linear.weight.double().T + (linear.bias.double() if bias else 0)
    expected = product * torch.sigmoid(product) if silu else product
    with torch.inference_mode():
        found = Prepacked(linear, silu)(states)
    assert found.shape == (2, rows, 33)
    assert (found.double() - expected).abs().max() < 1e-5


@pytest.mark.parametrize("build", BUILDS)
def test_a_model_gives_what_it_gave(build: str) -> None:
    torch.manual_seed(0)
    model, ids = BUILDS[build]().eval(), torch.arange(3, 23)[None]
    with torch.inference_mode():
        before = model(input_ids=ids).last_hidden_state
        count = parameters(model)
        linears = sum(type(part) is nn.Linear for part in model.modules())
        after = prepack(model)(input_ids=ids).last_hidden_state
    assert sum(isinstance(part, Prepacked) for part in model.modules()) == linears > 0
    assert (before - after).abs().max() < 1e-5
    assert parameters(model) == count


def test_only_a_silu_moves_into_its_gate() -> None:
    gates = {name: prepack(BUILDS[name]()).layers[0].mlp.gate_proj.after for name in list(BUILDS)[:3]}
    assert list(gates.values()) == ["swish", "swish", "none"]


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor does not multiply bfloat16")
def test_bfloat16_stays_within_its_own_rounding() -> None:
    torch.manual_seed(0)
    model, ids = BUILDS["llama"]().eval(), torch.arange(3, 23)[None]
    with torch.inference_mode():
        exact = model(input_ids=ids).last_hidden_state
        rounded = model.to(torch.bfloat16)(input_ids=ids).last_hidden_state.float()
        found = prepack(model)(input_ids=ids).last_hidden_state
    assert found.dtype == torch.bfloat16 and isinstance(model.layers[0].mlp.up_proj, Prepacked)
    assert (found.float() - exact).abs().max() <= 1.5 * (rounded - exact).abs().max()


def test_what_the_processor_does_not_multiply_stays_as_it_is() -> None:
    model = BUILDS["llama"]().to(torch.float64)
    assert prepack(model) is model
    assert not any(isinstance(part, Prepacked) for part in model.modules())


def test_a_torch_without_onednn_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not any(isinstance(part, Prepacked) for part in prepack(BUILDS["llama"]()).modules())
