"""What a table of predictions has to hold, and what is derived from its columns.

A table of predictions is one part of a record: a row a picture, columns name, age, gender, ethnicity, prediction
[, part, spread, cluster, ...]; ages in years. An error is prediction minus age, positive where predicted too old.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from agehelpers.data.bands import age_band
from agehelpers.data.names import ATTRIBUTES


def check_predictions(predictions: pd.DataFrame, *columns: str) -> None:
    """ValueError if the table is empty, mixes parts, or lacks an age, a prediction or one of the `columns`."""
    if missing := {"age", "prediction", *columns} - set(predictions):
        raise ValueError(f"predictions lack the column(s) {', '.join(sorted(missing))}; they have {list(predictions)}")
    if "part" in predictions and predictions["part"].nunique() > 1:
        parts = ", ".join(sorted(predictions["part"].unique()))
        raise ValueError(f"predictions mix the parts {parts}; choose one, as in table[table.part == 'test']")
    if predictions.empty or predictions[["age", "prediction"]].isna().any(axis=None):
        raise ValueError("predictions are empty or have rows without an age or a prediction; leave those rows out")


def errors(predictions: pd.DataFrame) -> np.ndarray:
    """Prediction minus age, float64 [n], years. ValueError: see `check_predictions`."""
    check_predictions(predictions)
    return predictions["prediction"].to_numpy(float) - predictions["age"].to_numpy(float)


def add_clusters(predictions: pd.DataFrame, labels: pd.DataFrame, *more: str) -> pd.DataFrame:
    """`predictions` with the columns cluster and `more` of the label table; ValueError for an unknown picture."""
    if unknown := sorted(set(predictions["name"]) - set(labels["name"])):
        raise ValueError(f"{len(unknown)} pictures are not in the label table, such as {unknown[0]}: "
                         "is it of other faces?")
    return predictions.merge(labels[["name", "cluster", *more]], on="name", how="left", validate="many_to_one")


def subgroup_of(table: pd.DataFrame, key: str) -> pd.Series:
    """Column `key` as ordered categories, all known subgroups in their order; a missing label is "unknown", the last.

    `key` is "age_band" (made from age), "gender", "ethnicity", or another column; ValueError where there is none.
    """
    if key == "age_band":
        return pd.Series(age_band(table["age"]), index=table.index, name=key)
    if key not in table:
        raise ValueError(f"predictions lack the column(s) {key}; they have {list(table)}")
    column = table[key].astype(object).where(table[key].notna(), "unknown")
    known: Sequence[Any] = ATTRIBUTES.get(key, getattr(table[key].dtype, "categories", ()))
    other = sorted(set(column) - set(known), key=lambda value: (value == "unknown", value))  # a number, no text
    return pd.Series(pd.Categorical(column, [*known, *other], ordered=True), index=table.index, name=key)
