"""Figures from tables: each function draws one table on one matplotlib Axes and returns it.

`ax`: Axes to draw on; None makes a figure of a fitting size. Ages and errors are in years.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

# Okabe and Ito's colours, told apart under the common colour blindnesses (https://jfly.uni-koeln.de/color/).
GENDER_COLOURS = {"male": "#0072B2", "female": "#D55E00"}
ETHNICITY_COLOURS = {
    "White": "#56B4E9", "Black": "#000000", "Asian": "#E69F00", "Indian": "#009E73", "Others": "#CC79A7"}
MAIN, SECOND, QUIET = "#0072B2", "#D55E00", "#7F7F7F"


def _axes(ax: Axes | None, width: float = 7.0, height: float = 4.2) -> Axes:
    """`ax`, or a new one of the series' look: no box, a light grid below the data."""
    if ax is None:
        ax = plt.subplots(figsize=(width, height), layout="constrained")[1]
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


References = Sequence[tuple[float, str]]  # value and name of lines to compare with


def _references(ax: Axes, references: References, vertical: bool = False,
                styles: Sequence[Any] = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))) -> None:
    """A broken line at each value, its name in the legend."""
    for (value, text), style in zip(references, itertools.cycle(styles)):
        draw = ax.axvline if vertical else ax.axhline
        draw(value, color=QUIET, linestyle=style, linewidth=1.3, label=text, zorder=1)


def history_curve(history: pd.DataFrame, measure: str = "mae", references: References = (),
                  ax: Axes | None = None) -> Axes:
    """`measure` ("mae", "loss" or "lr") by epoch; training and validation, the best validation epoch marked.

    `references`: values and names of broken lines, such as the median baseline's error. Epochs without a validation
    are passed over.
    """
    ax = _axes(ax)
    label = {"mae": "mean absolute error (years)", "loss": "loss", "lr": "learning rate"}[measure]
    if measure == "lr":
        ax.plot(history["epoch"], history["lr"], color=MAIN, marker="o", markersize=4)
    else:
        ax.plot(history["epoch"], history[f"train_{measure}"], color=MAIN, marker="o", markersize=4, label="training")
        seen = history.dropna(subset=f"val_{measure}")
        validation = seen[f"val_{measure}"]
        ax.plot(seen["epoch"], validation, color=SECOND, marker="s", markersize=4, label="validation")
        if measure == "mae":
            best = int(validation.to_numpy().argmin())
            ax.plot(seen["epoch"].iloc[best], validation.iloc[best], "*", color=SECOND, markersize=15,
                    linestyle="none", label=f"best validation: {validation.iloc[best]:.2f} years")
    _references(ax, references)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch", ylabel=label)
    if measure != "loss":
        ax.set_ylim(0, 1.05 * ax.dataLim.y1)
    return ax


