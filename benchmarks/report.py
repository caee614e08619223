"""The README's benchmark table and figure, made from the records in benchmarks/records: no measured number is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from trials import TARGET

from agehelpers import paths, results
from agehelpers.config import PROFILES

RECORDS = Path(__file__).resolve().parent / "records"
BEGIN, END = "<!-- benchmark: begin (python benchmarks/report.py) -->", "<!-- benchmark: end -->"
USUAL, OURS, LIMIT = "#7F7F7F", "#0072B2", "#D55E00"


def rows_of(record: str, folder: Path = RECORDS) -> pd.DataFrame:
    """Rows of a record; an empty table of the same columns where it was not made."""
    file = folder / record / "results.csv"
    columns = ["part", "device", "what", "way", "size", "cores", "value", "low", "high", "unit", "repeats"]
    empty = {key: ["", "nan"] for key in ("size", "value", "low", "high")}
    return pd.read_csv(file, keep_default_na=False, na_values=empty) if file.is_file() else pd.DataFrame(
        columns=columns)


def measured(folder: Path = RECORDS) -> pd.DataFrame:
    """The short parts on the CPU; a part that has a record of its own is taken from there."""
    rows = find(rows_of("short", folder), device="cpu")
    for part in rows["part"].unique():
        if len(own := find(rows_of(part, folder), device="cpu")):
            rows = pd.concat([rows[rows["part"] != part], own])
    return rows


def find(rows: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """Rows whose columns have the wanted values; a text is the beginning of the column's."""
    for key, value in wanted.items():
        rows = rows[rows[key].str.startswith(value) if isinstance(value, str) else rows[key] == value]
    return rows


def number(rows: pd.DataFrame, form: str = ",.0f", spread: bool = False) -> str:
    """The value of the one row, formatted, with the range of its repeats; "not measured" for none."""
    if rows.empty:
        return "not measured"
    row = rows.iloc[0]
    if pd.isna(row["value"]):
        return "not reached"
    text = format(row["value"], form)
    return f"{text} ({row['low']:{form}} to {row['high']:{form}})" if spread and row["repeats"] > 1 else text


def main_table(cpu: pd.DataFrame) -> list[str]:
    """The usual way and ours, by kind of work."""
    lines = ["| work | cores | the usual way | ours | ratio (range of the repeats) |", "|---|---|---|---|---|"]

    def line(name: str, rows: pd.DataFrame, ratio: str, usual: str = "usual", ours: str = "ours") -> None:
        if not rows.empty:
            by_way = {way: rows.loc[rows["way"] == way] for way in (usual, ours, ratio)}
            lines.append(f"| {name} | {rows['cores'].iloc[0]} | {number(by_way[usual])} | {number(by_way[ours])} | "
                         f"{number(by_way[ratio], '.2f', spread=True)} |")

    for size in (64, 112, 224):
        for cores in sorted(set(find(cpu, part="feeding", size=size)["cores"])):
            line(f"augmented pictures at {size} px, a second", find(cpu, part="feeding", size=size, cores=cores),
                 "ours / usual")
    epoch = find(cpu, part="epoch")
    if not epoch.empty:
        usual = epoch[epoch["way"].str.startswith("usual")].sort_values("value").iloc[-1]
        lines.append(f"| an epoch of training at {usual['size']:.0f} px, pictures a second | {usual['cores']} | "
                     f"{usual['value']:.0f} ({usual['way'].partition(', ')[2]}) | "
                     f"{number(epoch[epoch['way'] == 'ours'])} | {number(epoch[epoch['unit'] == 'ratio'], '.2f')} |")
    predicted = find(cpu, part="prediction")
    line("answers for picture files, a second", predicted, "ours, decoding too / usual", ours="ours, decoding too")
    line("answers for decoded pictures (both in fp32), a second", predicted, "ours, fp32 / usual", ours="ours, fp32")
    return lines


