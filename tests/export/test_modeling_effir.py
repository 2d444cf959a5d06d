from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from effir.compress import surgery
from effir.compress.anatomy import ANATOMIES, anatomy_of
from effir.compress.cut import Cut
from effir.export import modeling_effir, writer
from effir.export.loading import load_backbone
from effir.retrieve.settings import Settings
from effir.train.attention import written_out

IDS = torch.arange(2 * 11).reshape(2, 11) % 300
STOCK = (
    "LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model", "Gemma2Model", "Gemma3TextModel", "ModernBertModel", "LlamaForCausalLM",
    "Qwen3ForCausalLM",
)  # fmt: skip


def test_reloaded_equals_the_model_in_memory(export: Callable[..., Any], family: str, cut: str) -> None:
    one = export(family, cut)
    again = load_backbone(one.folder)
    with torch.no_grad():
        difference = (again(IDS).last_hidden_state - one.model(IDS).last_hidden_state).abs().max()
    assert difference <= 1e-6
    assert {name: tuple(weight.shape) for name, weight in again.state_dict().items()} == {
        name: tuple(weight.shape) for name, weight in one.model.state_dict().items()
    }


def test_dropped_and_narrowed_equals_zeroed_weights(
    export: Callable[..., Any], backbone: Callable[..., Any], everything: Cut, family: str
) -> None:
    """The second formulation: a full-size stock model in which everything that was cut has weight zero."""
    dense = backbone(family)
    output, down = ("attn.Wo", "mlp.Wo") if family == "ModernBert" else ("self_attn.o_proj", "mlp.down_proj")
    with torch.no_grad():
        for layer in everything.drop_attention:
            dense.layers[layer].get_submodule(output).weight.zero_()
        for layer in everything.drop_mlp:
            dense.layers[layer].get_submodule(down).weight.zero_()
        for layer, kept in everything.neurons.items():
            gone = sorted(set(range(48)) - set(kept.tolist()))
            dense.layers[layer].get_submodule(down).weight[:, gone] = 0
        expected = dense(IDS).last_hidden_state
        found = load_backbone(export(family).folder)(IDS).last_hidden_state
    assert (found - expected).abs().max() <= 1e-5
    assert (backbone(family)(IDS).last_hidden_state - expected).abs().max() > 1e-2


def test_a_decoder_that_attends_both_ways_does_so_when_it_is_loaded_again(
    backbone: Callable[..., Any], byte_tokenizer: Callable[..., Any], mean: Settings, tmp_path: Path
) -> None:
    model = backbone("Llama")
    modeling_effir.attend_both_ways(model)
    writer.write(model, byte_tokenizer(), None, mean, tmp_path / "exported")
    again = load_backbone(tmp_path / "exported")
    with torch.no_grad():
        whole, first = again(IDS).last_hidden_state, again(IDS[:, :4]).last_hidden_state
        assert (whole - model(IDS).last_hidden_state).abs().max() <= 1e-6
    assert (whole[:, :4] - first).abs().max() > 1e-6
    assert not anatomy_of(again).causal


def test_what_it_attends_to_can_be_seen_in_a_reloaded_model_too(export: Callable[..., Any], family: str, cut: str) -> None:
    """Such a class does not switch by transformers' own means; padding is there, so that causality and mask are seen to hold."""
    model = load_backbone(export(family, cut).folder)
    mask = torch.ones_like(IDS)
    mask[1, 7:] = 0
    before, name, seen = model(IDS, mask).last_hidden_state, model.config._attn_implementation, []
    hooks = [
        getattr(layer, anatomy_of(model).attention).register_forward_hook(lambda _module, _args, output: seen.append(output[1]))
        for layer in model.layers
    ]
    with written_out(model):
        inside = model(IDS, mask).last_hidden_state
    shown = [one for one in seen if one is not None]
    assert len(shown) == sum(surgery.has_attention(layer) for layer in model.layers)
    assert all((one.sum(-1) - 1).abs().max() <= 1e-5 and one[1, :, :7, 7:].abs().max() == 0 for one in shown)
    assert (inside - before)[mask.bool()].abs().max() <= 1e-5
    for hook in hooks:
        hook.remove()
    assert torch.equal(model(IDS, mask).last_hidden_state, before) and model.config._attn_implementation == name


def test_it_knows_the_families_that_effir_can_cut() -> None:
    assert list(modeling_effir.FAMILIES) == list(ANATOMIES)
    with pytest.raises(AttributeError, match="EffirGemma9Model needs a later transformers"):
        modeling_effir.EffirGemma9Model  # noqa: B018
    assert not modeling_effir.buildable("Gemma9", False)
    assert not modeling_effir.buildable("Llama", True), "stands for a transformers whose configuration has no layer_types"


