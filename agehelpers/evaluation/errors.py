"""How large the error is: single measures, curves, and what they are to be compared with.

Where a table has a column cluster (`tables.add_clusters`), copies of one photo count as one piece of evidence.
Confidence intervals (columns low, high) are 95 % percentile bootstraps, or `bootstrap.share`'s.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from agehelpers.data.bands import balanced_mean
from agehelpers.data.labels import identical_pairs
from agehelpers.evaluation.bootstrap import ConfidenceInterval, confidence_interval, share
from agehelpers.evaluation.tables import age_band, check_predictions, errors

MEASURES: dict[str, Callable[[np.ndarray], float]] = {  # of errors [n], years
    "MAE": lambda error: np.abs(error).mean(),
    "RMSE": lambda error: np.sqrt((error**2).mean()),
    "median absolute error": lambda error: np.median(np.abs(error)),
    "bias": lambda error: error.mean()}


def mae(predictions: pd.DataFrame) -> float:
    """Mean absolute error, years.

    >>> mae(pd.DataFrame({"age": [20, 40], "prediction": [23, 35]}))
    4.0
    """
    return float(np.abs(errors(predictions)).mean())


def balanced_mae(predictions: pd.DataFrame, column: str = "prediction") -> ConfidenceInterval:
    """Balanced MAE of `column`, years: the mean of the age bands' MAE, in which few old count as much as many young.

    >>> balanced_mae(pd.DataFrame({"age": [20, 22, 24, 75], "prediction": [21, 23, 25, 70]})).value
    3.0
    """
    check_predictions(predictions, column)
    pairs = np.column_stack([(predictions[column] - predictions["age"]).abs(), age_band(predictions["age"]).codes])
    return confidence_interval(pairs, lambda rows: balanced_mean(rows[:, 0], rows[:, 1].astype(int)),
                               predictions.get("cluster"))


def bias(predictions: pd.DataFrame) -> float:
    """Mean error, years: positive where faces are predicted too old.

    >>> bias(pd.DataFrame({"age": [20, 40], "prediction": [23, 35]}))
    -1.0
    """
    return float(errors(predictions).mean())


def cs(predictions: pd.DataFrame, k: float = 5) -> float:
    """Cumulative score: the share of pictures with an absolute error of at most `k` years."""
    return float((np.abs(errors(predictions)) <= k).mean())


def cs_curve(predictions: pd.DataFrame, years: Sequence[float] = tuple(range(21))) -> pd.DataFrame:
    """Cumulative score at each of `years`: columns years, share, low, high."""
    error = np.abs(errors(predictions))
    rows = [(k, *share(error <= k, predictions.get("cluster"))) for k in years]
    return pd.DataFrame(rows, columns=["years", "share", "low", "high"])


def overall(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row a metric: columns metric, unit ("years", "share", "pictures"), value, low, high."""
    error = errors(predictions)
    true, predicted = (age_band(predictions[column]).codes.astype(int) for column in ("age", "prediction"))
    interval = partial(confidence_interval, clusters=predictions.get("cluster"))
    rows = [*((name, "years", *interval(error, measure)) for name, measure in MEASURES.items()),
            ("CS@5", "share", *interval(np.abs(error) <= 5)),
            ("age band right", "share", *interval(true == predicted)),
            ("age band right or next to it", "share", *interval(np.abs(true - predicted) <= 1)),
            ("n", "pictures", len(error), np.nan, np.nan)]
    return pd.DataFrame(rows, columns=["metric", "unit", "value", "low", "high"])


def median_baseline(predictions: pd.DataFrame, train_median: float, part: str = "test") -> pd.DataFrame:
    """The rows of `part` with the median age of the training pictures as prediction: what any model has to beat."""
    return predictions[predictions["part"] == part].assign(prediction=float(train_median))


def yardsticks(predictions: pd.DataFrame, train_median: float, labels: pd.DataFrame,
               reported: Sequence[tuple[str, float]] = ()) -> pd.DataFrame:
    """MAE of `predictions` (years) beside what it is to be compared with: columns what, mae, low, high, and ours minus
    it, difference, difference_low, difference_high (paired, picture by picture, where both are known).

    `labels`: the label table, for the label error (an interval over sets of identical pictures); `reported`: name and
    MAE of figures that others published, which have no interval here.
    """
    error = np.abs(errors(predictions))
    base = np.abs(errors(predictions.assign(prediction=float(train_median))))
    interval = partial(confidence_interval, clusters=predictions.get("cluster"))
    pairs = identical_pairs(labels)
    content = pairs["name_a"].map(labels.set_index("name")["sha256"])
    nothing = (np.nan, np.nan, np.nan)
    rows: list[tuple[Any, ...]] = [
        ("these predictions", *interval(error), *nothing),
        ("median baseline", *interval(base), *interval(error - base)),
        ("label error, an estimate", *confidence_interval(pairs["difference"] / 2**0.5, clusters=content), *nothing)]
    rows += [(name, value, np.nan, np.nan, *interval(error - value)) for name, value in reported]
    return pd.DataFrame(rows, columns=["what", "mae", "low", "high", "difference", "difference_low", "difference_high"])


def slope_of(pairs: np.ndarray) -> float:
    """Least-squares slope of prediction on age, from columns age and error of `pairs` [n, 2]."""
    return 1 + np.cov(pairs.T)[0, 1] / np.var(pairs[:, 0], ddof=1)


def slope(predictions: pd.DataFrame) -> ConfidenceInterval:
    """Least-squares slope of prediction on age: 1 keeps the range of ages, 0 predicts the same age for everybody.

    Below 1 is regression to the mean: the young are predicted too old, the old too young.
    """
    pairs = np.column_stack([predictions["age"].to_numpy(float), errors(predictions)])
    return confidence_interval(pairs, slope_of, predictions.get("cluster"))


def running_median(predictions: pd.DataFrame, width: int = 5, least: int = 10) -> pd.DataFrame:
    """Quartiles of predictions for true ages within `width` / 2 years of each age: columns age, n, low, median, high.

    Ages with fewer than `least` pictures about them are left out.
    """
    check_predictions(predictions)
    ages = predictions["age"]
    near = ((age, predictions.loc[(ages - age).abs() <= width / 2, "prediction"]) for age in sorted(ages.unique()))
    rows = [(age, len(part), *part.quantile([0.25, 0.5, 0.75])) for age, part in near if len(part) >= least]
    table = pd.DataFrame(rows, columns=["age", "n", "low", "median", "high"])
    return table if rows else table.astype(float)


def best_and_worst(predictions: pd.DataFrame, k: int = 6) -> pd.DataFrame:
    """The `k` smallest, then the `k` largest absolute errors, largest first: columns error, which ("best"/"worst")."""
    table = predictions.assign(error=errors(predictions)).sort_values("name")
    table, k = table.sort_values("error", key=np.abs, kind="stable"), min(k, len(table) // 2)
    return pd.concat([table.head(k).assign(which="best"), table[::-1].head(k).assign(which="worst")], ignore_index=True)
