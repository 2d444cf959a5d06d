"""LoRA on all projections of every layer that is left, by peft."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from effir.compress.anatomy import anatomy_of


def attach(model: Any, rank: int, alpha: float, dropout: float, without: Sequence[str] = ()) -> tuple[Any, Mapping[str, nn.Parameter]]:
    """Put adapters on a frozen backbone, but for the projections with the full names `without`.

    Returns (peft model, name → trainable parameter in float32).
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=list(anatomy_of(model).projections),
        exclude_modules=list(without) or None,
        bias="none",
    )
    adapted = get_peft_model(model, config)
    for module in adapted.modules():
        if isinstance(module, LoraLayer) and model.dtype == torch.bfloat16:
            module.cast_input_dtype_enabled = False  # such a model is trained under autocast, which would only cast back
    return adapted, {name: value for name, value in adapted.named_parameters() if value.requires_grad}


def merge(adapted: Any) -> Any:
    """The backbone with the adapters added into its weights; sums are formed in float32 and rounded once."""
    with torch.no_grad():
        for module in adapted.modules():
            if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer"):
                weight = module.base_layer.weight
                for name in module.active_adapters:
                    weight.copy_((weight.float() + module.get_delta_weight(name).float()).to(weight.dtype))
                    module.lora_A[name].weight.zero_()
                    module.lora_B[name].weight.zero_()
    return adapted.unload()
