from dataclasses import replace

import numpy as np
import pytest
import torch

from effir.train.contrastive import Contrastive
from effir.train.losses import Weights
from effir.train.plan import Targets


def gradients(model):
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def by_hand(encoder, plan, texts, temperature):
    """The plain large batch: every text on its own through the model, InfoNCE written out."""
    groups = plan[0]
    queries = torch.cat([encoder.embed([texts.queries[group.query_id]]) for group in groups])
    columns = [document for group in groups for document in group.documents]
    documents = torch.cat([encoder.embed([texts.documents[one]]) for one in columns])
    scores = (queries @ documents.T) / temperature
    size = len(groups[0].documents)
    return torch.stack([scores[row].logsumexp(0) - scores[row, row * size] for row in range(len(groups))]).mean()


@pytest.mark.parametrize("negatives", [0, 2])
@pytest.mark.parametrize("micro_batch", [1, 2, 4, 0])
def test_the_cached_gradient_equals_the_plain_large_batch(backbone, encoder, problem, negatives, micro_batch):
    plan, texts = problem(negatives=negatives)
    plain, cached = backbone(), backbone()
    torch.set_default_dtype(torch.float64)
    try:
        loss = by_hand(_exact(encoder(plain)), plan, texts, 0.02)
        loss.backward()
        step = Contrastive(_exact(encoder(cached)), texts, plan, Weights(0.02), micro_batch=micro_batch, batch_tokens=24)
        parts = step.step_loss(0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.isclose(parts["info_nce"], loss.item(), rtol=1e-9)
    expected, found = gradients(plain), gradients(cached)
    assert expected.keys() == found.keys()
    for name in expected:
        assert (expected[name] - found[name]).abs().max() <= 1e-6 * expected[name].abs().max() + 1e-12, name


def test_evaluating_gives_the_figures_of_a_step_and_no_gradients(backbone, encoder, problem):
    plan, texts = problem(steps=2)
    model = backbone()
    step = Contrastive(encoder(model), texts, plan, Weights(0.05))
    found = step.evaluate(1)
    assert gradients(model) == {}
    trained = step.step_loss(1)
    assert {name: trained[name] for name in found} == found
    assert found["info_nce"] != step.evaluate(0)["info_nce"]


def test_dropout_is_the_same_in_both_passes(backbone, encoder, problem):
    """With dropout, the gradient of the second pass must belong to the vectors of the first: two chunks, replayed by hand."""
    from effir.train import adapters

    plan, texts = problem(batch=4)
    model = backbone(torch.float32)
    torch.manual_seed(1)
    adapted, parameters = adapters.attach(model, 4, 8, 0.3)
    for name, value in parameters.items():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    adapted.train()
    one = encoder(adapted.base_model.model)
    seen = []

    def loss_of(queries, documents):
        seen.append((queries.detach().clone(), documents.detach().clone()))
        return (queries.sum() + documents.pow(2).sum()), {}

    from effir.train.loop import cached_gradient

    again = []

    def embed(groups):
        pair = step._embed(groups)
        again.append(tuple(part.detach().clone() for part in pair))
        return pair

    step = Contrastive(one, texts, plan, Weights())
    torch.manual_seed(5)
    cached_gradient([plan[0][:2], plan[0][2:]], embed, loss_of)
    assert torch.equal(again[0][0], again[2][0])
    assert torch.equal(again[1][1], again[3][1])
    assert not torch.equal(again[0][0], one.embed_in_parts([texts.queries[group.query_id] for group in plan[0][:2]], 999))
    assert torch.equal(seen[0][0], torch.cat([again[0][0], again[1][0]]))


def test_mixed_precision_gives_gradients_through_both_passes_and_sees_every_optimiser_step(backbone, encoder, problem):
    """bfloat16 base, float32 adapters: chunked gradients near the plain ones, and a later loss that knows the earlier steps."""
    from effir.train import adapters
    from effir.train.loop import Schedule, fit

    plan, texts = problem(batch=6, negatives=1)
    found = []
    for micro_batch in (0, 2):
        torch.manual_seed(0)
        adapted, parameters = adapters.attach(backbone(torch.bfloat16), 4, 8, 0.0)
        step = Contrastive(encoder(adapted.base_model.model), texts, plan * 12, Weights(0.05), micro_batch=micro_batch, mixed=True)
        step.step_loss(0)
        gradient = torch.cat([value.grad.flatten() for value in parameters.values()])
        assert gradient.abs().max() > 1e-3
        found.append(gradient)
        history = fit(parameters, step.step_loss, Schedule(12, 1e-2, clip=None))
        assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.99


def test_relevant_and_equal_documents_are_masked(backbone, encoder, problem):
    plan, texts = problem(batch=3, negatives=1)
    first, second, third = plan[0]
    plan[0][0] = replace(first, relevant=first.relevant | {second.documents[0]})
    texts.keys = dict(texts.keys) | {third.documents[1]: texts.keys[first.documents[0]]}
    batch = Contrastive(encoder(backbone()), texts, plan, Weights()).describe(plan[0])
    assert batch.own.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert batch.blocked.int().tolist() == [[1, 0, 1, 0, 0, 1], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]]


def test_teacher_scores_and_targets_stand_at_their_texts(backbone, encoder, problem):
    plan, texts = problem(batch=2, negatives=1)
    teacher = {"q0": {"q0-d0": 3.0, "q0-d1": 1.0}, "q1": {"q1-d0": 0.5, "q1-d1": 0.2}}
    documents = sorted(texts.documents)
    targets = Targets(
        np.eye(2, 4, dtype=np.float32),
        {"q0": 1, "q1": 0},
        np.arange(16, dtype=np.float32).reshape(4, 4),
        {one: row for row, one in enumerate(documents)},
    )
    batch = Contrastive(encoder(backbone()), texts, plan, Weights(), teacher=teacher, targets=targets).describe(plan[0])
    assert batch.teacher.tolist() == [[3.0, 1.0], [0.5, np.float32(0.2)]]
    assert batch.query_target[0].tolist() == [0, 1, 0, 0]
    assert batch.document_target[:, 0].tolist() == [0, 4, 8, 12]


def _exact(encoder):
    """The same encoder without the rounding of vectors to float32."""
    import types

    from effir.retrieve.encode import pool

    def embed(self, tokens):
        lengths = torch.tensor([len(ids) for ids in tokens])
        ids = torch.zeros(len(tokens), int(lengths.max()), dtype=torch.long)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = torch.tensor(one)
        states = self.model(input_ids=ids, use_cache=False).last_hidden_state
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).double()
        assert pool(states.float(), lengths, "mean").shape == states[:, 0].shape
        return torch.nn.functional.normalize((states * mask[..., None]).sum(1) / lengths[:, None], dim=-1)

    encoder.embed = types.MethodType(embed, encoder)
    return encoder
