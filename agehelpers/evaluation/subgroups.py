"""For whom: error by subgroup, gaps tested together, and what of them is left when all have one mix of ages."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import pandas as pd
from scipy import stats

from agehelpers.evaluation import bootstrap
from agehelpers.evaluation.bootstrap import ConfidenceInterval, cluster_codes, resampled_sums
from agehelpers.evaluation.tables import age_band, check_predictions, errors, subgroup_of

MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"mae": np.abs, "bias": np.asarray}  # of errors, years


def confusion(predictions: pd.DataFrame, normalise: bool = False) -> pd.DataFrame:
    """Pictures by true (rows) and predicted (columns) age band; `normalise`: shares of each row, NaN in empty rows."""
    check_predictions(predictions)
    true, predicted = (pd.Series(age_band(predictions[column])) for column in ("age", "prediction"))
    counts = pd.crosstab(true, predicted, rownames=["true"], colnames=["predicted"], dropna=False)
    return counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0) if normalise else counts


def by_subgroup(predictions: pd.DataFrame, *keys: str, resamples: int = 1000) -> pd.DataFrame:
    """A row a subgroup: `keys`, n, mae, mae_low, mae_high, bias, bias_low, bias_high, cs5 (years; cs5 a share).

    `keys` are those of `subgroup_of`. Every known subgroup has its row, an empty one with n = 0 and NaN. Fewer than two
    pictures: no confidence interval (NaN).
    """
    table = predictions.assign(error=errors(predictions), **{key: subgroup_of(predictions, key) for key in keys})
    rows = []
    for subgroup, part in table.groupby(list(keys), observed=False):
        error = part["error"].to_numpy()
        interval = partial(bootstrap.confidence_interval, clusters=part.get("cluster"), resamples=resamples)
        cs5 = (np.abs(error) <= 5).mean() if len(part) else np.nan
        rows.append((*subgroup, len(part), *interval(np.abs(error)), *interval(error), cs5))
    measures = ["mae", "mae_low", "mae_high", "bias", "bias_low", "bias_high", "cs5"]
    return pd.DataFrame(rows, columns=[*keys, "n", *measures]).astype({key: table[key].dtype for key in keys})


def _subgroups(predictions: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Who is in which subgroup, bool [n, subgroups]; columns: names by `keys`, joined by commas, in their order."""
    columns = [subgroup_of(predictions, key) for key in keys]
    names = pd.concat([column.astype(str) for column in columns], axis=1).agg(", ".join, axis=1)
    order = names.iloc[np.lexsort([column.cat.codes for column in columns[::-1]])].unique()
    return pd.get_dummies(pd.Series(pd.Categorical(names, order)))


def gaps(predictions: pd.DataFrame, groupings: Sequence[Sequence[str]] = (("gender",), ("ethnicity",)),
         resamples: int = 1000) -> pd.DataFrame:
    """Each subgroup against all others, in MAE and in bias: is it served differently, or is that chance?

    Columns grouping, subgroup, n, measure ("mae" or "bias"), value, gap (value minus that of all others, years), low,
    high (95 %, cluster bootstrap), p (Welch's t-test; copies of a picture in one subgroup count as one), q: p corrected
    for all tests together (Benjamini and Yekutieli 2001, which allows any dependence between tests; two subgroups that
    are each other's others are one test). Of lists of findings with q below 0.05, one in twenty findings is chance on
    average, at most. Subgroups of one picture or its copies have no row, nor has one that leaves no more for others.
    """
    error, copies = errors(predictions), cluster_codes(len(predictions), predictions.get("cluster"))
    rows = []
    for keys in groupings:
        members = _subgroups(predictions, keys)
        pictures = [min(len(set(copies[one])), len(set(copies[~one]))) for one in members.to_numpy().T]
        members = members.loc[:, np.array(pictures) > 1]
        own = members.to_numpy(float)
        for measure, of in MEASURES.items():
            value = of(error)
            columns = np.hstack([own, own * value[:, None], 1 - own, (1 - own) * value[:, None]])
            gap = _gaps(columns.sum(axis=0)[None])[0]
            resampled = _gaps(resampled_sums(columns, copies, resamples=resamples))
            for place, (name, inside) in enumerate(members.items()):
                interval = bootstrap.percentile(gap[place], resampled[:, place])
                rows.append((" and ".join(keys), name, inside.sum(), measure, value[inside].mean(), *interval,
                             _welch(value, inside.to_numpy(), copies)))
    table = pd.DataFrame(rows, columns=["grouping", "subgroup", "n", "measure", "value", "gap", "low", "high", "p"])
    tests = table.groupby(["grouping", "measure"])
    halves = (tests["n"].transform("size") == 2) & (tests["n"].transform("sum") == len(predictions))
    again = halves & (tests.cumcount() == 1)  # the same test from its other side
    table.loc[~again, "q"] = stats.false_discovery_control(table.loc[~again, "p"].astype(float), method="by")
    return table.assign(q=table["q"].ffill().where(again, table["q"]) if len(table) else [])


