"""mlx-lm's model of a folder in NemotronNAS' schema, given token ids; it has no pooling of its own."""

import json
from pathlib import Path
from typing import Any

import golden
import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model


def check(folder: str) -> float:
    model = load_model(Path(folder), lazy=False)[0]
    pooling = json.loads((Path(folder) / "effir.json").read_text())["settings"]["pooling"]

    def embed(kind: str, texts: list[str], tokens: list[list[int]]) -> Any:
        states = [np.array(model.model(mx.array([ids])).astype(mx.float32))[0] for ids in tokens]
        return [one[-1] if pooling == "last" else one.mean(0) for one in states]

    return golden.gap(folder, embed)


golden.tell(check)
