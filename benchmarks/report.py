"""The block and figures of docs/benchmark.md, made from benchmarks/records: no measured number is typed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from trials import GOAL, GOAL_MINUTES

from agehelpers import paths
from agehelpers.config import PROFILES

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "records"
BEGIN, END = "<!-- benchmark: begin (python benchmarks/report.py) -->", "<!-- benchmark: end -->"
USUAL, OURS, LIMIT = "#7F7F7F", "#0072B2", "#D55E00"
TEMPLATE = jinja2.Template((HERE / "block.md").read_text(), trim_blocks=True, lstrip_blocks=True,
                           undefined=jinja2.StrictUndefined)


def measured(folder: Path = RECORDS) -> pd.DataFrame:
    """Rows of all records; ValueError where two have the same part: only one of them can be quoted."""
    tables = [pd.read_csv(file).assign(record=file.parent.name) for file in sorted(folder.glob("*/results.csv"))]
    rows = pd.concat(tables, ignore_index=True).fillna({"way": "", "over": ""})
    records = rows.groupby(["part", "device"])["record"].unique()
    if (twice := records[records.map(len) > 1]).size:
        raise ValueError(f"part {twice.index[0][0]} is in two records, {' and '.join(twice.iloc[0])}: remove one")
    return rows


def select(rows: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """Rows whose columns equal the wanted values."""
    return rows[(rows[list(wanted)] == pd.Series(wanted)).all(axis=1)]


def one(rows: pd.DataFrame, **wanted: Any) -> pd.Series:
    """The row with the wanted values; ValueError where there is none, or more than one."""
    found = select(rows, **wanted)
    if len(found) != 1:
        raise ValueError(f"{len(found)} rows instead of one with {wanted}; measure that part again")
    return found.iloc[0]


def versus(rows: pd.DataFrame, ours: str = "ours") -> dict[str, pd.Series]:
    """The rows of the usual way, of ours, and of their ratio."""
    return {"usual": one(rows, way="usual", over=""), "ours": one(rows, way=ours, over=""),
            "ratio": one(rows, way=ours, over="usual")}


def race_table(rows: pd.DataFrame) -> dict[str, Any]:
    """By way: epochs of each seed, and mean validation MAE (years) of the last three epochs that both ways did; and the
    ratio of the epochs done in the same time."""
    table = rows.pivot(index=["seed", "way", "epoch"], columns="measure", values="value").reset_index()
    done = table.groupby(["way", "seed"])["epoch"].max().unstack("seed")
    common = table[table["epoch"] <= table["seed"].map(done.min())]
    mae = common.groupby(["way", "seed"])["validation MAE"].apply(lambda values: values.tail(3).mean()).unstack("seed")
    pace = table.groupby(["way", "seed"])["time"].max().unstack("seed") / done
    ways = {way: {"epochs": done.loc[way], "mae": mae.loc[way]} for way in done.index}
    return {**ways, "ratio": pace.loc["usual"] / pace.loc["ours"]}


def block(folder: Path = RECORDS) -> str:
    """Markdown: everything that the records say."""
    rows = measured(folder)
    short, race = (json.loads((folder / name / "config.json").read_text()) for name in ("short", "race"))
    cpu = dict(iter(select(rows, device="cpu").groupby("part")))
    return TEMPLATE.render(
        one=one, select=select, versus=versus, cpu=cpu, cuda="cuda" in set(rows["device"]), facts=short,
        race_minutes=race["race_minutes"], race=race_table(cpu["race"]), scratch=PROFILES["scratch"],
        goal=[reached(way, table) for way, table in curves(rows)], goal_years=GOAL, goal_minutes=GOAL_MINUTES,
        grown=grown(rows))


def curves(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Of the part `goal` on a CPU: each way and its table of epoch, time (s) and validation MAE (years)."""
    for way, found in select(rows, device="cpu", part="goal").groupby("way", sort=False):
        yield str(way), found.pivot(index="epoch", columns="measure", values="value").reset_index()


def reached(way: str, table: pd.DataFrame) -> dict[str, Any]:
    """Minutes until validation read `GOAL` (to its decimals), or all there were, whether it did, lowest MAE, epochs."""
    there = table["validation MAE"].round(3) <= GOAL
    table = table[~there.shift(fill_value=False).cummax()]
    return {"way": way, "minutes": table["time"].iloc[-1] / 60, "reached": bool(there.any()),
            "lowest": table["validation MAE"].min(), "epochs": int(table["epoch"].iloc[-1])}


