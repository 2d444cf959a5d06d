"""The gate's rules about quality: is the reference worth matching, and is the candidate as good, for certain?

Scores are nDCG@10 from 0 to 1; texts show them times 100. A comparison that cannot be made (no scores, a score that is not a
number, other queries) makes its rule fail.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from effir.judge.significance import Bootstrap, holm, mean_over_collections, paired_bootstrap, paired_randomisation
from effir.judge.verdict import Rule, Statement

METHOD = (
    "Non-inferiority: one-sided Bayesian bootstrap bound of the paired difference in nDCG@10 over queries, clusters weighted as wholes, "
    "with a cluster more on which all is lost (Gaffke's bound); collections independently for the mean; every rule must hold, which "
    "needs no correction. Worth of the reference, and better or worse on a collection: one-sided paired randomisation tests by cluster, "
    "Holm-adjusted."
)
FEWEST_CLUSTERS = 10


@dataclass(frozen=True)
class Limits:
    """What is demanded; the RunSpec fields of the same names."""

    collections: tuple[str, ...]
    in_domain: tuple[str, ...]
    margin: float
    margin_mean: float
    margins: Mapping[str, float] = field(default_factory=dict)
    confidence: float = 0.95
    resamples: int = 10_000
    seed: int = 0
    min_query_speedup: float = 1.0
    min_document_speedup: float = 1.0
    max_parameters: int | None = None


@dataclass(frozen=True)
class Scores:
    """One model on one collection: nDCG@10 and cluster of every query, in one order."""

    queries: tuple[str, ...]
    clusters: tuple[str, ...]
    values: np.ndarray


Table = Mapping[str, Mapping[str, Scores]]


def compare(scores: Table, before: str, after: str, collection: str, limits: Limits) -> Bootstrap | str:
    """Bootstrap of `after` minus `before` on a collection, or a sentence saying why they cannot be compared."""
    pair = _paired(scores, before, after, collection)
    return pair if isinstance(pair, str) else paired_bootstrap(*pair, limits.resamples, _seed(collection, limits))


def p_of_mean(scores: Table, before: str, after: str, limits: Limits) -> float:
    """Two-sided p of "the mean over the collections is the same": scores exchanged cluster by cluster, each collection of one weight.

    Raises ValueError where the two cannot be compared.
    """
    first, second, clusters = [], [], []
    for name in scores[after]:
        pair = _paired(scores, before, after, name)
        if isinstance(pair, str):
            raise ValueError(pair)
        first.append(pair[0] / len(pair[0]))
        second.append(pair[1] / len(pair[1]))
        clusters += [(name, cluster) for cluster in pair[2]]
    sides = (np.concatenate(first), np.concatenate(second))
    return min(1.0, 2 * min(paired_randomisation(*pair, clusters, limits.resamples, limits.seed) for pair in (sides, sides[::-1])))


def _paired(scores: Table, before: str, after: str, collection: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]] | str:
    """Both models' scores in one order, and the clusters."""
    for model in (before, after):
        if problem := _problem(scores.get(model, {}).get(collection)):
            return f"the {model} {problem} on {collection}"
    first, second = scores[before][collection], scores[after][collection]
    places = {query: place for place, query in enumerate(first.queries)}
    if len(places) != len(second.queries) or places.keys() != set(second.queries):
        return f"the {before} and the {after} were scored on different queries of {collection}"
    return first.values[[places[query] for query in second.queries]], second.values, second.clusters


def _seed(collection: str, limits: Limits) -> list[int]:
    """Each collection is resampled on its own, whatever the others are."""
    return [limits.seed, zlib.crc32(collection.encode())]


def _problem(found: Scores | None) -> str | None:
    if found is None or not len(found.values):
        return "has no scores"
    if not np.isfinite(found.values).all():
        return "has a score that is not a number"
    if found.values.min() < 0 or found.values.max() > 1:
        return "has a score outside 0 to 1"
    return None


def complete(scores: Table, limits: Limits) -> list[Rule]:
    """Reference and candidate have sound scores on every collection, and enough of them to draw a bound."""
    models = ["reference", "candidate"]
    checked = {(model, name): _problem(scores.get(model, {}).get(name)) for name in limits.collections for model in models}
    missing = [f"the {model} {problem} on {name}" for (model, name), problem in checked.items() if problem]
    found = len(limits.collections) * len(models) - len(missing)
    text = "; ".join(missing) if missing else f"reference and candidate have scores on all of {', '.join(limits.collections)}"
    rules = [Rule("complete", not missing and found > 0, text, found, len(limits.collections) * len(models))]
    for name in limits.collections:
        given = scores.get("candidate", {}).get(name)
        clusters = len(set(given.clusters)) if given else 0
        if 0 < clusters < FEWEST_CLUSTERS:
            text = f"{name} has {clusters} independent groups of queries, and a bound needs at least {FEWEST_CLUSTERS}"
            rules.append(Rule("enough_queries", False, text, clusters, FEWEST_CLUSTERS, name))
    return rules


