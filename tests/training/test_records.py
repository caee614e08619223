"""Records: lean files, labels joined on reading, nothing overwritten, older ones refused."""

import dataclasses
import json
import shutil

import pandas as pd
import pytest

from agehelpers import paths
from agehelpers.config import config_from_dict, differing_settings
from agehelpers.data.labels import build_labels
from agehelpers.training import records
from agehelpers.training.records import (
    RUN_FACTS,
    check_record_name,
    load_record,
    read_record,
    save_record,
    with_labels,
    write_record,
)

ENDS = [f"{end}_{level}" for level in (80, 90, 95) for end in ("lower", "upper")]


def test_what_is_stored_is_lean_and_what_is_read_is_whole(trained, faces):
    stored, read = pd.read_csv(trained / "predictions.csv"), read_record(trained)
    assert list(stored) == ["part", "name", "prediction", "spread"]
    assert list(read.predictions) == ["part", "name", "age", "gender", "ethnicity", "prediction", "spread", *ENDS]
    pd.testing.assert_frame_equal(read.predictions[list(stored)], stored)
    labels = build_labels(faces).set_index("name")
    for column in ("age", "gender", "ethnicity"):
        assert read.predictions[column].tolist() == labels.loc[stored["name"], column].tolist()
    assert read.predictions["age"].dtype == "int64" and read.name == "run"
    assert set(read.tables) == {"history", "predictions"} and read.settings is read.facts["config"]
    test = read.part("test")
    assert (test["part"] == "test").all() and test[ENDS].notna().all(axis=None)


def test_labels_can_be_given_and_count(trained, faces, monkeypatch):
    labels = build_labels(faces)
    expected = read_record(trained).predictions
    monkeypatch.setattr(records, "parse_name", None)  # calling it would fail
    pd.testing.assert_frame_equal(read_record(trained, labels).predictions, expected)
    older = read_record(trained, labels.assign(age=labels["age"] + 1)).predictions
    assert (older["age"] == expected["age"] + 1).all()
    assert not older[ENDS].equals(expected[ENDS])  # intervals are computed from the labels, too


def test_a_head_without_spread_has_none(tmp_path, trained, faces):
    shutil.copytree(trained, tmp_path / "run")
    table = pd.read_csv(trained / "predictions.csv").drop(columns="spread")
    table.to_csv(tmp_path / "run" / "predictions.csv", index=False)
    found = read_record(tmp_path / "run").predictions
    assert "spread" not in found and found.loc[found["part"] == "test", ENDS].notna().all(axis=None)


def test_a_plain_prediction_beside_the_decoded_one_is_kept(tmp_path, trained):
    shutil.copytree(trained, tmp_path / "run")
    whole = read_record(trained).predictions
    write_record(tmp_path / "run", read_record(trained).facts, {"predictions": whole.assign(plain=1.5)})
    stored = (tmp_path / "run" / "predictions.csv").read_text().splitlines()
    assert stored[0] == "part,name,prediction,spread,plain" and stored[1].endswith(",1.5")
    found = read_record(tmp_path / "run").predictions
    assert list(found)[5:8] == ["prediction", "spread", "plain"]
    pd.testing.assert_frame_equal(found.drop(columns="plain"), whole)  # intervals are about the prediction


def test_labels_are_what_the_names_say(trained, faces):
    """A record can be read where its pictures are not: nothing but their names is needed."""
    table, labels = read_record(trained).predictions, build_labels(faces).set_index("name")
    for key in ("age", "gender", "ethnicity"):
        expected = labels.loc[table["name"], key].reset_index(drop=True)
        assert table[key].map(str).tolist() == expected.map(str).tolist(), key
    assert table["ethnicity"].isna().sum() == labels.loc[table["name"], "ethnicity"].isna().sum()


def test_a_picture_without_a_label_is_named():
    lean = pd.DataFrame({"part": "test", "name": ["25_0_0_20170101000000000.jpg", "me.jpg"], "prediction": 20.0})
    with pytest.raises(ValueError, match="1 predicted pictures have no label, such as me.jpg: give the label table"):
        with_labels(lean)
    labels = pd.DataFrame({"name": lean["name"], "age": [25, 31], "gender": "male", "ethnicity": "White"})
    assert with_labels(lean, labels)["age"].tolist() == [25, 31]


