"""What a server takes on at a time."""

from dataclasses import dataclass

BODY_BYTES = 32 << 20


@dataclass(frozen=True)
class Limits:
    """batch_tokens: padded tokens of one pass through the model; wait: seconds that a request waits for company; queue_texts: texts that
    are accepted and not answered; texts and characters: of one request, and of each of its texts; body_bytes: of a request's body."""

    batch_tokens: int = 16_384
    wait: float = 0.003
    queue_texts: int = 4096
    texts: int = 2048
    characters: int = 100_000
    body_bytes: int = BODY_BYTES
