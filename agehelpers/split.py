"""From the index to a split: which picture is for training, validation, calibration of intervals, or the test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from agehelpers import paths
from agehelpers.index import usable

STRATUM = 25  # groups of pictures in an age stratum at least, so that 8 % of it is still one or two


def _strata(ages: pd.Series) -> np.ndarray:
    """Stratum of each age: five-year bins, joined to the next older until each holds `STRATUM` groups."""
    bins = ages // 5
    counts = bins.value_counts().sort_index()
    stratum, held, number = {}, 0, 0
    for bin_, count in counts.items():
        stratum[bin_] = number
        held += count
        if held >= STRATUM:
            held, number = 0, number + 1
    last = max(number - 1, 0)  # what is left over is joined to the stratum before it
    return bins.map(stratum).clip(upper=last).to_numpy()


def _divide(groups: pd.Series, share: float, seed: int) -> tuple[pd.Series, pd.Series]:
    """Groups (index: group, value: age) in two, `share` of them in the second, stratified by age."""
    return tuple(train_test_split(groups, test_size=share, random_state=seed, stratify=_strata(groups)))


def _parts(rows: pd.DataFrame, parts: dict[str, pd.Series]) -> pd.Series:
    """Part of each row, by its group; NaN for a group that is in none."""
    return rows["group"].map(pd.concat([pd.Series(name, index=chosen.index) for name, chosen in parts.items()]))


def _held(groups: pd.Series, share: float, seed: int) -> dict[str, pd.Series]:
    """Groups for training and `share` of them held: half validates, half calibrates (of a single one, none does)."""
    train, held = _divide(groups, share, seed)
    validation, calibration = _divide(held, 0.5, seed) if len(held) > 1 else (held, held[:0])
    return {"train": train, "validation": validation, "calibration": calibration}


def _all_parts(rows: pd.DataFrame, test_share: float, held_share: float, seed: int) -> pd.Series:
    """Part of each row: `test_share` test, `held_share` of the rest validation and calibration; groups stay whole."""
    ages = rows.groupby("group", sort=False)["age"].median()
    if len(ages) < 3:
        raise ValueError(f"{len(ages)} different pictures cannot be split in three parts; index more faces")
    rest, test = _divide(ages, test_share, seed)
    return _parts(rows, {**_held(rest, held_share, seed), "test": test})


def _holdout(rows: pd.DataFrame, seed: int) -> pd.Series:
    """80/20; a tenth of the 80 is held: half of it for selection, half to calibrate intervals."""
    return _all_parts(rows, 0.2, 0.1, seed)


def _benchmark(rows: pd.DataFrame, seed: int) -> pd.Series:
    """60/20/20, the proportions of Paplham and Franc, CVPR 2024, arXiv 2307.04570; seeds 0 to 4: the five splits."""
    if seed not in range(5):
        raise ValueError(f"split_seed={seed}: the benchmark protocol has the five splits 0 to 4")
    return _all_parts(rows, 0.2, 0.25, 1000 + seed)


def coral_list() -> pd.DataFrame:
    """The published list of ages 21 to 60 (CORAL, arXiv 1901.07884): columns name, part ("train" or "test")."""
    return pd.read_csv(paths.data_folder() / "protocols" / "coral.csv", dtype="str")


def _coral_published(rows: pd.DataFrame, seed: int) -> pd.Series:
    """The published list as it is, its leaks included; a tenth of the training groups is held, as in `_holdout`."""
    part = rows["name"].map(coral_list().set_index("name")["part"])
    if (missing := len(coral_list()) - part.notna().sum()) > 0:
        raise ValueError(f"{missing:,} of the {len(coral_list()):,} pictures of the published CORAL list are not in "
                         "this folder: the protocol needs the whole UTKFace; fetch it, or use protocol=holdout")
    ages = rows[part == "train"].groupby("group", sort=False)["age"].median()
    return part.where(part != "train", _parts(rows, _held(ages, 0.1, seed)))


def _coral(rows: pd.DataFrame, seed: int) -> pd.Series:
    """The published test; the other parts less what is identical or near-identical to a test picture."""
    part = _coral_published(rows, seed)
    return part.mask((part != "test") & rows["group"].isin(rows.loc[part == "test", "group"]))


def _selection(rows: pd.DataFrame, seed: int) -> pd.Series:
    """80/20 of what is in no test: of `holdout`, of `benchmark`'s first split, and of `coral` where its pictures are.

    Searches for settings (grid, ablation) work on it, so that a recipe has met no test picture of these protocols.
    """
    tests = [_holdout(rows, 0) == "test", _benchmark(rows, 0) == "test", rows["name"].isin(
        coral_list().query("part == 'test'")["name"])]
    left = rows[~rows["group"].isin(rows.loc[np.logical_or.reduce(tests), "group"])]
    ages = left.groupby("group", sort=False)["age"].median()
    train, validation = _divide(ages, 0.2, seed)
    return _parts(rows, {"train": train, "validation": validation})


PROTOCOLS: dict[str, Callable[[pd.DataFrame, int], pd.Series]] = {
    "holdout": _holdout, "benchmark": _benchmark, "coral": _coral, "coral_published": _coral_published,
    "selection": _selection}


def make_split(index: pd.DataFrame, protocol: str = "holdout", seed: int = 0) -> pd.DataFrame:
    """Part of each usable picture: columns ``name`` and ``part``, sorted by name.

    Parts are train, validation (it chooses the epoch), calibration (it chooses nothing: for intervals) and test.
    `protocol` is one of `PROTOCOLS`; pictures that it leaves out have no row. "selection" has train and validation.
    Identical and near-identical pictures (same ``group``) are always in one part, except in "coral_published", whose
    published lists leak (see `leaks`). The result depends on names, ages, groups and `seed` only, not on the order of
    rows. ValueError for an unknown `protocol`, fewer than 3 groups, or pictures that a published list names and the
    index lacks.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    rows = usable(index).sort_values("name", ignore_index=True)
    part = PROTOCOLS[protocol](rows, seed)
    return pd.DataFrame({"name": rows["name"], "part": part}).dropna(ignore_index=True).astype("str")


def naive_split(index: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The usual random split, 72 / 8 / 20, which ignores that pictures are repeated: only to show what it leaks."""
    names = usable(index)["name"].sort_values(ignore_index=True)
    place = np.random.default_rng(seed).permutation(len(names)) / len(names)
    part = np.select([place < 0.72, place < 0.8], ["train", "validation"], "test")
    return pd.DataFrame({"name": names, "part": part})


def split_hash(split: pd.DataFrame) -> str:
    """Name of a split: 12 hex digits of the SHA-256 of its sorted lines ``name<TAB>part``."""
    lines = sorted(f"{name}\t{part}" for name, part in zip(split["name"], split["part"], strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def leaks(index: pd.DataFrame, split: pd.DataFrame) -> int:
    """Number of pictures of other parts that have an identical or near-identical one in training."""
    rows = split.merge(index[["name", "group"]], on="name", validate="one_to_one")
    train = rows["part"] == "train"
    return int(rows.loc[~train, "group"].isin(rows.loc[train, "group"]).sum())