def test_a_damaged_record_is_named(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{\"config\": ")
    with pytest.raises(ValueError, match="run/config.json: cannot be used"):
        read_record(tmp_path / "run")


@pytest.mark.parametrize(("name", "content"), [
    ("predictions.csv", b"part,name,prediction\ntest,a.jpg,1\n"),
    ("history.csv", b"epoch\n\x80\n"), ("predictions.csv", b"part,name,spread\n")])
def test_a_damaged_table_is_an_error_that_names_the_record(trained, tmp_path, name, content):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(ValueError, match="run: cannot be used.*a table is damaged, or of other faces"):
        read_record(tmp_path / "run")


def test_records_are_kept_once_without_their_training_rows(trained):
    target = save_record(trained, "mine")
    names = ["config.json", "history.csv", "predictions.csv"]
    assert sorted(file.name for file in target.iterdir()) == names
    whole, kept = read_record(trained), load_record("mine")
    assert "train" in set(whole.predictions["part"]) and "train" not in set(kept.predictions["part"])
    others = whole.predictions[whole.predictions["part"] != "train"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept.predictions, others)  # intervals are the same without them
    assert kept.facts == whole.facts and "train" in kept.facts["mae"]
    assert [entry.name for entry in target.parent.iterdir()] == ["mine"]
    with pytest.raises(FileExistsError, match="never overwritten"):
        save_record(trained, "mine")
    with pytest.raises(FileNotFoundError, match="no record 'other'; there are: mine"):
        load_record("other")
    (target / "history.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"history\.csv"):
        load_record("mine")


def test_long_tables_of_a_record_are_packed(trained, monkeypatch):
    monkeypatch.setattr("agehelpers.training.records.LONG", 100)
    plain = save_record(trained, "packed")
    assert {file.name for file in plain.iterdir()} == {"config.json", "history.csv.gz", "predictions.csv.gz"}
    again, whole = load_record("packed"), read_record(trained)
    pd.testing.assert_frame_equal(again.history, whole.history)
    pd.testing.assert_frame_equal(again.part("test"), whole.part("test").set_axis(again.part("test").index))


def test_a_record_that_cannot_be_kept_leaves_nothing(trained, tmp_path):
    with pytest.raises(FileNotFoundError):
        save_record(tmp_path, "empty")
    assert list(paths.records_folder().iterdir()) == []


@pytest.mark.parametrize("name", ["../elsewhere", "", ".hidden", "a/b"])
def test_the_name_of_a_record_is_plain(name):
    with pytest.raises(ValueError, match="record name"):
        check_record_name(name)


@pytest.mark.parametrize("fact", RUN_FACTS)
def test_a_record_of_an_older_version_is_refused(fact, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "old")
    facts = json.loads((trained / "config.json").read_text())
    del facts[fact]
    paths.write_json(tmp_path / "old" / "config.json", facts)
    with pytest.raises(ValueError, match=rf"old was made by an older version: its config.json has no {fact}; remove "
                                         "the folder and make it anew"):
        read_record(tmp_path / "old")


def test_an_unfinished_run_says_so(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config.json; is the run finished\?"):
        read_record(tmp_path / "run")
    (tmp_path / "run" / "predictions.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no predictions.csv, config.json; is the run finished\?"):
        read_record(tmp_path / "run")


def test_facts_are_written_last(tmp_path, monkeypatch):
    def die(path, value):
        assert (path.parent / "predictions.csv").exists()
        raise OSError("no space left on device")

    name = "3_0_0_20170105000000000.jpg"
    table = pd.DataFrame({"part": ["test"], "name": [name], "age": [3], "prediction": [2.5], "lower_80": [1.0]})
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(paths, "write_json", die)
        write_record(tmp_path, {"config": {}}, {"predictions": table})
    write_record(tmp_path, {"config": {}}, {"predictions": table, "grid": table})
    assert (tmp_path / "predictions.csv").read_text() == f"part,name,prediction\ntest,{name},2.5\n"
    write_record(tmp_path, {"config": {}}, {"predictions": table.assign(age=4)})
    assert (tmp_path / "predictions.csv").read_text() == f"part,name,prediction,age\ntest,{name},2.5,4\n"
    assert (tmp_path / "grid.csv").read_text().startswith("part,name,age,prediction,lower_80\n")


def test_settings_at_their_default_do_not_count(quick, trained):
    facts = read_record(trained).facts
    made = config_from_dict(facts["config"])
    assert not differing_settings(quick, made)
    assert differing_settings(dataclasses.replace(quick, mixup=0.1), made) == ["mixup"]
    for key, same in (("mixup", True), ("epochs", False)):  # missing: its default, which `quick` has for one of them
        lacking = {name: value for name, value in facts["config"].items() if name != key}
        assert differing_settings(quick, config_from_dict(lacking)) == ([] if same else [key])
