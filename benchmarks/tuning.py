"""What fine-tuning gives: weights that never saw one subgroup of UTKFace, tuned on a few hundred of its pictures.

    python benchmarks/tuning.py              # needs UTKFace; an hour and a half on one core
    python benchmarks/tuning.py --report     # docs/own_data.md, from the record

The base is `laptop` without the subgroup. Of this, some random pictures tune it (a few of them choose the epoch, a few
calibrate the intervals, see `splits.LEAST`), or train the same recipe from ImageNet; 1,500 others, and no copies of
these, measure. What is done stays in runs/, so a second call goes on.
"""

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from agehelpers import Estimator, faces_folder, paths, utkface_labels
from agehelpers.config import Config, load_config
from agehelpers.data.labels import usable
from agehelpers.data.splits import LEAST
from agehelpers.devices import hardware
from agehelpers.evaluation.bootstrap import confidence_interval
from agehelpers.methods.table import method_settings
from agehelpers.training.calibration import ENOUGH
from agehelpers.training.runs import run, run_folder

HERE = Path(__file__).resolve().parent
SUBGROUP = ("ethnicity", "Asian")
SIZES, DRAWS, MEASURED = (300,), 5, 1500
SEEN = ["prediction", "lower_90", "upper_90"]
BASE = ("not tuned", 0)


def parts(labels: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Rows of the label table for the base, to draw from for tuning, and to measure on; no copies between them."""
    rows = usable(labels).sort_values("name", ignore_index=True)
    inside = rows["cluster"].isin(rows.loc[rows[SUBGROUP[0]] == SUBGROUP[1], "cluster"])
    own = rows[inside & (rows[SUBGROUP[0]] == SUBGROUP[1])]
    clusters = np.random.default_rng(0).permutation(own["cluster"].unique())
    measured = own["cluster"].isin(clusters[:MEASURED])
    return rows[~inside], own[~measured], own[measured].drop_duplicates("cluster")


def folder_of(name: str, pictures: Path, names: pd.Series) -> Path:
    """A folder of links to these pictures, in the cache; the same at every call."""
    folder = paths.cache_folder() / "tuning" / name
    if not folder.exists():
        part = folder.with_name(f"{name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for one in names:
            (part / one).symlink_to((pictures / one).absolute())
        part.rename(folder)
    return folder


def trained(config: Config) -> Path:
    """best.safetensors of the finished run of `config`."""
    folder = run_folder(config)
    run(config, folder, resume=True)
    return folder / "best.safetensors"


def measure(labels: pd.DataFrame, pictures: Path) -> pd.DataFrame:
    """A row a measured picture and network: way, size, draw, name, and predictions and intervals in years."""
    base, pool, measured = parts(labels)
    recipe = load_config("laptop", {"faces": str(folder_of("base", pictures, base["name"]))})
    start, tables = trained(recipe), []

    def add(checkpoint: Path, **what: object) -> None:
        found = Estimator(checkpoint)([pictures / name for name in measured["name"]], cropped=True)
        tables.append(found[SEEN].assign(name=measured["name"].to_numpy(), **what))

    add(start, way=BASE[0], size=BASE[1], draw=0)
    for size in SIZES:
        for draw in range(DRAWS):
            chosen = pool["name"].sample(size, random_state=draw)
            faces = {"faces": str(folder_of(f"{size}-{draw}", pictures, chosen))}
            tuned = load_config("laptop", faces | {"start_from": str(start)}, method_settings("tuned"))
            add(trained(tuned), way="fine-tuned", size=size, draw=draw)
            scratch = replace(load_config("laptop", faces), epochs=tuned.epochs, ema=tuned.ema)
            add(trained(scratch), way="from ImageNet", size=size, draw=draw)
    return pd.concat(tables, ignore_index=True)


def ways(table: pd.DataFrame, ages: pd.Series) -> list[dict]:
    """A row a way and size: mae and change against not tuned (years, with ends, means over draws), cover (by draw)."""
    table = table.assign(error=(table["prediction"] - table["name"].map(ages)).abs(),
                         inside=table["name"].map(ages).between(table["lower_90"], table["upper_90"]))
    errors = table.groupby(["way", "size", "name"])["error"].mean().unstack("name")
    made = []
    for way, size in sorted(errors.index, key=lambda row: (row[1], row[0])):
        some, error = table[(table["way"] == way) & (table["size"] == size)], errors.loc[(way, size)]
        made.append({"way": way, "size": size, "mae": confidence_interval(error),
                     "change": confidence_interval(error - errors.loc[BASE]),
                     "cover": some.groupby("draw")["inside"].mean()})
    return made


def page(record: Path = HERE / "records" / "tuning") -> str:
    """docs/own_data.md."""
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True,
                                  autoescape=False).from_string((HERE / "tuning.md").read_text())
    known = {"ways": [], "least": LEAST, "enough": ENOUGH, "tuned": method_settings("tuned")}
    if not record.exists():
        return template.render(known)
    facts, labels = json.loads((record / "config.json").read_text()), utkface_labels()
    rows = ways(pd.read_csv(record / "predictions.csv.gz"), labels.set_index("name")["age"].astype(float))
    return template.render(known | facts | {"ways": rows, "sizes": " or ".join(map(str, facts["sizes"]))})


def main() -> int:
    """Train, measure, and keep the record; or write the page."""
    parser = argparse.ArgumentParser("tuning.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--record", default="tuning", help="its name in benchmarks/records")
    parser.add_argument("--report", action="store_true", help="only write docs/own_data.md")
    options = parser.parse_args()
    record = HERE / "records" / options.record
    if options.report:
        paths.write_atomically(HERE.parent / "docs" / "own_data.md", page(record))
        return 0
    if record.exists():
        print(f"tuning.py: {record} is there; records are never overwritten", file=sys.stderr)
        return 1
    labels = utkface_labels()
    table = measure(labels, faces_folder(load_config("laptop")))
    record.mkdir(parents=True)
    table.to_csv(record / "predictions.csv.gz", index=False, compression={"method": "gzip", "mtime": 0})
    (record / "config.json").write_text(json.dumps({
        "subgroup": SUBGROUP, "base": len(parts(labels)[0]), "measured": table["name"].nunique(), "sizes": SIZES,
        "draws": DRAWS, "recipe": method_settings("tuned"), "hardware": hardware()}, indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"tuning.py: {error}")
