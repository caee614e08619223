"""From a folder of faces to the label table: one row per entry, what its name says, and what is wrong with it."""

import csv
import gzip
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from agehelpers import paths
from agehelpers.data import decoder
from agehelpers.data.duplicates import cluster_numbers, copy_pairs
from agehelpers.data.names import ATTRIBUTES, OLDEST, VERDICTS, Label, parse_name
from agehelpers.data.registration import SIDE

VERSION = 3  # of the table's content; raised when a folder comes out differently, so that no older cache is read
THUMBNAIL = 16  # pixels; side of the grey picture by which near-identical ones are found

# What a column of a data set may not be called: these are columns of predictions, or made by the evaluation.
_RESERVED = {"part", "row", "thumbnail", "grey", "prediction", "spread", "plain", "error", "age_band", "everybody", "n",
             "mae", "bias", "subgroup"}
_TYPES = {"name": "str", "age": "Int64", "gender": "str", "ethnicity": "str", "timestamp": "str", "sha256": "str",
          "cluster": "Int64", "copies": "Int64", "conflict": "bool", "bytes": "Int64", "brightness": "Float64",
          "sharpness": "Float64", "verdict": "str", "reason": "str"}


def _read(folder: Path, entry: str, label: dict[str, Any] | None = None) -> dict[str, Any]:
    """One entry of the folder: read once, decoded and measured; by column, ``thumbnail`` and ``grey``.

    `label`: its columns by a table; None: what its name says.
    """
    # A name that cannot be printed (and so not written to a CSV either) is shown escaped.
    name = entry if entry.isprintable() else entry.encode("unicode_escape").decode()
    row: dict[str, Any] = {"name": name}
    if label is not None and name != entry:
        return row | Label("rejected", "a name with characters that cannot be printed")._asdict()
    try:
        data = decoder.read_file(folder / entry)
        row |= {"sha256": hashlib.sha256(data).hexdigest()[:16], "bytes": len(data)}
        picture = decoder.open_picture(data)
        grey = picture.convert("L")
        levels = np.asarray(grey)
        laplacian = cv2.Laplacian(levels, cv2.CV_16S, ksize=1)  # whole numbers: exact, and faster than CV_64F
        row |= {"thumbnail": np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)).ravel(),
                "grey": np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX)),
                "brightness": round(cv2.mean(levels)[0], 1),
                "sharpness": round(cv2.meanStdDev(laplacian)[1].item() ** 2, 1)}
        decoder.check_square(picture, name)
    except decoder.PictureError as error:
        return row | Label("rejected", error.reason)._asdict()
    return row | (parse_name(entry)._asdict() if label is None else label)


def is_table(faces: Path) -> bool:
    """Whether these faces are listed in a CSV."""
    return Path(faces).suffix.lower() == ".csv" and not Path(faces).is_dir()


