"""Confidence intervals: by hand, clusters kept whole, and covering the truth as often as they claim."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from agehelpers.evaluation.bootstrap import (
    ConfidenceInterval,
    confidence_interval,
    percentile,
    resampled_sums,
    share,
)


def test_share_of_single_pictures_is_clopper_and_pearsons():
    for k in range(31):
        exact = stats.binomtest(k, 30).proportion_ci(0.9, method="exact")
        assert share(np.arange(30) < k, level=0.9) == pytest.approx((k / 30, exact.low, exact.high))
    assert np.isnan(share([])).all()
    assert share([True]) == pytest.approx((1, 0.025, 1)) and share([False]) == pytest.approx((0, 0, 0.975))


def test_share_takes_copies_for_one():
    hits = np.arange(20) < 17
    alone = share(hits)
    assert share(np.repeat(hits, 3), np.repeat(np.arange(20), 3)) == pytest.approx(alone)
    assert share(hits, pd.array([pd.NA] * 20, dtype="Int64")) == alone  # a missing cluster is a row of its own
    # sets of 3 and 1, all hit: 4 ** 2 / (9 + 1) = 1.6 pictures, and p ** 1.6 = 0.025
    assert share([True] * 4, [5, 5, 5, 9]) == pytest.approx((1, 0.025 ** (1 / 1.6), 1))


@pytest.mark.parametrize("p", [0.5, 0.9, 0.98, 0.995, 0.9999])
def test_share_holds_the_truth_as_often_as_it_claims(p):
    n = 60
    ends = [share(np.arange(n) < k) for k in range(n + 1)]
    covered = sum(stats.binom.pmf(k, n, p) for k, found in enumerate(ends) if found.low <= p <= found.high)
    assert covered >= 0.95  # exact, no simulation


def test_share_holds_the_truth_with_copies_too():
    rng, held, naive = np.random.default_rng(9), [], []
    for _ in range(500):
        clusters = np.repeat(np.arange(40), rng.integers(1, 5, 40))  # 40 faces with 1 to 4 copies each
        hits = (rng.random(40) < 0.95)[clusters]
        held.append(share(hits, clusters).low <= 0.95 <= share(hits, clusters).high)
        naive.append(share(hits).low <= 0.95 <= share(hits).high)
    assert np.mean(held) >= 0.95 - 0.02  # the standard error of a share of 500 is 1 %
    assert np.mean(naive) < 0.9


def test_interval_is_deterministic_in_its_seed():
    values = np.random.default_rng(1).normal(size=80)
    assert confidence_interval(values, seed=3) == confidence_interval(values, seed=3)
    assert confidence_interval(values, seed=3) != confidence_interval(values, seed=4)


def test_interval_of_too_little_is_nan():
    assert confidence_interval([4.0])[0] == 4 and np.isnan(confidence_interval([4.0])[1:]).all()
    assert np.isnan(confidence_interval([])).all()
    assert np.isnan(confidence_interval([1.0, 2.0, 3.0], clusters=[5, 5, 5])[1:]).all()  # copies are one


CLUSTERS = [None, np.repeat(np.arange(20), 3), pd.array([1, 1, *[pd.NA] * 58], dtype="Int64")]


@pytest.mark.parametrize("clusters", CLUSTERS)
def test_sums_and_statistics_are_of_the_same_resamples(clusters):
    values = np.random.default_rng(4).normal(size=60)
    for level, seed, of in ((0.95, 0, values), (0.8, 7, values > 0)):
        sums = resampled_sums(np.column_stack([of, np.ones(60)]), clusters, resamples=300, seed=seed)
        expected = percentile(of.mean(), sums[:, 0] / sums[:, 1], level)
        found = confidence_interval(of, np.mean, clusters, level=level, resamples=300, seed=seed)
        assert found == pytest.approx(expected, rel=1e-12)
    rows = np.column_stack([values, values])
    assert confidence_interval(rows, np.mean, clusters) == pytest.approx(
        confidence_interval(values, np.mean, clusters))


def test_scipy_finds_the_same_interval():
    values = np.random.default_rng(4).normal(size=60)
    theirs = stats.bootstrap((values,), np.median, n_resamples=300, method="percentile", vectorized=False,
                             rng=np.random.default_rng(5)).confidence_interval
    assert confidence_interval(values, np.median, resamples=300, seed=5)[1:] == pytest.approx(theirs)


def test_resampled_sums_are_of_whole_clusters():
    sizes = np.array([1, 3, 2, 5, 1])
    clusters = np.random.default_rng(0).permutation(np.repeat(np.arange(5), sizes))
    one_hot = (clusters[:, None] == np.arange(5)).astype(float)
    found = resampled_sums(one_hot, clusters, resamples=200)
    assert found.shape == (200, 5) and (found % sizes == 0).all()
    assert ((found / sizes).sum(axis=1) == 5).all()  # five clusters with repetition
    assert found.mean(axis=0) == pytest.approx(sizes, rel=0.3)  # each once, on average
    assert np.array_equal(found, resampled_sums(one_hot, clusters, resamples=200))
    assert not np.array_equal(found, resampled_sums(one_hot, clusters, resamples=200, seed=1))
    alone = resampled_sums(np.ones((12, 1)), resamples=3)
    assert alone.tolist() == [[12]] * 3
    shifted = resampled_sums(np.column_stack([clusters, 2.0 * clusters]), clusters, resamples=5)
    assert np.array_equal(shifted[:, 1], 2 * shifted[:, 0])  # all columns of one resample are of the same rows


def test_percentile_by_hand():
    assert percentile(7, np.arange(101)) == pytest.approx((7, 2.5, 97.5))
    assert percentile(7, np.arange(101), 0.8) == pytest.approx((7, 10, 90))
    assert percentile(7, [np.nan, 1, 3, np.nan, np.inf], 0.5) == (7, 1.5, 2.5)
    assert np.isnan(percentile(7, [np.nan])[1:]).all() and percentile(7, []).value == 7


def test_interval_writes_itself():
    assert f"{ConfidenceInterval(5.1, 4.96, 5.26):.1f}" == "5.1 (5.0 to 5.3)"


def test_clusters_are_resampled_whole():
    sizes = np.array([1, 3, 2, 5, 1, 4])
    clusters = np.random.default_rng(0).permutation(np.repeat(np.arange(6), sizes))
    drawn = []

    def statistic(values):
        counts = np.bincount(values, minlength=6)
        assert (counts % sizes == 0).all()
        drawn.append((counts // sizes).sum())
        return float(values.mean())

    confidence_interval(clusters, statistic, clusters, resamples=100)
    assert drawn == [6] * 101  # the value itself, and six clusters with repetition in each resample


def test_copies_in_clusters_add_no_evidence():
    values = np.random.default_rng(2).normal(size=60)
    copied, clusters = np.tile(values, 4), np.tile(np.arange(60), 4)
    once, grouped = confidence_interval(values), confidence_interval(copied, clusters=clusters)
    naive = confidence_interval(copied)
    assert grouped == pytest.approx(once)
    assert grouped.high - grouped.low > 1.7 * (naive.high - naive.low)  # sqrt(4) = 2 in theory


def test_missing_cluster_is_a_row_of_its_own():
    values = np.arange(10.0)
    assert confidence_interval(values, clusters=pd.array([pd.NA] * 10, dtype="Int64")) == confidence_interval(values)


def test_intervals_cover_the_truth_as_often_as_they_claim():
    rng, clusters, covered, naively = np.random.default_rng(5), np.repeat(np.arange(50), 3), 0, 0
    for _ in range(120):
        values = np.repeat(rng.normal(1, 4, 50), 3)  # 50 pictures, three copies each; true mean 1
        _, low, high = confidence_interval(values, clusters=clusters, resamples=200)
        covered += low <= 1 <= high
        _, low, high = confidence_interval(values, resamples=200)
        naively += low <= 1 <= high
    assert 0.88 <= covered / 120 <= 0.99  # 95 % claimed; the standard error of a share of 120 is 2 %
    assert naively / 120 < 0.85  # copies taken for evidence: 74 % in theory
