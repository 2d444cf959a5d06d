"""One contrastive step: from a planned batch of examples to accumulated gradients."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from effir.errors import BadInput
from effir.retrieve.encode import Encoder
from effir.train.attention import attention_for
from effir.train.loop import Parts, cached_gradient
from effir.train.losses import Batch, Weights, total
from effir.train.plan import Group, Targets, Texts
from effir.train.ranks import ALONE, Ranks


class Contrastive:
    """Turns step numbers into losses and gradients.

    plan: a list of groups for every step; teacher: query id → document id → raw score, or None.
    micro_batch: groups held in memory at once (0: all); the result does not depend on it.
    ranks: each embeds its share of a step's groups, the gradient being the sum over ranks. `plan` and `teacher` are the whole ones;
    `texts` and `targets` need no more than this rank's share, but for texts.keys.
    batch_tokens: padded tokens per forward pass.
    mixed: matrix products in bfloat16, trainable parameters and losses in float32. Casts are never cached: a cast made in
    the gradient-free pass of gradient caching, or before an optimiser step, would cut the gradient or be stale.
    """

    def __init__(
        self,
        encoder: Encoder,
        texts: Texts,
        plan: Sequence[Sequence[Group]],
        weights: Weights,
        *,
        teacher: Mapping[str, Mapping[str, float]] | None = None,
        targets: Targets | None = None,
        micro_batch: int = 0,
        batch_tokens: int = 16_384,
        mixed: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.encoder = encoder
        self.texts = texts
        self.plan = plan
        self.weights = weights
        self.teacher = teacher
        self.targets = targets
        self.micro_batch = micro_batch
        self.batch_tokens = batch_tokens
        self.mixed = mixed
        self.ranks = ranks
        self.longest = ranks.largest(max((len(tokens) for kind in (texts.queries, texts.documents) for tokens in kind.values()), default=0))

    def step_loss(self, step: int) -> Parts:
        """Accumulate this rank's part of the gradients of a step; returns the figures of the whole step."""
        groups = list(self.plan[step])
        mine = [groups[index] for index in self.ranks.share(len(groups))]
        size = self.micro_batch or len(mine)
        chunks = [mine[start : start + size] for start in range(0, len(mine), size)]
        batch = self.describe(groups)
        with attention_for(self.encoder.model, self.longest):
            parts = cached_gradient(chunks, self._embed, lambda queries, documents: self._loss(queries, documents, batch), self.ranks)
        return parts | {"chance": 1 / batch.blocked.shape[1]}

    def evaluate(self, step: int) -> Parts:
        """Figures of a step, without gradients."""
        groups = list(self.plan[step])
        with torch.no_grad():
            return self._loss(*self._embed(groups), self.describe(groups))[1]

    def describe(self, groups: Sequence[Group]) -> Batch:
        """Columns, blocked pairs, teacher scores and targets of a step's groups."""
        device = self.encoder.device
        size = len(groups[0].documents)
        columns = [document for group in groups for document in group.documents]
        keys = np.array([self.texts.keys[document] for document in columns])
        blocked = np.zeros((len(groups), len(columns)), dtype=bool)
        for row, group in enumerate(groups):
            relevant = {self.texts.keys.get(document, document) for document in group.relevant | {group.documents[0]}}
            blocked[row] = np.isin(keys, list(relevant))
        own = torch.arange(len(columns)).view(len(groups), size)
        return Batch(
            own.to(device),
            torch.from_numpy(blocked).to(device),
            self._teacher(groups, size, device),
            *self._targets(groups, device),
        )

    def _teacher(self, groups: Sequence[Group], size: int, device: str) -> torch.Tensor | None:
        if self.teacher is None or size < 2:
            return None
        rows = [[self.teacher[group.query_id].get(document) for document in group.documents] for group in groups]
        if any(score is None for row in rows for score in row):
            raise BadInput(
                f"the teacher has not scored every document that is shown beside a query: the training corpus has too few different "
                f"ones for {size - 1} hard negatives, lower hard_negatives"
            )
        return torch.tensor(rows, dtype=torch.float32, device=device)

    def _targets(self, groups: Sequence[Group], device: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        if self.targets is None:
            return None, None
        mine = [groups[index] for index in self.ranks.share(len(groups))]
        queries = self.targets.queries[[self.targets.query_rows[group.query_id] for group in mine]]
        documents = self.targets.documents[[self.targets.document_rows[document] for group in mine for document in group.documents]]
        return self.ranks.gather(torch.from_numpy(queries).to(device))[0], self.ranks.gather(torch.from_numpy(documents).to(device))[0]

    def _embed(self, groups: Sequence[Group]) -> tuple[torch.Tensor, torch.Tensor]:
        queries = [self.texts.queries[group.query_id] for group in groups]
        documents = [self.texts.documents[document] for group in groups for document in group.documents]
        with torch.autocast(torch.device(self.encoder.device).type, torch.bfloat16, enabled=self.mixed, cache_enabled=False):
            return self.encoder.embed_in_parts(queries, self.batch_tokens), self.encoder.embed_in_parts(documents, self.batch_tokens)

    def _loss(self, queries: torch.Tensor, documents: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, Parts]:
        loss, parts = total(queries, documents, batch, self.weights)
        with torch.no_grad():
            mean = documents.float().mean(0)
            count = len(documents)
            cosine = (mean.dot(mean) * count - 1) / max(1, count - 1)
        return loss, parts | {"mean_cosine": float(cosine)}
