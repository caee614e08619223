"""Records: what a run, a grid or an ablation left. config.json holds the facts, CSV files the tables.

A run's predictions.csv is lean (`LEAN`): on reading, labels are joined (they are what the pictures' names say, so a
record can be read where the pictures are not; others are kept), and intervals are computed again.
"""

import gzip
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from agehelpers import paths
from agehelpers.data.faces import PARTS, Faces
from agehelpers.data.labels import subgroup_columns
from agehelpers.data.names import parse_name
from agehelpers.devices import hardware, pick_precision
from agehelpers.training.calibration import attach_intervals

RUN_FACTS = ("config", "split", "counts", "train_median", "mae", "intervals")  # what every reader of a run counts on
LEAN = ("part", "name", "prediction", "spread", "plain")  # plain: as it were without a decoding for rare ages
LABELS = ("age", "gender", "ethnicity")
LONG = 50_000  # bytes of a table above which its committed copy is packed


@dataclass(frozen=True)
class Record:
    """Facts (settings and circumstances) and tables, by the names of their files.

    A run has the tables history and predictions, a grid grid, an ablation runs and effects.
    """

    name: str
    facts: dict[str, Any]
    tables: dict[str, pd.DataFrame]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings it was made with, by their names in `Config`."""
        return self.facts["config"]

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch: epoch, train_loss, train_mae, val_loss, val_mae, lr, seconds."""
        return self.tables["history"]

    @property
    def predictions(self) -> pd.DataFrame:
        """One row a picture: part, name, age, gender, ethnicity, prediction [, spread, plain], and test's intervals."""
        return self.tables["predictions"]

    def part(self, name: str) -> pd.DataFrame:
        """Predictions of one part."""
        return self.predictions[self.predictions["part"] == name]