def learning_rate_range(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Loss against the learning rate (log axis) of a range test: columns lr, loss; the lowest loss marked."""
    ax = _axes(ax)
    ax.semilogx(table["lr"], table["loss"], color=MAIN)
    best = table.iloc[int(table["loss"].to_numpy().argmin())]
    ax.plot(best["lr"], best["loss"], "o", color=SECOND, label=f"lowest loss, at {best['lr']:.2g}")
    ax.set(xlabel="learning rate", ylabel="loss")
    ax.legend(frameon=False)
    return ax


def grid_heat_map(trials: pd.DataFrame, value: str = "val_mae", rows: str = "lr", columns: str = "weight_decay",
                  label: str = "validation MAE (years)", note: str = "", ax: Axes | None = None) -> Axes:
    """Cells `rows` x `columns` of a grid search, each with its `value`; the lowest is framed. Empty: not tried.

    `note` is the title, such as the median baseline's error.
    """
    table = trials.pivot_table(index=rows, columns=columns, values=value).sort_index(ascending=False)
    ax = _axes(ax, 1.6 * table.shape[1] + 2.4, 0.7 * table.shape[0] + 1.5)
    ax.grid(False)
    table.index, table.columns = (pd.Index([f"{v:g}" for v in axis], name=str(axis.name).replace("_", " ")
                                           .replace("lr", "learning rate")) for axis in (table.index, table.columns))
    sns.heatmap(table, annot=True, fmt=".2f", cmap="cividis_r", linewidths=1, cbar_kws={"label": label}, ax=ax)
    row, column = np.unravel_index(np.nanargmin(table.to_numpy(float)), table.shape)
    ax.add_patch(plt.Rectangle((float(column), float(row)), 1, 1, fill=False, edgecolor=SECOND, linewidth=3))
    ax.tick_params(length=0, labelrotation=0)
    ax.set_title(note, fontsize=10)
    return ax


def predicted_against_true(predictions: pd.DataFrame, running: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Hexagonal histogram of pictures over true and predicted age, the diagonal, and `analysis.running_median`."""
    ax = _axes(ax, 6.4, 5.4)
    top = float(max(predictions["age"].max(), predictions["prediction"].max())) + 2
    cells = ax.hexbin(predictions["age"], predictions["prediction"], gridsize=45, extent=(0, top, 0, top), mincnt=1,
                      bins="log", cmap=sns.color_palette("blend:#d5d5d5,#000000", as_cmap=True), linewidths=0.1)
    ax.figure.colorbar(cells, ax=ax, label="pictures in a cell (log scale)")
    ax.plot([0, top], [0, top], color=QUIET, linestyle="--", linewidth=1.2, label="prediction = age")
    ax.plot(running["age"], running["median"], color=SECOND, linewidth=2, label="running median")
    ax.fill_between(running["age"], running["low"], running["high"], color=SECOND, alpha=0.25, linewidth=0,
                    label="middle half of predictions")
    ax.set(xlabel="true age (years)", ylabel="predicted age (years)", xlim=(0, top), ylim=(0, top), aspect="equal",
           title=f"n = {len(predictions):,}")
    ax.legend(frameon=False, loc="upper left")
    return ax


def forest(table: pd.DataFrame, rows: str, value: str, low: str, high: str, hue: str | None = None,
           references: References = (), ax: Axes | None = None) -> Axes:
    """A dot and its interval for each row of `table`, by the columns `rows` (vertical) and `hue` (colour).

    Rows have their numbers of pictures behind them where the table has `n`. Rows without a value are named, not drawn.
    """
    groups, hues = list(table[rows].unique()), list(table[hue].unique()) if hue else [""]
    ax = _axes(ax, 7.0, 1.2 + 0.34 * max(len(groups), 4) * (1 + 0.45 * (len(hues) - 1)))
    spare = iter((MAIN, SECOND, QUIET, *ETHNICITY_COLOURS.values()))
    known = GENDER_COLOURS | ETHNICITY_COLOURS
    for position, name in enumerate(hues):
        part, colour = table[table[hue] == name] if hue else table, known.get(name) or next(spare)
        y = np.array([groups.index(group) for group in part[rows]]) + (position - (len(hues) - 1) / 2) * 0.6 / len(hues)
        ax.hlines(y, part[low], part[high], color=colour, linewidth=2)
        ax.plot(part[value], y, "o", color=colour, label=str(name) or None)
    names = [str(group) for group in groups]
    if "n" in table:
        once = table.groupby(rows, observed=True)["n"].nunique().eq(1).all()  # the same pictures in every colour
        counts = [" / ".join(f"{n:,}" for n in table.loc[table[rows] == group, "n"][:1 if once else None])
                  for group in groups]
        names = [f"{name}  (n = {count})" for name, count in zip(names, counts, strict=True)]
    ax.set_yticks(range(len(groups)), names)
    _references(ax, references, vertical=True)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)  # not among the data
    ax.set(ylim=(len(groups) - 0.4, -0.6))
    return ax


def error_by_group(table: pd.DataFrame, measure: str = "mae", references: References = (),
                   ax: Axes | None = None) -> Axes:
    """`forest` of `analysis.by_group`; `measure` is "mae" or "bias". A second key of the table is the colour."""
    key, *second = table.columns[:list(table.columns).index("n")]
    ax = forest(table, key, measure, f"{measure}_low", f"{measure}_high", second[0] if second else None, references, ax)
    if measure == "bias":
        ax.axvline(0, color="0.3", linewidth=1)
    else:
        ax.set_xlim(0, None)
    label = {"mae": "mean absolute error (years)", "bias": "bias: prediction minus age (years)"}[measure]
    hues = f" (n: {' / '.join(table[second[0]].unique())})" if second else ""
    ax.set(xlabel=f"{label}, 95 % interval", ylabel={"age_group": "age group (years)"}.get(key, key) + hues)
    return ax


