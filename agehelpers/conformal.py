"""Prediction intervals that keep a promise: split conformal prediction, from tables to tables.

The score of a calibration picture is its absolute error, or that error divided by the predicted spread ("normalised").
An interval reaches as far as the k-th smallest score, k = ceil((n + 1) * level), of n calibration pictures. If these
and a new picture come from one source in random order, the interval then holds the new age with a probability of at
least `level`, whatever the model is worth (Vovk et al., Algorithmic Learning in a Random World, 2005; Lei et al., JASA
2018, arXiv 1604.04173, for both scores). It is a promise on average over pictures and calibration sets, not for each
group of pictures: `by` calibrates every group on its own (Mondrian). Written out here, since every training
ends with it and is to need no library beyond what training needs anyway; the tests hold it against the library crepes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
import pandas as pd
from scipy import stats

from agehelpers.analysis import clusters, errors, interval, level_of, share
from agehelpers.index import OLDEST

LEVELS = (0.8, 0.9, 0.95)
SMALLEST = 0.1  # years; a spread below it counts as this much, so that no score is divided by nothing


def ends(level: float) -> tuple[str, str]:
    """Names of an interval's columns: ``ends(0.8) == ("lower_80", "upper_80")``."""
    return f"lower_{100 * level:g}", f"upper_{100 * level:g}"


def reach(scores: np.ndarray, level: float) -> float:
    """The k-th smallest of `scores` [n], k = ceil((n + 1) * level); infinite where n is too small for that promise."""
    if not 0 < level < 1:
        raise ValueError(f"level {level}: an interval's level lies between 0 and 1")
    k = ceil(round((len(scores) + 1) * level, 9))  # rounded: 100 * 0.55 is a little more than 55
    return float(np.sort(scores)[k - 1]) if k <= len(scores) else float("inf")


def scale(predictions: pd.DataFrame, normalised: bool) -> np.ndarray:
    """What a score is divided by, float64 [n]: the spread in years, at least `SMALLEST`, or 1."""
    if not normalised:
        return np.ones(len(predictions))
    if "spread" not in predictions:
        raise ValueError("predictions have no column spread: this head gives none; use normalised=False")
    return np.maximum(predictions["spread"].to_numpy(float), SMALLEST)


def reaches(calibration: pd.DataFrame, normalised: bool, levels: Sequence[float] = LEVELS,
            by: str | None = None) -> pd.DataFrame:
    """How far intervals reach to either side: one row a group of `by` ("all" without), columns n and `levels`.

    In years, or in multiples of the spread where `normalised`. `calibration`: columns age, prediction (years)
    [, spread, `by`], of pictures by which nothing was chosen.
    """
    score = (calibration["prediction"] - calibration["age"]).abs().to_numpy(float) / scale(calibration, normalised)
    groups = pd.Series("all", index=calibration.index) if by is None else level_of(calibration, by)
    rows = {group: [len(rows), *(reach(score[rows], level) for level in levels)]
            for group, rows in groups.groupby(groups, observed=True).indices.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["n", *levels]).astype({"n": int})


def with_intervals(predictions: pd.DataFrame, calibration: pd.DataFrame, normalised: bool = True,
                   levels: Sequence[float] = LEVELS, by: str | None = None) -> pd.DataFrame:
    """`predictions` with the columns lower_80, upper_80, ... (years, two decimals, rounded outwards).

    Ends are cut at 0 and `OLDEST` years: no person is outside, so nothing of the promise is lost. That is also the
    interval where there are too few calibration pictures, or none of a picture's group.
    """
    found = reaches(calibration, normalised, levels, by)
    groups = pd.Series("all", index=predictions.index) if by is None else level_of(predictions, by).astype(object)
    return attach(predictions, {level: groups.map(found[level]).fillna(np.inf).to_numpy(float) for level in levels},
                  normalised)


def attach(predictions: pd.DataFrame, reached: Mapping[float, float | np.ndarray], normalised: bool) -> pd.DataFrame:
    """`with_intervals` where it is known how far they reach at each level (one number, or one a row)."""
    centre, unit = predictions["prediction"].to_numpy(float), scale(predictions, normalised)
    columns: dict[str, np.ndarray] = {}
    for level, far in reached.items():
        lower, upper = (np.clip(end, 0, OLDEST) for end in (centre - far * unit, centre + far * unit))
        columns |= dict(zip(ends(level), (np.floor(lower * 100) / 100, np.ceil(upper * 100) / 100), strict=True))
    return predictions.assign(**columns)


def coverage(predictions: pd.DataFrame, *keys: str, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """How often the intervals of `predictions` hold the age: a row for each level and group of `keys` (`level_of`).

    Columns level, `keys`, n, coverage, low, high (its 95 % interval, `analysis.share`), width (mean, years), width_low,
    width_high (its 95 % interval, bootstrap), median (width). ValueError where rows have no interval, as those of other
    parts than test in a record.
    """
    columns = [end for level in levels for end in ends(level)]
    errors(predictions, *columns, *{*keys} - {"age_group"})  # checks the table
    if predictions[columns].isna().any(axis=None):
        raise ValueError("some rows have no interval; in a record only those of part 'test' have one")
    by = [level_of(predictions, key) for key in keys]
    rows = []
    for group, part in predictions.groupby(by, observed=True) if keys else [((), predictions)]:
        for level in levels:
            lower, upper = (part[end] for end in ends(level))
            held = share((lower <= part["age"]) & (part["age"] <= upper), part.get("group"))
            width = interval((upper - lower).to_numpy(), groups=part.get("group"))
            rows.append((level, *group, len(part), *held, *width, (upper - lower).median()))
    table = pd.DataFrame(rows, columns=["level", *keys, "n", "coverage", "low", "high", "width", "width_low",
                                        "width_high", "median"])
    return table.astype({key: codes.dtype for key, codes in zip(keys, by, strict=True)}).sort_values(
        ["level", *keys], kind="stable", ignore_index=True)


def expected_coverage(level: float, calibration: int, test: int, probability: float = 0.95) -> tuple[float, float]:
    """Between which shares the coverage of `test` pictures falls in 95 % (`probability`) of draws of both sets.

    Beta-binomial (Vovk 2012; Angelopoulos and Bates, arXiv 2107.07511): so much is chance, even if all is right.
    """
    k = ceil(round((calibration + 1) * level, 9))
    if k > calibration:
        return 1.0, 1.0
    low, high = stats.betabinom(test, k, calibration + 1 - k).interval(probability)
    return float(low / test), float(high / test)


def risk_coverage(predictions: pd.DataFrame, by: str = "spread",
                  answered: Sequence[float] = tuple(np.linspace(0.05, 1, 20))) -> pd.DataFrame:
    """Error when only the surest pictures are answered: columns answered (a share), n, limit (of `by`), mae, low, high,
    best.

    Pictures are answered from the smallest `by` upwards; low and high are the 95 % interval of the MAE (bootstrap),
    `best` is the MAE in years had they been ordered by their error itself, which nobody can. (El-Yaniv and Wiener,
    JMLR 11, 2010: "risk-coverage".)
    """
    table = predictions.assign(error=np.abs(errors(predictions, by))).sort_values([by, "name"])
    error, limit = (table[column].to_numpy(float) for column in ("error", by))
    ideal, copies = np.sort(error), clusters(len(table), table.get("group"))
    counts = [max(1, round(part * len(table))) for part in answered]
    rows = [(n / len(table), n, limit[n - 1], *interval(error[:n], groups=copies[:n]), ideal[:n].mean())
            for n in counts]
    return pd.DataFrame(rows, columns=["answered", "n", "limit", "mae", "low", "high", "best"])
