"""Why: the pull to the mean and its correction, heaped labels, picture quality, and labels to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from agehelpers.analysis import clusters, errors, interval, level_of
from agehelpers.conformal import scale

FIFTHS = ("lowest fifth", "second", "third", "fourth", "highest fifth")


class Line(NamedTuple):
    """Prediction as a straight line of the age: intercept in years, slope without unit."""

    intercept: float
    slope: float


def fit_line(predictions: pd.DataFrame) -> Line:
    """Least-squares line of prediction on age, to be fitted on validation pictures.

    ValueError where all have one age, or predictions do not grow with it.
    The bias correction of brain-age studies (Cole et al., NeuroImage 163, 2017; de Lange and Cole, NeuroImage: Clinical
    26, 2020), in the form that needs no true age of the picture to be corrected.
    """
    errors(predictions)  # checks the table
    if predictions["age"].nunique() < 2:
        raise ValueError("all pictures are of one age: there is no line to fit")
    fitted = stats.linregress(predictions["age"].to_numpy(float), predictions["prediction"].to_numpy(float))
    if fitted.slope <= 0:
        raise ValueError(f"the predictions do not grow with the age (slope {fitted.slope:.2f}): there is no pull to "
                         "correct, only a model that has not learned")
    return Line(float(fitted.intercept), float(fitted.slope))


def straighten(predictions: pd.DataFrame, line: Line) -> pd.DataFrame:
    """`predictions` as if their line were the diagonal: (prediction - intercept) / slope, not below 0 years."""
    straight = ((predictions["prediction"] - line.intercept) / line.slope).clip(lower=0)
    return predictions.assign(prediction=straight)


def correction(validation: pd.DataFrame, test: pd.DataFrame, young: float = 20, old: float = 60,
               resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """What straightening by a line fitted on `validation` gives and costs on `test`.

    Columns measure, plain, corrected, change, low, high (of the change: 95 %, paired, cluster bootstrap). Measures:
    slope, bias below `young` and from `old` years on (of the pictures there; NaN where nobody is), bias, MAE, RMSE,
    median absolute error (years).
    """
    straight = straighten(test, fit_line(validation))
    values = np.column_stack([test["age"].to_numpy(float), errors(test), errors(straight)])
    copies, ages, all_ages = clusters(len(test), test.get("group")), values[:, 0], np.ones(len(test), bool)
    rows = []
    for name, measure, member in (
            ("slope", lambda age, error: 1 + np.cov(age, error)[0, 1] / np.var(age, ddof=1), all_ages),
            (f"bias below {young:g}", lambda age, error: error.mean(), ages < young),
            (f"bias from {old:g} on", lambda age, error: error.mean(), ages >= old),
            ("bias", lambda age, error: error.mean(), all_ages),
            ("MAE", lambda age, error: np.abs(error).mean(), all_ages),
            ("RMSE", lambda age, error: np.sqrt((error**2).mean()), all_ages),
            ("median absolute error", lambda age, error: np.median(np.abs(error)), all_ages)):
        part = values[member]
        both = [float(measure(part[:, 0], part[:, place])) if len(part) else np.nan for place in (1, 2)]
        rows.append((name, *both, *interval(part, partial(_change, measure), copies[member], resamples=resamples,
                                            seed=seed)))
    return pd.DataFrame(rows, columns=["measure", "plain", "corrected", "change", "low", "high"])


def _change(measure: Callable[[np.ndarray, np.ndarray], float], values: np.ndarray) -> float:
    return float(measure(values[:, 0], values[:, 2]) - measure(values[:, 0], values[:, 1]))


def terminal_digits(ages: Any, youngest: int = 23, oldest: int = 62) -> pd.Series:
    """Share of each last digit 0 to 9 among whole `ages` from `youngest` to `oldest`: a tenth each, without heaps.

    NaN where nobody is of these ages.
    """
    whole = pd.Series(np.floor(np.asarray(ages, float) + 0.5)).astype(int)
    whole = whole[whole.between(youngest, oldest)]
    counts = (whole % 10).value_counts().reindex(range(10), fill_value=0)
    return (counts / (len(whole) or np.nan)).rename("share").rename_axis("digit")


def whipple(ages: Any) -> float:
    """Whipple's index of age heaping: 100 where ages 23 to 62 end in 0 or 5 as often as others, 500 where all do.

    (UN Statistics Division: below 105 very accurate, 110 to 125 approximate, above 175 very rough.)
    """
    digits = terminal_digits(ages)
    return float(500 * (digits[0] + digits[5]))


def fifths(values: pd.Series) -> pd.Series:
    """Five groups from the smallest `values` on, of equal size but for ties, as ordered categories; no NA."""
    if values.isna().any():
        raise ValueError(f"{values.name}: {values.isna().sum()} values are missing; leave those rows out")
    codes = np.ceil(values.rank(pct=True).to_numpy(float) * 5 - 1e-9).astype(int) - 1
    return pd.Series(pd.Categorical([FIFTHS[code] for code in codes], FIFTHS, ordered=True), index=values.index)


def associations(predictions: pd.DataFrame, columns: Sequence[str], within: str = "age_group", resamples: int = 1000,
                 seed: int = 0) -> pd.DataFrame:
    """Spearman's rank correlation of each of `columns` with the absolute error, plain and within levels of `within`.

    Columns column, rho, low, high, rho_within, within_low, within_high (95 %, cluster bootstrap). Within: ranks are
    taken inside each level, so that what goes with age on both sides (babies are easy, and photographed otherwise)
    drops out.
    """
    table = predictions.assign(error=np.abs(errors(predictions, *columns)), level=level_of(predictions, within))
    if missing := [column for column in columns if table[column].isna().any()]:
        raise ValueError(f"{', '.join(missing)}: values are missing; leave those rows out")
    ends = partial(interval, groups=predictions.get("group"), resamples=resamples, seed=seed)
    rows = []
    for column in columns:
        pair = table[[column, "error"]].astype(float)
        levels = pair.groupby(table["level"], observed=True)
        inside = (levels.rank() - levels.transform("count") / 2 - 0.5) / levels.transform("count")  # mean 0 in each
        found = [ends(ranks.to_numpy(), _correlation) for ranks in (pair.rank(), inside)]
        rows.append((column, *found[0], *found[1]))
    return pd.DataFrame(rows, columns=["column", "rho", "low", "high", "rho_within", "within_low", "within_high"])


def _correlation(ranks: np.ndarray) -> float:
    return float(np.corrcoef(ranks.T)[0, 1])


def out_of_fold(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One row a picture that some model did not train on, from the predictions of several splits (parts but train).

    Columns name, age, prediction, spread (years; means over the splits), splits (how many). ValueError without tables,
    or where one has no spread.
    """
    if not tables or any("spread" not in table for table in tables):
        raise ValueError("predictions of one split at least, with a column spread, are needed; `python -m agehelpers "
                         "records --only laptop_benchmark_0` makes such a record")
    rows = pd.concat([table[table["part"] != "train"] for table in tables], ignore_index=True)
    found = rows.groupby("name", sort=True).agg(age=("age", "first"), prediction=("prediction", "mean"),
                                                spread=("spread", "mean"), splits=("prediction", "size"))
    return found.reset_index()


