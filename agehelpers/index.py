"""From a folder of faces to the index: one row per entry, what its name says, and what is wrong with it."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from agehelpers import paths

GENDERS = ("male", "female")
ETHNICITIES = ("White", "Black", "Asian", "Indian", "Others")
VERDICTS = ("ok", "repaired", "partial", "rejected")
OLDEST = 120  # years; UTKFace ends at 116, and nobody known lived beyond 122
MAX_PIXELS = 64_000_000  # beyond this a picture is a decompression bomb, not a face
MAX_BYTES = 100_000_000  # larger files are not read
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # what PIL may try: formats that start no other program
THUMBNAIL = 16  # pixels; side of the grey picture by which near-identical ones are found
BLANK = 1.0  # grey levels; a thumbnail whose standard deviation is smaller shows nothing to compare

_NAME = re.compile(
    r"(?P<age>-?\d{1,9})_(?P<gender>\d{1,9})(?:_(?P<ethnicity>\d{1,9}))?_(?P<stamp>\d{16,18})"
    r"(?P<space> *)(?P<dot>\.?)(?:jpe?g|png)(?:\.chip\.(?:jpe?g|png))?", re.ASCII | re.IGNORECASE)

_TYPES = {"name": "str", "age": "Int64", "gender": "str", "ethnicity": "str", "timestamp": "str", "sha256": "str",
          "group": "Int64", "copies": "Int64", "conflict": "bool", "bytes": "Int64", "brightness": "Float64",
          "sharpness": "Float64", "verdict": "str", "reason": "str"}


@dataclass(frozen=True)
class Label:
    """What a file's name says. `verdict` is ok, repaired, partial or rejected; `reason` is empty when ok."""

    age: int | None
    gender: str | None
    ethnicity: str | None
    timestamp: str | None
    verdict: str
    reason: str


def _rejected(reason: str) -> Label:
    return Label(None, None, None, None, "rejected", reason)


