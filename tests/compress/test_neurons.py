from typing import get_args

import numpy as np
import pytest
import torch

from effir.compress import needs, surgery, widths
from effir.compress.cut import Cut
from effir.compress.neurons import NEURON_SCORES, summary
from effir.spec import RunSpec

LOOKING = ["activation_norm", "magnitude", "taylor"]


def told(done, total):
    assert 0 < done <= total


@pytest.fixture
def score(pairs, ids):
    """Scores a model's neurons by a score's name, on calibration text or contrastive batches as it needs."""

    def run(name, model, **settings):
        data = {"text": [(ids, torch.ones_like(ids))], "pairs": pairs(model, **settings), "nothing": 0}
        return NEURON_SCORES[name](model, data[needs.NEURONS[name]], told)

    return run


def test_every_score_has_a_need_and_a_spec_value():
    """Slimming is a training, and so no function among the scores."""
    assert set(NEURON_SCORES) | {"slimming"} == set(needs.NEURONS)
    assert set(needs.NEURONS) == set(get_args(RunSpec.model_fields["neuron_score"].annotation))


@pytest.mark.parametrize("name", NEURON_SCORES)
def test_scores_stand_on_kept_mlps_only(tiny, score, name):
    found = score(name, surgery.drop(tiny(), Cut(4, drop_mlp=[1])))
    assert sorted(found) == [0, 2, 3]
    assert all(one.shape == (48,) and one.dtype == np.float32 and np.isfinite(one).all() for one in found.values())
    assert score(name, surgery.drop(tiny(), Cut(4, drop_mlp=[0, 1, 2, 3]))) == {}


@pytest.mark.parametrize("name", LOOKING)
def test_a_neuron_that_writes_nothing_goes_first(tiny, score, name):
    model = tiny()
    torch.nn.init.zeros_(model.layers[2].mlp.down_proj.weight[:, 7])
    found = score(name, model)
    assert found[2][7] == 0
    assert min(np.delete(found[2], 7).min(), *(found[layer].min() for layer in (0, 1, 3))) > 0
    cut = widths.choose(Cut(4), found, 1 - 1 / (4 * 48), 1)
    assert {layer: np.setdiff1d(np.arange(48), kept).tolist() for layer, kept in cut.neurons.items()} == {2: [7]}


@pytest.mark.parametrize("name", LOOKING)
def test_the_neuron_that_alone_carries_the_signal_stays_last_of_all_layers(tiny, score, name):
    model = tiny()
    for layer in model.layers:
        layer.mlp.down_proj.weight.data *= 1e-3
    model.layers[1].mlp.down_proj.weight.data[:, 5] *= 1e5
    cut = widths.choose(Cut(4), score(name, model), 1 / (4 * 48), 1)
    assert cut.neurons[1].tolist() == [5]
    assert cut.drop_mlp == [0, 2, 3]


def activations(model, ids):
    """What goes into every down_proj, from the layer's own formula on stored hidden states: (layers, n, t, width)."""
    with torch.no_grad():
        hidden = model.embed_tokens(ids)
        rotary = model.rotary_emb(hidden, torch.arange(ids.shape[1])[None])
        found = []
        for layer in model.layers:
            middle = hidden + layer.self_attn(layer.input_layernorm(hidden), position_embeddings=rotary, attention_mask=None)[0]
            read = layer.post_attention_layernorm(middle)
            inner = torch.nn.functional.silu(read @ layer.mlp.gate_proj.weight.T) * (read @ layer.mlp.up_proj.weight.T)
            hidden = middle + inner @ layer.mlp.down_proj.weight.T
            found.append(inner)
    return torch.stack(found)


def test_activation_norm_is_the_length_that_a_neuron_adds_and_padding_does_not_matter(tiny, ids):
    model, mask = tiny(), torch.ones_like(ids)
    mask[1, 6:] = 0
    found = NEURON_SCORES["activation_norm"](model, [(ids, mask)], told)
    apart = NEURON_SCORES["activation_norm"](model, [(ids[:1], mask[:1]), (ids[1:, :6], mask[1:, :6])], told)
    inner = activations(model, ids)
    for index, layer in enumerate(model.layers):
        added = inner[index][..., None] * layer.mlp.down_proj.weight.T
        expected = added[mask.bool()].pow(2).sum(-1).mean(0).sqrt()
        assert np.allclose(found[index], expected.detach().numpy(), rtol=1e-5)
        assert np.allclose(found[index], apart[index], rtol=1e-6)


