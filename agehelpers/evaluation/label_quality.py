"""How good the labels and the pictures are: heaped ages, picture quality and the error, and labels to look at."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from agehelpers.evaluation.bootstrap import confidence_interval
from agehelpers.evaluation.tables import check_predictions, errors, subgroup_of
from agehelpers.training.calibration import scores

FIFTHS = ("lowest fifth", "second", "third", "fourth", "highest fifth")


def terminal_digits(ages: Any) -> pd.Series:
    """Share of each last digit 0 to 9 among `ages` of 23 to 62 years: a tenth each, without heaps; NaN for nobody."""
    whole = pd.Series(np.floor(np.asarray(ages, float) + 0.5)).astype(int)
    whole = whole[whole.between(23, 62)]
    counts = (whole % 10).value_counts().reindex(range(10), fill_value=0)
    return (counts / (len(whole) or np.nan)).rename("share").rename_axis("digit")


def whipple(ages: Any) -> float:
    """Whipple's index of age heaping: 100 where ages 23 to 62 end in 0 or 5 as often as others, 500 where all do.

    (UN Statistics Division: below 105 very accurate, 110 to 125 approximate, above 175 very rough.)

    >>> whipple([25, 30, 41, 42])
    250.0
    """
    digits = terminal_digits(ages)
    return float(500 * (digits[0] + digits[5]))


def fifths(values: pd.Series) -> pd.Series:
    """Five classes from the smallest `values` on, of equal size but for ties, as ordered categories; no NA.

    >>> fifths(pd.Series([50, 10, 40, 20, 30])).tolist()
    ['highest fifth', 'lowest fifth', 'fourth', 'second', 'third']
    """
    if values.isna().any():
        raise ValueError(f"{values.name}: {values.isna().sum()} values are missing; leave those rows out")
    ranks = values.rank(pct=True).to_numpy(float)
    return pd.Series(pd.cut(ranks, [0, 0.2, 0.4, 0.6, 0.8, 1], labels=FIFTHS), index=values.index)


def associations(predictions: pd.DataFrame, columns: Sequence[str], within: str = "age_band",
                 resamples: int = 1000) -> pd.DataFrame:
    """Spearman's rank correlation of each of `columns` with the absolute error, plain and within subgroups of `within`.

    Columns column, rho, low, high, rho_within, within_low, within_high (95 %, cluster bootstrap). Within: ranks are
    taken inside each subgroup, so that what goes with age on both sides (babies are easy, and photographed otherwise)
    drops out.
    """
    check_predictions(predictions, *columns)
    if missing := [column for column in columns if predictions[column].isna().any()]:
        raise ValueError(f"{', '.join(missing)}: values are missing; leave those rows out")
    table, inside = predictions.assign(error=np.abs(errors(predictions))), subgroup_of(predictions, within)
    interval = partial(confidence_interval, statistic=lambda ranks: float(np.corrcoef(ranks.T)[0, 1]),
                       clusters=predictions.get("cluster"), resamples=resamples)
    rows = []
    for column in columns:
        pair = table[[column, "error"]].astype(float)
        subgroups = pair.groupby(inside, observed=True)
        n = subgroups.transform("count")
        rows.append((column, *interval(pair.rank()), *interval((subgroups.rank() - n / 2 - 0.5) / n)))  # mean 0 in each
    return pd.DataFrame(rows, columns=["column", "rho", "low", "high", "rho_within", "within_low", "within_high"])


def out_of_fold(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One row a picture that some model did not train on, from the predictions of several splits (parts but train).

    Columns name, age, prediction, spread (years; means over the splits), splits (how many). ValueError without tables,
    or where one has no spread.
    """
    if not tables or any("spread" not in table for table in tables):
        raise ValueError("predictions of one split at least, with a column spread, are needed; `python -m tools.plan "
                         "--only laptop_benchmark_0` makes such a record")
    rows = pd.concat([table[table["part"] != "train"] for table in tables], ignore_index=True)
    return rows.groupby("name", as_index=False).agg(age=("age", "first"), prediction=("prediction", "mean"),
                                                    spread=("spread", "mean"), splits=("prediction", "size"))


def suspects(predictions: pd.DataFrame, labels: pd.DataFrame, k: int = 100, apart: int = 10) -> pd.DataFrame:
    """Labels to look at: the `k` most surprising of `predictions`, and of `labels` all copies `apart` years apart.

    `predictions`: out of fold, columns name, age, prediction, spread. Columns name, age, prediction, spread, score (the
    absolute error in spreads; NaN without a prediction), copies (labels of all copies of the photo,
    where they differ), reason ("prediction", "copies" or "both"); the most surprising first. Of copies that disagree
    both are listed, though one may be right; and a surprise may be the model's own fault.
    """
    check_predictions(predictions, "spread")
    known = predictions[["name", "prediction", "spread"]].assign(score=scores(predictions, True).round(2))
    table = labels[["name", "age", "cluster"]].dropna(subset="age").merge(known, on="name", how="left")
    table = table.sort_values(["score", "name"], ascending=[False, True], ignore_index=True)
    ages = table.groupby("cluster")["age"]
    texts = ages.agg(lambda same: " ".join(map(str, sorted(same))) if same.nunique() > 1 else "")
    table["copies"] = table["cluster"].map(texts).fillna("")
    conflict = table["cluster"].map(ages.max() - ages.min()).fillna(0).ge(apart).to_numpy(bool)
    surprising = table["score"].notna().to_numpy() & (table.index < k)
    table["reason"] = np.select([surprising & conflict, surprising], ["both", "prediction"], "copies")
    return table.loc[surprising | conflict].drop(columns="cluster").reset_index(drop=True)
