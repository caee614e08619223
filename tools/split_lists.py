"""The committed split lists of UTKFace, made anew: what the code makes of the first clusters, less copies found since.

    python -m tools.split_lists

Test lists stay as they are for good. Where a cluster of the label table lies in two parts, the larger part gives way:
its pictures leave the list. Also writes docs/split_lists.md.
"""

import argparse
import gzip
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from agehelpers import paths
from agehelpers.data import splits
from agehelpers.data.duplicates import cluster_numbers
from agehelpers.data.labels import committed, usable, utkface_labels
from tools.readme import render

LISTS = ("holdout_0", *(f"benchmark_{seed}" for seed in range(5)), "coral_0", "coral_published_0", "selection_0")
PRECEDENCE = ("test", "calibration", "validation", "train")  # a part gives way to those before it
FIRST_KINDS = ("identical", "near")  # copies known when the test lists were made


def by_code(labels: pd.DataFrame, copies: pd.DataFrame, name: str) -> pd.Series:
    """Part by picture as the code makes it of the first clusters; `copies`: columns name_a, name_b, kind."""
    rows = usable(labels).sort_values("name", ignore_index=True)
    pairs = copies[copies["kind"].isin(FIRST_KINDS)]
    a, b = (pd.Index(rows["name"]).get_indexer(pairs[column]) for column in ("name_a", "name_b"))
    protocol, _, seed = name.rpartition("_")
    clusters = cluster_numbers(len(rows), pd.DataFrame({"a": a, "b": b}))
    part = splits.PROTOCOLS[protocol](rows.assign(cluster=clusters), int(seed))
    return part.reindex(rows.index).set_axis(rows["name"])


def without_copies(part: pd.Series, cluster: pd.Series) -> pd.Series:
    """`part`, NA where the picture's cluster reaches into another part that takes precedence.

    Examples
    --------
    >>> without_copies(pd.Series(["train", "test", "train"]), pd.Series([7, 7, 8])).tolist()
    [nan, 'test', 'train']
    """
    rank = part.map(PRECEDENCE.index, na_action="ignore")
    return part.where(rank == rank.groupby(cluster).transform("min"))


def make_lists(labels: pd.DataFrame, first: pd.DataFrame) -> pd.DataFrame:
    """The lists from those of the first clusters, `first`: index name, a column a list, NA for what has no part."""
    cluster = labels.set_index("name")["cluster"].reindex(first.index)
    made = first.apply(without_copies, cluster=cluster)
    made["coral_published_0"] = first["coral_published_0"]  # as published, leaks and all
    tests = (first[["holdout_0", "benchmark_0", "coral_0"]] == "test").any(axis=1)
    made["selection_0"] = made["selection_0"].mask(cluster.isin(cluster[tests]))
    return made


def hash_of(part: pd.Series) -> str:
    """`splits.split_hash` of a list."""
    return splits.split_hash(part.dropna().rename("part").reset_index())


def dropped(first: pd.DataFrame, made: pd.DataFrame) -> pd.DataFrame:
    """Pictures that left each list: a row a list, a column a part."""
    return first.where(made.isna()).apply(pd.Series.value_counts).reindex(PRECEDENCE[::-1]).T.fillna(0).astype(int)


def write(labels: pd.DataFrame, first: pd.DataFrame, page: Path) -> pd.DataFrame:
    """Write the lists, their hashes and `page`; the lists. ValueError where a committed test list would change."""
    made = make_lists(labels, first)
    there = pd.read_csv(splits.UTKFACE_LISTS, dtype="str", index_col="name").reindex(made.index)
    if other := [name for name in LISTS if not (there[name] == "test").equals(made[name] == "test")]:
        raise ValueError(f"the test lists of {', '.join(other)} would change, but they stay as they are: were copies "
                         f"of the kinds {' and '.join(FIRST_KINDS)} added or removed?")
    hashes = {name: hash_of(made[name]) for name in LISTS}
    paths.write_atomically(page, render("split_lists", hashes=hashes, dropped=dropped(first, made),
                                        parts=made.apply(pd.Series.value_counts).T.fillna(0)))
    text = made.to_csv(lineterminator="\n").encode()
    packed = splits.UTKFACE_LISTS.suffix == ".gz"
    paths.write_atomically(splits.UTKFACE_LISTS, gzip.compress(text, 9, mtime=0) if packed else text)
    paths.write_json(splits.UTKFACE_LISTS.with_suffix(".json"), hashes)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the lists anew from data/utkface_labels.csv and data/copies.csv; 1 where they cannot be."""
    argparse.ArgumentParser("tools.split_lists", description=__doc__.split("\n")[0]).parse_args(arguments)
    try:
        labels, copies = utkface_labels(), pd.read_csv(committed("copies.csv"), dtype="str")
        first = pd.DataFrame({name: by_code(labels, copies, name) for name in LISTS})
        made = write(labels, first, Path(__file__).resolve().parent.parent / "docs" / "split_lists.md")
    except (OSError, ValueError) as error:
        print(f"tools.split_lists: {error}", file=sys.stderr)
        return 1
    print(f"pictures that left each list:\n{dropped(first, made).to_string()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
