import numpy as np
import torch

from effir.compress import importance


def stored_states_formula(model, ids, mask):
    """Eq. 3 on stored hidden states, the way LLM-Drop does it: independent of the streaming code."""
    mlp, attention = [], []
    with torch.no_grad():
        hidden = model.embed_tokens(ids)
        position = torch.arange(ids.shape[1])[None]
        rotary = model.rotary_emb(hidden, position)
        for layer in model.layers:
            normed = layer.input_layernorm(hidden)
            middle = hidden + layer.self_attn(normed, position_embeddings=rotary, attention_mask=None)[0]
            after = middle + layer.mlp(layer.post_attention_layernorm(middle))
            for found, x, y in ((attention, hidden, middle), (mlp, middle, after)):
                cosine = (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
                found.append(float((1 - cosine)[mask.bool()].mean()))
            hidden = after
    return np.array(attention), np.array(mlp)


def test_streaming_equals_stored_states(tiny, ids):
    model = tiny()
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    attention, mlp = stored_states_formula(model, ids, mask)
    found = importance.measure(model, [(ids, mask)])
    assert np.abs(found.mean["attention"] - attention).max() < 1e-6
    assert np.abs(found.mean["mlp"] - mlp).max() < 1e-6
    assert found.tokens == 15


def test_scores_do_not_depend_on_the_batching(tiny, ids):
    model = tiny()
    together = importance.measure(model, [(ids, torch.ones_like(ids))])
    apart = importance.measure(model, [(row[None], torch.ones_like(row[None])) for row in ids])
    for kind in importance.KINDS:
        assert np.allclose(together.mean[kind], apart.mean[kind], atol=1e-9)
        assert np.allclose(together.error[kind], apart.error[kind], atol=1e-9)


def test_a_sub_layer_that_does_nothing_scores_zero_and_survives_json(tiny, ids):
    model = tiny()
    torch.nn.init.zeros_(model.layers[2].mlp.down_proj.weight)
    torch.nn.init.zeros_(model.layers[1].self_attn.o_proj.weight)
    found = importance.Importance.from_json(importance.measure(model, [(ids, torch.ones_like(ids))]).to_json())
    assert found.mean["mlp"][2] < 1e-6
    assert found.mean["attention"][1] < 1e-6
    assert np.delete(found.mean["mlp"], 2).min() > 1e-4
