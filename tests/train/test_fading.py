import copy

import numpy as np
import torch

from effir.compress import surgery
from effir.compress.cut import Cut
from effir.train import adapters
from effir.train.contrastive import Contrastive
from effir.train.fading import Fading
from effir.train.loop import Schedule, fit
from effir.train.losses import Weights

IDS = torch.arange(24).view(3, 8)
CUT = Cut(3, [0, 2], [2], {0: np.arange(0, 24, 2), 1: np.array([], dtype=np.int64)})


def states(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).last_hidden_state


def test_an_open_gate_is_the_whole_model_and_a_shut_one_the_cut_one(backbone):
    model, cut = backbone(), surgery.apply(backbone(), CUT)
    fading = Fading(surgery.narrow_all(model, CUT), CUT, 4)
    assert torch.equal(states(model), states(surgery.narrow_all(backbone(), CUT)))
    between = states(model)
    fading.gate = 0.0
    assert torch.equal(states(model), states(cut))
    assert (between - states(cut)).abs().max() > 1e-3
    fading.finish()
    fading.finish()
    surgery.remove_empty(model)
    assert torch.equal(states(model), states(cut))
    assert [len(surgery.layers_of(one)) for one in (model, cut)] == [2, 2]


def test_the_gate_falls_step_by_step_and_is_shut_in_time(backbone):
    model = backbone()
    fading, gates, whole = Fading(model, CUT, 3), [], []
    step = fading.around(lambda number: (gates.append(round(fading.gate, 9)), whole.append(not fading.dropped)))
    for number in range(5):
        step(number)
    assert gates[:3] == [0.75, 0.5, 0.25]
    assert whole == [True, True, True, False, False]
    assert surgery.widths(model) == [24, 0, 0]


def test_what_goes_gets_no_adapter(backbone):
    model = backbone()
    fading = Fading(model, CUT, 3)
    _, parameters = adapters.attach(model, 4, 8.0, 0.0, fading.projections())
    adapted = {name.split("layers.")[1].rsplit(".lora_", 1)[0] for name in parameters}
    kept = {f"1.self_attn.{name}_proj" for name in "qkvo"} | {f"0.mlp.{name}_proj" for name in ("gate", "up", "down")}
    assert adapted == kept


def test_a_training_that_fades_resumes_to_the_same_weights_and_ends_cut(backbone, encoder, problem):
    plan, texts = problem(steps=6, batch=4)

    class Kept:
        at = None

        def save(self, step, parameters, optimiser, state):
            self.at = copy.deepcopy(({name: one.detach() for name, one in parameters.items()}, optimiser.state_dict(), state))

        def load(self, parameters, optimiser):
            if self.at is None:
                return None
            weights, moments, state = copy.deepcopy(self.at)
            for name, one in parameters.items():
                one.data.copy_(weights[name])
            optimiser.load_state_dict(moments)
            return state

    def train(kept=None, steps=6):
        model = surgery.narrow_all(backbone(), CUT)
        fading = Fading(model, CUT, 4)
        torch.manual_seed(0)
        adapted, parameters = adapters.attach(model, 4, 8.0, 0.0, fading.projections())
        step = Contrastive(encoder(adapted.base_model.model), texts, plan, Weights(0.05))
        fit(parameters, fading.around(step.step_loss), Schedule(steps, 1e-2, decay=False, checkpoint_every=2), kept)
        merged = adapters.merge(adapted)
        fading.finish()
        surgery.remove_empty(merged)
        return merged

    whole, kept = train(), Kept()
    train(kept, steps=3)
    assert len(kept.at[2]["history"]) == 2
    again = train(kept)
    assert torch.equal(states(again), states(whole))
    assert [len(surgery.layers_of(whole)), surgery.widths(whole)] == [2, [12, 0]]
