"""Prediction intervals: by subgroup, how often they cover the age, how often they should, and how wide they are.

`training.calibration` says how far they reach, and why (split conformal prediction). That holds on average over
pictures and calibration sets, not for each subgroup: `by` calibrates every subgroup on its own (Mondrian).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from agehelpers.evaluation.bootstrap import cluster_codes, confidence_interval, share
from agehelpers.evaluation.tables import check_predictions, errors, subgroup_of
from agehelpers.training.calibration import LEVELS, attach, ends, rank, reach, scores


def check_intervals(predictions: pd.DataFrame, *levels: float) -> None:
    """ValueError if a row has no interval of one of the `levels`; else as `check_predictions`."""
    columns = [end for level in levels for end in ends(level)]
    check_predictions(predictions, *columns)
    if predictions[columns].isna().any(axis=None):
        raise ValueError("some rows have no interval; in a record only those of part 'test' have one")


def _calibrated_with(table: pd.DataFrame, by: str | None) -> pd.Series:
    """The subgroup of `by` that each row is calibrated with; "all" without."""
    return pd.Series("all", table.index) if by is None else subgroup_of(table, by)


def reaches(calibration: pd.DataFrame, normalised: bool, levels: Sequence[float] = LEVELS,
            by: str | None = None) -> pd.DataFrame:
    """How far intervals reach to either side: one row a subgroup of `by` ("all" without), columns n and `levels`.

    In years, or in multiples of the spread where `normalised`. `calibration`: columns age, prediction (years)
    [, spread, `by`], of pictures by which nothing was chosen.
    """
    score, subgroups = scores(calibration, normalised), _calibrated_with(calibration, by)
    rows = {name: [len(rows), *(reach(score[rows], level) for level in levels)]
            for name, rows in subgroups.groupby(subgroups, observed=True).indices.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["n", *levels]).astype({"n": int})


def with_intervals(predictions: pd.DataFrame, calibration: pd.DataFrame, normalised: bool = True,
                   levels: Sequence[float] = LEVELS, by: str | None = None) -> pd.DataFrame:
    """`predictions` with the columns lower_80, upper_80, ... (`calibration.attach`), in years.

    0 to `OLDEST` years where there are too few calibration pictures, or none of a picture's subgroup.
    """
    found, subgroups = reaches(calibration, normalised, levels, by), _calibrated_with(predictions, by).astype(object)
    return attach(predictions, {level: subgroups.map(found[level]).fillna(np.inf).to_numpy(float) for level in levels},
                  normalised)


def coverage(predictions: pd.DataFrame, *keys: str, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """How often the intervals of `predictions` cover the age: a row for each level and subgroup of `keys`.

    Columns level, `keys`, n, coverage, low, high (its 95 % interval, `bootstrap.share`), width (mean, years)
    and median (width). ValueError where rows have no interval.
    """
    check_intervals(predictions, *levels)
    by = [subgroup_of(predictions, key) for key in keys]
    rows = []
    for subgroup, part in predictions.groupby(by, observed=True) if keys else [((), predictions)]:
        for level in levels:
            lower, upper = (part[end] for end in ends(level))
            covered = share((lower <= part["age"]) & (part["age"] <= upper), part.get("cluster"))
            rows.append((level, *subgroup, len(part), *covered, (upper - lower).mean(), (upper - lower).median()))
    table = pd.DataFrame(rows, columns=["level", *keys, "n", "coverage", "low", "high", "width", "median"])
    return table.astype({key: column.dtype for key, column in zip(keys, by, strict=True)}).sort_values(
        ["level", *keys], kind="stable", ignore_index=True)


def expected_coverage(level: float, calibration: int, test: int, probability: float = 0.95) -> tuple[float, float]:
    """Range of the coverage of `test` pictures in 95 % (`probability`) of random calibration and test sets.

    Beta-binomial (Vovk 2012; Angelopoulos and Bates, arXiv 2107.07511): so much is chance, even if all is right.
    """
    k = rank(calibration, level)
    if k > calibration:
        return 1.0, 1.0
    low, high = stats.betabinom(test, k, calibration + 1 - k).interval(probability)
    return float(low / test), float(high / test)


def risk_coverage(predictions: pd.DataFrame, shares: Sequence[float] = tuple(np.linspace(0.05, 1, 20))) -> pd.DataFrame:
    """Error when only the pictures of smallest spread are kept: a row for each of `shares`.

    Columns share (kept), n, limit (largest spread, years), mae, low, high (its 95 % interval, bootstrap), best (the MAE
    had they been ordered by their error itself, which nobody can). (El-Yaniv and Wiener, JMLR 11, 2010.)
    """
    check_predictions(predictions, "spread")
    table = predictions.assign(error=np.abs(errors(predictions))).sort_values(["spread", "name"])
    error, limit = (table[column].to_numpy(float) for column in ("error", "spread"))
    ideal, copies = np.sort(error), cluster_codes(len(table), table.get("cluster"))
    counts = [max(1, round(part * len(table))) for part in shares]
    rows = [(n / len(table), n, limit[n - 1], *confidence_interval(error[:n], clusters=copies[:n]), ideal[:n].mean())
            for n in counts]
    return pd.DataFrame(rows, columns=["share", "n", "limit", "mae", "low", "high", "best"])