@pytest.mark.parametrize("stock", STOCK)
def test_a_stock_class_refuses(export: Callable[..., Any], cut: str, stock: str) -> None:
    family = stock.removesuffix("Model").removesuffix("ForCausalLM")
    one = export(family, cut)
    with pytest.raises(RuntimeError, match=r"per-layer attribute|negative dimension"):
        getattr(transformers, stock).from_pretrained(one.inner)
    with pytest.raises(RuntimeError, match=r"per-layer attribute|negative dimension"):
        getattr(transformers, stock).from_pretrained(one.inner, ignore_mismatched_sizes=True)


def test_the_stock_classes_refuse_without_per_layer_config_too(export: Callable[..., Any], cut: str) -> None:
    """What a transformers older than per_layer_config sees."""
    one = export("Llama", cut)
    config = transformers.LlamaConfig.from_pretrained(one.inner)
    config.per_layer_config = None
    with pytest.raises(RuntimeError, match="negative dimension"):
        transformers.LlamaModel.from_pretrained(one.inner, config=config, ignore_mismatched_sizes=True)


def test_auto_classes_refuse(export: Callable[..., Any]) -> None:
    inner = export().inner
    for loader in (transformers.AutoModel, transformers.AutoModelForCausalLM):
        with pytest.raises(ValueError, match=r"does not recognize this architecture|trust_remote_code"):
            loader.from_pretrained(inner, trust_remote_code=False)
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        transformers.AutoModelForCausalLM.from_pretrained(inner, trust_remote_code=True)


def test_a_layer_without_a_width_is_refused() -> None:
    config_class, model_class = modeling_effir.FAMILIES["llama"]
    config = config_class(num_hidden_layers=2, hidden_size=32, num_attention_heads=4, per_layer_config={"0": {"intermediate_size": 8}})
    with pytest.raises(ValueError, match="layer 1 no intermediate_size"):
        model_class(config)
    with pytest.raises(ValueError, match="layer 0 no intermediate_size"):
        model_class(config_class(num_hidden_layers=2, hidden_size=32, num_attention_heads=4))


def test_dropped_norms_and_layers_are_gone(export: Callable[..., Any]) -> None:
    model = load_backbone(export("Qwen2").folder)
    assert [surgery.has_attention(layer) for layer in model.layers] == [False, True, True]
    assert surgery.widths(model) == [16, 32, 0]
    assert isinstance(model.layers[0].input_layernorm, nn.Identity)
    assert isinstance(model.layers[2].post_attention_layernorm, nn.Identity)
    assert model.config.effir == {"layers": [0, 1, 3], "base_layers": 4}
    assert not [name for name, _ in model.named_parameters() if name.startswith(("layers.0.input", "layers.2.post"))]


def test_it_trains_with_gradient_checkpointing(export: Callable[..., Any]) -> None:
    def gradients(checkpointing: bool) -> Any:
        model = load_backbone(one.folder).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(IDS).last_hidden_state.square().sum().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    one = export("Mistral")
    plain, checkpointed = gradients(False), gradients(True)
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-5) for name in plain)
    assert all(gradient.abs().max() > 0 for gradient in plain.values())


def test_saved_again_it_loads_again(export: Callable[..., Any], tmp_path: Any) -> None:
    model = load_backbone(export("Qwen3").folder)
    model.save_pretrained(tmp_path / "again")
    again = load_backbone(tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(model(IDS).last_hidden_state, again(IDS).last_hidden_state)


def test_adapters_can_be_put_on_top(export: Callable[..., Any]) -> None:
    from peft import LoraConfig, get_peft_model

    one = export("Llama")
    before = load_backbone(one.folder)(IDS).last_hidden_state.detach()
    adapted = get_peft_model(
        load_backbone(one.folder), LoraConfig(r=2, target_modules=list(anatomy_of(one.model).projections), init_lora_weights=False)
    )
    with torch.no_grad():
        during = adapted(input_ids=IDS).last_hidden_state
        merged = adapted.merge_and_unload()(IDS).last_hidden_state
    assert (during - before).abs().max() > 1e-3
    assert (merged - during).abs().max() < 1e-4


def test_vllms_transformers_backend_would_take_every_family() -> None:
    """What vLLM asks a class before it takes it; vLLM itself needs a GPU."""
    assert all(model.is_backend_compatible() for _, model in modeling_effir.FAMILIES.values())
