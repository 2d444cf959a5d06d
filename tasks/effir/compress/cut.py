"""What is taken out of a model: the one description that depth, slim and narrow hand on and surgery carries out."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from effir.reading import read_arrays, read_json


@dataclass
class Cut:
    """Sub-layers and neurons to remove from a model of `layers` decoder layers (0-based indices).

    neurons: layer → sorted indices of the MLP neurons that stay, shape (width,), int64. A layer that is absent keeps all.
    """

    layers: int
    drop_attention: list[int] = field(default_factory=list)
    drop_mlp: list[int] = field(default_factory=list)
    neurons: dict[int, np.ndarray] = field(default_factory=dict)

    def save(self, folder: Path) -> Path:
        """Write cut.json and cut.safetensors; returns the folder, which is made. Equal cuts are equal bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        plain = {"layers": self.layers, "drop_attention": sorted(self.drop_attention), "drop_mlp": sorted(self.drop_mlp)}
        (folder / "cut.json").write_text(json.dumps(plain | {"widths": {str(k): len(v) for k, v in sorted(self.neurons.items())}}))
        save_file({str(layer): kept.astype(np.int64) for layer, kept in self.neurons.items()}, folder / "cut.safetensors")
        return folder

    @classmethod
    def load(cls, folder: Path) -> "Cut":
        """Read what `save` wrote."""
        plain = read_json(folder / "cut.json")
        neurons = {int(layer): kept for layer, kept in read_arrays(folder / "cut.safetensors").items()}
        return cls(plain["layers"], plain["drop_attention"], plain["drop_mlp"], neurons)