def read_listed(file: Path) -> dict[str, dict[str, Any]]:
    """Labels by picture of a CSV with a column path (from the CSV's folder), a column age, and others as subgroups.

    Ages in years, of which full ones count. Other columns, gender and ethnicity among them, are text of any levels;
    an empty field is unknown. Pictures of one `person`, where there is that column, are one cluster. ValueError where
    path or age is missing, a row has more or fewer fields than the first, a path occurs twice, or a column has a name
    of the label table's.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, skipinitialspace=True, strict=True)
            rows = {number: row for number, row in enumerate(reader, 1) if any(field.strip() for field in row)}
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not a readable CSV ({error})") from error
    first, *others = rows.values() if rows else [[]]
    if wrong := [number for number, row in rows.items() if len(row) != len(first)]:
        raise ValueError(f"{file}, row {wrong[0]}: {len(rows[wrong[0]])} fields, but {len(first)} in the first; text "
                         "with a comma belongs in quotation marks")
    if twice := sorted({column for column in first if column and first.count(column) > 1}):
        raise ValueError(f"{file}: two columns are called {twice[0]!r}")
    table, lines = pd.DataFrame(others, columns=first, dtype="str").drop(columns="", errors="ignore"), list(rows)[1:]
    columns = {str(column) for column in table}
    if lost := {"path", "age"} - columns:
        raise ValueError(f"{file}: no column {' and no column '.join(sorted(lost))}; it has "
                         f"{', '.join(map(repr, sorted(columns)))}, and commas between them")
    if taken := {key for key in columns if key in (_RESERVED | set(_TYPES)) - {"age", *ATTRIBUTES}
                 or key.startswith(("lower_", "upper_"))}:
        raise ValueError(f"{file}: the column {min(taken)} has a name that is taken; call it otherwise")
    if (odd := table["path"].duplicated() | (table["path"] == "")).any():
        raise ValueError(f"{file}, row {lines[odd.to_numpy().argmax()]}: no path, or one that an earlier line has")
    names, ages = table.pop("path").tolist(), pd.to_numeric(table.pop("age"), errors="coerce")
    listed: dict[str, dict[str, Any]] = {}
    for name, row, age in zip(names, table.to_dict("index").values(), ages, strict=True):  # without columns too
        known = {str(key): value or None for key, value in row.items()}
        listed[name] = known | ({"verdict": "ok", "reason": "", "age": int(age)} if 0 <= age < OLDEST + 1 else {
            "verdict": "rejected", "reason": f"no age from 0 to {OLDEST} years"})
    return listed


def subgroup_columns(table: pd.DataFrame) -> list[str]:
    """Columns of a label table or of predictions by which faces fall into 2 to 20 subgroups, gender before ethnicity.

    Examples
    --------
    >>> subgroup_columns(pd.DataFrame({"name": ["a", "b"], "age": [1, 2], "region": ["north", "south"]}))
    ['region']
    """
    text = [str(column) for column in table.select_dtypes(["object", "string", "category"])
            if column not in ("name", "part", "timestamp", "sha256", "verdict", "reason", "person")]
    return [column for column in text if 2 <= table[column].nunique() <= 20]


def build_labels(folder: Path) -> pd.DataFrame:
    """The label table of `folder` alone, see `index_folder`."""
    return index_folder(folder)[0]


def index_folder(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Label table of `folder`, or of the CSV `folder` (see `read_listed`), and the table of its copies.

    Nothing in the folder stops it. The label table has one row per entry, hidden ones excepted, sorted by name.
    Columns: ``name``; ``age`` (years), ``gender``, ``ethnicity``, ``timestamp`` as the name says; ``sha256``, first 16
    digits of the content's; ``cluster``, one number for copies of one photo (see `duplicates.copy_pairs`);
    ``copies``, files with this content; ``conflict``, copies disagree in a label; ``bytes``, size of the file;
    ``brightness``, mean grey level, 0 to 255 (luma of ITU-R BT.601); ``sharpness``, variance of the Laplacian of the
    grey levels (Pech-Pacheco et al., ICPR 2000), comparable between pictures of one size only, since it is measured at
    the picture's own; ``verdict`` and ``reason``; then those of a CSV. What could not be read or decoded is NA.
    That of copies has one row per pair: ``name_a`` < ``name_b``, ``kind``, ``correlation`` (see
    `duplicates.copy_pairs`), ``age_a`` and ``age_b`` (years), sorted by names.
    FileNotFoundError, NotADirectoryError, ValueError: there is no such folder, it is a file, or it holds nothing.
    """
    folder = given = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder; `python -m agehelpers download` fetches UTKFace")
    listed: dict[str, dict[str, Any]] | None = None
    if is_table(folder):
        listed, folder = read_listed(folder), folder.parent
    elif not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; name the folder that holds the faces, or a .csv of them")
    found = os.listdir(folder) if listed is None else listed
    names = sorted(name for name in found if listed is not None or not name.startswith("."))
    if not names:
        raise ValueError(f"{given} is empty; name the folder that holds the faces themselves, or a .csv of them")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(lambda name: _read(folder, name, None if listed is None else listed[name]), names))
    table = pd.DataFrame(rows)
    types = _TYPES | {column: "str" for column in table if column not in (*_TYPES, "thumbnail", "grey")}
    table = table.reindex(columns=[*types, "thumbnail", "grey"])
    good = table["verdict"] != "rejected"
    same = table[good].groupby("sha256")
    table["copies"] = same["name"].transform("size")
    differs = same[["age", "gender", "ethnicity"]].transform("nunique").gt(1).any(axis=1)
    table["conflict"] = differs.reindex(table.index, fill_value=False)
    thumbnails = np.array(table.loc[good, "thumbnail"].tolist(), np.uint8).reshape(-1, THUMBNAIL**2)
    greys = np.array(table.loc[good, "grey"].tolist(), np.uint8).reshape(-1, SIDE, SIDE)
    pairs = copy_pairs(table.loc[good, "sha256"], thumbnails, greys)
    table.loc[good, "cluster"] = cluster_numbers(int(good.sum()), _together(pairs, table[good].get("person")))
    table = table[list(types)].astype(types)
    a, b = (table[good].iloc[pairs[side]].reset_index(drop=True) for side in ("a", "b"))
    return table, pd.DataFrame({"name_a": a["name"], "name_b": b["name"], "kind": pairs["kind"],
                                "correlation": pairs["correlation"], "age_a": a["age"], "age_b": b["age"]})


