"""Importance scores of sub-layers, as measures give them and variants and budgets use them. Needs no torch."""

from dataclasses import dataclass

import numpy as np

KINDS = ("attention", "mlp", "block")


@dataclass
class Importance:
    """Scores per layer, each of shape (layers,): mean over tokens (or batches), and standard error over samples.

    `block` scores the whole layer (both sub-layers at once); it orders the variants kB. A sample is a calibration sequence, or a
    contrastive batch; scores that look at no data have none, and no error.
    """

    mean: dict[str, np.ndarray]
    error: dict[str, np.ndarray]
    tokens: int
    samples: int

    def to_json(self) -> dict:
        """Plain JSON."""
        plain = {kind: {"mean": self.mean[kind].tolist(), "error": self.error[kind].tolist()} for kind in KINDS}
        return plain | {"tokens": self.tokens, "samples": self.samples, "layers": len(self.mean["mlp"])}

    @classmethod
    def from_json(cls, plain: dict) -> "Importance":
        """Read what `to_json` wrote."""
        mean = {kind: np.array(plain[kind]["mean"]) for kind in KINDS}
        error = {kind: np.array(plain[kind]["error"]) for kind in KINDS}
        return cls(mean, error, plain["tokens"], plain["samples"])
