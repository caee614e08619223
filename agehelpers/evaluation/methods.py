"""Several methods on the same test pictures: which differences are more than chance."""

import itertools

import numpy as np
import pandas as pd
from scipy import stats

from agehelpers.data.bands import age_band, balanced_mean
from agehelpers.evaluation.bootstrap import confidence_interval, resampled_sums, seed_noise
from agehelpers.evaluation.tables import add_clusters


def method_errors(tests: pd.DataFrame) -> dict[str, np.ndarray]:
    """By method its absolute errors in years, float64 [seeds, n], from a table with age and a column "method, seed"."""
    found: dict[str, list[np.ndarray]] = {}
    for column in tests.columns.drop(["name", "age"]):
        found.setdefault(column.rpartition(", ")[0], []).append((tests[column] - tests["age"]).abs().to_numpy(float))
    return {name: np.stack(errors) for name, errors in found.items()}


def summary(tests: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """A row a method, by rising error: method, seeds, mae, low, high, lowest, highest, cs5, balanced_mae.

    Years, but cs5 (a share); means over the seeds. low and high are the ends of the 95 % interval that a bootstrap over
    clusters of pictures gives, lowest and highest the errors of the single seeds.
    """
    clusters, bands, rows = add_clusters(tests, labels)["cluster"], age_band(tests["age"]).codes, []
    for name, errors in method_errors(tests).items():
        mae, own = confidence_interval(errors.mean(0), clusters=clusters), errors.mean(1)
        rows.append({"method": name, "seeds": len(errors), **dict(zip(("mae", "low", "high"), mae, strict=True)),
                     "lowest": own.min(), "highest": own.max(), "cs5": (errors <= 5).mean(),
                     "balanced_mae": balanced_mean(errors.mean(0), bands)})
    return pd.DataFrame(rows).sort_values("mae", ignore_index=True)


def pairwise(tests: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Every two methods on the same pictures, by the mean of their seeds' errors.

    The standard error of a difference adds that of the pictures (bootstrap over clusters, both methods on the same
    resamples) and that of the seeds, whose noise is estimated over all methods (`bootstrap.seed_noise`). p is that of
    Student's t with the degrees of freedom of the seeds; q is corrected for all pairs (Benjamini and Yekutieli, Annals
    of Statistics 2001). With one seed a method the noise of seeds is unknown and left out: differences of these trained
    networks, not of the methods.

    Returns
    -------
    DataFrame
        better, worse (names), difference, se (years), p, q, by difference; ``attrs["detectable"]``: the difference in
        years that this comparison, corrected as it is, would see (q < 0.05) four times out of five.
    """
    errors = method_errors(tests)
    names, n = list(errors), len(tests)
    means = np.stack([error.mean(0) for error in errors.values()], 1)  # [n, methods]
    totals = resampled_sums(np.column_stack([means, np.ones(n)]), add_clusters(tests, labels)["cluster"])
    resampled = totals[:, :-1] / totals[:, -1:]
    noise, freedom = seed_noise([error.mean(1) for error in errors.values()])
    noise, freedom = (0.0, 10**6) if np.isnan(noise) else (noise, freedom)
    rows = []
    for a, b in itertools.combinations(range(len(names)), 2):
        difference = float(means[:, b].mean() - means[:, a].mean())
        seeds = noise**2 * (1 / len(errors[names[a]]) + 1 / len(errors[names[b]]))
        se = float(np.sqrt((resampled[:, b] - resampled[:, a]).var(ddof=1) + seeds))
        p = 2 * stats.t.sf(abs(difference) / se, freedom) if se else float(difference == 0)
        better, worse = (a, b) if difference >= 0 else (b, a)
        rows.append((names[better], names[worse], abs(difference), se, p))
    table = pd.DataFrame(rows, columns=["better", "worse", "difference", "se", "p"])
    table["q"] = stats.false_discovery_control(table["p"], method="by")
    table = table.sort_values("difference", ascending=False, ignore_index=True)
    pairs, seen = len(table), max(1, int((table["q"] < 0.05).sum()))
    allowed = 0.05 * seen / pairs / (1 / np.arange(1, pairs + 1)).sum()  # the p up to which q < 0.05, so many found
    power = stats.t.isf(allowed / 2, freedom) + stats.t.ppf(0.8, freedom)
    table.attrs["detectable"] = float(power * table["se"].median())
    return table
