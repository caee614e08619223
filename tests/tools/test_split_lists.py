"""The committed lists of UTKFace are those made anew; copies are on one side; test lists never change."""

import json
from pathlib import Path

import pandas as pd
import pytest

from agehelpers.data import splits
from agehelpers.data.labels import utkface_labels
from tools import split_lists
from tools.split_lists import LISTS, by_code, dropped, make_lists, write

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "split_lists.md").read_text()
NAMES = [f"{age}_0_0_20170101000000{age:03d}.jpg" for age in range(20, 28)]
#          20       21      22            23             24       25       26      27
PARTS = ["train", "test", "validation", "calibration", "train", "train", "test", "validation"]
CLUSTERS = [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.fixture(scope="module")
def whole():
    """Labels, lists of the first clusters, lists made of them."""
    labels, copies = utkface_labels(), pd.read_csv(ROOT / "data" / "copies.csv", dtype="str")
    first = pd.DataFrame({name: by_code(labels, copies, name) for name in LISTS})
    return labels, first, make_lists(labels, first)


@pytest.fixture
def few(tmp_path, monkeypatch):
    """Eight pictures, all lists alike but the published one and that of searches; they are the committed ones."""
    labels = pd.DataFrame({"name": NAMES, "cluster": CLUSTERS})
    first = pd.DataFrame({name: PARTS for name in LISTS}, index=pd.Index(NAMES, name="name"))
    first["coral_published_0"] = PARTS[::-1]
    first["selection_0"] = ["train", "train", "train", "validation", "train", "validation", "train", "train"]
    monkeypatch.setattr(splits, "UTKFACE_LISTS", tmp_path / "lists.csv")
    first.to_csv(splits.UTKFACE_LISTS)
    return labels, first


def test_the_committed_lists_are_those_made_anew(whole):
    labels, first, made = whole
    committed = pd.read_csv(splits.UTKFACE_LISTS, dtype="str", index_col="name")
    pd.testing.assert_frame_equal(committed, made, check_dtype=False)
    hashes = {name: split_lists.hash_of(made[name]) for name in made}
    assert json.loads(splits.UTKFACE_LISTS.with_suffix(".json").read_text()) == hashes
    gone, sizes = dropped(first, made), made.apply(pd.Series.value_counts).T.fillna(0).astype(int)
    for name in LISTS:
        cells = [f"`{name}`", f"`{hashes[name]}`",
                 *(f"{sizes.loc[name, part]:,}" for part in ("train", "validation", "calibration", "test")),
                 *(str(gone.loc[name, part]) for part in ("train", "validation", "calibration"))]
        assert f"| {' | '.join(cells)} |" in PAGE, name
    assert (gone["test"] == 0).all() and gone.loc["holdout_0", "train"] >= 40


def test_no_cluster_lies_on_two_sides(whole):
    labels, first, made = whole
    cluster = labels.set_index("name")["cluster"].loc[made.index]
    for name in set(LISTS) - {"coral_published_0"}:
        assert made[name].groupby(cluster).nunique().max() == 1, name
        assert (first[name].notna() & made[name].isna()).sum() < 300
    tests = (made[["holdout_0", "benchmark_0", "coral_0", "coral_published_0"]] == "test").any(axis=1)
    assert not cluster[made["selection_0"].notna()].isin(cluster[tests]).any()
    pd.testing.assert_series_equal(made["coral_published_0"], first["coral_published_0"])


def test_the_larger_part_gives_way(few):
    labels, first = few
    made = make_lists(labels[::-1], first)
    # 20 to a test, 22 to calibration, 27 to a test; 24 and 25 are in one part
    assert made["benchmark_3"].fillna("-").tolist() == ["-", "test", "-", "calibration", "train", "train", "test", "-"]
    assert made["coral_published_0"].tolist() == PARTS[::-1]
    # clusters 1 and 4 are in tests; 22 gives way to the validation picture 23, 24 to 25
    assert made["selection_0"].fillna("-").tolist() == ["-", "-", "-", "validation", "-", "validation", "-", "-"]
    gone = dropped(first, made)
    assert gone.loc["benchmark_3"].to_dict() == {"train": 1, "validation": 2, "calibration": 0, "test": 0}
    assert gone.loc["coral_published_0"].sum() == 0 and gone.loc["selection_0", "train"] == 6


def test_test_lists_are_never_overwritten(few, tmp_path):
    labels, first = few
    before = splits.UTKFACE_LISTS.read_text()
    other = first.assign(coral_0=["test", "train", *PARTS[2:]], holdout_0=[*PARTS[:5], "validation", *PARTS[6:]])
    with pytest.raises(ValueError, match="the test lists of coral_0 would change, but they stay"):
        write(labels, other, tmp_path / "page.md")
    assert splits.UTKFACE_LISTS.read_text() == before and not (tmp_path / "page.md").exists()
    made = write(labels, first.assign(holdout_0=other["holdout_0"]), tmp_path / "page.md")
    pd.testing.assert_frame_equal(pd.read_csv(splits.UTKFACE_LISTS, dtype="str", index_col="name"), made)
    hashes = json.loads(splits.UTKFACE_LISTS.with_suffix(".json").read_text())
    assert list(hashes) == list(LISTS) and hashes["coral_0"] == hashes["benchmark_0"] != hashes["holdout_0"]


def test_what_stops_the_tool_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("AGEHELPERS_HOME", str(tmp_path))
    assert split_lists.main([]) == 1
    assert "utkface_labels.csv is not there" in capsys.readouterr().err
