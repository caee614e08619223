"""For whom: gaps between groups, tested together, and what of them is left when all have one mix of ages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from agehelpers.analysis import by_group, clusters, errors, level_of, percentile, resampled_sums

MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"mae": np.abs, "bias": np.asarray}  # of errors, years


def _names(predictions: pd.DataFrame, keys: Sequence[str]) -> pd.Series:
    """The group of each row: its levels of `keys`, joined by commas, in the order of the levels."""
    levels = [level_of(predictions, key) for key in keys]
    names = pd.concat([level.astype(str) for level in levels], axis=1).agg(", ".join, axis=1)
    order = names.iloc[np.lexsort([level.cat.codes for level in levels[::-1]])].unique()
    return pd.Series(pd.Categorical(names, order, ordered=True), index=predictions.index)


def gaps(predictions: pd.DataFrame, groupings: Sequence[Sequence[str]] = (("gender",), ("ethnicity",)),
         resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Each group against all others, in MAE and in bias: is it served differently, or is that chance?

    Columns grouping, group, n, measure ("mae" or "bias"), value, gap (value minus that of all others, years), low, high
    (95 %, cluster bootstrap), p (Welch's t-test; copies of a picture in one group count as one), q: p corrected for all
    tests together (Benjamini and Yekutieli 2001, which allows any dependence between tests; two groups that are each
    other's others are one test). Of lists of findings with q below 0.05, one in twenty findings is chance on average,
    at most. Groups of one picture or its copies have no row, nor has a group that leaves no more for all others.
    """
    error, copies = errors(predictions), clusters(len(predictions), predictions.get("group"))
    rows = []
    for keys in groupings:
        members = pd.get_dummies(_names(predictions, keys)).astype(bool)
        sets = [(len(set(copies[one])), len(set(copies[~one]))) for one in members.to_numpy().T]
        members = members.loc[:, [min(pair) > 1 for pair in sets]]
        own = members.to_numpy(float)
        for measure, of in MEASURES.items():
            value = of(error)
            columns = np.column_stack([own, own * value[:, None], value, np.ones(len(value))])
            found = _gaps(columns.sum(axis=0)[None])[0]
            drawn = _gaps(resampled_sums(columns, copies, resamples=resamples, seed=seed))
            for place, group in enumerate(members.columns):
                mine = own[:, place] == 1
                rows.append((" and ".join(keys), group, mine.sum(), measure, value[mine].mean(),
                             *percentile(found[place], drawn[:, place]), _welch(value, mine, copies)))
    table = pd.DataFrame(rows, columns=["grouping", "group", "n", "measure", "value", "gap", "low", "high", "p"])
    pairs = table.groupby(["grouping", "measure"])
    halves = (pairs["n"].transform("size") == 2) & (pairs["n"].transform("sum") == len(predictions))
    again = halves & (pairs.cumcount() == 1)  # the same test from its other side
    table.loc[~again, "q"] = stats.false_discovery_control(table.loc[~again, "p"].astype(float), method="by")
    return table.assign(q=table["q"].ffill().where(again, table["q"]) if len(table) else [])


def _welch(value: np.ndarray, mine: np.ndarray, copies: np.ndarray) -> float:
    """p of Welch's t-test of `value` where `mine` against the others; equal `copies` on one side count as one."""
    once = pd.Series(value).groupby([copies, mine]).mean()
    a, b = once[:, True], once[:, False]
    test = stats.ttest_ind_from_stats(a.mean(), a.std(), len(a), b.mean(), b.std(), len(b), equal_var=False)
    return float(np.nan_to_num(test.pvalue, nan=1.0))  # NaN: all values are one and the same


def _gaps(sums: np.ndarray) -> np.ndarray:
    """Mean of each group minus that of all others, [r, g], from `sums` [r, g counts, g sums, sum, count]."""
    g = sums.shape[1] // 2 - 1
    counts, totals, total, count = sums[:, :g], sums[:, g:2 * g], sums[:, [-2]], sums[:, [-1]]
    with np.errstate(divide="ignore", invalid="ignore"):  # a small group may be missing in a resample: NaN
        return totals / counts - (total - totals) / (count - counts)


