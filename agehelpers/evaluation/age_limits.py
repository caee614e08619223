"""Decisions by an age limit: what a point prediction does there, for whom, and what an interval does instead.

A person is *accepted* when judged at least `limit` years old. False acceptance is the share of the younger who are
accepted, false rejection that of the others who are not (the words of biometrics, ISO/IEC 19795-1).
"""

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, precision_recall_curve

from agehelpers.evaluation.bootstrap import share
from agehelpers.evaluation.intervals import check_intervals
from agehelpers.evaluation.tables import check_predictions, subgroup_of
from agehelpers.training.calibration import ends


def precision_recall(predictions: pd.DataFrame, limit: float, younger: bool) -> tuple[pd.DataFrame, pd.Series]:
    """Finding the `younger` than `limit` (or those at least as old) by their predicted age: curve and summary.

    The curve has columns cutoff (years), precision, recall; the summary has n, positives, prevalence (the precision of
    guessing) and average_precision. ValueError where all are on one side of the limit.
    """
    check_predictions(predictions)
    age, prediction = (predictions[column].to_numpy(float) for column in ("age", "prediction"))
    positive, score = (age < limit, -prediction) if younger else (age >= limit, prediction)
    if positive.all() or not positive.any():
        raise ValueError(f"all pictures are on one side of {limit:g} years: there is nothing to find")
    precision, recall, cutoff = precision_recall_curve(positive, score)
    curve = pd.DataFrame({"cutoff": -cutoff if younger else cutoff, "precision": precision[:-1], "recall": recall[:-1]})
    return curve, pd.Series({"n": len(age), "positives": positive.sum(), "prevalence": positive.mean(),
                             "average_precision": average_precision_score(positive, score)})


def cutoff_for(predictions: pd.DataFrame, limit: float, false_rejection: float = 0.05) -> float:
    """The highest predicted age to accept from, at which at most `false_rejection` of those of `limit` on are rejected.

    To be chosen on pictures that are not those it is judged on. ValueError where nobody is old enough, or all may be
    rejected.

    >>> cutoff_for(pd.DataFrame({"age": [17, 18, 30, 40, 50], "prediction": [12, 15, 25, 40, 45]}), 18, 0.25)
    25.0
    """
    check_predictions(predictions)
    if not 0 <= false_rejection < 1:
        raise ValueError(f"false_rejection {false_rejection}: a share from 0 to below 1")
    adults = np.sort(predictions.loc[predictions["age"] >= limit, "prediction"].to_numpy(float))
    if not len(adults):
        raise ValueError(f"no picture of {limit:g} years or more to choose a cutoff by")
    return float(adults[int(false_rejection * len(adults) + 1e-9)])


def at_cutoff(predictions: pd.DataFrame, limit: float, cutoff: float, *keys: str) -> pd.DataFrame:
    """Errors of accepting from a predicted age of `cutoff` on, a row a subgroup of `keys`, or one in all.

    Columns `keys`, younger, false_acceptance, fa_low, fa_high, older, false_rejection, fr_low, fr_high (counts; shares
    with 95 % intervals, `bootstrap.share`; NaN where there is nobody).
    """
    check_predictions(predictions)
    by = [subgroup_of(predictions, key) for key in keys]
    rows = []
    for subgroup, part in predictions.groupby(by, observed=True) if keys else [((), predictions)]:
        young, old = part[part["age"] < limit], part[part["age"] >= limit]
        rows.append((*subgroup, len(young), *share(young["prediction"] >= cutoff, young.get("cluster")),
                     len(old), *share(old["prediction"] < cutoff, old.get("cluster"))))
    return pd.DataFrame(rows, columns=[*keys, "younger", "false_acceptance", "fa_low", "fa_high",
                                       "older", "false_rejection", "fr_low", "fr_high"])


def accepted_by_age(predictions: pd.DataFrame, cutoff: float, width: int = 3, least: int = 10) -> pd.DataFrame:
    """Share accepted at `cutoff` among true ages within `width` / 2 years: columns age, n, accepted, low, high.

    An ideal check would step from 0 to 1 at the limit. Ages of fewer than `least` pictures are left out.
    """
    check_predictions(predictions)
    rows = []
    for age in range(int(predictions["age"].max()) + 1):
        near = predictions[(predictions["age"] - age).abs() <= width / 2]
        if len(near) >= least:
            rows.append((age, len(near), *share(near["prediction"] >= cutoff, near.get("cluster"))))
    return pd.DataFrame(rows, columns=["age", "n", "accepted", "low", "high"])


def three_way(predictions: pd.DataFrame, limit: float, level: float = 0.95) -> pd.DataFrame:
    """Accept where the whole interval lies at `limit` or above, reject where it lies below, else ask for a document.

    Rows "younger" and "at least <limit>"; columns n, accepted, rejected, asked (shares), wrong, low, high (accepted of
    the younger, rejected of the others, with its 95 % interval). ValueError where rows have no interval.
    """
    check_intervals(predictions, level)
    lower, upper = ends(level)
    rows = []
    for name, part in (("younger", predictions[predictions["age"] < limit]),
                       (f"at least {limit:g}", predictions[predictions["age"] >= limit])):
        accepted, rejected = part[lower] >= limit, part[upper] < limit
        wrong = share(accepted if name == "younger" else rejected, part.get("cluster"))
        rows.append((name, len(part), accepted.mean(), rejected.mean(), 1 - accepted.mean() - rejected.mean(), *wrong))
    return pd.DataFrame(rows, columns=["age", "n", "accepted", "rejected", "asked", "wrong", "low", "high"])
