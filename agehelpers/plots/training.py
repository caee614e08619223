"""Figures of training: curves, searches and ablations."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from agehelpers.plots import style


def history_curve(history: pd.DataFrame, measure: str = "mae", references: style.References = (),
                  ax: Axes | None = None) -> Axes:
    """`measure` ("mae", "loss" or "lr") by epoch; training and validation, the best validation epoch marked.

    Epochs without a validation are passed over.
    """
    ax = style.styled(ax)
    label = {"mae": "mean absolute error (years)", "loss": "loss", "lr": "learning rate"}[measure]
    if measure == "lr":
        ax.plot(history["epoch"], history["lr"], color=style.MAIN, marker="o", markersize=4)
    else:
        seen = history.dropna(subset=f"val_{measure}")
        ax.plot(history["epoch"], history[f"train_{measure}"], "o-", color=style.MAIN, markersize=4, label="training")
        ax.plot(seen["epoch"], seen[f"val_{measure}"], "s-", color=style.SECOND, markersize=4, label="validation")
    if measure == "mae":
        best = seen.iloc[int(seen["val_mae"].to_numpy().argmin())]
        ax.plot(best["epoch"], best["val_mae"], "*", color=style.SECOND, markersize=15, linestyle="none",
                label=f"best validation: {best['val_mae']:.2f} years")
    style.reference_lines(ax, references)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if measure != "loss":
        ax.set_ylim(0, 1.05 * ax.dataLim.y1)
    return style.finish(ax, xlabel="epoch", ylabel=label)


def learning_rate_range(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Loss against the learning rate (log axis) of a range test: columns lr, loss; the lowest loss marked."""
    ax = style.styled(ax)
    ax.semilogx(table["lr"], table["loss"], color=style.MAIN)
    best = table.iloc[int(table["loss"].to_numpy().argmin())]
    ax.plot(best["lr"], best["loss"], "o", color=style.SECOND, label=f"lowest loss, at {best['lr']:.2g}")
    return style.finish(ax, xlabel="learning rate", ylabel="loss")


def grid_heat_map(trials: pd.DataFrame, note: str = "", ax: Axes | None = None) -> Axes:
    """Validation MAE of a grid search by learning rate and weight decay; the lowest is framed; `note` is the title."""
    table = trials.pivot_table(index="lr", columns="weight_decay", values="val_mae").sort_index(ascending=False)
    table = table.rename(index="{:g}".format, columns="{:g}".format)
    ax = style.heat_map(table, "validation MAE (years)", ax, (1.6 * table.shape[1] + 2.4, 0.7 * table.shape[0] + 1.5),
                        annot=True, fmt=".2f", cmap="cividis_r")
    row, column = np.unravel_index(np.nanargmin(table.to_numpy(float)), table.shape)
    ax.add_patch(plt.Rectangle((float(column), float(row)), 1, 1, fill=False, edgecolor=style.SECOND, linewidth=3))
    ax.set_title(note, fontsize=10)
    ax.set(xlabel="weight decay", ylabel="learning rate")
    return ax


def effects(table: pd.DataFrame, note: str = "", ax: Axes | None = None) -> Axes:
    """Rows of an ablation's table: difference of the validation MAE to the base and its 95 % interval, best first.

    `note` is added to the axis' label, such as the median baseline's error.
    """
    rows = table[table["row"] != "base"].sort_values("difference")
    clear = ((rows["low"] > 0) | (rows["high"] < 0)) & ~rows["row"].str.startswith("ensemble")
    colours = {"interval without 0": style.MAIN, "a tie with the base, or no test": style.QUIET}
    ax = style.forest(rows.assign(kind=np.where(clear, *colours)), "row", "difference", "low", "high", "kind",
                      ax=style.styled(ax, 8.5, 1.2 + 0.3 * len(rows)), colours=colours)
    base = table.loc[table["row"] == "base", "val_mae"].iloc[0]
    ax.axvline(0, color="0.3", linewidth=1)
    ax.set(xlabel=f"validation MAE minus that of the base, {base:.2f} years; negative is better\n{note}".strip())
    return ax
