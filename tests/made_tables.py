"""Tables of predictions made up for the tests of subgroups."""

import numpy as np
import pandas as pd

from agehelpers.data.names import ETHNICITIES, GENDERS


def table(ages, errors, part="test", gender="male", ethnicity="White", **more):
    names = [f"face{i:05d}.jpg" for i in range(len(ages))]
    return pd.DataFrame({"part": part, "name": names, "age": ages, "gender": gender, "ethnicity": ethnicity,
                         "prediction": np.asarray(ages) + np.asarray(errors, float), **more})


def faces(rng, n, scale=4.0, **more):
    """`n` faces of random age, gender and ethnicity; errors to both sides, whose mean absolute value is `scale`."""
    errors = rng.exponential(scale, n) * rng.choice([-1, 1], n)
    return table(rng.integers(1, 90, n), errors, **{"gender": rng.choice(GENDERS, n),
                                                    "ethnicity": rng.choice(ETHNICITIES, n), **more})


def one(found, **wanted):
    """The one row of `found` with the `wanted` values."""
    return found.loc[np.logical_and.reduce([found[key] == value for key, value in wanted.items()])].squeeze()


def rows_of(ages, predictions, **more):
    return table(ages, np.subtract(predictions, ages), **more)
