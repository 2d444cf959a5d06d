"""How attention is computed: by torch's fused kernel, or written out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

SHORT = 128


@contextmanager
def written_out(model: Any) -> Iterator[None]:
    """Within this context the model's attention is written out: slower on long texts, and its weights can be seen.

    Every part's own configuration is told, since `set_attn_implementation` passes over models that have been cut.
    """
    configs = {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}.values()
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = "eager"
        yield
    finally:
        for config, one in zip(configs, before, strict=True):
            config._attn_implementation = one


@contextmanager
def attention_for(model: Any, longest: int) -> Iterator[None]:
    """Within this context, texts of up to SHORT tokens on a CPU go through attention that is written out.

    On short texts torch's fused one is slow on the way back (docs/log.md). Not in float64: the other one's softmax is in float32.
    """
    weight = next(model.parameters())
    small = longest <= SHORT and weight.device.type == "cpu" and weight.dtype != torch.float64
    if not small or getattr(model.config, "_attn_implementation", None) != "sdpa":
        yield
        return
    with written_out(model):
        yield