def _welch(value: np.ndarray, inside: np.ndarray, copies: np.ndarray) -> float:
    """p of Welch's t-test of `value` where `inside` against the others; equal `copies` on one side count as one."""
    once = pd.Series(value).groupby([copies, inside]).mean()
    a, b = once[:, True], once[:, False]
    test = stats.ttest_ind_from_stats(a.mean(), a.std(), len(a), b.mean(), b.std(), len(b), equal_var=False)
    return float(np.nan_to_num(test.pvalue, nan=1.0))  # NaN: all values are one and the same


def _gaps(sums: np.ndarray) -> np.ndarray:
    """Mean of each of g subgroups minus that of all others, [r, g]; `sums` [r, 4 g]: counts and sums, then others'."""
    counts, totals, other_counts, other_totals = np.split(sums, 4, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a small subgroup may be missing in a resample: NaN
        return totals / counts - other_totals / other_counts


def _comparable(predictions: pd.DataFrame, key: str, least: int) -> tuple[pd.Series, pd.Series]:
    """Subgroup of `key` and age band of each row, NA where it is not to be compared; `standardised` says which."""
    subgroup, band = subgroup_of(predictions, key), subgroup_of(predictions, "age_band")
    sizes = subgroup[subgroup != "unknown"].value_counts()
    subgroup = subgroup.cat.set_categories([name for name in subgroup.cat.categories if sizes.get(name, 0) >= least])
    if len(subgroup.cat.categories) < 2:
        raise ValueError(f"fewer than two subgroups of {key} have {least} pictures with a label: nothing can be "
                         "compared")
    cells = pd.crosstab(band, subgroup, dropna=False)[list(subgroup.cat.categories)]
    kept = cells.index[(cells >= least).all(axis=1)]
    if not len(kept):
        raise ValueError(f"no age band has {least} pictures of each {key}: nothing can be compared like with like; "
                         "take fewer subgroups, or a smaller `least`")
    return subgroup, band.cat.set_categories(list(kept))


def comparable(predictions: pd.DataFrame, key: str, least: int = 10) -> bool:
    """Whether `standardised` finds two subgroups and an age band in which each has `least` pictures."""
    with suppress(ValueError):
        return bool(_comparable(predictions, key, least))
    return False


def standardised(predictions: pd.DataFrame, key: str, measure: str = "mae", least: int = 10,
                 resamples: int = 1000) -> pd.DataFrame:
    """Subgroups of `key` as if all had the ages of all pictures together (direct standardisation).

    Subgroups without a label or of fewer than `least` pictures have no row. Age bands in which a subgroup has fewer
    than `least` are left out for everyone, since nothing can be compared there; ``attrs["strata"]`` of the table names
    those that remain, `used` is the share of a subgroup's pictures that do, and all other columns are of those. "All
    pictures" are those of all rows. Columns `key`, n, used, value (the subgroup's MAE or bias, years), gap (value minus
    that of all pictures), standardised, standardised_gap, low, high (its confidence interval; those of all rows
    together are right in 95 % of cases, by the largest deviation in each resample), explained (by the mix of ages: gap
    minus standardised_gap, years). ValueError where no two subgroups, or no age bands, can be compared.
    """
    error = MEASURES[measure](errors(predictions))
    subgroup, band = _comparable(predictions, key, least)
    inside = (subgroup.notna() & band.notna()).to_numpy()
    names, strata = list(subgroup.cat.categories), list(band.cat.categories)
    error, codes = error[inside], subgroup[inside].cat.codes.to_numpy(int)
    cell = codes * len(strata) + band[inside].cat.codes.to_numpy(int)
    member = (cell[:, None] == np.arange(len(names) * len(strata))).astype(float)
    columns = np.hstack([member, member * error[:, None]])
    copies = cluster_codes(len(predictions), predictions.get("cluster"))[inside]
    shape = -1, 2, len(names), len(strata)  # counts and sums of errors in each cell
    sums = columns.sum(axis=0).reshape(shape)
    resampled = resampled_sums(columns, copies, resamples=resamples).reshape(shape)
    weights = sums[0, 0].sum(axis=0) / len(error)
    pooled = resampled.sum(axis=2, keepdims=True)  # all pictures, of the same ages
    reach = _joint_reach(_weighted_means(resampled, weights) - _weighted_means(pooled, weights))
    equal, own = _weighted_means(sums, weights)[0], pd.Series(error).groupby(codes)
    left, value = equal - error.mean(), own.mean().to_numpy()
    table = pd.DataFrame({
        key: names, "n": own.size(), "used": own.size() / subgroup.value_counts(sort=False).to_numpy(), "value": value,
        "gap": value - error.mean(), "standardised": equal, "standardised_gap": left, "low": left - reach,
        "high": left + reach, "explained": value - error.mean() - left})
    table.attrs["strata"] = strata
    return table


def _joint_reach(resampled: np.ndarray) -> np.ndarray:
    """Half widths [columns] of 95 % intervals that are right together, one multiple of each column's own spread."""
    spread = np.nanstd(resampled, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # no spread: nothing deviates
        deviations = np.nan_to_num(np.abs(resampled - np.nanmean(resampled, axis=0)) / spread)
    return np.quantile(deviations.max(axis=1), 0.95) * spread


def _weighted_means(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over strata, [r, subgroups], from `sums` [r, counts and totals, subgroups, strata]."""
    counts, totals = sums[:, 0], sums[:, 1]
    present = np.where(counts > 0, weights, 0.0)  # a resample may lack a small stratum: the others stand in for it
    with np.errstate(invalid="ignore"):  # or a whole subgroup: NaN
        return (present * totals / np.maximum(counts, 1)).sum(axis=2) / present.sum(axis=2)


def citable(predictions: pd.DataFrame, resamples: int = 1000) -> pd.DataFrame:
    """The table to cite: age bands, genders, ethnicities and gender with ethnicity; text, ready to be written.

    Columns subgroup, n, MAE, bias (years, 95 % intervals), CS@5, gap (of the MAE to all others), q (`gaps`; age bands
    are a list of tests, all other rows another), then of `standardised`: used, gap to all, at equal ages. These are
    empty where too few pictures can be compared; ``attrs["strata"]`` has the age bands compared, by key.
    """
    groupings = (("age_band",), ("gender",), ("ethnicity",), ("ethnicity", "gender"))
    tests = pd.concat([gaps(predictions, part, resamples) for part in (groupings[:1], groupings[1:])])
    sizes = []
    for keys in groupings:
        table = by_subgroup(predictions, *keys, resamples=resamples).query("n > 1")
        names = table[list(keys)].astype(str).agg(", ".join, axis=1)
        sizes.append(table.assign(grouping=" and ".join(keys), subgroup=names))
    columns, equal = ["used", "gap", "standardised_gap", "low", "high"], {}
    for key in ("gender", "ethnicity"):
        with suppress(ValueError):  # nothing to compare: the columns stay empty
            equal[key] = standardised(predictions, key, resamples=resamples).set_index(key)
    side = pd.concat([pd.DataFrame(columns=columns, dtype=float), *(part[columns] for part in equal.values())])
    table = pd.concat(sizes).merge(tests.query("measure == 'mae'").drop(columns="n"), "left", ["grouping", "subgroup"])
    table = table.merge(side, "left", left_on="subgroup", right_index=True, suffixes=("", "_equal"))
    cited = pd.DataFrame({
        "subgroup": table["subgroup"], "n": _text(table, "{:,}", "n"),
        "MAE": _text(table, "{:.2f}", "mae", "mae_low", "mae_high"),
        "bias": _text(table, "{:+.2f}", "bias", "bias_low", "bias_high"), "CS@5": _text(table, "{:.0%}", "cs5"),
        "gap": _text(table, "{:+.2f}", "gap", "low", "high"),
        "q": ["< 0.001" if q < 0.001 else f"{q:.3f}" if q >= 0 else "" for q in table["q"]],
        "used": _text(table, "{:.0%}", "used"), "gap to all": _text(table, "{:+.2f}", "gap_equal"),
        "at equal ages": _text(table, "{:+.2f}", "standardised_gap", "low_equal", "high_equal")})
    cited.attrs["strata"] = {key: part.attrs["strata"] for key, part in equal.items()}
    return cited


def _text(table: pd.DataFrame, form: str, value: str, *ends: str) -> list[str]:
    """Column `value`, with its confidence interval where its `ends` are given, by `form`; "" where it is NaN."""
    return [form.format(ConfidenceInterval(*row) if ends else row[0]) if row[0] == row[0] else ""
            for row in table[[value, *ends]].itertuples(index=False)]