def test_magnitude_is_the_product_of_three_lengths_and_knows_what_scale_means_nothing(tiny):
    model = tiny()
    mlp = model.layers[3].mlp.requires_grad_(False)
    before = NEURON_SCORES["magnitude"](model, 0, told)
    lengths = [float(one.square().sum().sqrt()) for one in (mlp.gate_proj.weight[4], mlp.up_proj.weight[4], mlp.down_proj.weight[:, 4])]
    assert before[3][4] == pytest.approx(np.prod(lengths), rel=1e-6)
    mlp.up_proj.weight[4] *= 8
    mlp.down_proj.weight[:, 4] /= 8
    assert np.allclose(NEURON_SCORES["magnitude"](model, 0, told)[3], before[3], rtol=1e-6)


def test_taylor_is_activation_times_gradient_token_by_token(tiny, pairs, loss_by_hand):
    """The gradient by hand: of the loss of unpadded texts, by something added to each activation that stands at zero."""
    model = tiny(layers=2)
    given = pairs(model, steps=2, negatives=1)
    found = NEURON_SCORES["taylor"](model, given, told)
    for index, layer in enumerate(model.layers):
        totals = []
        for step in range(2):
            seen = []

            def shift(_module, args, seen=seen):
                seen.append((args[0].detach(), torch.zeros_like(args[0], requires_grad=True)))
                return (args[0] + seen[-1][1],)

            hook = layer.mlp.down_proj.register_forward_pre_hook(shift)
            loss_by_hand(model, given, step).backward()
            hook.remove()
            totals.append(sum((activation * shifted.grad).abs().sum((0, 1)) for activation, shifted in seen))
        assert np.allclose(found[index], torch.stack(totals).mean(0).numpy(), rtol=1e-3)


@pytest.mark.parametrize("settings", [{"batch_tokens": 1}, {"batch_tokens": 20}, {"micro_batch": 3}])
def test_padding_and_the_micro_batch_do_not_matter_to_taylor(tiny, score, settings):
    plain, other = score("taylor", tiny()), score("taylor", tiny(), **settings)
    assert all(np.allclose(plain[layer], other[layer], rtol=1e-3) for layer in range(4))


@pytest.mark.parametrize("name", LOOKING)
def test_in_bfloat16_the_scores_are_nearly_the_same(tiny, score, name):
    exact, rough = score(name, tiny(), steps=4), score(name, tiny().bfloat16(), steps=4, mixed=True)
    assert np.corrcoef(*(np.concatenate(list(one.values())) for one in (exact, rough)))[0, 1] > 0.98


@pytest.mark.parametrize("name", LOOKING)
def test_scoring_leaves_the_model_as_it_was(tiny, score, ids, name):
    model = tiny()
    before = model(input_ids=ids, use_cache=False).last_hidden_state
    score(name, model)
    after = model(input_ids=ids, use_cache=False).last_hidden_state
    assert torch.equal(before, after)
    assert not after.requires_grad
    assert all(value.grad is None for value in model.parameters())


def test_random_depends_on_seed_and_layer_alone(tiny):
    first, other = (NEURON_SCORES["random"](tiny(seed=seed), seed, told) for seed in (0, 1))
    dropped = NEURON_SCORES["random"](surgery.drop(tiny(seed=5), Cut(4, drop_mlp=[0])), 0, told)
    assert np.array_equal(first[2], dropped[2])
    assert not np.array_equal(first[2], first[3])
    assert not np.array_equal(first[2], other[2])


def test_the_summary_has_quantiles_of_all_layers_together():
    scores = {0: np.arange(50, dtype=np.float32), 2: np.arange(50, 101, dtype=np.float32)}
    assert summary(scores) == {"score_q01": 1, "score_q10": 10, "score_q50": 50, "score_q90": 90, "score_q99": 99}
