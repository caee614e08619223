"""From the label table to a split: which picture is for training, validation, calibration of intervals, or the test.

Splits of UTKFace are committed lists, which no release of a library can move; other faces are split by the code below,
which made those lists too (tools/split_lists.py).
"""

import hashlib
import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from agehelpers.data.labels import usable

LEAST = 20  # clusters of `holdout` in validation and in calibration, of few; a 95 % interval needs 19
STRATUM = 25  # clusters in an age stratum at least, so that 8 % of it is still one or two
UTKFACE_LISTS = Path(__file__).with_name("utkface_splits.csv.gz")  # their hashes: .json for .gz
UTKFACE_SHARE = 0.95  # of all names here or there, in both: from there on a label table is UTKFace


def _strata(ages: pd.Series) -> np.ndarray:
    """Stratum of each age: five-year bins, joined to the next older until each holds `STRATUM` clusters."""
    bins = ages // 5
    stratum, size, number = {}, 0, 0
    for bin_, count in bins.value_counts().sort_index().items():
        stratum[bin_] = number
        size += count
        if size >= STRATUM:
            size, number = 0, number + 1
    last = max(number - 1, 0)  # what is left over is joined to the stratum before it
    return bins.map(stratum).clip(upper=last).to_numpy()


def _parts(rows: pd.DataFrame, seed: int, **shares: float) -> pd.Series:
    """Part of each row; copies of one photo are in one.

    All clusters begin in training. Each part of `shares` takes, in turn, its share of those still there, and
    "calibration" its share of those in validation. Each time they are stratified by the clusters' median ages.
    """
    ages = rows.groupby("cluster", sort=False)["age"].median()
    if len(ages) < 3:
        raise ValueError(f"{len(ages)} different pictures cannot be split in three parts; use more faces")
    parts = {"train": ages}
    for part, share in shares.items():
        source = "validation" if part == "calibration" else "train"
        if len(parts[source]) > 1:  # a single cluster validates
            parts[source], parts[part] = train_test_split(
                parts[source], test_size=share, random_state=seed, stratify=_strata(parts[source]))
    return rows["cluster"].map(pd.concat([pd.Series(part, index=clusters.index) for part, clusters in parts.items()]))


def _holdout(rows: pd.DataFrame, seed: int) -> pd.Series:
    """80/20; a tenth of the 80 is set aside: half of it for selection, half to calibrate intervals.

    Of few pictures more is set aside, up to a third of the 80: `LEAST` clusters for each.
    """
    aside = 2 * LEAST / (0.8 * max(1, rows["cluster"].nunique()))
    return _parts(rows, seed, test=0.2, validation=min(1 / 3, max(0.1, aside)), calibration=0.5)


def _benchmark(rows: pd.DataFrame, seed: int) -> pd.Series:
    """60/20/20, the proportions of Paplham and Franc, CVPR 2024, arXiv 2307.04570; seeds 0 to 4: the five splits."""
    if seed not in range(5):
        raise ValueError(f"split_seed={seed}: the benchmark protocol has the five splits 0 to 4")
    return _parts(rows, 1000 + seed, test=0.2, validation=0.25, calibration=0.5)


@cache
def _utkface_lists() -> tuple[pd.DataFrame, dict[str, str]]:
    """Parts by name of the picture and of the list (protocol_seed), not checked yet, and the hashes of the lists."""
    return (pd.read_csv(UTKFACE_LISTS, dtype="str", index_col="name"),
            json.loads(UTKFACE_LISTS.with_suffix(".json").read_text()))


@cache
def _utkface_list(name: str) -> pd.Series:
    """Part by picture of the committed list `name`; ValueError where its hash is not the committed one."""
    table, hashes = _utkface_lists()
    part = table.get(name, pd.Series(dtype="str")).dropna()
    if (found := split_hash(pd.DataFrame({"name": part.index, "part": part.array}))) != (right := hashes.get(name)):
        raise ValueError(f"{UTKFACE_LISTS} or its .json is damaged or edited: the hash of the list {name} is {found}, "
                         f"not {right}; restore both files with git, or install the package again")
    return part


def is_utkface(names: pd.Series) -> bool:
    """Whether these are UTKFace's names, but for a few that are missing or unknown (see `UTKFACE_SHARE`)."""
    listed = _utkface_lists()[0].index
    both = sum(name in listed for name in names)
    return both >= UTKFACE_SHARE * (len(names) + len(listed) - both)


def coral_list() -> pd.DataFrame:
    """The published list of ages 21 to 60 (CORAL, arXiv 1901.07884): columns name, part ("train" or "test")."""
    published = _utkface_list("coral_published_0").replace({"validation": "train", "calibration": "train"})
    return published.rename("part").reset_index()


