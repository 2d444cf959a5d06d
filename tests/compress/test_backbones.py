"""Everything that is done to a backbone, for every architecture, on tiny random ones in float64."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from effir.compress import importance, slimming, surgery
from effir.compress.anatomy import ANATOMIES, SUPPORTED, anatomy_of
from effir.compress.cut import Cut
from effir.errors import BadInput
from effir.export.modeling_effir import attend_both_ways
from effir.train import adapters

LAYERS, WIDTH, LENGTH = 5, 24, 14
KEPT = np.array([0, 3, 4, 11, 17, 23])
CUT = Cut(LAYERS, drop_attention=[0, 3], drop_mlp=[0, 1], neurons={2: KEPT})
IDS = torch.arange(2 * LENGTH).reshape(2, LENGTH) * 7 % 60 + 2
FAMILIES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma2": "Gemma2",
    "gemma3_text": "Gemma3Text",
    "modernbert": "ModernBert",
}
OUTPUTS = {"modernbert": ("attn.Wo", "mlp.Wo")}
CONTRIBUTIONS = {
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "modernbert": ("attn", "mlp"),
}


def configuration(kind, **options):
    """Local attention, where there is any, is far narrower than the texts."""
    common = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    if kind == "modernbert":
        special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
        special |= {"local_attention": 4, "mlp_bias": True}
    else:
        special = {"num_key_value_heads": 2, "head_dim": 8}
    if kind.startswith("gemma"):
        special |= {"sliding_window": 3, "query_pre_attn_scalar": 8}
    if kind == "gemma3_text":
        special |= {"sliding_window_pattern": 3}
    if kind == "mistral":
        special |= {"sliding_window": 3}
    if kind.startswith("qwen"):
        special |= {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2}
    return getattr(transformers, f"{FAMILIES[kind]}Config")(**common | special | options)


@pytest.fixture(params=SUPPORTED)
def kind(request):
    return request.param


@pytest.fixture
def make(kind):
    """Makes the same backbone every time; its norms and biases are random too."""

    def build():
        torch.manual_seed(0)
        model = getattr(transformers, f"{FAMILIES[kind]}Model")(configuration(kind)).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return model

    return build


def states(model, mask=None):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=mask, use_cache=False).last_hidden_state


def output_of(model, kind, layer, which):
    """The projection that ends a sub-layer: which = 0 for attention, 1 for the MLP."""
    return model.layers[layer].get_submodule(OUTPUTS.get(kind, ("self_attn.o_proj", "mlp.down_proj"))[which])


def silence(model, kind, cut):
    """What a cut should amount to, on the full-size stock model: a dropped sub-layer ends in zeros, a deleted neuron goes nowhere."""
    with torch.no_grad():
        for which, dropped in enumerate((cut.drop_attention, cut.drop_mlp)):
            for layer in dropped:
                for parameter in output_of(model, kind, layer, which).parameters():
                    parameter.zero_()
        for layer, kept in cut.neurons.items():
            output_of(model, kind, layer, 1).weight[:, np.setdiff1d(np.arange(WIDTH), kept)] = 0
    return model


@pytest.mark.parametrize("cut", [Cut(LAYERS, drop_mlp=[1, 4]), Cut(LAYERS, drop_attention=[0, 2])], ids=["mlp", "attention"])
def test_a_dropped_sub_layer_equals_one_that_ends_in_zeros_exactly(make, kind, cut):
    assert torch.equal(states(surgery.apply(make(), cut)), states(silence(make(), kind, cut)))


def test_all_kinds_of_cut_at_once(make, kind):
    """Layer 0 goes, 1 keeps attention only, 3 its MLP only, 2 is narrowed: each keeps its kind of attention and its number changes."""
    stock = make()
    types = getattr(stock.config, "layer_types", None)
    cut = surgery.apply(make(), CUT)
    assert (states(cut) - states(silence(make(), kind, CUT))).abs().max() < 1e-9
    assert (states(cut) - states(stock)).abs().max() > 1e-2
    assert surgery.widths(cut) == [0, len(KEPT), WIDTH, WIDTH]
    assert [surgery.has_attention(layer) for layer in cut.layers] == [True, True, False, True]
    assert [cut.layers[index].get_submodule(anatomy_of(cut).attention).layer_idx for index in (0, 1, 3)] == [0, 1, 3]
    assert cut.config.num_hidden_layers == 4
    assert types is None or cut.config.layer_types == types[1:]


@pytest.mark.parametrize("kind", [kind for kind in SUPPORTED if kind not in ("llama", "mistral")])
def test_local_attention_matters_here(make, kind):
    """The tests above would not notice a layer that changed its kind of attention if windows were wide."""
    types = configuration(kind).layer_types
    assert len(set(types[1:])) == 2
    assert types[1:] != types[:-1]
    shifted, same = surgery.apply(make(), CUT), surgery.apply(make(), CUT)
    shifted.config.layer_types = types[:-1]
    for layer, one in zip(shifted.layers, types, strict=False):
        if hasattr(layer, "attention_type"):
            layer.attention_type = one
    assert (states(shifted) - states(same)).abs().max() > 1e-3


def test_masked_equals_narrowed(make):
    mask = torch.zeros(WIDTH, dtype=torch.float64).index_fill_(0, torch.as_tensor(KEPT), 1.0)
    masked, narrowed = make(), surgery.apply(make(), Cut(LAYERS, neurons={2: KEPT}))
    with slimming.scaled(masked, {2: mask}):
        assert (states(masked) - states(narrowed)).abs().max() < 1e-9
    assert surgery.parameters(narrowed)[0] < surgery.parameters(masked)[0]


def test_a_narrow_mlp_holds_the_neurons_that_were_kept(make):
    wide, narrow = make().layers[2].mlp, surgery.apply(make(), Cut(LAYERS, neurons={2: KEPT})).layers[2].mlp
    x = torch.randn(3, 32, dtype=torch.float64)
    seen = []
    for mlp in (wide, narrow):
        down = getattr(mlp, "down_proj", None) or mlp.Wo
        down.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        mlp(x)
    assert torch.allclose(seen[0][:, KEPT], seen[1], atol=1e-12)


def test_scales_get_the_gradient_of_their_columns(make, kind):
    """At z = 1 the derivative by z_j is that of scaling column j of the down projection: the sum of W_ij dL/dW_ij."""
    model = surgery.drop(make(), Cut(LAYERS, drop_mlp=[1]))
    scales = slimming.new_scales(model)
    assert {layer: len(z) for layer, z in scales.items()} == dict.fromkeys((0, 2, 3, 4), WIDTH)
    with slimming.scaled(model, scales):
        model(input_ids=IDS, use_cache=False).last_hidden_state.pow(3).sum().backward()
    for layer, z in scales.items():
        weight = output_of(model, kind, layer, 1).weight
        expected = (weight * weight.grad).sum(0).detach().float()
        assert torch.allclose(z.grad, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        assert z.grad.abs().min() > 0


def test_importance_is_that_of_the_summed_contributions(make, kind):
    """Eq. 3 with the residual stream put together from what each sub-layer contributes, to the end of the model."""
    model, given = make(), {}
    mask = torch.ones_like(IDS)
    mask[1, 9:] = 0
    hooks = []
    for index, layer in enumerate(model.layers):
        for which, name in enumerate(CONTRIBUTIONS.get(kind, ("self_attn", "mlp"))):

            def keep(_module, _args, output, key=(index, which)):
                given[key] = output[0] if isinstance(output, tuple) else output

            hooks.append(layer.get_submodule(name).register_forward_hook(keep))
    final = states(model, mask)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        stream = (model.embeddings if kind == "modernbert" else model.embed_tokens)(IDS)
    expected = {"attention": [], "mlp": [], "block": []}
    for index in range(LAYERS):
        middle = stream + given[index, 0]
        after = middle + given[index, 1]
        for name, x, y in (("attention", stream, middle), ("mlp", middle, after), ("block", stream, after)):
            cosine = (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
            expected[name].append(float((1 - cosine)[mask.bool()].mean()))
        stream = after
    norm = model.final_norm if kind == "modernbert" else model.norm
    assert torch.allclose(norm(stream)[mask.bool()], final[mask.bool()], atol=1e-6), "the contributions add up to what the model says"
    found = importance.measure(model, [(IDS, mask)])
    for name in importance.KINDS:
        assert np.isfinite(found.mean[name]).all()
        np.testing.assert_allclose(found.mean[name], expected[name], atol=1e-6)
    assert found.tokens == LENGTH + 9


def test_adapters_train_on_what_is_left_and_merge(make, kind):
    model = surgery.apply(make(), CUT)
    before = {name: value.clone() for name, value in model.named_parameters()}
    adapted, parameters = adapters.attach(model, 2, 4, 0.0)
    per_sub_layer = (2, 2) if kind == "modernbert" else (4, 3)
    assert len(parameters) == 2 * (3 * per_sub_layer[0] + 3 * per_sub_layer[1])
    adapted.double()
    target = torch.randn(2, LENGTH, 32, dtype=torch.float64)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    losses = []
    for _ in range(4):
        loss = nn.functional.mse_loss(adapted(input_ids=IDS, use_cache=False).last_hidden_state, target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    trained = states(adapted)
    merged = adapters.merge(adapted)
    assert (states(merged) - trained).abs().max() < 1e-5
    moved = {name for name, value in merged.named_parameters() if not torch.equal(value, before[name])}
    assert len(moved) == len(parameters) // 2
    assert all(name.split(".")[-2] in anatomy_of(merged).projections for name in moved)


def test_a_model_that_is_cut_again_is_scored_and_slimmed(make):
    model = surgery.drop(make(), Cut(LAYERS, drop_attention=[1], drop_mlp=[2]))
    found = importance.measure(model, [(IDS, torch.ones_like(IDS))])
    assert found.mean["attention"][1] < 1e-6
    assert found.mean["mlp"][2] < 1e-6
    assert sorted(slimming.new_scales(model)) == [0, 1, 3, 4]


def test_the_descriptions_name_parts_that_exist(make, kind):
    model, anatomy = make(), ANATOMIES[kind]
    layer = getattr(model, anatomy.layers)[1]
    for name in (*anatomy.attention_norms, *anatomy.mlp_norms):
        assert isinstance(layer.get_submodule(name), nn.Module)
    linear = {name.rpartition(".")[2] for name, part in layer.named_modules() if isinstance(part, nn.Linear)}
    assert linear == set(anatomy.projections)
    assert anatomy_of(model) == anatomy_of(model.config) == anatomy
    assert anatomy.causal == torch.allclose(states(model)[:, :5], _first(model, 5), atol=1e-9)
    assert anatomy.attention_widths(layer) == (32, 32 if kind == "modernbert" else 16)


def _first(model, count):
    with torch.no_grad():
        return model(input_ids=IDS[:, :count], use_cache=False).last_hidden_state


def test_a_decoder_that_attends_both_ways_is_not_causal():
    assert not anatomy_of(configuration("gemma3_text", use_bidirectional_attention=True)).causal
    assert anatomy_of(configuration("gemma3_text")).causal


def test_a_decoder_can_be_made_to_attend_both_ways(make, kind):
    model = make()
    if not anatomy_of(model).causal:
        pytest.skip("an encoder attends both ways already")
    attend_both_ways(model)
    assert not anatomy_of(model).causal
    whole, alone = states(model), _first(model, 5)
    assert (whole[:, :5] - alone).abs().max() > 1e-6
    mask = (torch.arange(LENGTH)[None] < torch.tensor([[LENGTH], [5]])).long()
    padded = states(model, mask)
    assert (padded[0] - whole[0]).abs().max() < 1e-6
    assert (padded[1, :5] - alone[1]).abs().max() < 1e-6


def test_an_unknown_architecture_is_refused_with_what_is_missing():
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2)
    with pytest.raises(BadInput) as refusal:
        anatomy_of(config)
    sentence = str(refusal.value)
    assert "'gpt2' is not supported; supported are: llama, mistral, qwen2, qwen3, gemma2, gemma3_text, modernbert" in sentence
    assert all(part in sentence for part in ("effir/compress/anatomy.py", "attention", "MLP", "norms", "projections", "modeling_effir.py"))
    with pytest.raises(BadInput, match="gpt2"):
        surgery.apply(transformers.GPT2Model(config), Cut(1))