def circumstances(faces: Faces, seconds: float, packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """Facts that every record has: settings, split, counts, and how and where it was computed."""
    precision = str(pick_precision(faces.config, faces.device)).removeprefix("torch.")
    counts = faces.table["part"].value_counts()
    return {"config": asdict(faces.config), "split": faces.split,
            "counts": {part: int(counts[part]) for part in PARTS if part in counts},
            "training_seconds": round(seconds, 1), "precision": precision, "device": faces.device.type,
            "hardware": hardware(), "versions": paths.versions((*paths.PACKAGES, *packages))}


def write_record(folder: Path, facts: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> Path:
    """Write tables and facts to `folder`, config.json last: its presence says that all is there."""
    for name, table in tables.items():
        columns = [*_lean(table), *_own_labels(table)] if name == "predictions" else list(table)
        paths.write_atomically(folder / f"{name}.csv", table[columns].to_csv(index=False))
    return paths.write_json(folder / "config.json", facts).parent


def _lean(predictions: pd.DataFrame) -> list[str]:
    return [column for column in LEAN if column in predictions]


def _own_labels(predictions: pd.DataFrame) -> list[str]:
    """Columns of labels that the names of the pictures do not say."""
    keys = [str(key) for key in predictions if key not in LEAN and not str(key).startswith(("lower_", "upper_"))]
    if set(keys) - set(LABELS):
        return keys
    names = predictions["name"].map(parse_name)
    said = all([getattr(one, key) for one in names] == predictions[key].astype(object).where(
        predictions[key].notna(), None).tolist() for key in keys)
    return [] if said else keys


def _read_table(file: Path) -> pd.DataFrame:
    """A CSV of a record; labels of predictions but for the age are text."""
    text: dict[str, str] = {}
    if file.name.startswith("predictions."):
        text = {str(key): "str" for key in pd.read_csv(file, nrows=0) if key in LEAN[:2] or (
            key not in (*LEAN, "age") and not str(key).startswith(("lower_", "upper_")))}
    return pd.read_csv(file, keep_default_na=False, na_values=[""], dtype=text)


def read_facts(folder: Path, needed: Sequence[str] = RUN_FACTS) -> dict[str, Any]:
    """config.json of a record; ValueError for one of an older version, which lacks a fact that is `needed`."""
    with paths.reading(folder / "config.json", "remove the folder, and make it anew"):
        facts = dict(json.loads((folder / "config.json").read_text()))
        for key, kind in {"config": dict, "split": str, "counts": dict, "mae": dict, "intervals": dict}.items():
            if not isinstance(facts.get(key, kind()), kind):
                raise TypeError(f"{key} is {facts[key]!r:.50}")
    if lacking := [key for key in needed if key not in facts]:
        raise ValueError(f"{folder} was made by an older version: its config.json has no {', '.join(lacking)}; "
                         "remove the folder and make it anew")
    return facts


def read_record(folder: Path, labels: pd.DataFrame | None = None) -> Record:
    """The record in `folder`; `labels`: the label table of its pictures, by default what their names say.

    FileNotFoundError names what is missing, ValueError a record of an older version.
    """
    folder = Path(folder)
    files = {file.name.partition(".csv")[0]: file for end in ("csv", "csv.gz") for file in folder.glob(f"*.{end}")}
    whole = {"history", "predictions"} if {"history", "predictions"} & set(files) or not files else set()
    missing = [f"{name}.csv" for name in sorted(whole - set(files))]
    missing += [] if (folder / "config.json").is_file() else ["config.json"]
    if missing:
        raise FileNotFoundError(f"{folder}: no {', '.join(missing)}; is the run finished?")
    facts = read_facts(folder, RUN_FACTS if whole else ())
    with paths.reading(folder, "a table is damaged, or of other faces: restore it, or remove the folder, make it anew"):
        tables = {name: _read_table(file) for name, file in sorted(files.items())}
        if whole:
            found = tables["predictions"]
            if labels is None and "age" in found and (own := _own_labels(found)):
                labels = found[["name", *own]]
            tables["predictions"] = attach_intervals(with_labels(found[_lean(found)], labels))
            if not np.isfinite(tables["predictions"]["prediction"]).all():
                raise ValueError("a prediction is not finite")
    return Record(folder.name, facts, tables)


def label_columns(labels: pd.DataFrame) -> list[str]:
    """Age, gender, ethnicity and what other subgroups there are."""
    return list(dict.fromkeys([*LABELS, *subgroup_columns(labels)]))


def with_labels(predictions: pd.DataFrame, labels: pd.DataFrame | None = None) -> pd.DataFrame:
    """`predictions` with `label_columns` behind the name, from the label table or the names themselves.

    ValueError where a picture has no label.
    """
    if labels is None:
        read = [parse_name(name) for name in predictions["name"]]
        labels = pd.DataFrame({key: [getattr(one, key) for one in read] for key in LABELS}).assign(
            name=predictions["name"]).dropna(subset="age").astype({"gender": "str", "ethnicity": "str"})
    keys = label_columns(labels)
    known = labels.set_index("name")[keys]
    if len(unknown := predictions.loc[~predictions["name"].isin(known.index), "name"]):
        raise ValueError(f"{len(unknown)} predicted pictures have no label, such as {unknown.iloc[0]}: give the label "
                         "table of these faces")
    joined = predictions.join(known, on="name").astype({"age": "int64"})
    return joined[["part", "name", *keys, *predictions.columns.drop(["part", "name"])]]


def load_record(name: str, labels: pd.DataFrame | None = None) -> Record:
    """A kept record by its name, see `read_record`; FileNotFoundError lists those there are."""
    folder = paths.records_folder() / name
    if not folder.is_dir():
        known = sorted(entry.name for entry in paths.records_folder().glob("*/"))
        raise FileNotFoundError(f"no record {name!r}; there are: {', '.join(known) or 'none'}")
    return read_record(folder, labels)


def save_record(source: Path, name: str) -> Path:
    """Copy a finished run's, grid's or ablation's small files to the records, all or none; nothing is overwritten.

    To keep the repository small, training rows of predictions.csv stay behind (config.json has their MAE and median),
    and long tables are packed.
    """
    target = check_record_name(name)
    with paths.beside(target) as place:
        part = place / name
        part.mkdir()
        shutil.copyfile(source / "config.json", part / "config.json")
        for file in source.glob("*.csv"):
            lines = file.read_bytes().splitlines(keepends=True)
            kept = b"".join(line for line in lines if file.stem != "predictions" or not line.startswith(b"train,"))
            packed = len(kept) > LONG
            (part / f"{file.name}{packed * '.gz'}").write_bytes(gzip.compress(kept, mtime=0) if packed else kept)
        try:
            part.rename(target)
        except OSError:
            check_record_name(name)  # another process was first
            raise
    return target


def check_record_name(name: str) -> Path:
    """Folder of a record to be; raises before anything is trained if the name is taken or no plain name."""
    if not re.fullmatch(r"[\w-]{1,100}", name):
        raise ValueError(f"record name {name!r}: use letters, digits, - and _ only, at most 100")
    target = paths.records_folder() / name
    if target.exists():
        raise FileExistsError(f"{target} exists; records are never overwritten: choose another name, or remove it")
    return target
