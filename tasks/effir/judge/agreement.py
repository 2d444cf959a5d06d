"""Whether two ways of scoring a model's sub-layers put them in one order."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from effir.compress.scores import Importance
from effir.compress.variants import ranking

FEW = 8


@dataclass(frozen=True)
class Agreement:
    """How alike two sets of importance scores order the layers' sub-layers: Spearman's rho, -1 to 1; None where a set has but one value.

    same: of the `few` least important MLPs of the one, how many are among the other's (paper: Figures 2a and 5).
    """

    first: str
    second: str
    attention: float | None
    mlp: float | None
    same: int
    few: int = FEW


def agreements(scored: Mapping[str, Importance]) -> list[Agreement]:
    """Every set of scores beside the first one. All are of models with as many layers."""
    (first, one), *others = scored.items()
    low = set(ranking(one.mean["mlp"])[:FEW])
    return [
        Agreement(
            first,
            second,
            attention=_rho(one.mean["attention"], two.mean["attention"]),
            mlp=_rho(one.mean["mlp"], two.mean["mlp"]),
            same=len(low & set(ranking(two.mean["mlp"])[:FEW])),
        )
        for second, two in others
    ]


def _rho(one: np.ndarray, two: np.ndarray) -> float | None:
    return None if min(np.ptp(one), np.ptp(two)) == 0 else float(spearmanr(one, two).statistic)
