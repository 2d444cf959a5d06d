"""What the scripts beside this one share. They run in environments of their own, with numpy and safetensors and without effir."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file


def gap(folder: str, embed: Callable[[str, list[str], list[list[int]]], Any]) -> float:
    """Largest absolute difference from a folder's golden embeddings. embed: kind, texts and their token ids → vectors of any length."""
    golden, about = load_file(Path(folder) / "golden.safetensors"), json.loads((Path(folder) / "golden.json").read_text())
    worst = 0.0
    for kind, expected in golden.items():
        found = np.asarray(embed(kind, about["texts"], about["tokens"][kind]), np.float64)
        found /= np.linalg.norm(found, axis=-1, keepdims=True)
        worst = max(worst, float(np.abs(found - expected).max()))
    return worst


def tell(check: Callable[[str], float]) -> None:
    """Print a JSON object: each folder named on the command line → what `check` says of it, or "TypeOfError: its first line"."""
    told: dict[str, Any] = {}
    for folder in sys.argv[1:]:
        try:
            told[folder] = check(folder)
        except Exception as error:
            told[folder] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    print(json.dumps(told))
