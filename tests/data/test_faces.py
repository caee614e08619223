"""The faces of a configuration: which parts there are, which rows of the pixels, whose labels are settled."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from agehelpers.config import load_config
from agehelpers.data import faces as module
from agehelpers.data.decoder import decode
from agehelpers.data.faces import PARTS, SELECTION, faces_folder, prepare_faces, settle_conflicts
from agehelpers.data.labels import build_labels, usable
from agehelpers.data.splits import make_split, split_hash


@pytest.fixture
def config(faces):
    return load_config("ci", {"image_size": 24, "faces": str(faces)})


def test_each_row_has_its_part_its_labels_and_its_pixels(config, faces):
    found, labels = prepare_faces(config), usable(build_labels(faces))
    split = make_split(labels, "holdout", 0)
    assert found.split == split_hash(split) and tuple(found.table["part"].unique()) != () and len(found.table) > 60
    assert set(found.table["part"]) == set(PARTS)
    assert found.table.set_index("name")["part"].to_dict() == split.set_index("name")["part"].to_dict()
    for _, row in found.table.iloc[::20].iterrows():
        assert (found.pixels[row["row"]] == decode(faces / row["name"], 30)).all()  # 1.25 * 24
    for part in PARTS:
        rows, dataset = found.part(part), found.dataset(part)
        assert dataset.rows.tolist() == rows["row"].tolist() and dataset.ages.tolist() == rows["age"].tolist()
        assert dataset.ages.dtype == np.float32 and dataset.augment is (part == "train")


def test_auxiliary_losses_get_attributes_of_the_training_part(config):
    found = prepare_faces(dataclasses.replace(config, auxiliary=0.3))
    rows, codes = found.part("train"), found.dataset("train").attributes
    assert codes.shape == (len(rows), 2) and codes.dtype == np.int64 and len(np.unique(codes[:, 1])) >= 3
    genders = rows["gender"].map({"male": 0, "female": 1})
    ethnicities = rows["ethnicity"].map({"White": 0, "Black": 1, "Asian": 2, "Indian": 3, "Others": 4})
    assert (codes == np.stack([genders, ethnicities], 1)).all()
    nameless = dataclasses.replace(found, table=found.table.assign(ethnicity=pd.NA))
    assert (nameless.dataset("train").attributes[:, 1] == -1).all()
    assert found.dataset("validation").attributes is prepare_faces(config).dataset("train").attributes is None


def test_a_search_for_settings_is_not_handed_test_pictures(config):
    whole, few = prepare_faces(config), prepare_faces(config, SELECTION)
    assert set(few.table["part"]) == set(SELECTION) and few.split == whole.split
    expected = whole.table[whole.table["part"].isin(SELECTION)]
    pd.testing.assert_frame_equal(few.table, expected)
    assert few.dataset("test").rows.tolist() == []


def test_pixels_that_are_there_are_used_again(config, monkeypatch):
    first = prepare_faces(config)
    monkeypatch.setattr(module, "load_pixels", None)  # calling it would fail
    assert prepare_faces(config, SELECTION, first.pixels).pixels is first.pixels


def test_limit_takes_a_share_of_each_part(config):
    whole, few = prepare_faces(config), prepare_faces(dataclasses.replace(config, limit=24))
    counts = few.table["part"].value_counts()
    assert counts.to_dict() == {part: max(2, round(24 / len(whole.table) * len(whole.part(part)))) for part in PARTS}
    assert set(few.part("test")["name"]) < set(whole.part("test")["name"])
    assert few.split == whole.split and few.table["name"].is_monotonic_increasing
    pd.testing.assert_frame_equal(few.table, whole.table[whole.table["name"].isin(few.table["name"])])
    more = prepare_faces(dataclasses.replace(config, limit=10**6))
    pd.testing.assert_frame_equal(more.table, whole.table)


def test_conflicting_copies_are_kept_settled_or_dropped():
    rows = pd.DataFrame({"cluster": [1, 1, 1, 2, 2, 3], "age": [20, 26, 50, 30, 30, 40]})
    assert settle_conflicts(rows, "keep").equals(rows)
    assert settle_conflicts(rows, "median")["age"].tolist() == [26, 26, 26, 30, 30, 40]
    assert settle_conflicts(rows, "drop")["age"].tolist() == [30, 30, 40]


def test_only_training_labels_are_settled(config, monkeypatch):
    monkeypatch.setattr(module, "settle_conflicts", lambda rows, how: rows.assign(age=1 if how == "median" else 2))
    found = prepare_faces(dataclasses.replace(config, conflicts="median"))
    assert set(found.dataset("train").ages) == {1}
    assert found.dataset("test").ages.tolist() == found.part("test")["age"].tolist()


def test_where_the_pictures_are(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "sample_faces", lambda: "drawn")
    monkeypatch.setattr("agehelpers.paths.utkface_folder", lambda: None)
    laptop = load_config("laptop")
    assert faces_folder(laptop) == "drawn"
    monkeypatch.setattr("agehelpers.paths.utkface_folder", lambda: tmp_path)
    assert faces_folder(laptop) == tmp_path
    assert faces_folder(load_config("ci")) == "drawn"  # whatever is found
    assert faces_folder(load_config("ci", {"faces": "/mine"})).as_posix() == "/mine"


def test_no_such_folder_is_named():
    with pytest.raises(FileNotFoundError, match="/nowhere: no such folder"):
        prepare_faces(load_config("ci", {"faces": "/nowhere"}))
