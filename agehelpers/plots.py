"""Figures from tables: each function draws one table on one matplotlib Axes and returns it.

`ax`: Axes to draw on; None makes a figure of a fitting size. Ages and errors are in years.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
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


def _reference(ax: Axes, value: float, text: str, vertical: bool = False) -> None:
    """A dashed line at `value` with its name in the legend."""
    (ax.axvline if vertical else ax.axhline)(value, color=QUIET, linestyle="--", linewidth=1.2, label=text, zorder=1)


def history_curve(history: pd.DataFrame, measure: str = "mae", reference: tuple[float, str] | None = None,
                  ax: Axes | None = None) -> Axes:
    """`measure` ("mae", "loss" or "lr") by epoch; training and validation, the best validation epoch marked.

    `reference`: value and name of a dashed line, such as the median baseline's error.
    """
    ax = _axes(ax)
    label = {"mae": "mean absolute error (years)", "loss": "loss", "lr": "learning rate"}[measure]
    if measure == "lr":
        ax.plot(history["epoch"], history["lr"], color=MAIN, marker="o", markersize=4)
    else:
        train, validation = history[f"train_{measure}"], history[f"val_{measure}"]
        ax.plot(history["epoch"], train, color=MAIN, marker="o", markersize=4, label="training")
        ax.plot(history["epoch"], validation, color=SECOND, marker="s", markersize=4, label="validation")
        if measure == "mae":
            best = int(validation.to_numpy().argmin())
            ax.plot(history["epoch"].iloc[best], validation.iloc[best], "*", color=SECOND, markersize=15,
                    linestyle="none", label=f"best validation: {validation.iloc[best]:.2f} years")
    if reference is not None:
        _reference(ax, *reference)
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
                  label: str = "validation MAE (years)", ax: Axes | None = None) -> Axes:
    """Cells `rows` x `columns` of a grid search, each with its `value`; the lowest is framed. Empty: not tried."""
    table = trials.pivot_table(index=rows, columns=columns, values=value).sort_index(ascending=False)
    ax = _axes(ax, 1.6 * table.shape[1] + 2.4, 0.7 * table.shape[0] + 1.5)
    ax.grid(False)
    table.index, table.columns = (pd.Index([f"{v:g}" for v in axis], name=str(axis.name).replace("_", " ")
                                           .replace("lr", "learning rate")) for axis in (table.index, table.columns))
    sns.heatmap(table, annot=True, fmt=".2f", cmap="cividis_r", linewidths=1, cbar_kws={"label": label}, ax=ax)
    row, column = np.unravel_index(np.nanargmin(table.to_numpy(float)), table.shape)
    ax.add_patch(plt.Rectangle((float(column), float(row)), 1, 1, fill=False, edgecolor=SECOND, linewidth=3))
    ax.tick_params(length=0, labelrotation=0)
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


def error_by_group(table: pd.DataFrame, measure: str = "mae", reference: tuple[float, str] | None = None,
                   ax: Axes | None = None) -> Axes:
    """A dot and its 95 % interval for each row of `analysis.by_group`; `measure` is "mae" or "bias".

    With two keys the first one is the vertical axis and the second one the colour. Empty groups are named, not drawn.
    """
    key, *second = table.columns[:list(table.columns).index("n")]
    groups, hues = list(table[key].unique()), list(table[second[0]].unique()) if second else [""]
    ax = _axes(ax, 7.0, 1.2 + 0.34 * max(len(groups), 4) * (1 + 0.45 * (len(hues) - 1)))
    colours = {"": MAIN, **GENDER_COLOURS, **ETHNICITY_COLOURS}
    for position, hue in enumerate(hues):
        rows, colour = table[table[second[0]] == hue] if second else table, colours.get(hue, QUIET)
        y = np.array([groups.index(group) for group in rows[key]]) + (position - (len(hues) - 1) / 2) * 0.6 / len(hues)
        ax.hlines(y, rows[f"{measure}_low"], rows[f"{measure}_high"], color=colour, linewidth=2)
        ax.plot(rows[measure], y, "o", color=colour, label=hue or None)
    counts = [" / ".join(f"{n:,}" for n in table.loc[table[key] == group, "n"]) for group in groups]
    ax.set_yticks(range(len(groups)), [f"{name}  (n = {count})" for name, count in zip(groups, counts, strict=True)])
    if reference is not None:
        _reference(ax, *reference, vertical=True)
    if measure == "bias":
        ax.axvline(0, color="0.3", linewidth=1)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)  # not among the data
    label = {"mae": "mean absolute error (years)", "bias": "bias: prediction minus age (years)"}[measure]
    ax.set(xlabel=f"{label}, 95 % interval",
           ylabel={"age_group": "age group (years)"}.get(key, key) + (f" (n: {' / '.join(hues)})" if second else ""),
           ylim=(len(groups) - 0.4, -0.6))
    if measure == "mae":
        ax.set_xlim(0, None)
    return ax


def cs_curves(curves: dict[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Cumulative scores by name, each an `analysis.cs_curve`; the first one is drawn as the model, others dashed."""
    ax = _axes(ax)
    for position, (name, curve) in enumerate(curves.items()):
        ax.plot(curve["years"], curve["share"], color=(MAIN, QUIET, SECOND)[position % 3], label=name,
                linestyle="-" if position == 0 else "--", marker="o" if position == 0 else None, markersize=4)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.xaxis.set_major_locator(MaxNLocator(steps=[1, 5, 10]))
    ax.set(xlabel="allowed absolute error (years)", ylabel="share of pictures within it", ylim=(0, 1))
    ax.legend(frameon=False, loc="lower right")
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


def age_histogram(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Pictures of each age of an index, one bar a year; multiples of five in the second colour, the median dashed."""
    ax = _axes(ax, 9.0, 4.0)
    ages = table["age"].dropna().astype(int)
    counts = ages.value_counts()
    for fives, colour, label in ((False, MAIN, "other ages"), (True, SECOND, "multiples of five")):
        chosen = counts[(counts.index % 5 == 0) == fives]
        ax.bar(chosen.index, chosen, width=0.85, color=colour, label=label)
    _reference(ax, float(ages.median()), f"median, {ages.median():g} years", vertical=True)
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
