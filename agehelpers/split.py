"""From the index to a split: which picture is for training, which for validation, which for the test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

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


def _holdout(rows: pd.DataFrame, seed: int) -> pd.Series:
    """Part of each row: 20 % test, a tenth of the rest validation; groups stay whole."""
    ages = rows.groupby("group", sort=False)["age"].median()
    if len(ages) < 3:
        raise ValueError(f"{len(ages)} different pictures cannot be split in three parts; index more faces")
    rest, test = _divide(ages, 0.2, seed)
    train, validation = _divide(rest, 0.1, seed)
    parts = {"train": train, "validation": validation, "test": test}
    return rows["group"].map(pd.concat([pd.Series(name, index=chosen.index) for name, chosen in parts.items()]))


PROTOCOLS: dict[str, Callable[[pd.DataFrame, int], pd.Series]] = {"holdout": _holdout}


def make_split(index: pd.DataFrame, protocol: str = "holdout", seed: int = 0) -> pd.DataFrame:
    """Part of each usable picture: columns ``name`` and ``part`` (train, validation, test), sorted by name.

    Identical and near-identical pictures (same ``group``) are always in one part. The result depends on names, ages,
    groups and `seed` only, not on the order of rows. ValueError for an unknown `protocol` or fewer than 3 groups.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    rows = usable(index).sort_values("name", ignore_index=True)
    return pd.DataFrame({"name": rows["name"], "part": PROTOCOLS[protocol](rows, seed).astype("str")})


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
    """Number of validation and test pictures that have an identical or near-identical one in training."""
    rows = split.merge(index[["name", "group"]], on="name", validate="one_to_one")
    train = rows["part"] == "train"
    return int(rows.loc[~train, "group"].isin(rows.loc[train, "group"]).sum())
