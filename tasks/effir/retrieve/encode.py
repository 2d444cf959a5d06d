"""From texts to unit vectors: tokenise, run the backbone without padding waste, pool, normalise."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from effir.compress.anatomy import anatomy_of
from effir.errors import BadInput
from effir.modelfiles import understood
from effir.retrieve.settings import Settings

PASS_TOKENS, PROCESSOR_TOKENS = 16_384, 512
"""Padded tokens of one pass through the model: what fills a GPU, and what stays in a processor's caches (docs/log.md, 2026-11-22)."""


class Encoder:
    """A backbone with the settings that make it a retriever.

    model:     Hugging Face backbone without LM head, of an architecture that `anatomy` describes
    tokenizer: its tokenizer
    settings:  pooling, templates, maximum lengths
    forward_passes counts calls of the model.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: Settings, device: str = "cpu") -> None:
        self.model = model.to(device)
        self.tokenizer = tokenizer
        self.settings = settings
        self.device = device
        self.forward_passes = 0

    def tokenize(self, texts: Sequence[str], kind: str) -> list[list[int]]:
        """Token ids of queries or documents (`kind`), template put around, cut at the maximum, never empty.

        Raises BadInput where an eos token is to end a text and the tokenizer has none, and for a tokenizer that cannot cut a text.
        """
        settings = self.settings
        template = settings.query_template if kind == "query" else settings.document_template
        limit = settings.max_query_tokens if kind == "query" else settings.max_document_tokens
        eos = self.tokenizer.eos_token_id
        if settings.append_eos and eos is None:
            raise BadInput("the tokenizer has no eos token, whose state pooling = last takes: use pooling = mean")
        if not texts:
            return []
        wrapped = [template.replace("{text}", text) for text in texts]
        room = limit - 1 if settings.append_eos else limit
        with understood("the tokenizer cannot cut a text into tokens"):
            found = self.tokenizer(wrapped, truncation=True, max_length=limit, add_special_tokens=True)["input_ids"]
        if settings.append_eos:
            found = [ids if ids and ids[-1] == eos and len(ids) <= limit else [*ids[:room], eos] for ids in found]
        return [ids or [eos] for ids in found]

    def embed(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """One padded batch → unit vectors, float32, shape (n, d); differentiable.

        Padding stands on the right, where causal attention keeps it from touching a real token; other models get a mask.
        """
        lengths = torch.tensor([len(ids) for ids in tokens], device=self.device)
        ids = torch.full((len(tokens), int(lengths.max())), 0, dtype=torch.long)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = torch.as_tensor(one)
        self.forward_passes += 1
        mask = None
        if not anatomy_of(self.model).causal and len(set(map(len, tokens))) > 1:
            mask = (torch.arange(ids.shape[1], device=self.device)[None] < lengths[:, None]).long()
        states = self.model(input_ids=ids.to(self.device), attention_mask=mask, use_cache=False).last_hidden_state
        return torch.nn.functional.normalize(pool(states, lengths, self.settings.pooling).float(), dim=-1)

    def embed_in_parts(self, tokens: Sequence[Sequence[int]], batch_tokens: int) -> torch.Tensor:
        """Like `embed`, in length-sorted batches of at most `batch_tokens` padded tokens; rows in the order given."""
        order: list[int] = []
        parts = []
        for rows in batches(tokens, batch_tokens):
            order += rows
            parts.append(self.embed([tokens[row] for row in rows]))
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts)[back.to(self.device)]

    def encode_tokens(
        self, tokens: Sequence[Sequence[int]], batch_tokens: int, progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Unit vectors, float32, shape (n, d), without gradients. Raises BadInput for a token that the model does not know."""
        width = self.model.config.hidden_size
        if (largest := max((max(ids) for ids in tokens), default=0)) >= self.model.config.vocab_size:
            raise BadInput(f"the tokenizer gives token {largest}, but the model knows only {self.model.config.vocab_size} of them")
        vectors = np.zeros((len(tokens), width), dtype=np.float32)
        total, done = sum(len(ids) for ids in tokens), 0
        self.model.eval()
        with torch.inference_mode():
            for rows in batches(tokens, batch_tokens):
                vectors[rows] = self.embed([tokens[row] for row in rows]).cpu().numpy()
                done += sum(len(tokens[row]) for row in rows)
                if progress:
                    progress(done, total)
        return vectors

    def encode(
        self,
        texts: Sequence[str],
        kind: str = "document",
        batch_tokens: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Unit vectors of texts, float32, shape (n, d), in passes of pass_tokens(device, batch_tokens)."""
        return self.encode_tokens(self.tokenize(texts, kind), pass_tokens(self.device, batch_tokens), progress)


def pass_tokens(device: str, batch_tokens: int | None = None) -> int:
    """Padded tokens of one pass: as many as asked for, or what suits the device; a processor never takes more than suits it."""
    if device == "cpu":
        return min(batch_tokens or PROCESSOR_TOKENS, PROCESSOR_TOKENS)
    return batch_tokens or PASS_TOKENS


def pool(states: torch.Tensor, lengths: torch.Tensor, how: str) -> torch.Tensor:
    """Token states (n, t, d) of sequences padded on the right → (n, d): the last real token's, or the real tokens' mean."""
    if how == "last":
        return states[torch.arange(len(lengths), device=states.device), lengths - 1]
    mask = torch.arange(states.shape[1], device=states.device)[None] < lengths[:, None]
    summed = (states.float() * mask[..., None]).sum(1)
    return summed / lengths[:, None]


def batches(tokens: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, longest first, each of at most `batch_tokens` padded tokens (or one row).

    >>> list(batches([[1], [1, 2, 3], [1, 2]], 4))
    [[1], [2, 0]]
    """
    order = sorted(range(len(tokens)), key=lambda row: (-len(tokens[row]), row))
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // max(1, len(tokens[order[start]])))
        yield order[start : start + count]
        start += count
