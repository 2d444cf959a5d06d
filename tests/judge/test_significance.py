import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from effir.judge.significance import Bootstrap, holm, mean_over_collections, paired_bootstrap, paired_randomisation


def scores(n: int, seed: int = 0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference = rng.beta(0.5, 0.5, n)
    return reference, np.clip(reference + rng.normal(shift, 0.2, n), 0, 1)


def test_bound_is_the_analytic_one_for_many_queries():
    reference, candidate = scores(4000)
    difference = candidate - reference
    error = difference.std(ddof=1) / math.sqrt(len(difference))
    sample = paired_bootstrap(reference, candidate, resamples=20_000)
    assert sample.estimate == pytest.approx(difference.mean(), abs=1e-15)
    assert sample.lower(0.95) == pytest.approx(difference.mean() - stats.norm.ppf(0.95) * error, abs=0.05 * error)
    low, high = sample.interval()
    assert (high - low) / 2 == pytest.approx(stats.norm.ppf(0.975) * error, rel=0.03)


def test_clustered_bound_is_scipys_bca():
    rng = np.random.default_rng(3)
    clusters = np.sort(rng.integers(0, 60, 500))
    reference = rng.random(500)
    candidate = reference + rng.exponential(0.2, 60)[clusters] * rng.random(500)
    sums, counts = np.bincount(clusters, weights=candidate - reference), np.bincount(clusters)

    def ratio(total, size, axis):
        return total.sum(axis) / size.sum(axis)

    options = {"paired": True, "vectorized": True, "n_resamples": 20_000, "batch": 2000}
    two = stats.bootstrap((sums, counts), ratio, rng=np.random.default_rng(1), **options).confidence_interval
    one = stats.bootstrap(
        (sums, counts), ratio, rng=np.random.default_rng(2), confidence_level=0.9, alternative="greater", **options
    ).confidence_interval
    sample = paired_bootstrap(reference, candidate, clusters.tolist(), resamples=20_000)
    width = two.high - two.low
    assert sample.clusters == len(set(clusters.tolist()))
    assert sample.interval() == pytest.approx((two.low, two.high), abs=0.03 * width)
    assert sample.lower(0.9) == pytest.approx(one.low, abs=0.03 * width)


def test_clusters_widen_the_interval_where_queries_of_one_go_together():
    rng = np.random.default_rng(5)
    effect = np.repeat(rng.normal(0, 0.1, 40), 25)
    reference = np.full(1000, 0.5)
    candidate = reference + effect
    alone = paired_bootstrap(reference, candidate).interval()
    together = paired_bootstrap(reference, candidate, np.repeat(np.arange(40), 25).tolist()).interval()
    assert (together[1] - together[0]) > 3 * (alone[1] - alone[0])


@pytest.mark.parametrize(("per_cluster", "skewed"), [(1, False), (1, True), (4, False)])
def test_bound_covers_the_truth_as_often_as_it_says(per_cluster, skewed):
    rng = np.random.default_rng(8)
    covered, trials = 0, 400
    for trial in range(trials):
        effect = rng.exponential(1.0, 80) - 1 if skewed else rng.normal(0, 1, 80)
        difference = np.repeat(effect, per_cluster) + rng.normal(0, 1, 80 * per_cluster)
        clusters = np.repeat(np.arange(80), per_cluster).tolist()
        covered += paired_bootstrap(np.zeros(len(difference)), difference, clusters, resamples=600, seed=trial).lower(0.95) <= 0
    assert abs(covered / trials - 0.95) < 0.035


def test_mean_over_collections_has_the_error_of_independent_samples():
    pairs = [scores(400, 1), scores(1600, 2)]
    errors = [(candidate - reference).std(ddof=1) / math.sqrt(len(reference)) for reference, candidate in pairs]
    samples = [paired_bootstrap(*pair, resamples=20_000, seed=seed) for seed, pair in enumerate(pairs)]
    mean = mean_over_collections(samples)
    error = math.hypot(*errors) / 2
    assert mean.estimate == pytest.approx(np.mean([sample.estimate for sample in samples]))
    assert mean.lower(0.95) == pytest.approx(mean.estimate - stats.norm.ppf(0.95) * error, abs=0.06 * error)
    assert mean.n == 2000


def test_one_collection_is_its_own_mean():
    sample = paired_bootstrap(*scores(100))
    assert mean_over_collections([sample]).interval() == sample.interval()


def test_equal_scores_give_a_bound_of_exactly_zero():
    reference, _ = scores(50)
    sample = paired_bootstrap(reference, reference)
    assert (sample.lower(0.95), *sample.interval()) == (0.0, 0.0, 0.0)


def test_the_order_of_queries_and_the_names_of_clusters_do_not_matter():
    reference, candidate = scores(90, 4)
    clusters = [f"m{number % 30}" for number in range(90)]
    again = [cluster.upper() for cluster in clusters]
    assert paired_bootstrap(reference, candidate, clusters).lower(0.95) == paired_bootstrap(reference, candidate, again).lower(0.95)


def test_seed_decides_the_draws():
    reference, candidate = scores(90, 4)
    first, same, other = (paired_bootstrap(reference, candidate, seed=seed).draws for seed in (1, 1, [1, 2]))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_skewness_moves_the_bound_the_right_way():
    draws = np.sort(np.random.default_rng(0).normal(0, 1, 20_000))
    right = np.array([4.0, -1, -1, -1, -1])
    low, high = Bootstrap(0.0, draws, right, 5).interval()
    assert abs(high) > abs(low)
    low, high = Bootstrap(0.0, draws, -right, 5).interval()
    assert abs(high) < abs(low)


@pytest.mark.parametrize("bad", [([], []), ([0.1], [0.1, 0.2]), ([0.1, float("nan")], [0.1, 0.2])])
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
