"""From a table of predictions to tables of error: how large, for whom, and how sure. Pure functions; no figures.

Predictions are one part of a record's table (columns part, name, age, gender, ethnicity, prediction; ages in years).
Error is prediction minus age: a positive bias means "guessed too old". Intervals are 95 % percentile bootstraps, or
those of `share` where it says so; where the table has a column `group` (see `add_groups`), identical pictures count as
one piece of evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from agehelpers.index import ETHNICITIES, GENDERS, identical_pairs

# The age groups of FairFace (Karkkainen and Joo, WACV 2021), years.
AGE_GROUPS = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+")
LEVELS = {"gender": GENDERS, "ethnicity": ETHNICITIES, "age_group": AGE_GROUPS}


class Interval(NamedTuple):
    """A value and the ends of its interval; ``f"{interval:.2f}"`` writes all three."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def errors(predictions: pd.DataFrame, *more: str) -> np.ndarray:
    """Prediction minus age, float64 [n], years. ValueError: empty, parts mixed, a number or column (`more`) missing."""
    if missing := {"age", "prediction", *more} - set(predictions):
        raise ValueError(f"predictions lack the column(s) {', '.join(sorted(missing))}; they have {list(predictions)}")
    if "part" in predictions and (parts := sorted(predictions["part"].unique()))[1:]:
        raise ValueError(f"predictions mix the parts {', '.join(parts)}; choose one, as in table[table.part == 'test']")
    if predictions.empty or predictions[["age", "prediction"]].isna().any(axis=None):
        raise ValueError("predictions are empty or have rows without an age or a prediction; leave those rows out")
    return predictions["prediction"].to_numpy(float) - predictions["age"].to_numpy(float)


def mae(predictions: pd.DataFrame) -> float:
    """Mean absolute error, years."""
    return float(np.abs(errors(predictions)).mean())


def bias(predictions: pd.DataFrame) -> float:
    """Mean error, years: positive where faces are guessed too old."""
    return float(errors(predictions).mean())


def cs(predictions: pd.DataFrame, k: float = 5) -> float:
    """Cumulative score: the share of pictures with an absolute error of at most `k` years."""
    return float((np.abs(errors(predictions)) <= k).mean())


def share(hits: Any, groups: Any = None, level: float = 0.95) -> Interval:
    """Share of true values in `hits` [n] and its interval (Clopper and Pearson's), sound also near 0 and 1.

    Rows with the same number in `groups` [n] are taken as wholly alike: n is the effective sample size (Korn and
    Graubard, Survey Methodology 24, 1998). NaN for no rows.
    """
    hits = np.asarray(hits, bool)
    if not len(hits):
        return Interval(float("nan"), float("nan"), float("nan"))
    sizes = np.bincount(clusters(len(hits), groups)).astype(float)
    value, n = hits.mean(), sizes.sum() ** 2 / (sizes**2).sum()
    tail, k = (1 - level) / 2, value * n
    low = stats.beta.ppf(tail, k, n - k + 1) if k > 0 else 0.0
    high = stats.beta.ppf(1 - tail, k + 1, n - k) if k < n else 1.0
    return Interval(float(value), float(low), float(high))


def cs_curve(predictions: pd.DataFrame, years: Sequence[float] = tuple(range(21))) -> pd.DataFrame:
    """Cumulative score at each of `years` with its 95 % interval (`share`): columns years, share, low, high."""
    error = np.abs(errors(predictions))
    found = [share(error <= k, predictions.get("group")) for k in years]
    return pd.DataFrame(found, columns=["share", "low", "high"]).assign(years=list(years))[
        ["years", "share", "low", "high"]]


def add_groups(predictions: pd.DataFrame, index: pd.DataFrame, *more: str) -> pd.DataFrame:
    """`predictions` with `group` of `index` (same number: identical or near-identical pictures) and columns `more`."""
    if unknown := sorted(set(predictions["name"]) - set(index["name"])):
        raise ValueError(f"{len(unknown)} pictures are not in the index, such as {unknown[0]}: is it of other faces?")
    return predictions.merge(index[["name", "group", *more]], on="name", how="left", validate="many_to_one")


def clusters(n: int, groups: Any) -> np.ndarray:
    """Number of the cluster of each of `n` rows: equal ones in `groups` [n] (NA: a row of its own), or rows."""
    codes = pd.factorize(pd.Series(np.arange(n)) if groups is None else pd.Series(groups))[0]
    return pd.factorize(np.where(codes < 0, n + np.arange(n), codes))[0]


