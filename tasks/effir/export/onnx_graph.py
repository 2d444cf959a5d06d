"""An exported retriever as one ONNX graph, from token ids to unit vectors: pooling and normalisation are in the graph."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effir.errors import BadInput
from effir.export.loading import load_backbone, load_settings

GRAPH = "model.onnx"
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sentence_embedding"
HOW_TO_INSTALL = "ONNX needs the packages of effir's group `export`: pip install 'effir[export]'"


class Retriever(nn.Module):
    """Token ids and mask of sequences padded on the right, both (n, t) int64 → unit vectors (n, d) float32."""

    def __init__(self, backbone: Any, pooling: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """No padded place has a part in the vector."""
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        if self.pooling == "last":
            last = (attention_mask.sum(1) - 1)[:, None, None].expand(-1, 1, states.shape[-1])
            pooled = states.gather(1, last).squeeze(1)
        else:
            pooled = (states * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        return nn.functional.normalize(pooled, dim=-1)


def write(source: Path, folder: Path) -> None:
    """Write model.onnx, in float32; batch and length are free. Raises BadInput where a package is missing.

    source: an exported folder's model/; weights beyond ONNX' limit of 2 GB go into model.onnx.data beside it.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise BadInput(HOW_TO_INSTALL) from None
    retriever = Retriever(load_backbone(source, torch.float32), load_settings(source).pooling).eval()
    example = torch.tensor([[3, 4, 5, 6], [3, 4, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=retriever.backbone.config.max_position_embeddings)
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                retriever, example, dynamo=True, verbose=False, input_names=INPUTS, output_names=[OUTPUT],
                dynamic_shapes={name: {0: batch, 1: length} for name in INPUTS},
            )  # fmt: skip
            program.save(folder / GRAPH)
    finally:
        log.setLevel(level)
