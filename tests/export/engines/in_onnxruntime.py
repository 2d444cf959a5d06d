"""The code in the README.md of a folder with model.onnx: no torch, no transformers, no effir."""

from pathlib import Path
from typing import Any

import golden


def check(folder: str) -> float:
    names: dict[str, Any] = {"folder": folder}
    exec((Path(folder) / "README.md").read_text().split("```python\n")[1].split("```")[0], names)
    return golden.gap(folder, lambda kind, texts, tokens: names["encode"](texts, kind))


golden.tell(check)