def resampled_sums(columns: Any, groups: Any = None, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Sums of `columns` [n, m] in bootstrap resamples, float64 [resamples, m]; rows of a group are drawn together.

    Enough for means, differences of means and weighted means of many groups at once, tens of times faster than calling
    a statistic of each on every resample (`interval`), and with the same draws.
    """
    columns, codes = np.asarray(columns, float), clusters(len(columns), groups)
    count = codes.max(initial=-1) + 1
    totals = np.zeros((count, columns.shape[1]))
    np.add.at(totals, codes, columns)
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(0, count, count), minlength=count) @ totals for _ in range(resamples)])


def percentile(value: float, resampled: Any, level: float = 0.95) -> Interval:
    """`value` with the percentile interval of its `resampled` values; NaN among them (an empty group) are left out."""
    resampled = np.asarray(resampled, float)
    resampled = resampled[np.isfinite(resampled)]
    ends = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2]) if len(resampled) else (np.nan, np.nan)
    return Interval(float(value), *(float(end) for end in ends))


def interval(values: Any, statistic: Callable[[np.ndarray], float] = np.mean, groups: Any = None, *,
             level: float = 0.95, resamples: int = 1000, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of `statistic` (array [m, ...] -> float) over the rows of `values` [n, ...].

    Rows with the same number in `groups` [n] (NA: a row of its own) are drawn together, because two copies of a picture
    are one piece of evidence, not two (cluster bootstrap). Deterministic in `seed`; 20 resamples are held at a time.
    The ends are NaN for fewer than two groups of rows; for fewer than about 30 they lie somewhat too close together.
    """
    values = np.asarray(values)
    codes = clusters(len(values), groups)
    order = np.argsort(codes, kind="stable")
    starts, sizes = np.unique(codes[order], return_index=True, return_counts=True)[1:]
    value = float(statistic(values)) if len(values) else float("nan")
    if len(starts) < 2:
        return Interval(value, float("nan"), float("nan"))
    if statistic is np.mean and values.ndim == 1:
        sums = resampled_sums(np.column_stack([values, np.ones(len(values))]), codes, resamples=resamples, seed=seed)
        return percentile(value, sums[:, 0] / sums[:, 1], level)

    def resampled(drawn: np.ndarray) -> float:
        first, count = starts[drawn], sizes[drawn]  # the rows first, first + 1, ... of each drawn group, in one array
        rows = np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)
        return statistic(values[order[rows]])

    ends = stats.bootstrap((np.arange(len(starts)),), resampled, n_resamples=resamples, batch=20, vectorized=False,
                           confidence_level=level, method="percentile", rng=np.random.default_rng(seed))
    return Interval(value, *(float(end) for end in ends.confidence_interval))


def age_group(ages: Any) -> pd.Categorical:
    """The AGE_GROUPS of `ages` [n]; predictions are first rounded to whole years, as labels are, and cut at 0."""
    whole = np.floor(np.clip(np.asarray(ages, dtype=float), 0, None) + 0.5)
    return pd.cut(whole, [0, 3, *range(10, 80, 10), np.inf], right=False, labels=AGE_GROUPS)


def age_group_confusion(predictions: pd.DataFrame, normalise: bool = False) -> pd.DataFrame:
    """Pictures by true (rows) and predicted (columns) age group; `normalise`: shares of each row, NaN in empty rows."""
    errors(predictions)  # checks the table
    true, predicted = (pd.Series(age_group(predictions[column])) for column in ("age", "prediction"))
    counts = pd.crosstab(true, predicted, rownames=["true"], colnames=["predicted"], dropna=False)
    return counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0) if normalise else counts


