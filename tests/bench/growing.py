"""Growing: how time and memory follow a corpus, a training and a model that become three and ten times as large."""

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .material import Material
from .pairs import Pairs, seconds
from .watching import own_bytes, watched

SIZES = (1, 3, 10)
MOST_MEMORY = 1.05
SHARD, GROUPS, LAYERS = 8, 2, 3


def corpus(material: Material, rounds: int) -> Pairs:
    """8, 24 and 80 documents, 8 in a shard, encoded and searched."""
    from effir.export.loading import load_encoder
    from effir.retrieve.search import search

    encoder = load_encoder(material.model)
    texts = [" ".join(text.split()[:40]) for text in material.documents(SHARD)]
    asked = encoder.encode(texts[:4], "query")

    def act(size: int) -> None:
        names = [[f"{shard}-{row}" for row in range(SHARD)] for shard in range(size)]
        shards = ((encoder.encode(texts, "document").astype(np.float16), ids) for ids in names)
        search(asked, ["a", "b", "c", "d"], shards, 10)

    return _measured({size: lambda size=size: act(size) for size in SIZES}, rounds)  # type: ignore[misc]


def training_steps(material: Material, rounds: int) -> Pairs:
    """1, 3 and 10 steps of 2 queries."""
    from dataclasses import replace

    from effir.retrieve.encode import Encoder
    from effir.train import adapters
    from effir.train import plan as plans
    from effir.train.contrastive import Contrastive
    from effir.train.loop import Schedule, fit
    from effir.train.losses import Weights

    whole = material.trainable()
    settings = replace(whole.settings, max_document_tokens=64)
    adapted, parameters = adapters.attach(whole.model, 8, 16, 0.0)
    encoder = Encoder(adapted.base_model.model, whole.tokenizer, settings)
    lesson = material.training()
    plan = plans.lay_out(lesson, GROUPS, max(SIZES), 1, seed=0)
    step = Contrastive(encoder, plans.tokenise(encoder, lesson, plan), plan, Weights(0.05))
    encoder.model.train()
    return _measured(
        {size: lambda size=size: fit(parameters, step.step_loss, Schedule(size, 1e-4)) for size in SIZES},  # type: ignore[misc]
        rounds,
    )


def layers(material: Material, rounds: int) -> Pairs:
    """Models of 3, 9 and 30 layers of SmolLM2's shape on the same texts."""
    from transformers import LlamaConfig, LlamaModel

    del material
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 1024}
    models = {size: LlamaModel(LlamaConfig(num_hidden_layers=LAYERS * size, **shape)).eval() for size in SIZES}
    ids = torch.randint(1024, (4, 64), generator=torch.Generator().manual_seed(0))

    def act(model: Any) -> None:
        with torch.inference_mode():
            model(input_ids=ids, use_cache=False)

    return _measured({size: lambda model=model: act(model) for size, model in models.items()}, rounds)  # type: ignore[misc]


def _measured(acts: dict[int, Callable[[], object]], rounds: int) -> Pairs:
    """The exponent e of time ∝ size^e, of every round by least squares; memory at the largest size over that at the smallest.

    One run of the smallest does not count.
    """
    acts[min(acts)]()
    found, most = [], {}
    for _ in range(rounds):
        times = []
        for size, act in acts.items():
            before = own_bytes()
            with watched() as peak:
                times.append(seconds(act))
            most[size] = max(most.get(size, 0), before + peak())
        found.append(float(np.polyfit(np.log(list(acts)), np.log(times), 1)[0]))
    share = most[max(acts)] / most[min(acts)]
    unmet = "" if share <= MOST_MEMORY else f"{share:.2f} times the memory"
    return Pairs(found, None, {"memory": share, "exponent": statistics.median(found)}, unmet)
