from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from effir.judge.gate import Candidate
from effir.judge.quality import Limits, Scores

FILES = {"MLmodel": "a" * 64, "model/config.json": "b" * 64, "model/model.safetensors": "c" * 64}


class Case:
    """A run to be judged, sound in every way; tests spoil one thing at a time.

    Two collections: `code` (in domain, 2,000 queries in 500 clusters) and `papers` (1,500 queries, each its own cluster).
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.queries = {"code": 2000, "papers": 1500}
        self.scores: dict[str, dict[str, Scores]] = {}
        for name, n in self.queries.items():
            reference = rng.beta(2, 3, n)
            self.set("base", name, np.clip(reference - 0.3, 0, 1))
            self.set("reference", name, reference)
            self.set("candidate", name, np.clip(reference + rng.normal(0, 0.05, n), 0, 1))
        self.speed: dict[str, Any] = {
            "query": {"ratio": 1.31, "interval": [1.28, 1.33]},
            "document": {"ratio": 1.42, "interval": [1.4, 1.45]},
        }
        self.proof: dict[str, Any] = {
            "candidate": "cand", "files": dict(FILES), "tolerance": 1e-5, "passed": True,
            "loaders": {"AutoModel": 1e-7, "SentenceTransformer": 2e-7},
        }  # fmt: skip
        self.candidate = Candidate("cand", dict(FILES), 1_000_000)
        self.champion: dict[str, Any] | None = None
        self.limits = {
            "collections": ("code", "papers"), "in_domain": ("code",), "margin": 0.03, "margins": {"papers": 0.04}, "margin_mean": 0.02,
            "resamples": 2000, "min_query_speedup": 1.1, "min_document_speedup": 1.1,
        }  # fmt: skip

    def set(self, model: str, name: str, values: np.ndarray) -> None:
        """Give a model its scores on a collection."""
        n = len(values)
        clusters = tuple(f"module{number // 4}" if name == "code" else f"q{number}" for number in range(n))
        self.scores.setdefault(model, {})[name] = Scores(tuple(f"q{number}" for number in range(n)), clusters, values)

    def values(self, model: str, name: str) -> np.ndarray:
        """A copy of a model's scores."""
        return self.scores[model][name].values.copy()

    def arguments(self) -> tuple[Any, ...]:
        """What `judge` takes."""
        return self.scores, self.speed, self.proof, self.candidate, self.champion, Limits(**self.limits)


@pytest.fixture
def case() -> Case:
    return Case()


@pytest.fixture
def failing() -> Callable[[Any], list[tuple[str, str | None]]]:
    """Names and collections of a verdict's failing rules."""
    return lambda verdict: [(rule.rule, rule.collection) for rule in verdict.rules if not rule.passed]
