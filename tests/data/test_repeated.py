"""The index of a folder with repeated pictures: clusters, copies, conflicts."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scenes import STAMP, jpeg, name, photo, picture, repeated

from agehelpers.data import duplicates, labels
from agehelpers.data.drawn import draw_faces
from agehelpers.data.labels import build_labels, index_folder


def test_clusters_copies_and_conflicts_of_repeated_pictures(tmp_path):
    table = repeated(tmp_path).set_index("name")
    assert table["cluster"].tolist() == [0, 0, 0, 1, 1, 2, 3]  # numbered by first appearance; blank ones apart
    assert table["copies"].tolist() == [3, 3, 3, 1, 1, 1, 1]
    assert table["conflict"].tolist() == [True, True, True, False, False, False, False]


def test_copies_cut_anew_toned_or_mirrored_share_a_cluster_and_are_listed(tmp_path):
    turned = photo(1, zoom=1.06, shift=1)[:, ::-1]
    sepia = np.stack([photo(2, zoom=0.96, turn=2) * factor for factor in (1.0, 0.8, 0.6)], axis=-1).astype(np.uint8)
    for age, pixels in {30: photo(1), 31: photo(2), 32: turned, 33: sepia, 34: photo(3)}.items():
        (tmp_path / name(age)).write_bytes(jpeg(Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")))
    (tmp_path / name(29)).write_bytes(b"no picture")  # so that rows of the table and of the pictures differ
    table, copies = index_folder(tmp_path)
    assert table["cluster"].tolist() == [pd.NA, 0, 1, 0, 1, 2]
    assert copies.drop(columns="correlation").to_numpy().tolist() == [
        [name(30), name(32), "mirrored", 30, 32], [name(31), name(33), "registered", 31, 33]]
    pd.testing.assert_frame_equal(build_labels(tmp_path), table)


def test_drawn_faces_that_look_alike_are_no_copies(tmp_path, monkeypatch):
    faces = draw_faces(tmp_path / "faces", count=120)
    table, copies = index_folder(faces)
    assert copies["kind"].value_counts().to_dict() == {"identical": 12, "near": 8}
    sizes = table.groupby("cluster").size()
    assert sizes.max() == 3 and (sizes > 1).sum() == 19
    monkeypatch.setattr(duplicates, "APART", 0)  # else some would be
    assert "registered" in set(index_folder(faces)[1]["kind"])


def test_conflicts_and_pairs_against_hand_derived_values(tmp_path):
    table = repeated(tmp_path)
    found = labels.conflicts(table)
    assert found.drop(columns="sha256").to_numpy().tolist() == [[3, 30, 42, 12, True, True]]
    more = pd.DataFrame({"name": ["a", "b", "c", "d"], "age": [5, 7, 1, 41], "gender": "male", "ethnicity": "Asian",
                         "sha256": ["00", "00", "ff", "ff"], "conflict": True})
    assert labels.conflicts(pd.concat([table, more]))["age_range"].tolist() == [40, 12, 2]
    pairs = labels.identical_pairs(table)
    assert sorted(pairs["difference"]) == [0, 12, 12]
    assert len(labels.identical_pairs(table[3:])) == 0 and len(labels.conflicts(table[3:])) == 0


@pytest.mark.parametrize(("other", "conflict"), [
    ("30_1", False), ("30_1_2", False), ("31_1_2", True), ("30_0_2", True), ("30_1_3", True)])
def test_one_different_label_is_a_conflict_an_unknown_one_is_not(tmp_path, other, conflict):
    for entry in (f"30_1_2_{STAMP}.jpg", f"{other}_{STAMP}.jpg.chip.jpg"):
        (tmp_path / entry).write_bytes(jpeg(picture(1)))
    assert build_labels(tmp_path)["conflict"].tolist() == [conflict, conflict]


def test_a_rejected_copy_counts_for_nothing(tmp_path):
    for entry in (name(30), name(130)):
        (tmp_path / entry).write_bytes(jpeg(picture(1)))
    assert build_labels(tmp_path).set_index("name").loc[name(30), "copies"] == 1
