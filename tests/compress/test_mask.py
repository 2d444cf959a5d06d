import numpy as np
import pytest
import torch

from effir.compress import mask, surgery
from effir.compress.cut import Cut
from effir.compress.measures import MEASURES, without

SIZES = {("attention", 0): 10, ("mlp", 0): 30, ("attention", 1): 10, ("mlp", 1): 30}


def told(done, total):
    assert 0 < done <= total


def test_the_chance_of_an_open_gate_is_how_often_one_is_drawn_open():
    gates = mask.Gates(SIZES, "cpu")
    with torch.no_grad():
        gates.logits.copy_(torch.tensor([-3.0, -1.0, 0.0, 2.0]))
    drawn = []
    for _ in range(4000):
        gates.draw()
        drawn.append(gates.drawn().detach())
    assert all(torch.equal(gates.drawn(), gates.drawn()) for _ in range(3))
    assert torch.stack(drawn).gt(0).float().mean(0).tolist() == pytest.approx(gates.open().tolist(), abs=0.03)
    assert torch.stack(drawn).max() == 1 and torch.stack(drawn).min() == 0


def test_pressure_alone_closes_gates_until_the_target_and_no_further():
    gates = mask.Gates(SIZES, "cpu")
    assert gates.press(1.0) == pytest.approx(0.97, abs=0.01)
    for _ in range(600):
        share = gates.press(mask.KEEP)
    assert share == pytest.approx(mask.KEEP, abs=0.05)
    assert sum(gates.worth().values()) == pytest.approx(share, abs=0.05)


def test_a_gate_is_on_what_is_added(tiny, ids):
    """Open, the model is what it was; shut, the one that surgery leaves."""
    model = tiny()
    whole = model(input_ids=ids, use_cache=False).last_hidden_state
    sizes = {(kind, index): 1 for index in range(len(model.layers)) for kind in ("attention", "mlp")}
    gates = mask.Gates(sizes, "cpu")
    with torch.no_grad():
        gates.logits.fill_(30.0)
        with mask.gated(model, gates):
            assert torch.allclose(model(input_ids=ids, use_cache=False).last_hidden_state, whole, atol=1e-6)
        gates.logits[list(sizes).index(("attention", 1))] = -30.0
        gates.logits[list(sizes).index(("mlp", 2))] = -30.0
        with mask.gated(model, gates):
            shut = model(input_ids=ids, use_cache=False).last_hidden_state
        with without(model, [("attention", 1), ("mlp", 2)]):
            assert torch.allclose(shut, model(input_ids=ids, use_cache=False).last_hidden_state, atol=1e-6)
    cut = surgery.drop(tiny(), Cut(len(model.layers), [1], [2]))
    assert torch.allclose(shut, cut(input_ids=ids, use_cache=False).last_hidden_state, atol=1e-6)


@pytest.mark.parametrize("useless", [0, 1, 2])
def test_what_does_nothing_is_shut_first(tiny, pairs, useless):
    """The gate of a sub-layer that adds nothing feels the pressure alone, the others the loss as well, which their weights make large."""
    model = tiny(layers=3).requires_grad_(False)
    for layer in model.layers:
        layer.self_attn.o_proj.weight.data *= 20
        layer.mlp.down_proj.weight.data *= 20
    model.layers[useless].mlp.down_proj.weight.data.zero_()
    found = MEASURES["learned_mask"](model, pairs(model, steps=40), told)
    assert found.mean["mlp"].argmin() == useless
    assert np.allclose(found.mean["block"], found.mean["attention"] + found.mean["mlp"])
    assert 0.3 < found.mean["block"].sum() < 0.9