def grown(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the part `growth`: way, pictures, time (s), memory (MB), share of copies found, and ``power``.

    Time grows as the pictures to that power, from the set a step smaller; NaN for the smallest.
    """
    table = select(rows, device="cpu", part="growth").pivot(
        index=["way", "pictures"], columns="measure", values="value").reset_index()
    larger = table[["pictures", "time"]].map(np.log).groupby(table["way"]).diff()
    return table.assign(power=larger["time"] / larger["pictures"])


def growth_figure(table: pd.DataFrame) -> Figure:
    """Time and memory a picture over the number of pictures, from the table of `grown`."""
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for ax, (measure, factor, unit) in zip(axes, (("time", 1e3, "ms"), ("memory", 1e3, "kB")), strict=True):
        for way, rows in table.groupby("way", sort=False):
            ax.plot(rows["pictures"], factor * rows[measure] / rows["pictures"], marker="o", markersize=4, label=way)
        ax.set(title=f"{measure.capitalize()} a picture: a level line is linear growth", xscale="log", ylim=(0, None),
               xlabel="pictures of the made set (log scale)", ylabel=f"{unit} a picture")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="0.92", linewidth=0.8)
        ax.legend(frameon=False, fontsize=9)
    return drawn


def figure(folder: Path = RECORDS) -> Figure:
    """Three panels: feeding with its limits, steps with theirs, the race."""
    import matplotlib.pyplot as plt

    cpu = select(measured(folder), device="cpu")
    drawn, axes = plt.subplots(1, 3, figsize=(16, 4.8), layout="constrained")
    show_feeding(axes[0], select(cpu, part="feeding", cores=1), one(cpu, measure="memory bandwidth")["value"] * 1e9)
    show_steps(axes[1], select(cpu, part="step", over=""), select(cpu, part="machine"))
    for (way, seed), rows in select(cpu, part="race").groupby(["way", "seed"], sort=False):
        time, error = (select(rows, measure=measure)["value"] for measure in ("time", "validation MAE"))
        axes[2].plot(time, error, color=USUAL if way == "usual" else OURS, linestyle="--" if seed else "-", marker="o",
                     markersize=3, label=f"{way}, seed {seed:.0f}")
    axes[2].set(title="The same recipe, one core each", ylim=(5, 12), xlabel="seconds of training",
                ylabel="validation MAE (years)")
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="0.92", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.legend(frameon=False, fontsize=8)
    return drawn


def goal_figure(rows: pd.DataFrame) -> Figure:
    """Validation MAE over minutes of training, and the figure to reach."""
    import matplotlib.pyplot as plt

    drawn, ax = plt.subplots(figsize=(9.5, 4.8), layout="constrained")
    for (way, table), colour in zip(curves(rows), (USUAL, OURS, "#009E73"), strict=False):
        ax.plot(table["time"] / 60, table["validation MAE"], color=colour, marker="o", markersize=4, label=way)
    ax.axhline(GOAL, color=LIMIT, linestyle="--", linewidth=1,
               label=f"{GOAL} years: reported for the starting point,\na validation error on an unknown split")
    ax.set(title="How soon validation reads the starting point's figure (holdout, one run each)", ylim=(4, 12),
           xlabel="minutes of training on two cores", ylabel="validation MAE (years)", xlim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.92", linewidth=0.8)
    ax.legend(frameon=False, fontsize=9)
    return drawn


def show_feeding(ax: Axes, rows: pd.DataFrame, bandwidth: float) -> None:
    """Augmented pictures a second, and what limits them: PIL's decoding, and `bandwidth` in bytes a second."""
    bars(ax, select(rows, measure="batches", over=""), {"usual": USUAL, "ours": OURS})
    ax.axhline(one(rows, measure="decoding")["value"], color=LIMIT, linestyle="--",
               label="PIL's decoding alone: the usual way's limit")
    sizes = sorted(select(rows, measure="batches")["size"].unique())
    moved = [min(200, 1.25 * size)**2 * 3 + size**2 * 12 for size in sizes]  # bytes a picture
    ax.plot(range(len(sizes)), [bandwidth / size for size in moved], "v", color=LIMIT,
            label="memory bandwidth: read 8-bit, write 32-bit pixels")
    ax.set(title="Feeding: augmented pictures, one core", yscale="log", ylabel="pictures a second (log scale)")


def show_steps(ax: Axes, rows: pd.DataFrame, machine: pd.DataFrame) -> None:
    """Training steps a second, and what the machine's arithmetic allows."""
    bars(ax, rows, {"repeated batch": USUAL, "real feeding": OURS})
    product = one(machine, measure="matrix product")
    work = select(machine, measure="arithmetic of a training step").set_index("size")["value"]
    limits = product["value"] / work.loc[sorted(rows["size"].unique())]
    ax.plot(range(len(limits)), limits, "v", color=LIMIT, label=f"arithmetic: large matrix product, {product['way']}")
    ax.set(title="A training step, all cores", ylabel="pictures a second", ylim=(0, None))


def bars(ax: Axes, rows: pd.DataFrame, colours: dict[str, str]) -> None:
    """A bar for each way (a key of `colours`) and size, with the range of the repeats."""
    for position, (way, colour) in enumerate(colours.items()):
        found = select(rows, way=way).sort_values("size")
        shown = ax.bar([place + 0.36 * (position - 0.5) for place in range(len(found))], found["value"], 0.34,
                       color=colour, label=way, error_kw={"elinewidth": 1},
                       yerr=[found["value"] - found["low"], found["high"] - found["value"]])
        ax.bar_label(shown, fmt="{:,.0f}", fontsize=8, padding=4)
    ax.set_xticks(range(len(found)), [f"{size:.0f} px" for size in found["size"]])


def main() -> None:
    """Write the block of docs/benchmark.md, and its figures benchmark.png, goal.png and growth.png."""
    sys.path.append(str(HERE.parent))  # for tools, which is no part of the installed package
    from tools.readme import with_block

    matplotlib.use("Agg")
    page = HERE.parent / "docs" / "benchmark.md"
    text = with_block(page.read_text(), block(), BEGIN, END)
    figure().savefig(page.with_name("benchmark.png"), dpi=110)
    if "goal" in set(measured()["part"]):
        goal_figure(measured()).savefig(page.with_name("goal.png"), dpi=110)
    if "growth" in set(measured()["part"]):
        growth_figure(grown(measured())).savefig(page.with_name("growth.png"), dpi=110)
    paths.write_atomically(page, text)


if __name__ == "__main__":
    main()