def standardised(predictions: pd.DataFrame, key: str, measure: str = "mae", on: str = "age_group", least: int = 10,
                 resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Groups of `key` as if all had the ages of all pictures together (direct standardisation).

    Groups without a label or of fewer than `least` pictures have no row. Strata of `on` in which a group has fewer than
    `least` are left out for everyone, since nothing can be compared there; ``attrs["strata"]`` of the table names those
    that remain, `used` is the share of a group's pictures that do, and all other columns are of those. "All pictures"
    are those of all rows. Columns `key`, n, used, value (the group's MAE or bias, years), gap (value minus that of all
    pictures), standardised, standardised_gap, low, high (its interval; those of all rows together hold in 95 % of
    cases, by the largest deviation in each resample), explained (by the mix of ages: gap minus standardised_gap,
    years). ValueError where no two groups, or no strata, can be compared.
    """
    error = MEASURES[measure](errors(predictions))
    group, stratum = level_of(predictions, key), level_of(predictions, on)
    counted = group[group != "unknown"].value_counts()
    group = group.cat.set_categories([name for name in group.cat.categories if counted.get(name, 0) >= least])
    if len(group.cat.categories) < 2:
        raise ValueError(f"fewer than two groups of {key} have {least} pictures with a label: nothing can be compared")
    cells = pd.crosstab(stratum, group, dropna=False)[list(group.cat.categories)]
    kept = cells[(cells >= least).all(axis=1)]
    inside = (stratum.isin(kept.index) & group.notna()).to_numpy()
    if not inside.any():
        raise ValueError(f"no level of {on} holds {least} pictures of each {key}: nothing can be compared like with "
                         "like; take fewer groups, or a smaller `least`")
    weights = (kept.sum(axis=1) / kept.to_numpy().sum()).to_numpy()
    # for each group and stratum the count, then the sum of errors: [n, groups * strata] each
    error, codes = error[inside], group[inside].cat.codes.to_numpy(int)
    cell = codes * len(kept) + stratum[inside].cat.set_categories(list(kept.index)).cat.codes.to_numpy(int)
    member = (cell[:, None] == np.arange(kept.size)).astype(float)
    columns = np.column_stack([member, member * error[:, None]])
    equal = _standardised(columns.sum(axis=0)[None], weights)[0]
    copies = clusters(len(predictions), predictions.get("group"))[inside]
    drawn = resampled_sums(columns, copies, resamples=resamples, seed=seed)
    pooled = drawn.reshape(resamples, 2, -1, len(kept)).sum(axis=2).reshape(resamples, -1)
    differences = _standardised(drawn, weights) - _standardised(pooled, weights)  # both of the same ages
    left, spread = equal - error.mean(), np.nanstd(differences, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # no spread: nothing deviates
        deviations = np.nan_to_num(np.abs(differences - np.nanmean(differences, axis=0)) / spread)
    reach = np.quantile(deviations.max(axis=1), 0.95) * spread
    rows = []
    for code, name in enumerate(group.cat.categories):
        own = error[codes == code]
        gap = own.mean() - error.mean()
        rows.append((name, len(own), len(own) / (group == name).sum(), own.mean(), gap, equal[code], left[code],
                     left[code] - reach[code], left[code] + reach[code], gap - left[code]))
    names = [key, "n", "used", "value", "gap", "standardised", "standardised_gap", "low", "high", "explained"]
    table = pd.DataFrame(rows, columns=names)
    table.attrs["strata"] = list(kept.index)
    return table


def _standardised(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over strata, [r, groups], from `sums` [r, counts of each group and stratum, then their errors]."""
    counts, totals = sums.reshape(len(sums), 2, -1, len(weights)).transpose(1, 0, 2, 3)
    held = np.where(counts > 0, weights, 0.0)  # a resample may lack a small stratum: the others stand for it
    with np.errstate(invalid="ignore"):  # or a whole group: NaN
        return (held * totals / np.maximum(counts, 1)).sum(axis=2) / held.sum(axis=2)


def citable(predictions: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """The table to cite: age groups, genders, ethnicities and gender with ethnicity; text, ready to be written.

    Columns group, n, MAE, bias (years, 95 % intervals), CS@5, gap (of the MAE to all others), q (`gaps`; age groups
    are a list of tests, all other rows another), then of `standardised`: used, gap to all, at equal ages. These are
    empty where too few pictures can be compared; ``attrs["strata"]`` has the age groups compared, by key.
    """
    groupings = (("age_group",), ("gender",), ("ethnicity",), ("ethnicity", "gender"))
    found = pd.concat([gaps(predictions, part, resamples, seed) for part in (groupings[:1], groupings[1:])])
    gap: dict[Any, Any] = {(row.grouping, row.group): row for row in found[found["measure"] == "mae"].itertuples()}
    equal: dict[Any, Any] = {}
    strata: dict[str, list[str]] = {}
    for key in ("gender", "ethnicity"):
        with suppress(ValueError):  # nothing to compare: the columns stay empty
            alike = standardised(predictions, key, resamples=resamples, seed=seed)
            strata[key] = alike.attrs["strata"]
            equal |= {row[0]: row for row in alike.itertuples(index=False)}
    rows = []
    for keys in groupings:
        table: Any = by_group(predictions, *keys, resamples=resamples, seed=seed).query("n > 1")
        for row in table.itertuples(index=False):
            name = ", ".join(row[:len(keys)])
            other, like = gap.get((" and ".join(keys), name)), equal.get(name)
            rows.append((
                name, f"{row.n:,}", f"{row.mae:.2f} ({row.mae_low:.2f} to {row.mae_high:.2f})",
                f"{row.bias:+.2f} ({row.bias_low:+.2f} to {row.bias_high:+.2f})", f"{row.cs5:.0%}",
                f"{other.gap:+.2f} ({other.low:+.2f} to {other.high:+.2f})" if other else "",
                ("< 0.001" if other.q < 0.001 else f"{other.q:.3f}") if other else "",
                f"{like.used:.0%}" if like else "", f"{like.gap:+.2f}" if like else "",
                f"{like.standardised_gap:+.2f} ({like.low:+.2f} to {like.high:+.2f})" if like else ""))
    cited = pd.DataFrame(rows, columns=["group", "n", "MAE", "bias", "CS@5", "gap", "q", "used", "gap to all",
                                        "at equal ages"])
    cited.attrs["strata"] = strata
    return cited