def _coral_published(rows: pd.DataFrame, seed: int) -> pd.Series:
    """The published list as it is, its leaks included; a tenth of the training clusters is set aside."""
    published = coral_list().set_index("name")["part"]
    part = rows["name"].map(published)
    if (missing := len(published) - part.count()) > 0:
        raise ValueError(f"{missing:,} of the {len(published):,} pictures of the published CORAL list are not in "
                         "this folder: the protocol needs the whole UTKFace; fetch it, or use protocol=holdout")
    return part.where(part != "train", _parts(rows[part == "train"], seed, validation=0.1, calibration=0.5))


def _coral(rows: pd.DataFrame, seed: int) -> pd.Series:
    """The published test; the other parts less the copies of its pictures."""
    part = _coral_published(rows, seed)
    return part.mask((part != "test") & rows["cluster"].isin(rows.loc[part == "test", "cluster"]))


def _selection(rows: pd.DataFrame, seed: int) -> pd.Series:
    """80/20 of what is in no test: of `holdout`, of `benchmark`'s first split, and of `coral` where its pictures are.

    Searches for settings (grid, ablation) work on it, so that a recipe has met no test picture of these protocols.
    """
    published = coral_list().query("part == 'test'")["name"]
    test = (_holdout(rows, 0) == "test") | (_benchmark(rows, 0) == "test") | rows["name"].isin(published)
    return _parts(rows[~rows["cluster"].isin(rows.loc[test, "cluster"])], seed, validation=0.2)


PROTOCOLS = {"holdout": _holdout, "benchmark": _benchmark, "coral": _coral, "coral_published": _coral_published,
             "selection": _selection}


def make_split(labels: pd.DataFrame, protocol: str = "holdout", seed: int = 0) -> pd.DataFrame:
    """Part of each usable picture: columns ``name`` and ``part``, sorted by name.

    Parts are train, validation (it chooses the epoch), calibration (it chooses nothing: for intervals) and test.
    `protocol` is one of `PROTOCOLS`; pictures that it leaves out have no row. "selection" has train and validation.
    Copies of one photo (same ``cluster``) are always in one part, except in "coral_published", whose published lists
    leak (see `leaks`).

    Where the names are UTKFace's (`is_utkface`), seed 0 of each protocol, and 0 to 4 of "benchmark", are the committed
    lists, whatever the table's clusters and ages say. A picture that such a list names and the folder lacks has no row,
    so the split has another hash; one that the list does not know has none either, and takes no part
    (``labels[~labels["name"].isin(split["name"])]`` shows both). Other seeds and other faces are split by code, which
    a release of scikit-learn may change: the result depends on names, ages, clusters and `seed` only, not on the order
    of rows. Other seeds of "selection" split the pictures of its list anew.

    A warning where most of the names are UTKFace's, but not nearly all of them are there, or where persons are known.
    ValueError for an unknown `protocol`, a damaged list, fewer than 3 clusters, or pictures that a published list names
    and the label table lacks.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    rows = usable(labels).sort_values("name", ignore_index=True)
    utkface = "person" not in rows and is_utkface(rows["name"])  # persons are kept together by code
    if utkface and (name := f"{protocol}_{seed}") in set().union(*_utkface_lists()):
        part = rows["name"].map(_utkface_list(name))
    elif utkface and protocol == "selection":  # the code's own test lists are others than the committed ones
        part = _parts(rows[rows["name"].isin(_utkface_list("selection_0").index)], seed, validation=0.2)
    else:
        part = PROTOCOLS[protocol](rows, seed)
        both = rows["name"].isin(_utkface_lists()[0].index).sum()
        if not utkface and both > max(1000, len(rows) / 2):
            warnings.warn(f"{both:,} of these {len(rows):,} pictures are UTKFace's, but the split is made by code, "
                          "not its list: test pictures of the records may be in training",
                          stacklevel=2)
    return pd.DataFrame({"name": rows["name"], "part": part}).dropna(ignore_index=True).astype("str")


def naive_split(labels: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The usual random split, 72 / 8 / 20, which ignores that pictures are repeated: only to show what it leaks."""
    names = usable(labels)["name"].sort_values(ignore_index=True)
    place = np.random.default_rng(seed).permutation(len(names)) / len(names)
    part = np.select([place < 0.72, place < 0.8], ["train", "validation"], "test")
    return pd.DataFrame({"name": names, "part": part})


def split_hash(split: pd.DataFrame) -> str:
    """Name of a split: 12 hex digits of the SHA-256 of its sorted lines ``name<TAB>part``.

    Examples
    --------
    >>> split_hash(pd.DataFrame({"name": ["b", "a"], "part": ["test", "train"]}))
    'b58c6f546f22'
    """
    lines = sorted(map("\t".join, zip(split["name"], split["part"], strict=True)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def leaks(labels: pd.DataFrame, split: pd.DataFrame) -> int:
    """Number of pictures of other parts that have a copy in training."""
    rows = split.merge(labels[["name", "cluster"]], on="name", validate="one_to_one")
    train = rows["part"] == "train"
    return int(rows.loc[~train, "cluster"].isin(rows.loc[train, "cluster"]).sum())
