"""The table of copies of UTKFace: what is committed, and the command that makes it."""

import pandas as pd
import pytest

from agehelpers.data.duplicates import SAME, cluster_numbers
from agehelpers.data.labels import committed, index_folder, read_labels, utkface_labels
from tools import copies


def test_the_committed_table_of_copies_gives_the_committed_clusters():
    table, labels = pd.read_csv(committed("copies.csv")), utkface_labels()
    assert list(table) == ["name_a", "name_b", "kind", "correlation", "age_a", "age_b"]
    assert (table["name_a"] < table["name_b"]).all()
    pd.testing.assert_frame_equal(table, table.sort_values(["name_a", "name_b"], ignore_index=True))
    assert table["kind"].value_counts().to_dict() == {"near": 598, "identical": 390, "registered": 135, "mirrored": 47}
    found = table["kind"].isin(["registered", "mirrored"])
    assert (table.loc[found, "correlation"] >= SAME).all()
    assert table["correlation"].isna().equals(table["kind"] == "identical")
    rows = pd.Series(labels.index, index=labels["name"])
    pairs = table.assign(a=rows[table["name_a"]].to_numpy(), b=rows[table["name_b"]].to_numpy())
    for side in ("a", "b"):
        assert (labels["age"][pairs[side]].to_numpy() == pairs[f"age_{side}"]).all()
    assert (cluster_numbers(len(labels), pairs) == labels["cluster"]).all()
    assert cluster_numbers(len(labels), pairs[~found]).max() + 1 == 22_757  # without registration
    different = labels.groupby("cluster")["sha256"].nunique()
    assert different.max() <= 5  # no chain of look-alikes


@pytest.fixture
def here(faces, tmp_path, monkeypatch):
    """The drawn faces in place of UTKFace, and a data folder of its own."""
    monkeypatch.setattr("agehelpers.paths.utkface_folder", lambda: faces)
    monkeypatch.setattr(copies, "committed", lambda name: tmp_path / name)
    return tmp_path


def test_the_command_writes_both_tables(here, faces, capsys):
    assert copies.main([]) == 0
    labels, pairs = index_folder(faces)
    pd.testing.assert_frame_equal(read_labels(here / "utkface_labels.csv"), labels)
    written = pd.read_csv(here / "copies.csv", dtype=pairs.dtypes.to_dict())
    pd.testing.assert_frame_equal(written, pairs)
    near = int((pairs["kind"] == "near").sum())
    assert f"near          {near}\n" in capsys.readouterr().out
    assert near == 8


def test_without_utkface_the_command_says_so(monkeypatch, capsys):
    monkeypatch.setattr("agehelpers.paths.utkface_folder", lambda: None)
    assert copies.main([]) == 1
    assert "agehelpers download" in capsys.readouterr().err