def _together(pairs: pd.DataFrame, person: pd.Series | None) -> pd.DataFrame:
    """Pairs ``a``, ``b`` of pictures that belong to one cluster: copies, and pictures of one person."""
    if person is None:
        return pairs
    places = pd.Series(np.arange(len(person)))
    first = places.groupby(person.to_numpy()).transform("first")
    return pd.concat([pairs[["a", "b"]], pd.DataFrame({"a": first, "b": places}).dropna()]).astype(int)


def cached_labels(folder: Path) -> pd.DataFrame:
    """The label table of `folder`, kept in the cache until a name, a size or a time of change in the folder differs."""
    if is_table(folder) and folder.is_file():
        files = [folder, *(folder.parent / name for name in read_listed(folder))]
    elif folder.is_dir():
        files = list(folder.iterdir())
    else:
        return build_labels(folder)  # says what is wrong
    entries = sorted((file.name if folder.is_dir() else str(file), file.lstat().st_size, file.lstat().st_mtime_ns)
                     for file in files if os.path.lexists(file))
    key = hashlib.sha256(repr((VERSION, decoder.VERSION, entries)).encode()).hexdigest()[:16]
    file = paths.cache_folder() / f"labels_{key}.csv.gz"  # packed: a changed or shortened one cannot be unpacked
    if not file.exists():
        paths.write_atomically(file, gzip.compress(build_labels(folder).to_csv(index=False).encode(), mtime=0))
    return read_labels(file, "remove it, and it is made anew")


def write_labels(table: pd.DataFrame, path: Path) -> Path:
    """Write a label table as CSV, atomically; `read_labels` gives the same table back."""
    return paths.write_atomically(Path(path), table.to_csv(index=False, lineterminator="\n"))


def read_labels(path: Path, remedy: str = "make a label table with `python -m agehelpers index`") -> pd.DataFrame:
    """Read what `write_labels` wrote. ValueError, which says the `remedy`, where `path` is no label table."""
    with paths.reading(path, remedy):
        types = {str(column): "str" for column in pd.read_csv(path, nrows=0)} | _TYPES
        unknown = {column: [""] for column in types if column not in ("name", "verdict", "reason", "conflict")}
        return pd.read_csv(path, dtype=types, keep_default_na=False, na_values=unknown)[[
            *_TYPES, *(column for column in types if column not in _TYPES)]]


def committed(name: str) -> Path:
    """Path of a file of the repository's data folder; FileNotFoundError where the package is installed without it."""
    root = paths.checkout()
    file = paths.data_folder() / name if root is None else root / "data" / name
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: it is part of the repository, not of the installed package; set "
                                "the environment variable AGEHELPERS_HOME to a checkout of the repository")
    return file


def utkface_labels() -> pd.DataFrame:
    """The committed label table of UTKFace, 23,707 rows; no pictures are needed for it."""
    return read_labels(committed("utkface_labels.csv"))


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the label table that are not rejected."""
    return table[table["verdict"] != "rejected"].reset_index(drop=True)


def report(table: pd.DataFrame) -> pd.DataFrame:
    """Number of pictures by verdict and reason, in columns ``verdict``, ``reason``, ``pictures``."""
    counts = table.groupby(["verdict", "reason"]).size().rename("pictures").reset_index()
    return counts.sort_values("verdict", key=lambda v: v.map(VERDICTS.index), kind="stable", ignore_index=True)


def conflicts(table: pd.DataFrame) -> pd.DataFrame:
    """One row per set of byte-identical pictures whose labels differ, by falling range of ages (years)."""
    sets = table[table["conflict"]].groupby("sha256")
    found = sets.agg(copies=("name", "size"), age_min=("age", "min"), age_max=("age", "max")).reset_index()
    different = sets[["gender", "ethnicity"]].nunique().gt(1).reset_index(drop=True)
    found = found.assign(age_range=found["age_max"] - found["age_min"]).join(different.add_suffix("_differs"))
    return found.sort_values(["age_range", "sha256"], ascending=[False, True], ignore_index=True)


def identical_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """One row per pair of byte-identical pictures: ``name_a``, ``age_a``, ``name_b``, ``age_b``, ``difference``."""
    copied = table.loc[table["copies"].fillna(1) > 1, ["sha256", "name", "age"]].astype({"age": int})
    pairs = copied.merge(copied, on="sha256", suffixes=("_a", "_b")).sort_values("sha256", kind="stable")
    pairs = pairs[pairs["name_a"] < pairs["name_b"]].drop(columns="sha256").reset_index(drop=True)
    return pairs.assign(difference=(pairs["age_a"] - pairs["age_b"]).abs())


def label_error(table: pd.DataFrame) -> float:
    """Mean error of one label in years, estimated from pairs of byte-identical pictures; NaN where there are none.

    The mean difference over the root of two, which would hold for independent normal errors. An estimate, no floor:
    repeated pictures are no random sample.
    """
    return float(identical_pairs(table)["difference"].mean() / 2**0.5)
