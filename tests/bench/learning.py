"""Learning: a contrastive step beside Sentence-Transformers, an importance pass and a slimming step beside the least they can cost."""

from typing import Any

import numpy as np
import torch

from .encoding import sentence_transformer
from .material import Material
from .pairs import Pairs, alternate, by_turns, ratios, timed

BATCH, HELD, LONGEST = 8, 2, 96
TEMPERATURE, RATE, RANK, ALPHA = 0.05, 1e-4, 16, 32
SAME_LOSS = 2e-3


def training(material: Material, rounds: int) -> Pairs:
    """A step of 8 queries with a positive and a hard negative each, LoRA on every projection, 2 queries in memory at once.

    The first step does not count, but for its loss.
    """
    from effir.train.plan import token_count

    encoder, plan, texts = _lesson(material, BATCH, 1 + rounds)
    ours, peer = Ours(encoder, plan, texts), Peer(sentence_transformer(material.model), plan, texts)
    one, other = iter(range(1 + rounds)), iter(range(1 + rounds))
    found = by_turns(lambda: timed(lambda: ours.step(next(one))), lambda: timed(lambda: peer.step(next(other))), 1 + rounds)
    mine, others = (np.array(side) for side in found)
    far = float(np.max(np.abs(mine[:, 1] / others[:, 1] - 1)))
    if not far <= SAME_LOSS:
        raise AssertionError(f"the two do not learn the same: losses {mine[:, 1]} and {others[:, 1]}")
    tokens, spent = token_count(texts, plan[1:]), float(mine[1:, 0].sum())
    told = {"tokens": tokens, "tokens_per_second": tokens / spent, "loss_difference": far, "seconds": spent}
    return Pairs(ratios(list(mine[1:, 0]), list(others[1:, 0])), None, told)


class Ours:
    """The step that phase finetune takes."""

    def __init__(self, encoder: Any, plan: Any, texts: Any) -> None:
        from effir.retrieve.encode import Encoder
        from effir.train import adapters
        from effir.train.contrastive import Contrastive
        from effir.train.losses import Weights

        torch.manual_seed(0)
        adapted, parameters = adapters.attach(encoder.model, RANK, ALPHA, 0.0)
        own = Encoder(adapted.base_model.model, encoder.tokenizer, encoder.settings)
        own.model.train()
        self.lesson = Contrastive(own, texts, plan, Weights(TEMPERATURE), micro_batch=HELD)
        self.optimiser = torch.optim.AdamW(parameters.values(), lr=RATE, weight_decay=0.0)

    def step(self, number: int) -> float:
        """Take one; returns its loss."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.lesson.step_loss(number)["loss"]
        self.optimiser.step()
        return loss


class Peer:
    """The same with CachedMultipleNegativesRankingLoss, peft's adapters and padded batches of token ids."""

    def __init__(self, model: Any, plan: Any, texts: Any) -> None:
        from peft import LoraConfig
        from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

        torch.manual_seed(0)
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=targets))
        model.train()
        self.loss = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, mini_batch_size=HELD)
        self.optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=RATE, weight_decay=0.0)
        self.batches = [_columns(groups, texts) for groups in plan]

    def step(self, number: int) -> float:
        """Take one; returns its loss."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss([dict(column) for column in self.batches[number]], None)
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())


def _columns(groups: Any, texts: Any) -> list[dict[str, torch.Tensor]]:
    """Queries, positives and negatives of a step, padded."""
    columns = [[texts.queries[group.query_id] for group in groups]]
    columns += [[texts.documents[group.documents[place]] for group in groups] for place in range(len(groups[0].documents))]
    return [_padded(column) for column in columns]


def _padded(tokens: list[list[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, tokens))
    ids = torch.tensor([[*one, *[0] * (longest - len(one))] for one in tokens])
    mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in tokens])
    return {"input_ids": ids, "attention_mask": mask}


def importance_pass(material: Material, rounds: int) -> Pairs:
    """Eq. 3 for every sub-layer over 16 texts of 96 tokens, beside a bare forward pass over the same."""
    from effir.compress import importance

    model = material.trainable().model.eval()
    batches = _text(model.config.vocab_size)

    def bare() -> None:
        with torch.inference_mode():
            for ids, _ in batches:
                model(input_ids=ids, use_cache=False)

    mine, others = alternate(lambda: importance.measure(model, batches), bare, rounds)
    return Pairs(ratios(mine, others), None, {"seconds": min(mine)})


def _text(vocabulary: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    dice = torch.Generator().manual_seed(0)
    ids = [torch.randint(vocabulary, (4, LONGEST), generator=dice) for _ in range(4)]
    return [(one, torch.ones_like(one)) for one in ids]


def slimming_step(material: Material, rounds: int) -> Pairs:
    """A step that learns z of every neuron, beside forward and backward of the activations alone, no weight learning."""
    from effir.compress import slimming
    from effir.train.attention import attention_for
    from effir.train.contrastive import Contrastive
    from effir.train.losses import Weights

    encoder, plan, texts = _lesson(material, HELD, 1)
    model = encoder.model.requires_grad_(False)
    scales = slimming.new_scales(model)
    lesson = Contrastive(encoder, texts, plan, Weights(TEMPERATURE))
    model.train()

    def ours() -> None:
        with slimming.scaled(model, scales):
            lesson.step_loss(0)
            (1e-5 * slimming.penalty(scales, 5.0)).backward()

    columns = _columns(plan[0], texts)
    given = [columns[0], _padded([texts.documents[one] for group in plan[0] for one in group.documents])]

    def bare() -> None:
        with attention_for(model, lesson.longest):
            for batch in given:
                inputs = model.get_input_embeddings()(batch["input_ids"]).requires_grad_()
                states = model(inputs_embeds=inputs, use_cache=False).last_hidden_state
                (states.float() * batch["attention_mask"][:, :, None]).sum().backward()

    mine, others = alternate(ours, bare, rounds)
    return Pairs(ratios(mine, others), None, {"seconds": min(mine)})


def _lesson(material: Material, batch: int, steps: int) -> tuple[Any, Any, Any]:
    """An encoder, a plan of so many steps, and its texts."""
    from dataclasses import replace

    from effir.train import plan as plans

    encoder = material.trainable()
    encoder.settings = replace(encoder.settings, max_document_tokens=LONGEST)
    lesson = material.training()
    plan = plans.lay_out(lesson, batch, steps, 1, seed=0)
    return encoder, plan, plans.tokenise(encoder, lesson, plan)
