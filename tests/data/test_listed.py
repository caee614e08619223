"""Faces listed in a CSV: labels, clusters of persons, errors, and a run from training to predictions by subgroup."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from agehelpers.__main__ import main
from agehelpers.config import load_config
from agehelpers.data.drawn import draw_face
from agehelpers.data.faces import faces_folder, labels_and_split
from agehelpers.data.labels import (
    build_labels,
    cached_labels,
    read_labels,
    subgroup_columns,
    usable,
    utkface_labels,
    write_labels,
)
from agehelpers.data.splits import leaks, make_split
from agehelpers.evaluation.subgroups import by_subgroup
from agehelpers.training.records import read_record
from agehelpers.training.runs import run


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """90 drawn faces of 16 to 40 years in sub-folders, PNG, two pictures a person, subgroups of other names."""
    folder, rows = tmp_path_factory.mktemp("people"), []
    for number in range(90):
        rng = np.random.default_rng(number)
        age, place = 16 + number % 25, ("north", "south", "")[number % 3]
        path = f"{place or 'elsewhere'}/face {number}.png"
        (folder / path).parent.mkdir(exist_ok=True)
        draw_face(age, number % 2, rng).resize((120, 120)).save(folder / path)
        rows.append((path, age + 0.5, place, "yes" if number % 2 else "no", f"p{number // 2}"))
    pd.DataFrame(rows, columns=["path", "age", "region", "glasses", "person"]).to_csv(
        folder / "people.csv", index=False)
    return folder / "people.csv"


def test_a_table_gives_the_labels(listed, tmp_path):
    table = build_labels(listed)
    assert len(table) == 90 and set(table["verdict"]) == {"ok"} and table["age"].tolist() == [
        16 + int(name.split()[1].split(".")[0]) % 25 for name in table["name"]]  # of 16.5 years: 16
    assert table["gender"].isna().all() and table["region"].isna().sum() == 30
    assert subgroup_columns(table) == ["region", "glasses"]
    assert table.groupby("person")["cluster"].nunique().max() == 1 and table["cluster"].nunique() <= 45
    pd.testing.assert_frame_equal(read_labels(write_labels(table, tmp_path / "table.csv")), table)
    pd.testing.assert_frame_equal(cached_labels(listed), table)


def test_what_is_wrong_is_a_row_or_an_error_that_names_it(listed, tmp_path):
    shutil.copytree(listed.parent, tmp_path / "copy")
    table = tmp_path / "copy" / "mine.csv"
    given = pd.read_csv(listed)
    Image.new("RGB", (50, 90)).save(tmp_path / "copy" / "long.png")
    more = pd.DataFrame({"path": ["long.png", "gone.png", "../copy/north/face 0.png", "x.png"],
                         "age": ["20", "20", "old", "121"]})
    pd.concat([given, more]).to_csv(table, index=False)
    rows = build_labels(table).set_index("name")
    assert rows.loc["gone.png", "reason"] == "no such picture" and "square" in rows.loc["long.png", "reason"]
    assert rows.loc["../copy/north/face 0.png", "reason"] == "no age from 0 to 120 years"
    assert len(usable(rows.reset_index())) == 90
    before = cached_labels(table)
    shutil.copy(table.parent / "north" / "face 0.png", table.parent / "a\u202fb.png")
    pd.DataFrame({"path": ["a\u202fb.png"], "age": [20]}).to_csv(table, index=False)
    assert build_labels(table)["reason"].item() == "a name with characters that cannot be printed"
    text = table.read_text()
    assert main(["index", str(table), "--out", str(table)]) == 1 and table.read_text() == text
    given.head(80).to_csv(table, index=False)
    assert len(before) == 94 and len(cached_labels(table)) == 80  # the cache sees a new table

    def refused(changed, match):
        changed.to_csv(table, index=False)
        with pytest.raises(ValueError, match=match):
            build_labels(table)

    refused(given.rename(columns={"age": "years"}), "mine.csv: no column age; it has .*years")
    refused(pd.concat([given, given.tail(1)]), "mine.csv, row 92: no path, or one that an earlier line has")
    for name in ("cluster", "prediction", "part", "grey", "lower_class"):
        refused(given.rename(columns={"region": name}), f"the column {name} has a name that is taken")
    refused(given.head(0), "mine.csv is empty")
    for text, match in (("path,age\na.png,20\n\nb.png,2,0\n", "mine.csv, row 4: 3 fields, but 2 in the first"),
                        ("path,age,region\na.png,20\n", "mine.csv, row 2: 2 fields, but 3"),
                        ("path,age,age\na.png,20,21\n", "mine.csv: two columns are called 'age'"),
                        ("path,age,region\na.png,20,north\nb.png,24,\"south\nc.png,30,x\n", "not a readable CSV"),
                        ("", "mine.csv: no column age and no column path")):
        table.write_text(text)
        with pytest.raises(ValueError, match=match):
            build_labels(table)
    table.write_bytes(b"\xff\xfe\x00 no table")
    with pytest.raises(ValueError, match=r"mine\.csv: not a readable CSV"):
        build_labels(table)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        build_labels(tmp_path / "none.csv")


def test_a_run_on_a_table_knows_its_subgroups(listed, tmp_path):
    config = load_config("ci", {"faces": str(listed), "epochs": 1, "auxiliary": 0.5})
    assert faces_folder(config) == listed.parent
    labels, split = labels_and_split(config)
    assert leaks(labels, split) == 0 and labels.merge(split).groupby("person")["part"].nunique().max() == 1
    done = run(config, tmp_path / "run")
    test = done.part("test")
    assert list(test)[:7] == ["part", "name", "age", "gender", "ethnicity", "region", "glasses"]
    errors = by_subgroup(test, "region").set_index("region")["n"]
    assert set(errors.index) == {"north", "south", "unknown"} and errors.sum() == len(test)
    again = run(config, tmp_path / "run", resume=True)  # read, not trained
    pd.testing.assert_frame_equal(again.predictions, done.predictions)
    kept = read_record(tmp_path / "run").predictions  # without the table: it is in the record
    pd.testing.assert_frame_equal(kept, done.predictions)


def test_levels_that_look_like_numbers_stay_text_and_persons_stay_together(listed, tmp_path):
    table = pd.read_csv(listed, keep_default_na=False)
    table["skin"] = [("1", "02", "")[number % 3] for number in range(90)]
    table.to_csv(listed.parent / "skin.csv", index=False)
    config = load_config("ci", {"faces": str(listed.parent / "skin.csv"), "epochs": 1})
    done = run(config, tmp_path / "run").predictions
    assert set(done["skin"].dropna()) == {"1", "02"}
    pd.testing.assert_frame_equal(read_record(tmp_path / "run").predictions, done)
    with pytest.raises(ValueError, match="conflicts=median: a cluster holds all pictures of a person"):
        run(dataclasses.replace(config, conflicts="median"), tmp_path / "other")
    table.head(5).to_csv(listed.parent / "few.csv", index=False)
    with pytest.raises(ValueError, match="no picture for .*: a run needs more|fewer than 3 clusters|at least 3"):
        run(load_config("ci", {"faces": str(listed.parent / "few.csv"), "epochs": 1}), tmp_path / "few")


def test_persons_among_utkfaces_own_names_are_kept_together():
    labels = utkface_labels()
    persons = np.random.default_rng(0).integers(0, 9000, len(labels))
    assert leaks(labels.assign(cluster=persons), make_split(labels.assign(cluster=persons))) > 0  # the committed list
    known = labels.assign(cluster=persons, person=persons.astype(str))
    with pytest.warns(UserWarning, match="the split is made by code"):
        assert leaks(known, make_split(known)) == 0


def test_a_table_may_correct_what_a_name_says(listed, tmp_path):
    folder = tmp_path / "named"
    folder.mkdir()
    for number in range(60):
        shutil.copy(listed.parent / pd.read_csv(listed)["path"][number], folder / f"99_0_0_{10**16 + number}.png")
    names = sorted(file.name for file in folder.iterdir())
    pd.DataFrame({"path": names, "age": range(20, 80), "gender": ["woman", "man"] * 30}).to_csv(
        folder / "ages.csv", index=False)
    done = run(load_config("ci", {"faces": str(folder / "ages.csv"), "epochs": 1}), tmp_path / "run")
    assert read_record(tmp_path / "run").predictions["age"].tolist() == done.predictions["age"].tolist() != [99] * 60
    assert set(read_record(tmp_path / "run").predictions["gender"]) == {"woman", "man"}
    pd.DataFrame({"path": names, "age": 99, "gender": ["female", "male"] * 30}).to_csv(folder / "ages.csv", index=False)
    done = run(load_config("ci", {"faces": str(folder / "ages.csv"), "epochs": 1, "seed": 1}), tmp_path / "second")
    pd.testing.assert_frame_equal(read_record(tmp_path / "second").predictions, done.predictions)
