"""docs/whole_photos.md and its figures, made from the records of whole_photos.py, scenes_peers.py and sensitivity.py.

    python benchmarks/scenes_report.py
"""

import json
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sensitivity import CHANGES

from agehelpers import parse_name, paths, plots
from agehelpers.data.bands import age_band
from agehelpers.evaluation.bootstrap import ConfidenceInterval, confidence_interval, share

HERE = Path(__file__).resolve().parent
RECORD = HERE / "records" / "scenes"
TEMPLATE = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True,
                              autoescape=False).from_string((HERE / "whole_photos.md").read_text())
SIZES = {"40 to 80 px": 40, "80 to 160 px": 80, "160 to 400 px": 160}  # from so many pixels on
OWN = {"ours": "agehelpers", "landmarks": "agehelpers, landmarks", "box": "agehelpers, box"}
TURN = 25  # degrees; up to this a face counts as usual


def read(folder: Path = RECORD) -> tuple[pd.DataFrame, int, dict]:
    """One row a pasted face (age, band, sized, and errors in years), the number of false boxes, and facts."""
    facts = json.loads((folder / "config.json").read_text())
    table = pd.read_csv(folder / "scenes.csv.gz")
    faces = table.dropna(subset="name").reset_index(drop=True)
    ages = np.array([parse_name(name).age for name in faces["name"]], float)
    faces = faces.assign(
        age=ages, band=age_band(ages),
        sized=pd.cut(faces["size"], [*SIZES.values(), 401], right=False, labels=list(SIZES)),
        error=(faces["prediction"] - ages).abs(), own=(faces["original"] - ages).abs(),
        reduced=(faces["same_size"] - ages).abs())
    return faces, len(table) - len(faces), facts


def usual(faces: pd.DataFrame) -> pd.DataFrame:
    """Those of 80 pixels and more, turned by at most 25 degrees."""
    return faces[(faces["size"] >= 80) & (faces["turn"].abs() <= TURN)]


def lost(faces: pd.DataFrame, against: str = "own") -> ConfidenceInterval:
    """Error of the found faces in their scenes minus that on their original crops (or `reduced`), years; paired."""
    found = faces[faces["found"] & faces["prediction"].notna()]
    return confidence_interval(found["error"] - found[against], clusters=found["name"])


def rows(faces: pd.DataFrame) -> pd.DataFrame:
    """A row a division of the faces: which, n, found and lost (with ends), error and own (MAE of the found, years)."""
    inside = usual(faces)
    divided: list[tuple[str, pd.DataFrame, str]] = [("80 to 400 px, turned up to 25°", inside, "own")]
    divided += [(f"of {band} years", part, "own") for band, part in inside.groupby("band", observed=True)]
    divided += [(str(kind), part, "own") for kind, part in inside.groupby("kind")]
    divided += [(f"{size}, turned up to 25°", part, "reduced" if size == "40 to 80 px" else "own") for size, part in
                faces[faces["turn"].abs() <= TURN].groupby("sized", observed=True)]
    divided += [("80 to 400 px, turned 25 to 45°", faces[(faces["size"] >= 80) & (faces["turn"].abs() > TURN)], "own")]
    made = []
    for name, part, against in divided:
        seen = part[part["found"] & part["prediction"].notna()]
        made.append((name, len(part), *share(part["found"]), *lost(part, against), seen["error"].mean(),
                     seen[against].mean()))
    return pd.DataFrame(made, columns=["which", "n", "found", "found_low", "found_high", "lost", "low", "high", "error",
                                       "own"])


def against(folder: Path) -> tuple[list[dict], dict]:
    """A row a way of reading the same scenes: way, found (share with ends), mae of its own, on faces that all found
    (mae_all, with ends), false boxes a scene, photos a second of processor time; usual faces only. And the facts."""
    facts, table = json.loads((folder / "config.json").read_text()), pd.read_csv(folder / "faces.csv")
    ages = np.array([parse_name(name).age for name in table["name"]], float)
    inside = usual(table.assign(age=ages))
    ways = list(facts["false"])
    every, made = inside[ways].notna().all(axis=1), []
    for way in ways:
        error = (inside[way] - inside["age"]).abs()
        made.append({"way": way, "title": facts["titles"].get(way, OWN.get(way, way)), "mae": error.mean(),
                     "found": share(inside[f"{way}_found"]), "false": facts["false"][way] / facts["scenes"],
                     "mae_all": confidence_interval(error[every], clusters=inside.loc[every, "name"]),
                     "speed": facts["photos_per_second"][way]})
    return made, facts | {"usual": len(inside), "all": int(every.sum())}


