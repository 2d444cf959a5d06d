import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from effir.judge.significance import holm, mean_over_collections, paired_bootstrap, paired_randomisation


def scores(n: int, seed: int = 0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference = rng.beta(0.5, 0.5, n)
    return reference, np.clip(reference + rng.normal(shift, 0.2, n), 0, 1)


def analytic(sums: np.ndarray, counts: np.ndarray, lost: float = -1.0) -> tuple[float, float]:
    """Mean and standard error of a ratio with one average cluster more that is lost: the moments of a Dirichlet-weighted mean."""
    sums, counts = np.append(sums, lost * counts.mean()), np.append(counts, counts.mean())
    mean = sums.sum() / counts.sum()
    residuals = (sums - mean * counts) / counts.mean()
    return mean, math.sqrt((residuals**2).sum() / len(sums) / (len(sums) + 1))


def test_bound_is_the_analytic_one_for_many_queries():
    reference, candidate = scores(4000)
    difference = candidate - reference
    (low, error), (high, _) = (analytic(difference, np.ones(4000), lost) for lost in (-1.0, 1.0))
    sample = paired_bootstrap(reference, candidate, resamples=20_000)
    assert sample.estimate == pytest.approx(difference.mean(), abs=1e-15)
    assert sample.lower(0.95) == pytest.approx(low - stats.norm.ppf(0.95) * error, abs=0.05 * error)
    assert sample.interval()[0] == pytest.approx(low - stats.norm.ppf(0.975) * error, abs=0.06 * error)
    assert sample.interval()[1] == pytest.approx(high + stats.norm.ppf(0.975) * error, abs=0.06 * error)


def test_clusters_of_different_sizes_are_weighted_as_wholes():
    rng = np.random.default_rng(3)
    clusters = np.sort(rng.integers(0, 400, 4000))
    effect = rng.normal(0, 0.05, 400)[clusters] + rng.normal(0, 0.05, 4000)
    sums, counts = np.bincount(clusters, weights=effect), np.bincount(clusters).astype(float)
    weights = np.random.default_rng(4).dirichlet(np.ones(401), 20_000)
    total, size = np.append(sums, -counts.mean()), np.append(counts, counts.mean())
    expected = np.quantile((weights @ total) / (weights @ size), 0.05)
    sample = paired_bootstrap(np.full(4000, 0.5), 0.5 + effect, clusters.tolist(), resamples=20_000)
    assert (sample.clusters, sample.n) == (400, 4000)
    assert sample.estimate == pytest.approx(effect.mean())
    assert sample.lower(0.95) == pytest.approx(expected, abs=0.05 * (sample.estimate - expected))


@pytest.mark.parametrize(("n", "lost"), [(30, 0), (30, 1), (100, 0), (100, 3), (300, 6)])
def test_the_bound_is_clopper_and_pearsons_where_queries_are_lost_as_wholes(n, lost):
    candidate = np.where(np.arange(n) < lost, 0.0, 1.0)
    exact = stats.binomtest(lost, n, alternative="less").proportion_ci(0.95, method="exact").high
    assert paired_bootstrap(np.ones(n), candidate, resamples=40_000).lower(0.95) == pytest.approx(-exact, rel=0.03)


def test_copies_of_a_query_say_nothing_new():
    reference, candidate = scores(60, 7)
    once = paired_bootstrap(reference, candidate, seed=3)
    copied = paired_bootstrap(np.repeat(reference, 5), np.repeat(candidate, 5), np.repeat(np.arange(60), 5).tolist(), seed=3)
    assert copied.lower(0.95) == pytest.approx(once.lower(0.95), abs=1e-6)
    assert copied.interval() == pytest.approx(once.interval(), abs=1e-6)


def test_clusters_widen_the_interval_where_queries_of_one_go_together():
    rng = np.random.default_rng(5)
    effect = np.repeat(rng.normal(0, 0.1, 40), 25)
    reference = np.full(1000, 0.5)
    candidate = reference + effect
    alone = paired_bootstrap(reference, candidate).interval()
    together = paired_bootstrap(reference, candidate, np.repeat(np.arange(40), 25).tolist()).interval()
    assert (together[1] - together[0]) > 3 * (alone[1] - alone[0])


@pytest.mark.parametrize(("per_cluster", "skewed"), [(1, False), (1, True), (4, False)])
def test_bound_lies_below_the_truth_as_often_as_it_says(per_cluster, skewed):
    rng = np.random.default_rng(8)
    covered, trials = 0, 400
    for trial in range(trials):
        effect = 1 - rng.exponential(1.0, 80) if skewed else rng.normal(0, 1, 80)
        difference = np.clip(0.05 * np.repeat(effect, per_cluster) + rng.normal(0, 0.05, 80 * per_cluster), -1, 1)
        clusters = np.repeat(np.arange(80), per_cluster).tolist()
        sample = paired_bootstrap(np.maximum(-difference, 0), np.maximum(difference, 0), clusters, resamples=600, seed=trial)
        covered += sample.lower(0.95) <= 0
    assert covered / trials >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / trials)


