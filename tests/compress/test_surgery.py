import numpy as np
import pytest
import torch

from effir.compress import slimming, surgery
from effir.compress.cut import Cut
from effir.errors import BadInput


def states(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).last_hidden_state


def test_a_dropped_mlp_equals_a_zero_weight_mlp_exactly(tiny, ids):
    zeroed, dropped = tiny(), surgery.apply(tiny(), Cut(4, drop_mlp=[1, 3]))
    for layer in (1, 3):
        torch.nn.init.zeros_(zeroed.layers[layer].mlp.down_proj.weight)
    assert torch.equal(states(zeroed, ids), states(dropped, ids))


def test_a_dropped_attention_equals_a_zero_output_projection_exactly(tiny, ids):
    zeroed, dropped = tiny(), surgery.apply(tiny(), Cut(4, drop_attention=[0, 2]))
    for layer in (0, 2):
        torch.nn.init.zeros_(zeroed.layers[layer].self_attn.o_proj.weight)
    assert torch.equal(states(zeroed, ids), states(dropped, ids))


def test_a_layer_without_sub_layers_disappears_and_changes_nothing(tiny, ids):
    held = surgery.drop(tiny(), Cut(4, drop_attention=[1], drop_mlp=[1]))
    removed = surgery.apply(tiny(), Cut(4, drop_attention=[1], drop_mlp=[1]))
    assert len(removed.layers) == removed.config.num_hidden_layers == 3
    assert [layer.self_attn.layer_idx for layer in removed.layers] == [0, 1, 2]
    assert torch.equal(states(held, ids), states(removed, ids))


def test_masked_equals_narrowed(tiny, ids):
    random = np.random.default_rng(0)
    kept = {layer: np.sort(random.choice(48, size, replace=False)) for layer, size in ((0, 16), (2, 40))}
    masks = {layer: torch.zeros(48, dtype=torch.float64).index_fill_(0, torch.as_tensor(chosen), 1.0) for layer, chosen in kept.items()}
    masked, narrowed = tiny(), surgery.apply(tiny(), Cut(4, neurons=kept))
    with slimming.scaled(masked, masks):
        difference = (states(masked, ids) - states(narrowed, ids)).abs().max()
    assert difference < 1e-12
    assert surgery.widths(narrowed) == [16, 48, 40, 48]
    assert narrowed.layers[0].mlp.gate_proj.weight.shape == (16, 32)


def test_a_layer_narrowed_to_nothing_is_a_dropped_mlp(tiny, ids):
    none = surgery.apply(tiny(), Cut(4, neurons={2: np.array([], dtype=np.int64)}))
    assert torch.equal(states(none, ids), states(surgery.apply(tiny(), Cut(4, drop_mlp=[2])), ids))


def test_parameters_left_are_those_of_the_paper():
    """PAPER.md Table 2: Mistral-7B full 7.11 B, 8M 5.70 B, 16M 4.29 B, excluding the LM head."""
    from transformers import MistralConfig

    config = MistralConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8
    )
    found = [surgery.parameters(surgery.apply(surgery.skeleton(config), Cut(32, drop_mlp=list(range(count)))))[0] for count in (0, 8, 16)]
    assert [round(value / 1e9, 2) for value in found] == [7.11, 5.70, 4.29]


def test_refusals(tiny):
    with pytest.raises(BadInput, match="made for 6 layers and the model has 4"):
        surgery.apply(tiny(), Cut(6))
    with pytest.raises(BadInput, match="neuron 48"):
        surgery.apply(tiny(), Cut(4, neurons={0: np.array([1, 48])}))
    from transformers import BertConfig, BertModel

    with pytest.raises(BadInput, match=r"'bert' is not supported; supported are: llama, mistral, qwen2, qwen3"):
        surgery.layers_of(BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)))


def test_a_cut_survives_its_files(tmp_path):
    cut = Cut(4, [1], [2, 3], {0: np.array([1, 5, 7])})
    cut.save(tmp_path)
    back = Cut.load(tmp_path)
    assert (back.layers, back.drop_attention, back.drop_mlp) == (4, [1], [2, 3])
    assert back.neurons[0].tolist() == [1, 5, 7]
