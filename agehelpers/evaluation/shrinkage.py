"""The pull of predictions to the mean age (regression to the mean), and what its correction gives and costs."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from agehelpers.evaluation.bootstrap import cluster_codes, confidence_interval
from agehelpers.evaluation.errors import MEASURES, slope_of
from agehelpers.evaluation.tables import check_predictions, errors


def fit_line(predictions: pd.DataFrame) -> tuple[float, float]:
    """Intercept (years) and slope of the least-squares line of prediction on age, to be fitted on validation pictures.

    ValueError where all have one age, or predictions do not grow with it.
    The bias correction of brain-age studies (Cole et al., NeuroImage 163, 2017; de Lange and Cole, NeuroImage: Clinical
    26, 2020), in the form that needs no true age of the picture to be corrected.

    >>> fit_line(pd.DataFrame({"age": [20, 40, 60], "prediction": [25.0, 35, 45]}))
    (15.0, 0.5)
    """
    check_predictions(predictions)
    if predictions["age"].nunique() < 2:
        raise ValueError("all pictures are of one age: there is no line to fit")
    fitted = stats.linregress(predictions["age"].to_numpy(float), predictions["prediction"].to_numpy(float))
    if fitted.slope <= 0:
        raise ValueError(f"the predictions do not grow with the age (slope {fitted.slope:.2f}): there is no pull to "
                         "correct, only a model that has not learned")
    return float(fitted.intercept), float(fitted.slope)


def correction(validation: pd.DataFrame, test: pd.DataFrame, young: float = 20, old: float = 60,
               resamples: int = 1000) -> pd.DataFrame:
    """What straightening by a line fitted on `validation` gives and costs on `test`.

    Corrected is (prediction - intercept) / slope, not below 0 years, as if the line were the diagonal.
    Columns measure, plain, corrected, change, low, high (of the change: 95 %, paired, cluster bootstrap). Measures:
    slope, bias below `young` and from `old` years on (NaN where nobody is), and `errors.MEASURES` (years).
    """
    ages, copies = test["age"].to_numpy(float), cluster_codes(len(test), test.get("cluster"))
    intercept, slope = fit_line(validation)
    straightened = ((test["prediction"] - intercept) / slope).clip(lower=0)
    both = np.column_stack([ages, errors(test), errors(test.assign(prediction=straightened))])

    def row(name: str, of: Callable[[np.ndarray], float], member: np.ndarray) -> tuple[str | float, ...]:
        part = both[member]
        plain, corrected = (of(part[:, [0, error]]) if len(part) else np.nan for error in (1, 2))
        change = confidence_interval(part, lambda rows: of(rows[:, [0, 2]]) - of(rows[:, [0, 1]]), copies[member],
                                     resamples=resamples)
        return name, plain, corrected, *change

    def of_errors(name: str) -> Callable[[np.ndarray], float]:
        return lambda pairs: MEASURES[name](pairs[:, 1])

    everybody = np.ones(len(test), bool)
    rows = [row("slope", slope_of, everybody), row(f"bias below {young:g}", of_errors("bias"), ages < young),
            row(f"bias from {old:g} on", of_errors("bias"), ages >= old)]
    rows += [row(name, of_errors(name), everybody) for name in ("bias", "MAE", "RMSE", "median absolute error")]
    return pd.DataFrame(rows, columns=["measure", "plain", "corrected", "change", "low", "high"])