def worthy_reference(scores: Table, limits: Limits) -> list[Rule]:
    """In domain, the reference is significantly above the untrained base on every collection (Holm-adjusted)."""
    level = 1 - limits.confidence
    rules, p_values = [], {}
    for name in limits.in_domain:
        pair = _paired(scores, "base", "reference", name)
        if isinstance(pair, str):
            rules.append(Rule("worthy_reference", False, f"the reference is not judged: {pair}", None, level, name))
        else:
            p_values[name] = paired_randomisation(*pair, limits.resamples, _seed(name, limits))
    for name, p in zip(p_values, holm(list(p_values.values())), strict=True):
        good = p <= level
        end = "a significant gain" if good else "no significant gain, so it is no reference worth matching"
        rules.append(Rule("worthy_reference", good, f"{_gain(scores, name)}: {end} (p = {p:.2g})", p, level, name))
    return rules


def no_collapse(scores: Table, limits: Limits) -> list[Rule]:
    """Out of domain, the reference is neither at zero nor significantly below the untrained base."""
    level = 1 - limits.confidence
    rules = []
    for name in (one for one in limits.collections if one not in limits.in_domain):
        pair = _paired(scores, "base", "reference", name)
        if isinstance(pair, str):
            rules.append(Rule("reference_not_collapsed", False, f"the reference is not judged: {pair}", collection=name))
            continue
        base, reference, clusters = pair
        p = paired_randomisation(reference, base, clusters, limits.resamples, _seed(name, limits))
        good = p > level and bool(reference.any())
        end = "no collapse" if good else "it collapsed there, so it is no reference worth matching"
        rules.append(Rule("reference_not_collapsed", good, f"{_gain(scores, name)}: {end} (p = {p:.2g})", p, level, name))
    return rules


def _gain(scores: Table, name: str) -> str:
    base, reference = _means(scores, name, "base", "reference")
    return f"the reference has {_shown(reference)} on {name}, the untrained base {_shown(base)}"


def not_inferior(before: str, scores: Table, limits: Limits) -> list[Rule]:
    """Per collection and on the mean: lower bound of candidate minus `before` above minus the margin."""
    rules, samples = [], []
    for name in limits.collections:
        margin = limits.margins.get(name, limits.margin)
        sample = compare(scores, before, "candidate", name, limits)
        if isinstance(sample, str):
            rules.append(Rule(f"not_inferior_to_{before}", False, f"not judged: {sample}", None, -margin, name))
            continue
        samples.append(sample)
        rules.append(_bounded(before, sample, margin, name, _means(scores, name, before, "candidate"), limits))
    if samples and len(samples) == len(limits.collections):
        both = [_means(scores, name, before, "candidate") for name in limits.collections]
        means = (float(np.mean([pair[0] for pair in both])), float(np.mean([pair[1] for pair in both])))
        rules.append(_bounded(before, mean_over_collections(samples, limits.seed), limits.margin_mean, None, means, limits))
    else:
        text = f"the mean over the collections is not judged against the {before}: some collections have no comparable scores"
        rules.append(Rule(f"mean_not_inferior_to_{before}", False, text, None, -limits.margin_mean))
    return rules


def _bounded(before: str, sample: Bootstrap, margin: float, name: str | None, means: Sequence[float], limits: Limits) -> Rule:
    lower = sample.lower(limits.confidence)
    passed = lower > -margin
    text = (
        f"nDCG@10 {f'on {name}' if name else 'averaged over the collections'}: {_shown(means[1])} against {_shown(means[0])} "
        f"of the {before}, a difference of {_signed(sample.estimate)}, with {limits.confidence:.0%} confidence above {_signed(lower)}; "
        f"{'enough' if passed else 'not enough'}, since it must stay above {_signed(-margin)}"
    )
    rule = f"not_inferior_to_{before}" if name else f"mean_not_inferior_to_{before}"
    return Rule(rule, passed, text, lower, -margin, name, sample.interval())


def statements(scores: Table, others: Sequence[str], limits: Limits) -> list[Statement]:
    """On which collections the candidate is better or worse than these models, all of them tested together (Holm-adjusted).

    For each of them and each collection with comparable scores only the direction in which it differs is stated; both are tested.
    """
    tested: list[tuple[str, str, float]] = []
    p_values: list[float] = []
    for other in others:
        for name in limits.collections:
            pair = _paired(scores, other, "candidate", name)
            if isinstance(pair, str):
                continue
            before, after, clusters = pair
            tested.append((other, name, float(after.mean() - before.mean())))
            for one, two in ((before, after), (after, before)):
                p_values.append(paired_randomisation(one, two, clusters, limits.resamples, _seed(name, limits)))
    adjusted = holm(p_values)
    return [_stated(*one, min(adjusted[2 * place : 2 * place + 2]), 1 - limits.confidence) for place, one in enumerate(tested)]


def _stated(other: str, name: str, difference: float, p: float, level: float) -> Statement:
    direction = "better" if difference > 0 else "worse"
    found = f"{direction} than the {other}" if p <= level else f"neither better nor worse than the {other} for certain"
    text = f"on {name} the candidate is {found}: {_signed(difference)} (p = {p:.2g}, Holm-adjusted)"
    return Statement(text, name, other, difference, p, p <= level)


def _means(scores: Table, name: str, *models: str) -> list[float]:
    return [float(scores[model][name].values.mean()) for model in models]


def _shown(score: float) -> str:
    return f"{100 * score:.1f}"


def _signed(difference: float) -> str:
    return f"{100 * difference:+.2f}"
