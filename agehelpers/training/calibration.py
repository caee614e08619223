"""How far prediction intervals reach, from the calibration pictures of a run: split conformal prediction.

The score of a calibration picture is its absolute error, or that error divided by the predicted spread ("normalised").
An interval reaches as far as the k-th smallest score, k = ceil((n + 1) * level), of n calibration pictures. If these
and a new picture come from one source in random order, the interval then covers the new age with a probability of at
least `level`, whatever the model is worth (Vovk et al., Algorithmic Learning in a Random World, 2005; Lei et al., JASA
2018, arXiv 1604.04173, for both scores). Written out here, since every training ends with it and is to need no library
beyond what training needs anyway; the tests compare it with the library crepes. `evaluation.intervals` says how well
the intervals hold, and for whom.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

import numpy as np
import pandas as pd

from agehelpers.data.names import OLDEST

LEVELS = (0.8, 0.9, 0.95)
FAMILIAR, ENOUGH = 0.95, 10  # share of calibration pictures that are not called unlike; pictures for a median of theirs
SMALLEST = 0.1  # years; a spread below it counts as this much, so that no score is divided by nothing


def ends(level: float) -> tuple[str, str]:
    """Names of an interval's columns.

    >>> ends(0.8)
    ('lower_80', 'upper_80')
    """
    return f"lower_{100 * level:g}", f"upper_{100 * level:g}"


def rank(n: int, level: float) -> int:
    """Which of `n` sorted scores an interval reaches to, counted from 1; more than `n` where there are too few."""
    return ceil(round((n + 1) * level, 9))  # rounded: 100 * 0.55 is a little more than 55


def reach(scores: np.ndarray, level: float) -> float:
    """The k-th smallest of `scores` [n], k = ceil((n + 1) * level); infinite where n is too small for that level.

    >>> reach(np.array([5.0, 1, 4, 2, 3, 9, 7, 8, 6]), 0.8)
    8.0
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level}: an interval's level lies between 0 and 1")
    k = rank(len(scores), level)
    return float(np.sort(scores)[k - 1]) if k <= len(scores) else float("inf")


def scale(predictions: pd.DataFrame, normalised: bool) -> np.ndarray:
    """What a score is divided by, float64 [n]: the spread in years, at least `SMALLEST`, or 1."""
    if not normalised:
        return np.ones(len(predictions))
    if "spread" not in predictions:
        raise ValueError("predictions have no column spread: this head gives none; use normalised=False")
    return np.maximum(predictions["spread"].to_numpy(float), SMALLEST)


def scores(calibration: pd.DataFrame, normalised: bool) -> np.ndarray:
    """Absolute errors in years, or in multiples of the spread, float64 [n]; columns age, prediction [, spread]."""
    error = (calibration["prediction"] - calibration["age"]).abs().to_numpy(float)
    return error / scale(calibration, normalised)


def attach(predictions: pd.DataFrame, reached: Mapping[float, float | np.ndarray], normalised: bool) -> pd.DataFrame:
    """`predictions` with lower_80, upper_80, ... (years, two decimals, rounded outwards), cut at 0 and `OLDEST` years.

    `reached`: how far they reach at each level, one number or one a row. No person is beyond the cut, so no coverage is
    lost.
    """
    centre, unit = predictions["prediction"].to_numpy(float), scale(predictions, normalised)
    columns: dict[str, np.ndarray] = {}
    for level, far in reached.items():
        lower, upper = (np.clip(end, 0, OLDEST) for end in (centre - far * unit, centre + far * unit))
        columns |= dict(zip(ends(level), (np.floor(lower * 100) / 100, np.ceil(upper * 100) / 100), strict=True))
    return predictions.assign(**columns)


def attach_intervals(predictions: pd.DataFrame) -> pd.DataFrame:
    """All parts, with intervals in the test rows, calibrated on the part calibration, which chose nothing.

    They are normalised by the spread where the head gives one. Other parts have NaN: an interval says nothing of the
    pictures that made the model or the interval.
    """
    test, calibration = (predictions[predictions["part"] == part] for part in ("test", "calibration"))
    normalised = "spread" in predictions
    known = scores(calibration, normalised)
    columns = [end for level in LEVELS for end in ends(level)]
    return predictions.join(attach(test, {level: reach(known, level) for level in LEVELS}, normalised)[columns])


def interval_facts(predictions: pd.DataFrame) -> dict[str, Any]:
    """How far the intervals of `attach_intervals` reach, for config.json and the checkpoint; none where infinite.

    With a spread, ``usual`` too, see `usual_spread`.
    """
    calibration = predictions[predictions["part"] == "calibration"]
    normalised = "spread" in predictions
    reached = {level: reach(scores(calibration, normalised), level) for level in LEVELS}
    usual = usual_spread(calibration) if normalised else None
    return {"normalised": normalised, "calibration": len(calibration),
            **{f"{100 * level:g}": round(far, 4) for level, far in reached.items() if np.isfinite(far)},
            **({"usual": usual} if usual else {})}


def usual_spread(calibration: pd.DataFrame) -> dict[str, list[float]] | None:
    """The spread (years) that `FAMILIAR` of all calibration pictures keep under, at several predicted ages.

    It is one multiple of the median spread of the calibration pictures of about that predicted age, and reaches as an
    interval does, so that of new pictures from the same source about 5 % exceed it. None where there are too few.
    """
    ages = pd.cut(calibration["prediction"], [-np.inf, *range(5, 70, 10), np.inf], right=False)
    bands = calibration.groupby(ages, observed=True)[["prediction", "spread"]]
    known = bands.agg({"prediction": "mean", "spread": "median"})[bands.size() >= ENOUGH]
    if known.empty:
        return None
    usual = np.interp(calibration["prediction"], known["prediction"], known["spread"])
    far = reach(scale(calibration, True) / np.maximum(usual, SMALLEST), FAMILIAR)
    return {"age": known["prediction"].round(2).tolist(),
            "spread": (far * known["spread"].clip(SMALLEST)).round(3).tolist()} if np.isfinite(far) else None


def attach_known(predictions: pd.DataFrame, facts: Mapping[str, Any]) -> pd.DataFrame:
    """`predictions` of new pictures with the intervals that a checkpoint's `interval_facts` describe.

    And ``unlike``, where these know it: whether the spread is larger than usual, so that the picture may be unlike the
    training pictures.
    """
    reached = {level: facts.get(f"{100 * level:g}", np.inf) for level in LEVELS}
    known = attach(predictions, reached, facts["normalised"])
    if usual := facts.get("usual"):
        known["unlike"] = known["spread"] > np.interp(known["prediction"], usual["age"], usual["spread"])
    return known