def parse_name(name: str) -> Label:
    """Label of a face from its file's own name, ``age_gender_ethnicity_timestamp.jpg`` (``.jpg.chip.jpg``, ``.png``).

    Faults known from the published UTKFace are repaired where the label stays certain: a space before ``.jpg``,
    no dot before ``jpg``, a time stamp of 16 or 18 digits for 17. Without an ethnicity the verdict is "partial".

    Gender 0 is male, 1 female; ethnicity 0 to 4 is White, Black, Asian, Indian, Others. No text raises an error.

    Examples
    --------
    >>> parse_name("25_0_1_20170101000000000.jpg").ethnicity
    'Black'
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return _rejected("not named age_gender_ethnicity_timestamp.jpg")
    age, gender, ethnicity = int(match["age"]), int(match["gender"]), match["ethnicity"]
    if not 0 <= age <= OLDEST:
        return _rejected(f"impossible age {age} (0 to {OLDEST} years)")
    if gender >= len(GENDERS):
        return _rejected(f"impossible gender {gender} (0 male, 1 female)")
    if ethnicity is not None and int(ethnicity) >= len(ETHNICITIES):
        return _rejected(f"impossible ethnicity {int(ethnicity)} (0 to {len(ETHNICITIES) - 1})")
    digits = len(match["stamp"])
    faults = [text for text, found in (
        ("no ethnicity in the name", ethnicity is None), ("space before the file type", match["space"]),
        ("no dot before the file type", not match["dot"]), (f"time stamp of {digits} digits, not 17", digits != 17),
    ) if found]
    verdict = "partial" if ethnicity is None else "repaired" if faults else "ok"
    group = None if ethnicity is None else ETHNICITIES[int(ethnicity)]
    return Label(age, GENDERS[gender], group, match["stamp"], verdict, ", ".join(faults))


@dataclass(frozen=True)
class _Content:
    """What one entry of the folder holds, as in the columns of the index; `reason` is empty if nothing is wrong."""

    reason: str
    sha256: str | None = None
    bytes: int | None = None
    thumbnail: np.ndarray | None = None  # uint8 [256], grey
    brightness: float | None = None
    sharpness: float | None = None


def _read(path: Path) -> _Content:
    """Read, decode and measure one entry of the folder."""
    import cv2

    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would keep us waiting for ever
            return _Content("a folder, not a picture" if path.is_dir() else "not a regular file")
        if status.st_size > MAX_BYTES:
            return _Content(f"oversized: a file of more than {MAX_BYTES // 10**6} MB")
        data = path.read_bytes()
    except OSError as error:
        dangling = isinstance(error, FileNotFoundError) and path.is_symlink()
        return _Content("a link to nothing" if dangling else f"not readable: {error.strerror}")
    known = hashlib.sha256(data).hexdigest()[:16], len(data)
    if not data:
        return _Content("empty file", *known)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            grey = picture.convert("RGB").convert("L")
        thumbnail = np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)).ravel()
        levels = np.asarray(grey)
        laplacian = cv2.Laplacian(levels, cv2.CV_16S, ksize=1)  # whole numbers: exact, and faster than CV_64F
        sharpness = cv2.meanStdDev(laplacian)[1].item() ** 2
        return _Content("", *known, thumbnail, round(cv2.mean(levels)[0], 1), round(sharpness, 1))
    except UnidentifiedImageError:
        return _Content("not a picture", *known)
    except Image.DecompressionBombError:
        return _Content(f"oversized: more than {MAX_PIXELS // 10**6} million pixels", *known)
    except Exception as error:  # a broken file makes PIL's plugins raise almost anything; none may stop the index
        truncated = "truncated" in str(error).lower()
        return _Content("truncated: its data ends too early" if truncated else "damaged: cannot be decoded", *known)


def near_pairs(thumbnails: np.ndarray, near: float = 0.99) -> np.ndarray:
    """Pairs of pictures that look the same: cosine of their thumbnails, mean removed, above `near`.

    From grey values [N, pixels], of which blank rows match nothing, to row numbers i < j, int64 [pairs, 2]. Computed
    by blocks, so that memory grows with N and not with its square.
    """
    centred = thumbnails.astype(np.float64)  # not float32: a pair of UTKFace is 3e-6 from the threshold
    centred -= centred.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.where(norm < BLANK * np.sqrt(thumbnails.shape[1]), np.inf, norm)
    step = max(1, 2**23 // max(1, len(unit)))
    found = []
    for start in range(0, len(unit), step):
        i, j = np.nonzero(unit[start:start + step] @ unit[start:].T > near)
        found.append(np.stack([i, j], axis=1)[i < j] + start)
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def build_index(folder: Path, near: float = 0.99) -> pd.DataFrame:
    """Index of `folder`: one row per entry, hidden ones excepted, sorted by name. Nothing in the folder stops it.

    Columns: ``name``; ``age`` (years), ``gender``, ``ethnicity``, ``timestamp`` as the name says; ``sha256``, first 16
    digits of the content's; ``group``, one number for identical or near-identical pictures (`near_pairs` above `near`);
    ``copies``, files with this content; ``conflict``, copies disagree in a label; ``bytes``, size of the file;
    ``brightness``, mean grey level, 0 to 255 (luma of ITU-R BT.601); ``sharpness``, variance of the Laplacian of the
    grey levels (Pech-Pacheco et al., ICPR 2000), comparable between pictures of one size only, since it is measured at
    the picture's own; ``verdict`` and ``reason``. What could not be read or decoded is NA.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, ValueError
        There is no such folder, it is a file, or it holds nothing.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder; `python -m agehelpers download` fetches UTKFace")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; name the folder that holds the faces")
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    if not names:
        raise ValueError(f"{folder} is empty; name the folder that holds the faces themselves")
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # PIL warns of odd files; here each becomes a row's reason instead
        contents = list(pool.map(_read, (folder / name for name in names), chunksize=1))
    labels = [_rejected(c.reason) if c.reason else parse_name(name) for name, c in zip(names, contents, strict=True)]
    table = pd.DataFrame([vars(label) for label in labels])
    # A name that cannot be printed (and so not written to a CSV either) is shown escaped.
    table.insert(0, "name", [n if n.isprintable() else n.encode("unicode_escape").decode() for n in names])
    for column in ("sha256", "bytes", "brightness", "sharpness"):
        table[column] = [getattr(c, column) for c in contents]
    good = table["verdict"] != "rejected"
    thumbnails = np.array([c.thumbnail for c, keep in zip(contents, good, strict=True) if keep], np.uint8)
    rows = table[good]
    same = rows.groupby("sha256")
    table["copies"] = same["name"].transform("size")
    differs = same[["age", "gender", "ethnicity"]].transform("nunique").gt(1).any(axis=1)
    table["conflict"] = differs.reindex(table.index, fill_value=False)
    table.loc[good, "group"] = _groups(rows["sha256"], thumbnails.reshape(-1, THUMBNAIL**2), near)
    return table[list(_TYPES)].astype(_TYPES)


