"""Confidence intervals of means and shares, in which copies of one photo count as one piece of evidence.

`clusters` [n] is everywhere the number of each row's cluster (the column `cluster` of the label table): rows with the
same number are resampled together, since two copies of a picture are not two pictures. NA is a cluster of its own,
None makes every row one. All of it is deterministic in `seed`.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats


class ConfidenceInterval(NamedTuple):
    """A value and the ends of its confidence interval, which a format writes together.

    >>> f"{ConfidenceInterval(5.1, 4.96, 5.26):.1f}"
    '5.1 (5.0 to 5.3)'
    """

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def cluster_codes(n: int, clusters: Any = None) -> np.ndarray:
    """Clusters of `n` rows, int [n], numbered from 0 in the order in which they appear.

    >>> cluster_codes(5, pd.array([7, None, 7, 3, None], dtype="Int64")).tolist()
    [0, 1, 0, 2, 3]
    """
    if clusters is None:
        return np.arange(n)
    codes = pd.factorize(pd.Series(clusters))[0]
    return pd.factorize(np.where(codes < 0, n + np.arange(n), codes))[0]


def _resampled_counts(codes: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each cluster occurs, int [number of clusters], in one bootstrap resample after the other."""
    count, rng = codes.max(initial=-1) + 1, np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(0, count, count), minlength=count)


def resampled_sums(columns: Any, clusters: Any = None, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Sums of `columns` [n, m] in bootstrap resamples of clusters, float64 [resamples, m].

    Enough for means of many subgroups at once, tens of times faster than a `confidence_interval` of each.
    """
    columns, codes = np.asarray(columns, float), cluster_codes(len(columns), clusters)
    totals = np.zeros((codes.max(initial=-1) + 1, columns.shape[1]))
    np.add.at(totals, codes, columns)
    return np.stack([counts @ totals for counts in _resampled_counts(codes, resamples, seed)])


def percentile(value: float, resampled: Any, level: float = 0.95) -> ConfidenceInterval:
    """`value` with the percentile interval of its `resampled` values, without NaN among them (an empty subgroup)."""
    resampled = np.asarray(resampled, float)
    resampled = resampled[np.isfinite(resampled)]
    ends = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2]) if len(resampled) else (np.nan, np.nan)
    return ConfidenceInterval(float(value), *(float(end) for end in ends))


def confidence_interval(values: Any, statistic: Callable[[np.ndarray], float] = np.mean, clusters: Any = None, *,
                        level: float = 0.95, resamples: int = 1000, seed: int = 0) -> ConfidenceInterval:
    """Percentile bootstrap interval of `statistic` (array [m, ...] -> float) over the rows of `values` [n, ...].

    The ends are NaN for fewer than two clusters; for fewer than about 30 they lie somewhat too close together.
    """
    values = np.asarray(values)
    codes = cluster_codes(len(values), clusters)
    value = float(statistic(values)) if len(values) else np.nan
    if codes.max(initial=0) == 0:
        return percentile(value, [])
    resampled = (np.repeat(values, counts[codes], axis=0) for counts in _resampled_counts(codes, resamples, seed))
    return percentile(value, [statistic(rows) for rows in resampled], level)


def share(hits: Any, clusters: Any = None, level: float = 0.95) -> ConfidenceInterval:
    """Share of true values in `hits` [n] with its exact interval (Clopper and Pearson's), sound also near 0 and 1.

    Copies are taken as wholly alike: n is the effective sample size (Korn and Graubard, Survey Methodology 24, 1998).
    NaN for no rows.

    >>> f"{share([True] * 9 + [False]):.0%}"
    '90% (55% to 100%)'
    """
    hits = np.asarray(hits, bool)
    if not len(hits):
        return percentile(np.nan, [])
    sizes = np.bincount(cluster_codes(len(hits), clusters)).astype(float)
    value, n = hits.mean(), sizes.sum() ** 2 / (sizes**2).sum()
    tail, k = (1 - level) / 2, value * n
    low = stats.beta.ppf(tail, k, n - k + 1) if k > 0 else 0.0
    high = stats.beta.ppf(1 - tail, k + 1, n - k) if k < n else 1.0
    return ConfidenceInterval(float(value), float(low), float(high))


def seed_noise(rows: list[np.ndarray]) -> tuple[float, int]:
    """Standard deviation over seeds, estimated robustly from the values [seeds] of several rows; degrees of freedom.

    The median absolute deviation from the rows' own means, scaled to a normal distribution: one restless row cannot
    make up most of it, as it does in a pooled variance. The median uses 37 % of what a variance would, so that share of
    the rows' degrees of freedom is left. NaN for one seed.

    >>> seed_noise([np.array([5.0, 5.1]), np.array([4.0, 4.1]), np.array([6.0, 9.0])])[0]  # 0.05 * 2 ** 0.5 / 0.6745
    0.1048...
    """
    freedom = sum(len(values) - 1 for values in rows)
    if freedom == 0:
        return np.nan, 1
    deviations = [np.abs(values - values.mean()) * (len(values) / (len(values) - 1)) ** 0.5
                  for values in rows if len(values) > 1]
    return float(np.median(np.concatenate(deviations)) / stats.norm.ppf(0.75)), max(1, round(0.37 * freedom))