def sentences(cpu: pd.DataFrame, folder: Path) -> list[str]:
    """What is not a comparison of the two ways: start, steps with real feeding, memory, and the long parts."""
    lines = []
    index = find(cpu, part="index")
    if not index.empty:
        pictures = number(find(index, what="pictures"))
        lines.append(
            f"- **Start** ({pictures} pictures): index {number(find(index, what='index', way='first'), '.1f')} s, the "
            f"second time {number(find(index, what='index', way='second'), '.2f')} s; pixels decoded in "
            f"{number(find(index, what='decoded', way='first'), '.1f')} s, the second time opened in "
            f"{number(find(index, what='decoded', way='second'), '.3f')} s.")
    steps = find(cpu, part="step", way="real feeding /")
    if not steps.empty:
        low, high = (1 - steps["value"]).min(), (1 - steps["value"]).max()
        lines.append(f"- **A training step with real feeding** is {low:.1%} to {high:.1%} slower than with a batch "
                     f"that is there already (pictures of {steps['size'].min():.0f} to {steps['size'].max():.0f} px).")
    lines.append(f"- **Memory**: peak of an epoch of `laptop` on the whole set, decoding and all predictions included, "
                 f"{number(find(cpu, part='memory', what='peak of the process'), '.2f')} GB.")
    race = find(rows_of("race", folder), part="race")
    if not race.empty:
        minutes = json.loads((folder / "race" / "config.json").read_text())["race_minutes"]
        epochs, error = find(race, unit="epochs"), race[race["what"].str.contains("mean validation MAE")]
        ratios, size = find(race, unit="ratio")["value"], race["size"].iloc[0]
        lines.append(
            f"- **{minutes:.0f} minutes of the same recipe** ({size:.0f} px, constant rate, a core each, {len(ratios)} "
            "seeds): "
            + "; ".join(f"{way}: {both(find(epochs, way=way), '.0f')} epochs, validation MAE "
                        f"{both(find(error, way=way))} years over the last epochs that both did"
                        for way in ("usual", "ours"))
            + f". Epochs in the same time: {ratios.min():.2f} to {ratios.max():.2f} times as many.")
    target = rows_of("target", folder)
    for measure in ("its own validation", "validation at the trained size"):
        times = target[target["what"].str.endswith(f"years, {measure}")]
        if not times.empty:
            before, ratio = find(times, way="at ", unit="s"), find(times, unit="ratio")
            years = before["what"].iloc[0].partition("time to ")[2].partition(" years")[0]
            lines.append(f"- **Time to a validation MAE of {years}** (`laptop`, {before['cores'].iloc[0]} cores, by "
                         f"{measure}): {both(before, '.0f')} s {before['way'].iloc[0]}, "
                         f"{both(find(times, way='now', unit='s'), '.0f')} s now, {both(ratio)} of it.")
    halving = find(rows_of("grid", folder), part="grid")
    if not halving.empty:
        time, winners = find(halving, what="time"), find(halving, what="the winner", unit="years")
        lines.append(
            f"- **The grid**: {number(find(time, way='every'))} s with every cell in full, "
            f"{number(find(time, way='halving', unit='s'))} s with a short first look "
            f"({number(find(time, unit='ratio'), '.0%')}), at once, a core each. With "
            + "; with ".join(f"{row['way']}, {row['what']}, {row['value']:.2f} years" for row in
                        winners.to_dict("records"))
            + "".join(f"; {row['way']} {row['what']}: {row['value']:.2f} years ({row['low']:.2f} to {row['high']:.2f})"
                      for row in find(halving, what="with three").to_dict("records")) + ".")
    return lines


def both(rows: pd.DataFrame, form: str = ".2f") -> str:
    """Values of the rows (a seed each) in a sentence."""
    return " and ".join("not reached" if pd.isna(value) else format(value, form) for value in rows["value"])


def options_table(cpu: pd.DataFrame) -> list[str]:
    """What each choice in a step is worth; over 1 the change would pay."""
    ratios = find(cpu, part="options", unit="ratio")
    lines = ["| changed | speed against what is used (range of the repeats) | faster? |", "|---|---|---|"]
    for row in ratios.to_dict("records"):
        name = row["what"] + (", with gradients" if "gradients" in row["way"] else "")
        verdict = "yes" if row["low"] > 1.02 else "slower" if row["high"] < 0.98 else "no difference"
        lines.append(f"| {name} | {row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f}) | {verdict} |")
    share = find(cpu, part="options", unit="share")
    return lines + ["", f"Validation after every epoch, with its mirror average, would take {number(share, '.0%')} of "
                    f"the time; `laptop` does it after every {PROFILES['laptop'].evaluate_every} epochs. "
                    "Without the mirror average validation is faster, but the answers are a little worse (the table of "
                    "the recipe's parts above)."]


def schedules_table(folder: Path) -> list[str]:
    """Whole trainings on `selection` with other sizes and lengths."""
    lines = ["| training | validation MAE (years) | minutes on one core | minutes to 6.5 years |", "|---|---|---|---|"]
    for name, found in rows_of("schedules", folder).groupby("what", sort=False):
        error, time, reached = (find(found, way=way)["value"].iloc[0] for way in (
            "validation MAE", "time", "time to"))
        lines.append(f"| {name} | {error:.2f} | {time / 60:.0f} | {reached / 60:.1f} |")
    return lines


def block(folder: Path = RECORDS) -> str:
    """Markdown: everything that the records say."""
    cpu = measured(folder)
    facts = json.loads((folder / "short" / "config.json").read_text())
    hardware = facts["hardware"]
    return "\n".join([
        f"Measured in {facts['minutes']:.0f} minutes on {hardware['processor']}, {hardware['cores']} cores, "
        f"{facts['precision']['cpu']}, {facts['repeats']} repeats in turn, medians; index, training steps and long "
        "parts each in a run of their own. On a CUDA card: "
        + ("in the record." if "cuda" in facts["devices"] else "**not measured**."), "",
        *main_table(cpu), "", *sentences(cpu, folder), "",
        "What each choice in a training step is worth (one changed at a time, over 1 is faster):", "",
        *options_table(cpu), "", "Whole trainings on the protocol `selection`, one seed each, two or more at a time "
        "(so their minutes are upper bounds):", "", *schedules_table(folder)])


