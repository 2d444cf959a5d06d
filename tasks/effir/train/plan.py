"""What a training will see, laid out beforehand: the groups of every step, their texts tokenised once, their targets."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from effir.errors import BadInput
from effir.retrieve.encode import Encoder, pass_tokens
from effir.train.examples import TrainingSet, batch_at
from effir.train.ranks import Ranks


@dataclass(frozen=True)
class Group:
    """A query with its documents in one step: the positive first, then hard negatives. All groups of a plan have one size.

    relevant: ids of every document known to be relevant to the query.
    """

    query_id: str
    documents: tuple[str, ...]
    relevant: frozenset[str]


@dataclass
class Texts:
    """Everything a plan touches, tokenised once. keys: document id → its text, so that equal texts are seen as equal."""

    queries: Mapping[str, list[int]]
    documents: Mapping[str, list[int]]
    keys: Mapping[str, str]


@dataclass
class Targets:
    """Unit vectors of the reference: (n, d) float32 and the row of each id, for queries and for documents."""

    queries: np.ndarray
    query_rows: Mapping[str, int]
    documents: np.ndarray
    document_rows: Mapping[str, int]


def lay_out(training: TrainingSet, batch: int, steps: int, hard_negatives: int, seed: int) -> list[list[Group]]:
    """The groups of every step; step i depends on (seed, i) alone.

    Raises BadInput if there are fewer examples than a batch needs.
    """
    if len(training.examples) < batch:
        raise BadInput(
            f"training data has {len(training.examples)} queries, fewer than one batch of {batch}: lower batch or give more data"
        )
    corpus = list(training.corpus)
    plan = []
    for step in range(steps):
        groups = []
        for choice in batch_at(training.examples, batch, step, hard_negatives, seed):
            example = training.examples[choice.example]
            negatives = _filled(choice.negatives, hard_negatives, example.positives, corpus, f"{seed}:{step}:{example.query_id}")
            groups.append(Group(example.query_id, (choice.positive, *negatives), frozenset(example.positives)))
        plan.append(groups)
    return plan


def _filled(negatives: Sequence[str], count: int, positives: Sequence[str], corpus: Sequence[str], seed: str) -> list[str]:
    """A query with too few hard negatives gets other documents of the corpus, so that all groups have one size."""
    found = list(negatives)
    dice = random.Random(seed)
    others = dice.sample(corpus, min(len(corpus), count + len(positives))) if len(found) < count else []
    found += [one for one in others if one not in positives and one not in found][: count - len(found)]
    if len(found) < count:
        raise BadInput(f"the training corpus has too few documents for {count} hard negatives a query: lower hard_negatives")
    return found


def share(plan: Sequence[Sequence[Group]], ranks: Ranks) -> list[list[Group]]:
    """What a rank embeds of a plan: its part of every step."""
    return [[groups[index] for index in ranks.share(len(groups))] for groups in plan]


def tokenise(
    encoder: Encoder, training: TrainingSet, plan: Sequence[Sequence[Group]], shared: Sequence[Sequence[Group]] | None = None
) -> Texts:
    """Token ids of every query and document of a plan, each text once; of `shared` alone where a rank embeds no more than that."""
    groups = [group for step in (plan if shared is None else shared) for group in step]
    queries = {example.query_id: example.query for example in training.examples}
    asked = sorted({group.query_id for group in groups})
    shown = sorted({document for group in groups for document in group.documents})
    named = {document for step in plan for group in step for document in (*group.relevant, *group.documents)}
    return Texts(
        dict(zip(asked, encoder.tokenize([queries[one] for one in asked], "query"), strict=True)),
        dict(zip(shown, encoder.tokenize([training.text(one) for one in shown], "document"), strict=True)),
        {one: training.text(one) for one in named},
    )


def targets(reference: Encoder, texts: Texts, batch_tokens: int) -> Targets:
    """The reference's vectors of every text of a plan, computed once."""
    queries, documents = sorted(texts.queries), sorted(texts.documents)
    batch_tokens = pass_tokens(reference.device, batch_tokens)
    return Targets(
        reference.encode_tokens([texts.queries[one] for one in queries], batch_tokens),
        {one: row for row, one in enumerate(queries)},
        reference.encode_tokens([texts.documents[one] for one in documents], batch_tokens),
        {one: row for row, one in enumerate(documents)},
    )


def token_count(texts: Texts, plan: Sequence[Sequence[Group]]) -> int:
    """Tokens that a training on this plan sees."""
    groups = [group for step in plan for group in step]
    return sum(len(texts.queries[group.query_id]) + sum(len(texts.documents[one]) for one in group.documents) for group in groups)