def curves(folder: Path) -> tuple[pd.DataFrame, dict]:
    """A row a level of a change: change, level, mae (years) with low and high, flagged (share called unlike)."""
    tables = [pd.read_csv(folder / f"{name}.csv", index_col="name") for name in ("predictions", "flags")]
    ages = np.array([parse_name(name).age for name in tables[0].index], float)
    made = []
    for column in tables[0]:
        change, _, level = str(column).rpartition(" ")
        found = confidence_interval((tables[0][column] - ages).abs(), clusters=tables[0].index)
        made.append((change, float(level), *found, tables[1][column].mean()))
    return (pd.DataFrame(made, columns=["change", "level", "mae", "low", "high", "flagged"]),
            json.loads((folder / "config.json").read_text()))


def held(part: pd.DataFrame, within: float = 0.5) -> str:
    """From which to which level a change costs at most `within` years; its first row changes nothing."""
    levels, usual = part["level"], part["level"].iloc[0]
    bad = levels[part["mae"] > part["mae"].iloc[0] + within]
    good = levels[(levels > max([*bad[bad < usual], -np.inf])) & (levels < min([*bad[bad > usual], np.inf]))]
    return f"{good.min():g} to {good.max():g}"


def draw_curves(table: pd.DataFrame, units: dict[str, str]) -> Figure:
    """A panel a change: error by level, each with the share that is flagged."""
    drawn, axes = plt.subplots(2, 4, figsize=(15, 7), layout="constrained", sharey=True)
    for ax, (change, part) in zip(axes.flat, table.groupby("change", sort=False), strict=True):
        usual, good = part["mae"].iloc[0], held(part)
        part = part.sort_values("level").assign(at=np.arange(len(part), dtype=float))
        plots.style.curve(plots.style.styled(ax), part, "at", "mae", plots.style.MAIN, "")
        for row in part.itertuples():
            ax.annotate(f"{row.flagged:.0%}", (row.at, row.high), (0, 4), textcoords="offset points", ha="center",
                        fontsize=8, color="0.35")
        ax.axhline(usual, color=plots.style.QUIET, linewidth=1, zorder=1)
        ax.set_xticks(part["at"], [f"{level:g}" for level in part["level"]])
        ax.set(xlabel=units[str(change)], ylabel="MAE (years)" if ax in axes[:, 0] else "")
        ax.set_title(f"{change}\nwithin half a year from {good}", fontsize=10)
    return drawn


def page(folder: Path = RECORD) -> tuple[str, dict[str, Figure]]:
    """docs/whole_photos.md and its figures by name, with sections for the records that lie beside `folder`."""
    faces, false, facts = read(folder)
    table = rows(faces)
    first, scenes = table.iloc[0], facts["scenes"]
    drawn, (left, right) = plt.subplots(1, 2, figsize=(13, 6.4), layout="constrained")
    plots.forest(table, "which", "found", "found_low", "found_high", ax=left)
    plots.forest(table, "which", "lost", "low", "high", references=[(0.1, "wanted: at most 0.1")], ax=right)
    left.set(xlabel="share found, 95 % confidence interval")
    right.set(xlabel="error in the scene minus that on the crop (years)", yticklabels=[])
    drawn.suptitle(f"In {scenes:,} made scenes {first.found:.0%} of the faces of 80 px and more, turned up to 25°, are "
                   f"found; their error changes by {first.lost:+.2f} years")
    figures, more = {"whole_photos": drawn}, dict[str, Any]()
    if (others := folder.parent / "scenes_peers").exists():
        ways, known = against(others)
        more |= {"ways": ways, "peers": known}
    if (felt := folder.parent / "sensitivity").exists():
        levels, known = curves(felt)
        figures["sensitivity"] = draw_curves(levels, {change: unit for change, (unit, *_) in CHANGES.items()})
        worst = levels.groupby("change", sort=False)["mae"].max() - levels["mae"].iloc[0]
        ends = " to ".join(f"{which} {worst[which]:.1f}" for which in (worst.idxmin(), worst.idxmax()))
        figures["sensitivity"].suptitle(f"Years lost at worst: {ends} (above points: flagged as unlike)")
        more |= {"together": levels["mae"].corr(levels["flagged"], method="spearman"), "curves": levels,
                 "felt": known, "usual": levels.iloc[0], "ends": {
                     change: (held(part), part.iloc[int(part["mae"].argmax())], CHANGES[str(change)][0])
                     for change, part in levels.groupby("change", sort=False)}}
    every = pd.read_csv(folder / "scenes.csv.gz")
    flags = [every.loc[every["name"].isna() == none, "unlike"].dropna().astype(bool) for none in (False, True)]
    text = TEMPLATE.render(rows=table.to_dict("records"), first=first, scenes=scenes, boxes=false / scenes,
                           faces=len(faces), split=facts["split"], flagged=[share(part) for part in flags],
                           wrong=false, **more)
    return text, figures


def main() -> None:
    """Write docs/whole_photos.md and its figures."""
    matplotlib.use("Agg")
    text, figures = page()
    docs = HERE.parent / "docs"
    paths.write_atomically(docs / "whole_photos.md", text)
    for name, drawn in figures.items():
        drawn.savefig(docs / f"{name}.png", dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
