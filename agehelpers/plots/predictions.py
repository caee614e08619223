"""Figures of predictions: how large the error is, for whom, beside whom, and how sure."""

import itertools
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from agehelpers.plots import style

PROTOCOLS = {
    "holdout": "holdout (80/20, ours)",
    "benchmark": "benchmark (60/20/20; published: other lists and alignment)",
    "coral": "coral (ages 21 to 60, published test list)"}
RIGHT = 9.5  # years; end of the axis


def predicted_against_true(predictions: pd.DataFrame, running: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Hexagonal histogram of pictures over true and predicted age, the diagonal, and `errors.running_median`."""
    ax = style.styled(ax, 6.4, 5.4)
    top = float(max(predictions["age"].max(), predictions["prediction"].max())) + 2
    cells = ax.hexbin(predictions["age"], predictions["prediction"], gridsize=45, extent=(0, top, 0, top), mincnt=1,
                      bins="log", cmap=sns.color_palette("blend:#d5d5d5,#000000", as_cmap=True), linewidths=0.1)
    ax.figure.colorbar(cells, ax=ax, label="pictures in a cell (log scale)")
    ax.plot([0, top], [0, top], color=style.QUIET, linestyle="--", linewidth=1.2, label="prediction = age")
    ax.plot(running["age"], running["median"], color=style.SECOND, linewidth=2, label="running median")
    ax.fill_between(running["age"], running["low"], running["high"], color=style.SECOND, alpha=0.25, linewidth=0,
                    label="middle half of predictions")
    return style.finish(ax, "upper left", xlabel=f"true age (years), n = {len(predictions):,}",
                        ylabel="predicted age (years)", xlim=(0, top), ylim=(0, top), aspect="equal")


def error_by_subgroup(table: pd.DataFrame, measure: str = "mae", references: style.References = (),
                      ax: Axes | None = None) -> Axes:
    """`forest` of `subgroups.by_subgroup`; `measure` is "mae" or "bias". A second key of the table is the colour."""
    key, *second = table.columns[:list(table.columns).index("n")]
    ends = f"{measure}_low", f"{measure}_high"
    ax = style.forest(table, key, measure, *ends, second[0] if second else None, references, ax)
    if measure == "bias":
        ax.axvline(0, color="0.3", linewidth=1)
    else:
        ax.set_xlim(0, None)
    label = {"mae": "mean absolute error (years)", "bias": "bias: prediction minus age (years)"}[measure]
    hues = f" (n: {' / '.join(table[second[0]].unique())})" if second else ""
    ax.set(xlabel=f"{label}, 95 % interval", ylabel={"age_band": "age band (years)"}.get(key, key) + hues)
    return ax


def cs_curves(curves: dict[str, pd.DataFrame], references: style.References = (), ax: Axes | None = None) -> Axes:
    """Cumulative scores by name with 95 % bands, each an `errors.cs_curve`; the first is the model, others dashed."""
    ax = style.styled(ax)
    style.reference_lines(ax, references, vertical=True, dashes=(":", "-."))  # "--" is a curve here
    looks = ((style.MAIN, "-", "o"), (style.QUIET, "--", ""), (style.SECOND, "--", ""))
    for (name, table), (colour, line, marker) in zip(curves.items(), itertools.cycle(looks)):
        style.curve(ax, table, "years", "share", colour, name, line, marker)
    ax.xaxis.set_major_locator(MaxNLocator(steps=[1, 5, 10]))
    return style.finish(ax, "lower right", "y", xlabel="allowed absolute error (years)",
                        ylabel="share of pictures within it", ylim=(0, 1))


def confusion(counts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Heat map of `subgroups.confusion` counts: share of each true age band in percent, its size at the left."""
    size = counts.sum(axis=1)
    shares = counts.div(size.replace(0, np.nan), axis=0).mul(100)
    text = shares.map(lambda share: f"{share:.0f}" if share >= 0.5 else "<1" if share > 0 else "")
    ax = style.heat_map(shares, "share of the true age band (%)", ax, (7.4, 5.4), annot=text, fmt="", cmap="Blues",
                        vmin=0, vmax=100)
    ax.set_yticks(np.arange(len(size)) + 0.5, [f"{name}  (n = {n:,})" for name, n in size.items()], rotation=0)
    ax.set(xlabel="predicted age band (years)", ylabel="true age band (years)")
    return ax


def published_comparison(ours: pd.DataFrame, published: pd.DataFrame, label_error: float) -> Figure:
    """A panel a protocol: published errors and ours (`comparison.summary`), with median baseline and label error.

    Our bars are 95 % intervals over test pictures (one run) or the range of runs; published bars are one standard
    deviation where it is stated. Hollow dots were not read in their source, or are of a part of the test. A median
    baseline beyond the axis is a number at its end.
    """
    protocols = [protocol for protocol in PROTOCOLS if protocol in set(ours["protocol"])]
    heights = [1.5 + (published["protocol"] == p).sum() + (ours["protocol"] == p).sum() for p in protocols]
    figure, axes = plt.subplots(len(protocols), 1, figsize=(11.0, 1.2 + 0.36 * sum(heights)), squeeze=False,
                                layout="constrained", sharex=True, height_ratios=heights)
    named: dict[str, Any] = {}
    for ax, protocol in zip(axes.flat, protocols, strict=True):
        theirs, own = published[published["protocol"] == protocol], ours[ours["protocol"] == protocol]
        names = [f"{row.method} ({row.start})" + (f"\n{row.how_known}" if "validation" in str(row.method) else "")
                 for row in theirs.itertuples()] + [f"{row.family}: {row.network}" for row in own.itertuples()]
        style.styled(ax).set_yticks(range(len(names)), names)
        _errors(ax, theirs, own)
        _yardsticks(ax, float(own["baseline"].mean()), label_error, len(names) - 1)
        ax.set_title(PROTOCOLS[protocol], fontsize=10, loc="left")
        ax.set(ylim=(len(names) - 0.4, -0.8), xlim=(2.5, RIGHT))
        handles, labels = ax.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    axes.flat[-1].set_xlabel("mean absolute error (years)")
    figure.legend(list(named.values()), list(named), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def _errors(ax: Axes, theirs: pd.DataFrame, own: pd.DataFrame) -> None:
    """A dot a published error, then a square an error of ours, from the top, each with its number."""
    y = np.arange(len(theirs) + len(own))
    read = theirs["how_known"].str.startswith("read").to_numpy()
    for chosen, face, label in ((read, style.QUIET, "published, read in the source"),
                                (~read, "white", "reported, second-hand or on a part of the test")):
        if chosen.any():
            ax.errorbar(theirs.loc[chosen, "mae"], y[:len(theirs)][chosen], xerr=theirs.loc[chosen, "sd"].fillna(0),
                        fmt="o", color=style.QUIET, markerfacecolor=face, label=label)
    ax.hlines(y[len(theirs):], own["mae_low"], own["mae_high"], color=style.MAIN, linewidth=2)
    ax.plot(own["mae"], y[len(theirs):], "s", color=style.MAIN, label="measured here")
    for place, value in zip(y, [*theirs["mae"], *own["mae"]], strict=True):
        ax.annotate(f"{value:.2f}", (value, place), (0, 5), textcoords="offset points", ha="center", fontsize=8)


def _yardsticks(ax: Axes, baseline: float, label_error: float, lowest: int) -> None:
    """Lines of label error and median baseline, whose number is beside the `lowest` row."""
    outside = baseline >= RIGHT
    inside = [] if outside else [(baseline, "median baseline")]
    style.reference_lines(ax, [(label_error, f"label error, an estimate: {label_error:.1f}"), *inside], vertical=True)
    ax.annotate(f"median baseline: {baseline:.2f}" + (" \u2192" if outside else " "),
                (min(baseline, RIGHT), lowest), ha="right", va="center", fontsize=8, color="0.3")


def intervals(predictions: pd.DataFrame, level: float = 0.9, count: int = 80, seed: int = 0,
              ax: Axes | None = None) -> Axes:
    """Intervals of `count` pictures sampled at random, from the youngest prediction to the oldest, and their labels.

    Labels outside their interval are crosses in the second colour; their share should be 1 - `level`.
    """
    ax = style.styled(ax, 9.0, 4.4)
    rows = predictions.sample(min(count, len(predictions)), random_state=seed).sort_values(["prediction", "name"])
    lower, upper = (rows[f"{end}_{100 * level:g}"].to_numpy() for end in ("lower", "upper"))
    place, age = np.arange(len(rows)), rows["age"].to_numpy()
    inside = (lower <= age) & (age <= upper)
    ax.vlines(place, lower, upper, color="0.75", linewidth=3, label=f"{level:.0%} interval")
    ax.plot(place[inside], age[inside], "o", color=style.MAIN, markersize=4, label="label inside")
    ax.plot(place[~inside], age[~inside], "X", color=style.SECOND, markersize=8,
            label=f"label outside ({(~inside).sum()})")
    return style.finish(ax, "upper left", xlabel=f"{len(rows)} pictures sampled at random, by predicted age",
                        ylabel="age (years)", ylim=(0, None), xlim=(-1, len(rows)))


def risk_coverage(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """`intervals.risk_coverage`: error of the share kept, beside the best possible order and a random one."""
    ax = style.styled(ax)
    style.curve(ax, table, "share", "mae", style.MAIN, "smallest spread first")
    ax.plot(table["share"], table["best"], color=style.QUIET, linestyle="--",
            label="smallest error first (not possible)")
    style.reference_lines(ax, [(table["mae"].iloc[-1], "random order")], dashes=(":",))
    return style.finish(ax, percent="x", xlabel="share of pictures kept", ylabel="mean absolute error (years)",
                        ylim=(0, None))


def precision_recall(curves: dict[str, pd.DataFrame], prevalence: dict[str, float], ax: Axes | None = None) -> Axes:
    """Curves of `age_limits.precision_recall` by name; dotted: the precision of guessing, which is the prevalence."""
    ax = style.styled(ax, 6.4, 4.8)
    for (name, table), colour in zip(curves.items(), itertools.cycle((style.MAIN, style.SECOND))):
        ax.plot(table["recall"], table["precision"], color=colour, label=name)
        ax.axhline(prevalence[name], color=colour, linestyle=":", linewidth=1.3, label=f"{name}: guessing")
    return style.finish(ax, "center left", "xy", xlabel="recall: share of them that is found",
                        ylabel="precision: share of the found that is right", xlim=(0, 1.01), ylim=(0, 1.02))


def accepted_by_age(tables: dict[str, pd.DataFrame], limit: float, ax: Axes | None = None) -> Axes:
    """Shares of `age_limits.accepted_by_age` by name, with 95 % bands; the step at `limit` that a law asks for."""
    ax = style.styled(ax)
    last = max(table["age"].max() for table in tables.values())
    ax.plot([0, limit, limit, last], [0, 0, 1, 1], color="0.3", linestyle="--", label=f"what a limit of {limit:g} asks")
    for (name, table), colour in zip(tables.items(), itertools.cycle((style.MAIN, style.SECOND))):
        style.curve(ax, table, "age", "accepted", colour, name)
    return style.finish(ax, "center right", "y", xlabel="true age (years)", ylabel="share accepted", ylim=(0, 1.02),
                        xlim=(0, last))