def _groups(sha256: pd.Series, thumbnails: np.ndarray, near: float) -> np.ndarray:
    """Number of the connected component of each row, joined by equal content or near-equal looks."""
    codes = pd.factorize(sha256)[0]
    first = np.unique(codes, return_index=True)[1]
    same = np.stack([first[codes], np.arange(len(codes))], axis=1)
    # Copies look alike: comparing one of each is enough.
    pairs = np.concatenate([same, first[near_pairs(thumbnails[first], near)]])
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(codes), len(codes)))
    return pd.factorize(connected_components(graph, directed=False)[1])[0]


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the index that are not rejected."""
    return table[table["verdict"] != "rejected"].reset_index(drop=True)


def write_index(table: pd.DataFrame, path: Path) -> Path:
    """Write an index as CSV, atomically; `read_index` gives the same table back."""
    return paths.write_atomically(Path(path), table.to_csv(index=False, lineterminator="\n"))


def read_index(path: Path) -> pd.DataFrame:
    """Read what `write_index` wrote. ValueError where `path` is no index."""
    unknown = {column: [""] for column in _TYPES if column not in ("name", "verdict", "reason", "conflict")}
    try:
        return pd.read_csv(path, dtype=_TYPES, keep_default_na=False, na_values=unknown)[list(_TYPES)]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is not an index ({error}); make one with `python -m agehelpers index`") from error


def report(table: pd.DataFrame) -> pd.DataFrame:
    """Number of pictures by verdict and reason, in columns ``verdict``, ``reason``, ``pictures``."""
    counts = table.groupby(["verdict", "reason"]).size().rename("pictures").reset_index()
    return counts.sort_values("verdict", key=lambda v: v.map(VERDICTS.index), kind="stable", ignore_index=True)


def conflicts(table: pd.DataFrame) -> pd.DataFrame:
    """One row per set of byte-identical pictures whose labels differ, by falling range of ages (years)."""
    found = table[table["conflict"]].groupby("sha256").agg(
        copies=("name", "size"), age_min=("age", "min"), age_max=("age", "max"),
        genders=("gender", "nunique"), ethnicities=("ethnicity", "nunique")).reset_index()
    found.insert(4, "age_range", found["age_max"] - found["age_min"])
    found["gender_differs"], found["ethnicity_differs"] = found.pop("genders") > 1, found.pop("ethnicities") > 1
    return found.sort_values(["age_range", "sha256"], ascending=[False, True], ignore_index=True)


def identical_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """One row per pair of byte-identical pictures: ``name_a``, ``age_a``, ``name_b``, ``age_b``, ``difference``."""
    copied = table[table["copies"].fillna(1) > 1]
    pairs = [(*a, *b) for _, rows in copied.groupby("sha256")
             for a, b in combinations(zip(rows["name"], rows["age"], strict=True), 2)]
    found = pd.DataFrame(pairs, columns=["name_a", "age_a", "name_b", "age_b"]).astype({"age_a": int, "age_b": int})
    return found.assign(difference=(found["age_a"] - found["age_b"]).abs())


def label_error(table: pd.DataFrame) -> float:
    """Mean error of one label in years, estimated from pairs of byte-identical pictures; NaN where there are none.

    The mean difference over the root of two, which would hold for independent normal errors. An estimate, no floor:
    repeated pictures are no random sample.
    """
    return float(identical_pairs(table)["difference"].mean() / 2**0.5)
