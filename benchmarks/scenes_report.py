"""docs/whole_photos.md and its figure, made from the record of whole_photos.py: no measured number is typed."""

import json
from pathlib import Path

import jinja2
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from agehelpers import parse_name, paths, plots
from agehelpers.data.bands import age_band
from agehelpers.evaluation.bootstrap import ConfidenceInterval, confidence_interval, share

HERE = Path(__file__).resolve().parent
RECORD = HERE / "records" / "scenes"
TEMPLATE = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True,
                              autoescape=False).from_string((HERE / "whole_photos.md").read_text())
SIZES = {"40 to 80 px": 40, "80 to 160 px": 80, "160 to 400 px": 160}  # from so many pixels on
TURN = 25  # degrees; up to this a face counts as usual


def read(folder: Path = RECORD) -> tuple[pd.DataFrame, int, dict]:
    """One row a pasted face (age, band, sized, and errors in years), the number of false boxes, and facts."""
    facts = json.loads((folder / "config.json").read_text())
    table = pd.read_csv(folder / "scenes.csv")
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


def page(folder: Path = RECORD) -> tuple[str, Figure]:
    """docs/whole_photos.md and its figure."""
    faces, false, facts = read(folder)
    table = rows(faces)
    first, scenes = table.iloc[0], facts["scenes"]
    text = TEMPLATE.render(rows=table.to_dict("records"), first=first, scenes=scenes, boxes=false / scenes,
                           faces=len(faces), split=facts["split"])
    drawn, (left, right) = plt.subplots(1, 2, figsize=(13, 6.4), layout="constrained")
    plots.forest(table, "which", "found", "found_low", "found_high", ax=left)
    plots.forest(table, "which", "lost", "low", "high", references=[(0.1, "wanted: at most 0.1")], ax=right)
    left.set(xlabel="share found, 95 % confidence interval")
    right.set(xlabel="error in the scene minus that on the crop (years)", yticklabels=[])
    drawn.suptitle(f"In {scenes:,} made scenes {first.found:.0%} of the faces of 80 px and more, turned up to 25°, are "
                   f"found; their error changes by {first.lost:+.2f} years")
    return text, drawn


def main() -> None:
    """Write docs/whole_photos.md and docs/whole_photos.png."""
    matplotlib.use("Agg")
    text, drawn = page()
    paths.write_atomically(HERE.parent / "docs" / "whole_photos.md", text)
    drawn.savefig(HERE.parent / "docs" / "whole_photos.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