def test_mean_over_collections_has_the_error_of_independent_samples():
    pairs = [scores(400, 1), scores(1600, 2)]
    moments = [analytic(candidate - reference, np.ones(len(reference))) for reference, candidate in pairs]
    samples = [paired_bootstrap(*pair, resamples=20_000, seed=seed) for seed, pair in enumerate(pairs)]
    mean = mean_over_collections(samples)
    error = math.hypot(*(one[1] for one in moments)) / 2
    assert mean.estimate == pytest.approx(np.mean([sample.estimate for sample in samples]))
    expected = np.mean([one[0] for one in moments]) - stats.norm.ppf(0.95) * error
    assert mean.lower(0.95) == pytest.approx(expected, abs=0.06 * error)
    assert (mean.n, mean.clusters) == (2000, 2000)


def test_one_collection_is_its_own_mean():
    sample = paired_bootstrap(*scores(100))
    assert mean_over_collections([sample]).interval() == sample.interval()


def test_equal_scores_are_no_proof_that_no_query_is_ever_lost():
    reference, _ = scores(50)
    sample = paired_bootstrap(reference, reference)
    assert sample.estimate == 0
    assert sample.lower(0.95) == pytest.approx(-(1 - 0.05 ** (1 / 50)), rel=0.05)
    assert sample.interval()[0] == pytest.approx(-sample.interval()[1])


def test_the_order_of_queries_and_the_names_of_clusters_do_not_matter():
    reference, candidate = scores(90, 4)
    clusters = [f"m{number % 30}" for number in range(90)]
    again = [cluster.upper() for cluster in clusters]
    assert paired_bootstrap(reference, candidate, clusters).lower(0.95) == paired_bootstrap(reference, candidate, again).lower(0.95)


def test_seed_decides_the_draws():
    reference, candidate = scores(90, 4)
    first, same, other = (paired_bootstrap(reference, candidate, seed=seed).low for seed in (1, 1, [1, 2]))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("bad", [([], []), ([0.1], [0.1, 0.2]), ([0.1, float("nan")], [0.1, 0.2]), ([0.0, 1.5], [0.0, 0.2])])
def test_scores_that_cannot_be_compared_are_refused(bad):
    with pytest.raises(ValueError, match="score"):
        paired_bootstrap(*bad)


def test_every_query_needs_a_cluster():
    with pytest.raises(ValueError, match="cluster"):
        paired_randomisation([0.1, 0.2], [0.2, 0.3], ["a"])


def test_randomisation_is_exact_enumeration_for_few_clusters():
    reference, candidate = scores(9, 2, shift=0.1)
    difference = candidate - reference
    ways = [np.dot(signs, difference) >= difference.sum() - 1e-9 for signs in product((1, -1), repeat=9)]
    assert paired_randomisation(reference, candidate) == pytest.approx(np.mean(ways))


def test_randomisation_is_scipys_for_many_queries():
    reference, candidate = scores(200, 6, shift=0.01)
    theirs = stats.permutation_test(
        (candidate, reference),
        lambda first, second, axis: (first - second).mean(axis),
        permutation_type="samples",
        vectorized=True,
        alternative="greater",
        n_resamples=10_000,
        rng=np.random.default_rng(0),
    )
    assert 0.02 < theirs.pvalue < 0.98
    assert paired_randomisation(reference, candidate) == pytest.approx(theirs.pvalue, abs=0.02)


def test_randomisation_exchanges_clusters_as_wholes():
    reference, candidate = np.full(40, 0.4), np.full(40, 0.5)
    assert paired_randomisation(reference, candidate, [number % 4 for number in range(40)]) == pytest.approx(1 / 16)
    assert paired_randomisation(reference, candidate) == pytest.approx(1 / 10_001)


def test_p_value_of_equal_models_is_one():
    assert paired_randomisation([0.3] * 50, [0.3] * 50) == 1.0


def test_holm_is_the_step_down_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == [1.0, 1.0]