def overall(predictions: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """One row a metric: columns metric, unit ("years", "share", "pictures"), value, low, high."""
    error = errors(predictions)
    true, predicted = (age_group(predictions[column]).codes.astype(int) for column in ("age", "prediction"))
    ends = partial(interval, groups=predictions.get("group"), resamples=resamples, seed=seed)
    rows = [("MAE", "years", *ends(np.abs(error))), ("RMSE", "years", *ends(error**2, lambda e: np.sqrt(e.mean()))),
            ("median absolute error", "years", *ends(np.abs(error), np.median)), ("bias", "years", *ends(error)),
            ("CS@5", "share", *ends(np.abs(error) <= 5)), ("age group right", "share", *ends(true == predicted)),
            ("age group right or next to it", "share", *ends(np.abs(true - predicted) <= 1)),
            ("n", "pictures", len(error), np.nan, np.nan)]
    return pd.DataFrame(rows, columns=["metric", "unit", "value", "low", "high"])


def level_of(table: pd.DataFrame, key: str) -> pd.Series:
    """Column `key` as ordered categories, all known levels in their order; a missing label is "unknown", the last.

    `key` is "age_group" (made from age), "gender", "ethnicity", or another column.
    """
    if key == "age_group":
        return pd.Series(age_group(table["age"]), index=table.index, name=key)
    column = table[key].astype(object).where(table[key].notna(), "unknown")
    known: Sequence[Any] = LEVELS.get(key, getattr(table[key].dtype, "categories", ()))
    other = sorted(set(column) - set(known), key=lambda level: (level == "unknown", level))  # a number, no text
    return pd.Series(pd.Categorical(column, [*known, *other], ordered=True), index=table.index, name=key)


def by_group(predictions: pd.DataFrame, *keys: str, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """One row for each group: `keys`, n, mae, mae_low, mae_high, bias, bias_low, bias_high, cs5 (years; cs5 a share).

    `keys` are those of `level_of`. Every level has its row, an empty one with n = 0 and NaN. Fewer than two pictures:
    no interval (NaN).
    """
    error = errors(predictions, *{*keys} - {"age_group"})
    table = predictions.assign(error=error, **{key: level_of(predictions, key) for key in keys})
    rows = []
    for level, part in table.groupby(list(keys), observed=False):
        error = part["error"].to_numpy()
        ends = partial(interval, groups=part.get("group"), resamples=resamples, seed=seed)
        cs5 = (np.abs(error) <= 5).mean() if len(part) else np.nan
        rows.append((*level, len(part), *ends(np.abs(error)), *ends(error), cs5))
    measures = ["mae", "mae_low", "mae_high", "bias", "bias_low", "bias_high", "cs5"]
    return pd.DataFrame(rows, columns=[*keys, "n", *measures]).astype({key: table[key].dtype for key in keys})


def median_baseline(predictions: pd.DataFrame, train_median: float, part: str = "test") -> pd.DataFrame:
    """The rows of `part` with the median age of the training pictures as prediction: what any model has to beat.

    `train_median` is in a run's config.json.
    """
    return predictions[predictions["part"] == part].assign(prediction=float(train_median))


def yardsticks(predictions: pd.DataFrame, train_median: float, index: pd.DataFrame,
               reported: Sequence[tuple[str, float]] = (), resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """MAE of `predictions` (years) beside what it is to be compared with: columns what, mae, low, high, and ours minus
    it, difference, difference_low, difference_high (paired, picture by picture, where both are known).

    `index`: the label table, for the label error (intervals over sets of identical pictures); `reported`: name and MAE
    of figures that others published, which have no interval here.
    """
    error = np.abs(errors(predictions))
    ends = partial(interval, groups=predictions.get("group"), resamples=resamples, seed=seed)
    base = np.abs(errors(predictions.assign(prediction=float(train_median))))
    pairs = identical_pairs(index)
    sets = pairs["name_a"].map(index.set_index("name")["sha256"])
    label = interval(pairs["difference"] / 2**0.5, groups=sets, resamples=resamples, seed=seed)
    nothing = (np.nan, np.nan, np.nan)
    rows: list[tuple[Any, ...]] = [("these predictions", *ends(error), *nothing),
                                   ("median baseline", *ends(base), *ends(error - base)),
                                   ("label error, an estimate", *label, *nothing)]
    rows += [(name, value, np.nan, np.nan, *ends(error - value)) for name, value in reported]
    return pd.DataFrame(rows, columns=["what", "mae", "low", "high", "difference", "difference_low",
                                       "difference_high"])


def slope(predictions: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> Interval:
    """Least-squares slope of prediction on age: 1 keeps the range of ages, 0 always answers the same.

    Below 1 is regression to the mean: the young are guessed too old, the old too young.
    """
    pairs = np.column_stack([predictions["age"].to_numpy(float), errors(predictions)])
    return interval(pairs, lambda p: 1 + np.cov(p.T)[0, 1] / np.var(p[:, 0], ddof=1), predictions.get("group"),
                    resamples=resamples, seed=seed)


def running_median(predictions: pd.DataFrame, width: int = 5, least: int = 10) -> pd.DataFrame:
    """Quartiles of predictions for true ages within `width` / 2 years of each age: columns age, n, low, median, high.

    Ages with fewer than `least` pictures about them are left out.
    """
    errors(predictions)  # checks the table
    ages = predictions["age"]
    near = ((age, predictions.loc[(ages - age).abs() <= width / 2, "prediction"]) for age in sorted(ages.unique()))
    rows = [(age, len(part), *part.quantile([0.25, 0.5, 0.75])) for age, part in near if len(part) >= least]
    return pd.DataFrame(rows, columns=["age", "n", "low", "median", "high"])


def best_and_worst(predictions: pd.DataFrame, k: int = 6) -> pd.DataFrame:
    """The `k` smallest, then the `k` largest absolute errors, largest first: columns error, which ("best"/"worst")."""
    table = predictions.assign(error=errors(predictions)).sort_values("name")
    table, k = table.sort_values("error", key=np.abs, kind="stable"), min(k, len(table) // 2)
    return pd.concat([table.head(k).assign(which="best"), table[::-1].head(k).assign(which="worst")], ignore_index=True)
