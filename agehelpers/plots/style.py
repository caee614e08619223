"""What all figures share: one palette, one look, lines to compare with, and the forest plot."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

# Okabe and Ito's colours, told apart under the common colour blindnesses (https://jfly.uni-koeln.de/color/).
GENDER_COLOURS = {"male": "#0072B2", "female": "#D55E00"}
ETHNICITY_COLOURS = {
    "White": "#56B4E9", "Black": "#000000", "Asian": "#E69F00", "Indian": "#009E73", "Others": "#CC79A7"}
MAIN, SECOND, QUIET = "#0072B2", "#D55E00", "#7F7F7F"
DASHES: tuple[Any, ...] = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
References = Sequence[tuple[float, str]]  # value and name of lines to compare with


def styled(ax: Axes | None, width: float = 7.0, height: float = 4.2) -> Axes:
    """`ax`, or new Axes, in the series' look: no box, a light grid below the data."""
    if ax is None:
        ax = plt.subplots(figsize=(width, height), layout="constrained")[1]
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def finish(ax: Axes, legend: Any = "best", percent: str = "", **labels: Any) -> Axes:
    """`ax` with its `labels` and limits, a legend if anything has a name; `percent`: axes of shares, such as "xy"."""
    for axis in percent:
        getattr(ax, f"{axis}axis").set_major_formatter(PercentFormatter(1))
    ax.set(**labels)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, loc=legend)
    return ax


def reference_lines(ax: Axes, references: References, vertical: bool = False, dashes: Sequence[Any] = DASHES) -> None:
    """A broken line at each value, its name in the legend."""
    for (value, name), dash in zip(references, itertools.cycle(dashes)):
        line = ax.axvline if vertical else ax.axhline
        line(value, color=QUIET, linestyle=dash, linewidth=1.3, label=name, zorder=1)


def curve(ax: Axes, table: pd.DataFrame, x: str, y: str, colour: str, name: str, line: str = "-", marker: str = "o"
          ) -> None:
    """Column `y` over `x`, and the band between the columns low and high."""
    ax.plot(table[x], table[y], color=colour, label=name, linestyle=line, marker=marker, markersize=4)
    ax.fill_between(table[x], table["low"], table["high"], color=colour, alpha=0.2, linewidth=0)


def heat_map(table: pd.DataFrame, label: str, ax: Axes | None, size: tuple[float, float], **style: Any) -> Axes:
    """Cells of `table` by colour, each with its text; `label` is that of the colour bar."""
    ax = styled(ax, *size)
    ax.grid(False)
    sns.heatmap(table, linewidths=1, cbar_kws={"label": label}, ax=ax, **style)
    ax.tick_params(length=0, labelrotation=0)
    return ax


def forest(table: pd.DataFrame, rows: str, value: str, low: str, high: str, hue: str | None = None,
           references: References = (), ax: Axes | None = None, colours: Mapping[str, str] | None = None) -> Axes:
    """A dot and its interval for each row of `table`, by the columns `rows` (vertical) and `hue` (colour).

    Rows have their numbers of pictures behind them where the table has `n`. Rows without a value are named, not drawn.
    """
    names, hues = list(table[rows].unique()), list(table[hue].unique()) if hue else [""]
    ax = styled(ax, 7.0, 1.2 + 0.34 * max(len(names), 4) * (1 + 0.45 * (len(hues) - 1)))
    spare = iter((MAIN, SECOND, QUIET, *ETHNICITY_COLOURS.values()))
    known = GENDER_COLOURS | ETHNICITY_COLOURS | dict(colours or {})
    step = 0.6 / len(hues) if table[rows].duplicated().any() else 0  # side by side where a row has several
    for position, name in enumerate(hues):
        part, colour = table[table[hue] == name] if hue else table, known.get(name) or next(spare)
        y = np.array([names.index(row) for row in part[rows]]) + (position - (len(hues) - 1) / 2) * step
        ax.hlines(y, part[low], part[high], color=colour, linewidth=2)
        ax.plot(part[value], y, "o", color=colour, label=str(name) or None)
    texts = [str(name) for name in names]
    if "n" in table:
        counts = table.groupby(rows, observed=True, sort=False)["n"]
        once = counts.nunique().eq(1).all()  # the same pictures in every colour
        texts = [f"{name}  (n = {' / '.join(f'{n:,}' for n in part[:1 if once else None])})" for name, part in counts]
    ax.set_yticks(range(len(names)), texts)
    reference_lines(ax, references, vertical=True)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)  # not among the data
    ax.set(ylim=(len(names) - 0.4, -0.6))
    return ax
