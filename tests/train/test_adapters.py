import copy

import numpy as np
import torch

from effir.compress import slimming, surgery
from effir.compress.cut import Cut
from effir.train import adapters
from effir.train.contrastive import Contrastive
from effir.train.loop import Schedule, fit
from effir.train.losses import Weights


def states(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).last_hidden_state


def test_the_merged_adapter_equals_the_adapter(backbone):
    ids = torch.arange(24).view(3, 8)
    adapted, parameters = adapters.attach(backbone(), 4, 8, 0.0)
    assert len(parameters) == 3 * 7 * 2
    for name, value in parameters.items():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    adapted.eval()
    before = states(adapted.base_model.model, ids)
    merged = adapters.merge(adapted)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert (states(merged, ids) - before).abs().max() < 1e-6
    assert (before - states(backbone(), ids)).abs().max() > 1e-2


def test_narrow_then_fine_tune_follows_mask_fine_tune_delete(backbone, encoder, problem):
    """The paper masks, fine-tunes and then deletes; deleting first follows the same trajectory.

    Mask on down_proj's input with its adapter included, adapters initialised at full width and sliced, no dropout, an
    element-wise optimiser (AdamW), float64.
    """
    plan, texts = problem(steps=6, batch=4)
    kept = {0: np.array([1, 4, 5, 9, 20]), 2: np.arange(3, 19)}
    masked, masked_parameters = adapters.attach(backbone().double(), 4, 8, 0.0)
    full = {name: value.detach().clone().double() for name, value in masked_parameters.items()}
    narrowed, narrowed_parameters = adapters.attach(surgery.apply(backbone(), Cut(3, neurons=kept)), 4, 8, 0.0)
    for adapted in (masked, narrowed):
        adapted.double()
    _slice(narrowed_parameters, full, kept)
    with torch.no_grad():
        for name, value in masked_parameters.items():
            value.copy_(full[name])
    masks = {layer: torch.zeros(24, dtype=torch.float64).index_fill_(0, torch.as_tensor(chosen), 1.0) for layer, chosen in kept.items()}
    schedule = Schedule(6, 1e-2, warmup_steps=1, clip=None, weight_decay=0.01)
    for adapted, parameters, scales in ((masked, masked_parameters, masks), (narrowed, narrowed_parameters, {})):
        one = encoder(adapted.base_model.model)
        one.embed = _in_float64(one)
        with slimming.scaled(adapted.base_model.model, scales):
            fit(parameters, Contrastive(one, texts, plan, Weights(0.05), micro_batch=2).step_loss, schedule)
    deleted = surgery.apply(adapters.merge(masked), Cut(3, neurons=kept))
    found = adapters.merge(narrowed)
    moved = 0.0
    start = dict(surgery.apply(backbone(), Cut(3, neurons=kept)).named_parameters())
    for name, value in deleted.named_parameters():
        other = dict(found.named_parameters())[name]
        moved = max(moved, float((value - start[name]).abs().max().detach()))
        assert (value - other).abs().max() < 1e-8, name
    assert moved > 1e-3


def _slice(parameters, full, kept):
    with torch.no_grad():
        for name, value in parameters.items():
            source = full[name]
            layer = int(name.split("layers.")[1].split(".")[0])
            if layer in kept and "mlp" in name:
                chosen = torch.as_tensor(kept[layer])
                if "down_proj.lora_A" in name:
                    source = source[:, chosen]
                elif ("gate_proj" in name or "up_proj" in name) and "lora_B" in name:
                    source = source[chosen]
            value.copy_(source)


def _in_float64(one):
    def embed(tokens):
        lengths = torch.tensor([len(ids) for ids in tokens])
        ids = torch.zeros(len(tokens), int(lengths.max()), dtype=torch.long)
        for row, token in enumerate(tokens):
            ids[row, : len(token)] = torch.tensor(token)
        states = one.model(input_ids=ids, use_cache=False).last_hidden_state
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).double()
        return torch.nn.functional.normalize((states * mask[..., None]).sum(1) / lengths[:, None], dim=-1)

    return embed


def test_a_cut_model_takes_adapters_where_something_is_left(backbone):
    model = surgery.apply(copy.deepcopy(backbone()), Cut(3, drop_attention=[0], drop_mlp=[1]))
    _, parameters = adapters.attach(model, 2, 4, 0.0)
    assert len(parameters) == (3 + 4 + 7) * 2
