"""Calibration text as packed token sequences, the way LLM-Drop takes its C4 sample: joined, cut into equal lengths."""

import random
from collections.abc import Sequence
from typing import Any

from effir.errors import BadInput


def pack(tokenizer: Any, texts: Sequence[str], samples: int, length: int, seed: int) -> list[list[int]]:
    """At most `samples` sequences of exactly `length` token ids, from texts joined in a seeded order.

    After each text stands the tokenizer's eos token, or its sep token where it has no eos.
    Raises BadInput if the text does not fill one sequence.
    """
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    stream: list[int] = []
    ends = [token for token in (tokenizer.eos_token_id, getattr(tokenizer, "sep_token_id", None)) if token is not None][:1]
    for index in order:
        if len(stream) >= samples * length:
            break
        stream += tokenizer(texts[index], add_special_tokens=False)["input_ids"] + ends
    packed = [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)][:samples]
    if not packed:
        raise BadInput(f"the calibration text has {len(stream)} tokens, too few for one sequence of {length}: lower calibration_tokens")
    return packed