def effects(table: pd.DataFrame, note: str = "", ax: Axes | None = None) -> Axes:
    """Rows of `ablation.compare`: difference of the validation MAE to the base and its 95 % interval, best first.

    `note` is added to the axis' label, such as the median baseline's error.
    """
    rows = table[table["row"] != "base"].sort_values("difference")
    ax = _axes(ax, 8.5, 1.2 + 0.3 * len(rows))
    y = np.arange(len(rows))
    clear = ((rows["low"] > 0) | (rows["high"] < 0)) & ~rows["row"].str.startswith("ensemble")
    for shown, colour, label in ((clear, MAIN, "interval without 0"),
                                 (~clear, QUIET, "a tie with the base, or no test")):
        ax.hlines(y[shown], rows.loc[shown, "low"], rows.loc[shown, "high"], color=colour, linewidth=2)
        ax.plot(rows.loc[shown, "difference"], y[shown], "o", color=colour, label=label)
    base = table.loc[table["row"] == "base", "val_mae"].iloc[0]
    ax.axvline(0, color="0.3", linewidth=1)
    ax.set_yticks(y, rows["row"])
    ax.set(xlabel=f"validation MAE minus that of the base, {base:.2f} years; negative is better\n{note}".strip(),
           ylim=(len(rows) - 0.4, -0.6))
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax


