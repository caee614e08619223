"""Sentences that tables say: each chooses its direction from the numbers, or says that none is shown.

All take tables of `subgroups`, `shrinkage`, `intervals` or `age_limits` and return a sentence without its full stop,
fit for a figure's title.
"""

import pandas as pd

from agehelpers.evaluation.bootstrap import ConfidenceInterval


def direction(low: float, high: float, below: str, above: str, neutral: str) -> str:
    """`below` where a confidence interval lies below 0, `above` where it lies above, else `neutral`.

    >>> direction(-2.0, -1.0, "too young", "too old", "about right")
    'too young'
    """
    return below if high < 0 else above if low > 0 else neutral


def bias_of(row: pd.Series) -> str:
    """How the subgroup of a row of `by_subgroup` is guessed."""
    years = direction(row["bias_low"], row["bias_high"], "too young", "too old", "")
    if not years:
        return f"at {row.iloc[0]} no bias is shown ({row['bias']:+.1f} years)"
    return f"faces of {row.iloc[0]} are guessed {abs(row['bias']):.1f} years {years}"


def ends(by_age: pd.DataFrame) -> str:
    """The bias of the first and of the last age band that have pictures."""
    known = by_age.dropna(subset="bias_low")
    text = "; ".join((bias_of(known.iloc[0]), bias_of(known.iloc[-1])))
    return text[0].upper() + text[1:]


def largest_error(table: pd.DataFrame) -> str:
    """The subgroup with the largest error, and the one with the smallest, of a table of `by_subgroup`."""
    first, last = table.iloc[table["mae"].argmax()], table.iloc[table["mae"].argmin()]
    return (f"The error is largest at {first.iloc[0]} ({first['mae']:.1f} years), "
            f"smallest at {last.iloc[0]} ({last['mae']:.1f})")


def apart(table: pd.DataFrame, within: str, groups: str) -> str:
    """Where the errors of some groups differ most, of `by_subgroup(..., within, groups)`; cells of 30 faces or more."""
    wide = table[table["n"] >= 30].pivot(index=within, columns=groups, values="mae").dropna()
    if wide.shape[1] < 2 or wide.empty:
        return "No age band holds 30 faces of each subgroup"
    years = wide.iloc[(wide.max(axis=1) - wide.min(axis=1)).argmax()].sort_values()
    return (f"At {years.name} {years.index[-1]} faces are off by {years.iloc[-1]:.1f} years, "
            f"{years.index[0]} ones by {years.iloc[0]:.1f}")


def at_equal_ages(table: pd.DataFrame, groups: str) -> str:
    """What equal ages do to the distance between the best and the worst served subgroup of `standardised`."""
    before, after = (table[column].max() - table[column].min() for column in ("gap", "standardised_gap"))
    change = "shrinks" if after < before else "grows"
    return f"At equal ages the largest distance between {groups} {change} from {before:.2f} to {after:.2f} years"


def pull(slope: ConfidenceInterval) -> str:
    """What the slope of predicted on true age says."""
    said = direction(slope.low - 1, slope.high - 1, "are pulled towards the middle", "are spread beyond the labels",
                     "show no pull towards the middle")
    return f"Predictions {said}: slope {slope:.2f}"


def straightened(changes: pd.DataFrame) -> str:
    """What a correction of the pull changes, by a table of `shrinkage.correction` with `measure` as its index."""
    bias, mae = (changes.loc[name].to_dict() for name in ("bias from 60 on", "MAE"))
    old = "shrinks" if abs(bias["corrected"]) < abs(bias["plain"]) else "grows"
    error = direction(mae["low"], mae["high"], "falls", "grows", "stays")
    return (f"Corrected, the bias from 60 years on {old} from {bias['plain']:+.1f} to {bias['corrected']:+.1f} years, "
            f"and the error of all {error} from {mae['plain']:.2f} to {mae['corrected']:.2f}")


def promise(overall: pd.Series, by_age: pd.DataFrame) -> str:
    """What a level promises and whom it fails most, by rows of `intervals.coverage`: all, and by age band."""
    level = overall["level"]
    failed = by_age[by_age["high"] < level].nsmallest(1, "coverage").to_dict("records")
    fails = [f"at {row['age_band']} it holds only {row['coverage']:.0%} ({row['low']:.0%} to {row['high']:.0%})"
             for row in failed] or ["no age band is shown to get less"]
    return f"The {level:.0%} interval holds {overall['coverage']:.1%} of all labels; {fails[0]}"


def accepted(row: pd.Series, who: str) -> str:
    """False acceptances among those below a limit, by a row of `age_limits.at_cutoff`, with their count."""
    n, share = int(row["younger"]), ConfidenceInterval(*row[["false_acceptance", "fa_low", "fa_high"]])
    few = " (few faces: little evidence)" if n < 50 else ""
    return f"Of {n} {who} {round(n * share.value)} are let through, {share:.0%}{few}"