def suspects(predictions: pd.DataFrame, index: pd.DataFrame, k: int = 100, apart: int = 10) -> pd.DataFrame:
    """Labels to look at: the `k` most surprising of `predictions`, and of `index` all copies `apart` years apart.

    `predictions`: out of fold, columns name, age, prediction, spread. Columns name, age, prediction, spread, score (the
    absolute error in spreads; NaN without a prediction), copies (labels of all identical or near-identical pictures,
    where they differ), reason ("prediction", "copies" or "both"); the most surprising first. Of copies that disagree
    both are listed, though one may be right; and a surprise may be the model's own fault.
    """
    error = np.abs(errors(predictions, "spread"))
    score = predictions.assign(score=np.round(error / scale(predictions, True), 2))[
        ["name", "prediction", "spread", "score"]]
    table = index[["name", "age", "group"]].dropna(subset="age").merge(score, on="name", how="left")
    ages = table.groupby("group")["age"]
    labels = ages.agg(lambda found: " ".join(map(str, sorted(found))) if found.nunique() > 1 else "")
    table["copies"] = table["group"].map(labels).fillna("")
    table = table.sort_values(["score", "name"], ascending=[False, True], ignore_index=True)
    conflict = table["group"].map(ages.max() - ages.min()).fillna(0).ge(apart).to_numpy(bool)
    surprising = table["score"].notna().to_numpy() & (table.index < k)
    table["reason"] = np.select([surprising & conflict, surprising], ["both", "prediction"], "copies")
    columns = ["name", "age", "prediction", "spread", "score", "copies", "reason"]
    return table.loc[surprising | conflict, columns].reset_index(drop=True)
