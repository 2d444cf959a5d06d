import numpy as np
import pytest
import torch

from effir.compress import needs, surgery, weights
from effir.compress.cut import Cut
from effir.errors import BadInput

TWO_OF_FOUR = ["magnitude_2_4", "wanda_2_4"]
PUBLISHED = [
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
]  # fmt: skip
"""The values of NF4 as bitsandbytes has them."""


def drawn(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def told(done: int, total: int) -> None:
    assert 0 < done <= total


def text(ids):
    return [(ids, torch.ones_like(ids))]


def test_every_rule_has_a_need():
    assert set(weights.RULES) == set(needs.WEIGHTS)


def test_the_normal_floats_are_the_published_ones():
    assert weights.normal_floats().tolist() == pytest.approx(PUBLISHED, abs=1e-6)


def test_nf4_takes_the_nearest_of_sixteen_in_every_block():
    weight = drawn(5, 40)
    found = weights.nf4(weight).flatten().tolist()
    flat = weight.flatten().tolist()
    for start in range(0, len(flat), 64):
        block = flat[start : start + 64]
        scale = max(map(abs, block))
        nearest = [min((value * scale for value in PUBLISHED), key=lambda one, value=value: abs(one - value)) for value in block]
        assert found[start : start + 64] == pytest.approx(nearest, abs=1e-5)
    assert (weights.nf4(torch.zeros(3, 64)) == 0).all()


def test_int8_has_255_steps_a_row():
    weight = drawn(6, 2000)
    found = weights.int8(weight)
    for row, given in zip(found.numpy(), weight.numpy(), strict=True):
        step = np.abs(given).max() / 127
        assert row == pytest.approx(np.rint(given / step) * step, abs=1e-6)
        assert len(np.unique(np.rint(row / step))) <= 255
    assert (weights.int8(torch.zeros(3, 8)) == 0).all()


@pytest.mark.parametrize("name", TWO_OF_FOUR)
def test_two_of_four_stay_and_they_are_the_best_two(name):
    weight, norms = drawn(7, 24), drawn(1, 24, seed=1)[0].abs()
    found = weights.RULES[name](weight, norms)
    worth = weight.abs() * (norms if name == "wanda_2_4" else 1)
    for row, given, kept in zip(worth.tolist(), weight.tolist(), found.tolist(), strict=True):
        for start in range(0, 24, 4):
            best = sorted(range(start, start + 4), key=lambda place, row=row: -row[place])[:2]
            wanted = [given[place] if place in best else 0.0 for place in range(start, start + 4)]
            assert kept[start : start + 4] == wanted


def test_of_equal_weights_two_stay():
    assert weights.magnitude_2_4(torch.ones(2, 8)).sum() == 8


@pytest.mark.parametrize("name", weights.RULES)
def test_the_projections_of_the_layers_that_are_left_change_and_nothing_else(tiny, ids, name):
    model, whole = (surgery.drop(tiny(), Cut(4, drop_attention=[2], drop_mlp=[1])) for _ in range(2))
    count = weights.change(model, name, text(ids), told)
    before, after = whole.state_dict(), model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if "_proj" in key}
    assert count == sum(before[key].numel() for key in changed)
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_wanda_looks_at_what_goes_in_without_the_padding(tiny, ids):
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    model, whole = tiny(), tiny()
    with torch.no_grad():
        seen = [
            whole(input_ids=row[: int(length)][None], output_hidden_states=True, use_cache=False).hidden_states[2][0]
            for row, length in zip(ids, mask.sum(1), strict=True)
        ]
        normed = whole.layers[2].input_layernorm(torch.cat(seen))
    weights.change(model, "wanda_2_4", [(ids, mask)], told)
    wanted = weights.wanda_2_4(whole.layers[2].self_attn.k_proj.weight.float(), normed.norm(dim=0).float())
    assert torch.equal(model.layers[2].self_attn.k_proj.weight != 0, wanted != 0)


@pytest.mark.parametrize("name", TWO_OF_FOUR)
def test_rows_that_are_no_fours_are_refused_before_anything_changes(tiny, ids, name):
    model, whole = tiny(width=46), tiny(width=46)
    with pytest.raises(BadInput, match=rf"weights={name} needs rows in fours, and 0.mlp.down_proj has rows of 46 weights"):
        weights.change(model, name, text(ids), told)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), whole.parameters(), strict=True))