def figure(folder: Path = RECORDS) -> Any:
    """Four panels: feeding with its limits, steps with theirs, the race, the time to a validation MAE of 6.5."""
    import matplotlib.pyplot as plt

    cpu = measured(folder)
    drawn, axes = plt.subplots(2, 2, figsize=(12.5, 9.0), layout="constrained")
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="0.92", linewidth=0.8)
        ax.set_axisbelow(True)
    bandwidth = find(cpu, part="machine", unit="GB/s", cores=1)["value"].iloc[0] * 1e9
    fed = find(cpu, part="feeding", what="batches", cores=1)
    bars(axes[0, 0], fed, {"usual": USUAL, "ours": OURS})
    sizes = sorted(fed["size"].unique())
    decode = find(cpu, part="feeding", what="decode only")["value"].iloc[0]
    axes[0, 0].axhline(decode, color=LIMIT, linestyle="--", label="PIL's decoding alone: the usual way's limit")
    moved = [min(200, 1.25 * size)**2 * 3 + size**2 * 12 for size in sizes]  # bytes a picture
    axes[0, 0].plot(range(len(sizes)), [bandwidth / size for size in moved], "v", color=LIMIT,
                    label="memory bandwidth: read 8-bit, write 32-bit pixels")
    axes[0, 0].set(title="Feeding: augmented pictures, one core", yscale="log", ylabel="pictures a second (log scale)")
    steps = find(cpu, part="step")
    bars(axes[0, 1], steps, {"synthetic": USUAL, "real feeding": OURS})
    product = find(cpu, part="machine", what="matrix product").iloc[0]
    work = find(cpu, part="machine", what="arithmetic")
    limits = [product["value"] / work.loc[work["size"] == size, "value"].iloc[0]
              for size in sorted(steps["size"].unique())]
    axes[0, 1].plot(range(len(limits)), limits, "v", color=LIMIT, label=f"arithmetic: large {product['what']}")
    axes[0, 1].set(title="A training step, all cores: one batch repeated, and real feeding",
                   ylabel="pictures a second", ylim=(0, None))
    race = find(rows_of("race", folder), part="race")
    for way, colour in (("usual", USUAL), ("ours", OURS)):
        for seed, style in ((0, "-"), (1, "--")):
            curve(axes[1, 0], find(race, what=f"seed {seed}, validation MAE after", way=way)["value"],
                  find(race, what=f"seed {seed}, time after", way=way)["value"], colour, style, f"{way}, seed {seed}")
    minutes = json.loads((folder / "race" / "config.json").read_text())["race_minutes"]
    axes[1, 0].set(title=f"The same recipe for {minutes:.0f} minutes, one core each", ylim=(5, 12))
    target = find(rows_of("target", folder), part="target")
    for way in target.loc[target["unit"] == "s", "way"].unique():
        seconds = find(target, what="seed 0, time after", way=way)["value"]
        for measure, style in (("its own validation", "-"), ("validation at the trained size", ":")):
            curve(axes[1, 1], find(target, what=f"seed 0, {measure}", way=way, unit="years")["value"], seconds,
                  OURS if way == "now" else USUAL, style, f"{way}, {measure}")
    axes[1, 1].axhline(TARGET, color=LIMIT, linestyle="--", label=f"{TARGET} years")
    axes[1, 1].set(title=f"The laptop profile until its validation MAE is {TARGET}, all cores", ylim=(5, 16))
    for ax in axes[1]:
        ax.set(xlabel="seconds of training", ylabel="validation MAE (years)")
    for ax in axes.flat:
        ax.legend(frameon=False, fontsize=8)
    return drawn


def bars(ax: Any, rows: pd.DataFrame, colours: dict[str, str]) -> None:
    """Two bars a size, with the range of the repeats."""
    sizes = sorted(rows["size"].dropna().unique())
    for position, (way, colour) in enumerate(colours.items()):
        found = rows[rows["way"] == way].set_index("size").loc[[s for s in sizes if s in set(
            rows.loc[rows["way"] == way, "size"])]]
        x = [sizes.index(size) + 0.36 * (position - 0.5) for size in found.index]
        ax.bar(x, found["value"], 0.34, color=colour, label=way,
               yerr=[found["value"] - found["low"], found["high"] - found["value"]], error_kw={"elinewidth": 1})
        for place, value in zip(x, found["value"], strict=True):
            ax.annotate(f"{value:,.0f}", (place, value), (0, 4), textcoords="offset points", ha="center", fontsize=8)
    ax.set_xticks(range(len(sizes)), [f"{size:.0f} px" for size in sizes])


def curve(ax: Any, error: pd.Series, seconds: pd.Series, colour: str, style: str, label: str) -> None:
    """A validation error over time."""
    ax.plot(seconds, error, color=colour, linestyle=style, marker="o", markersize=3, label=label)


def main() -> None:
    """Write the README's block and docs/benchmark.png."""
    matplotlib.use("Agg")
    readme = paths.ROOT / "README.md"
    text = results.with_block(readme.read_text(), block(), BEGIN, END)
    results._save(figure(), readme.parent / "docs" / "benchmark.png")
    paths.write_atomically(readme, text)


if __name__ == "__main__":
    main()