def published_comparison(ours: pd.DataFrame, published: pd.DataFrame, label_error: float) -> Figure:
    """A panel a protocol: published errors and ours (`results.summary`), with median baseline and label error.

    Our bars are 95 % intervals over test pictures (one run) or the range of runs; published bars are one standard
    deviation where it is stated. Hollow dots were not read in their source, or are of a part of the test. A median
    baseline beyond the axis stands as a number at its end.
    """
    notes = {"holdout": "holdout (80/20, ours)",
             "benchmark": "benchmark (60/20/20; published figures: same proportions, other lists and alignment)",
             "coral": "coral (ages 21 to 60, published test list)"}
    protocols = [protocol for protocol in notes if protocol in set(ours["protocol"])]
    heights = [1.5 + (published["protocol"] == p).sum() + (ours["protocol"] == p).sum() for p in protocols]
    figure, axes = plt.subplots(len(protocols), 1, figsize=(11.0, 1.2 + 0.36 * sum(heights)), squeeze=False,
                                layout="constrained", sharex=True, height_ratios=heights)
    right = 9.5
    legend: dict[str, Any] = {}
    for ax, protocol in zip(axes.flat, protocols, strict=True):
        theirs, own = published[published["protocol"] == protocol], ours[ours["protocol"] == protocol]
        names = [f"{row.method} ({row.start})" + (f"\n{row.how_known}" if protocol == "holdout" else "")
                 for row in theirs.itertuples()] + [f"{row.family}: {row.network}" for row in own.itertuples()]
        y = np.arange(len(names))
        _axes(ax)
        read = theirs["how_known"].str.startswith("read").to_numpy()
        for chosen, face, label in ((read, QUIET, "published, read in the source"),
                                    (~read, "white", "reported, second-hand or on a part of the test")):
            if chosen.any():
                ax.errorbar(theirs.loc[chosen, "mae"], y[:len(theirs)][chosen], xerr=theirs.loc[chosen, "sd"].fillna(0),
                            fmt="o", color=QUIET, markerfacecolor=face, label=label)
        ax.hlines(y[len(theirs):], own["mae_low"], own["mae_high"], color=MAIN, linewidth=2)
        ax.plot(own["mae"], y[len(theirs):], "s", color=MAIN, label="measured here")
        for place, value in zip(y, [*theirs["mae"], *own["mae"]], strict=True):
            ax.annotate(f"{value:.2f}", (value, place), (0, 5), textcoords="offset points", ha="center", fontsize=8)
        baseline = float(own["baseline"].mean())
        references = [(label_error, f"label error, an estimate: {label_error:.1f}")]
        if baseline < right:
            references.insert(0, (baseline, "median baseline"))
        _references(ax, references[::-1], vertical=True)
        ax.annotate(f"median baseline: {baseline:.2f}" + (" \u2192" if baseline >= right else " "),
                    (min(baseline, right), len(names) - 1), ha="right", va="center", fontsize=8, color="0.3")
        ax.set_yticks(y, names)
        ax.set_title(notes[protocol], fontsize=10, loc="left")
        ax.set(ylim=(len(names) - 0.4, -0.8), xlim=(2.5, right))
        handles, labels = ax.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    axes.flat[-1].set_xlabel("mean absolute error (years)")
    figure.legend(list(legend.values()), list(legend), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def cs_curves(curves: dict[str, pd.DataFrame], references: References = (), ax: Axes | None = None) -> Axes:
    """Cumulative scores by name with 95 % bands, each an `analysis.cs_curve`; the first is the model, others dashed."""
    ax = _axes(ax)
    _references(ax, references, vertical=True, styles=(":", "-."))  # "--" is a curve here
    for position, (name, curve) in enumerate(curves.items()):
        ax.plot(curve["years"], curve["share"], color=(MAIN, QUIET, SECOND)[position % 3], label=name,
                linestyle="-" if position == 0 else "--", marker="o" if position == 0 else None, markersize=4)
        ax.fill_between(curve["years"], curve["low"], curve["high"], color=ax.lines[-1].get_color(), alpha=0.2,
                        linewidth=0)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.xaxis.set_major_locator(MaxNLocator(steps=[1, 5, 10]))
    ax.set(xlabel="allowed absolute error (years)", ylabel="share of pictures within it", ylim=(0, 1))
    ax.legend(frameon=False, loc="lower right")
    return ax


def digits(shares: dict[str, pd.Series], ax: Axes | None = None) -> Axes:
    """Bars of `causes.terminal_digits` by name, side by side; a tenth each is the broken line."""
    ax = _axes(ax)
    width = 0.8 / len(shares)
    for position, ((name, series), colour) in enumerate(zip(shares.items(), itertools.cycle((QUIET, MAIN, SECOND)))):
        ax.bar(series.index + (position - (len(shares) - 1) / 2) * width, series, width, color=colour, label=name)
    _references(ax, [(0.1, "no heaps: a tenth each")])
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xticks(range(10))
    ax.set(xlabel="last digit of the age, 23 to 62 years", ylabel="share of pictures")
    ax.legend(frameon=False)
    return ax


def intervals(predictions: pd.DataFrame, level: float = 0.9, count: int = 80, seed: int = 0,
              ax: Axes | None = None) -> Axes:
    """Intervals of `count` pictures drawn at random, from the youngest prediction to the oldest, and their labels.

    Labels outside their interval are crosses in the second colour; the share that should be is the remaining level.
    """
    ax = _axes(ax, 9.0, 4.4)
    rows = predictions.sample(min(count, len(predictions)), random_state=seed).sort_values(["prediction", "name"])
    lower, upper = (rows[f"{end}_{100 * level:g}"].to_numpy() for end in ("lower", "upper"))
    place, age = np.arange(len(rows)), rows["age"].to_numpy()
    held = (lower <= age) & (age <= upper)
    ax.vlines(place, lower, upper, color="0.75", linewidth=3, label=f"{level:.0%} interval")
    ax.plot(place[held], age[held], "o", color=MAIN, markersize=4, label="label inside")
    ax.plot(place[~held], age[~held], "X", color=SECOND, markersize=8, label=f"label outside ({(~held).sum()})")
    ax.set(xlabel=f"{len(rows)} pictures drawn at random, by predicted age", ylabel="age (years)", ylim=(0, None),
           xlim=(-1, len(rows)))
    ax.legend(frameon=False, loc="upper left")
    return ax


def risk_coverage(curve: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """`conformal.risk_coverage`: error of the share answered, beside the best possible order and no order at all."""
    ax = _axes(ax)
    ax.plot(curve["answered"], curve["mae"], color=MAIN, marker="o", markersize=4, label="smallest spread first")
    ax.fill_between(curve["answered"], curve["low"], curve["high"], color=MAIN, alpha=0.2, linewidth=0)
    ax.plot(curve["answered"], curve["best"], color=QUIET, linestyle="--", label="smallest error first (not possible)")
    _references(ax, [(curve["mae"].iloc[-1], "in any order that says nothing")], styles=(":",))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set(xlabel="share of pictures that are answered", ylabel="mean absolute error (years)", ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def precision_recall(curves: dict[str, pd.DataFrame], prevalence: dict[str, float], ax: Axes | None = None) -> Axes:
    """Curves of `decisions.precision_recall` by name; dotted: the precision of guessing, which is the prevalence."""
    ax = _axes(ax, 6.4, 4.8)
    for (name, curve), colour in zip(curves.items(), itertools.cycle((MAIN, SECOND))):
        ax.plot(curve["recall"], curve["precision"], color=colour, label=name)
        ax.axhline(prevalence[name], color=colour, linestyle=":", linewidth=1.3, label=f"{name}: guessing")
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set(xlabel="recall: share of them that is found", ylabel="precision: share of the found that is right",
           xlim=(0, 1.01), ylim=(0, 1.02))
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 0.2))
    return ax


def accepted_by_age(tables: dict[str, pd.DataFrame], limit: float, ax: Axes | None = None) -> Axes:
    """Shares of `decisions.accepted_by_age` by name, with 95 % bands; the step at `limit` that a law asks for."""
    ax = _axes(ax)
    last = max(table["age"].max() for table in tables.values())
    ax.plot([0, limit, limit, last], [0, 0, 1, 1], color="0.3", linestyle="--", label=f"what a limit of {limit:g} asks")
    for (name, table), colour in zip(tables.items(), itertools.cycle((MAIN, SECOND))):
        ax.plot(table["age"], table["accepted"], color=colour, marker="o", markersize=4, label=name)
        ax.fill_between(table["age"], table["low"], table["high"], color=colour, alpha=0.2, linewidth=0)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set(xlabel="true age (years)", ylabel="share accepted", ylim=(0, 1.02), xlim=(0, last))
    ax.legend(frameon=False, loc="center right")
    return ax


def confusion(counts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Heat map of `analysis.age_group_confusion` counts: share of each true group in percent, its size at the left."""
    size = counts.sum(axis=1)
    shares = counts.div(size.replace(0, np.nan), axis=0).mul(100)
    ax = _axes(ax, 7.4, 5.4)
    ax.grid(False)
    text = shares.map(lambda share: f"{share:.0f}" if share >= 0.5 else "<1" if share > 0 else "")
    sns.heatmap(shares, annot=text, fmt="", cmap="Blues", vmin=0, vmax=100, linewidths=1, ax=ax,
                cbar_kws={"label": "share of the true group (%)"})
    ax.set_yticks(np.arange(len(size)) + 0.5, [f"{name}  (n = {n:,})" for name, n in size.items()], rotation=0)
    ax.tick_params(length=0)
    ax.set(xlabel="predicted age group (years)", ylabel="true age group (years)")
    return ax


def face_grid(faces: Sequence[Any], titles: Sequence[str], columns: int = 6) -> Figure:
    """Faces (uint8 arrays [H, W, 3] or picture files), each below its title."""
    rows = max(1, -(-len(faces) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(1.45 * columns, 1.8 * rows), squeeze=False,
                                layout="constrained")
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, face, title in zip(axes.flat, faces, titles, strict=False):
        ax.imshow(face if isinstance(face, np.ndarray) else Image.open(face).convert("RGB"))
        ax.set_title(title, fontsize=9)
    return figure


def saliency_grid(faces: Sequence[Any], maps: np.ndarray, titles: Sequence[str],
                  label: str = "answer older (+) or younger (\u2212)\n(years, a cell of the map)") -> Figure:
    """Faces (as in `face_grid`) below their titles; below in grey under their maps [N, H, W], red older, blue younger.

    One scale holds for all maps, symmetric about 0, so that strong and weak maps can be told apart.
    """
    limit = float(np.abs(maps).max()) or 1.0
    figure, axes = plt.subplots(2, len(faces), figsize=(1.45 * len(faces) + 0.9, 3.4), squeeze=False,
                                layout="constrained")
    for (above, below), face, values, title in zip(axes.T, faces, maps, titles, strict=True):
        picture = Image.fromarray(face) if isinstance(face, np.ndarray) else Image.open(face).convert("RGB")
        extent = (-0.5, picture.width - 0.5, picture.height - 0.5, -0.5)
        above.imshow(picture)
        above.set_title(title, fontsize=9)
        below.imshow(picture.convert("L"), cmap="gray", vmin=0, vmax=255)
        overlay = below.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent,
                               alpha=0.8 * np.minimum(1, 2 * np.abs(values) / limit))  # clear where it says little
        above.set_axis_off()
        below.set_axis_off()
    figure.colorbar(ScalarMappable(overlay.norm, overlay.cmap), ax=axes, label=label)
    return figure


def age_histogram(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Pictures of each age of an index, one bar a year; multiples of five in the second colour, the median dashed."""
    ax = _axes(ax, 9.0, 4.0)
    ages = table["age"].dropna().astype(int)
    counts = ages.value_counts()
    for fives, colour, label in ((False, MAIN, "other ages"), (True, SECOND, "multiples of five")):
        chosen = counts[(counts.index % 5 == 0) == fives]
        ax.bar(chosen.index, chosen, width=0.85, color=colour, label=label)
    _references(ax, [(float(ages.median()), f"median, {ages.median():g} years")], vertical=True)
    ax.set(xlabel="age (years)", ylabel="pictures", title=f"n = {len(ages):,}")
    ax.legend(frameon=False)
    return ax


def ages_by(table: pd.DataFrame, key: str, kind: str = "box", ax: Axes | None = None) -> Axes:
    """Ages of an index by `key` ("gender" or "ethnicity") as boxes or violins, each group's size in its name.

    Boxes hold the middle half, whiskers reach to the last picture within 1.5 box lengths; in a violin the bar is the
    middle half and the dot the median.
    """
    colours = {"gender": GENDER_COLOURS, "ethnicity": ETHNICITY_COLOURS}[key]
    ages = {group: rows.to_numpy(float) for group in colours if len(rows := table.loc[table[key] == group, "age"])}
    ax = _axes(ax, 8.0, 1.2 + 0.6 * len(ages))
    places = range(1, len(ages) + 1)
    if kind == "box":
        parts = ax.boxplot(list(ages.values()), orientation="horizontal", widths=0.6, patch_artist=True,
                           medianprops={"color": "white", "linewidth": 2}, flierprops={"marker": ".", "alpha": 0.3})
        bodies = parts["boxes"]
    else:
        bodies = ax.violinplot(list(ages.values()), orientation="horizontal", widths=0.85, showextrema=False)["bodies"]
        low, median, high = np.array([np.quantile(values, [0.25, 0.5, 0.75]) for values in ages.values()]).T
        ax.hlines(places, low, high, color="white", linewidth=6)  # a rim, to be seen on dark violins too
        ax.hlines(places, low, high, color="0.3", linewidth=3)
        ax.plot(median, places, "o", color="white", markeredgecolor="0.3")
    for body, group in zip(bodies, ages, strict=True):
        body.set(facecolor=colours[group], alpha=0.75, edgecolor="0.3")
    ax.set_yticks(places, [f"{group}  (n = {len(values):,})" for group, values in ages.items()])
    ax.set(xlabel="age (years)", ylabel=key, xlim=(0, None), ylim=(len(ages) + 0.6, 0.4))
    return ax


def counts_heat_map(counts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Heat map of a cross-tabulation of pictures, on a logarithmic scale so that small cells are told apart."""
    ax = _axes(ax, 1.1 * counts.shape[1] + 2.4, 0.45 * counts.shape[0] + 1.4)
    ax.grid(False)
    sns.heatmap(counts, annot=True, fmt=",d", cmap="Blues", norm=LogNorm(vmin=max(1, counts.to_numpy().min())),
                linewidths=1, cbar_kws={"label": "pictures (log scale)"}, ax=ax)
    ax.tick_params(length=0, rotation=0)
    return ax
