import numpy as np
import torch

from effir.compress import slimming
from effir.compress.cut import Cut
from effir.compress.surgery import drop


def test_scales_of_one_change_nothing_and_stand_on_kept_mlps_only(tiny, ids):
    model = drop(tiny(), Cut(4, drop_mlp=[1]))
    scales = slimming.new_scales(model)
    assert sorted(scales) == [0, 2, 3]
    before = model(input_ids=ids, use_cache=False).last_hidden_state
    with slimming.scaled(model, scales):
        inside = model(input_ids=ids, use_cache=False).last_hidden_state
    assert torch.equal(before, inside)
    assert torch.equal(before, model(input_ids=ids, use_cache=False).last_hidden_state)


def test_the_penalty_has_the_gradient_that_the_paper_implies():
    """PAPER.md section 4, item 7: at z = 1, beta = 5, d/dz = 5 sigma(5) (1 - sigma(5)) per neuron."""
    z = torch.ones(3, dtype=torch.float64, requires_grad=True)
    slimming.penalty({0: z}, 5.0).backward()
    s = 1 / (1 + np.exp(-5.0))
    assert np.allclose(z.grad.numpy(), 5 * s * (1 - s))


def test_a_useless_neuron_gets_no_push_and_a_harmful_one_is_ranked_below(tiny, ids):
    model = tiny()
    torch.nn.init.zeros_(model.layers[0].mlp.down_proj.weight[:, 7])
    scales = slimming.new_scales(model)
    with slimming.scaled(model, scales):
        model(input_ids=ids, use_cache=False).last_hidden_state.square().sum().backward()
    assert scales[0].grad[7] == 0
    assert scales[0].grad.abs().sum() > 0


def test_rank_agreement_and_summary():
    first = {0: np.array([0.1, 0.2, 0.3]), 2: np.array([0.4])}
    assert slimming.rank_agreement(first, first) == 1.0
    assert slimming.rank_agreement(first, {layer: -z for layer, z in first.items()}) == -1.0
    figures = slimming.summary({0: np.array([1.0, 0.5, -0.5, 1.0])})
    assert figures["z_at_zero"] == 0.25
    assert np.isclose(figures["z_movement"], 0.5)
