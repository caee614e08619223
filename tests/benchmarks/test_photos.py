"""Sensitivity, others on the same scenes, and fine-tuning: what the scripts count, with made-up networks."""

import importlib
import json

import numpy as np
import pandas as pd
import pytest

from agehelpers import paths, utkface_labels
from agehelpers.photos.find import Found
from agehelpers.photos.placement import Placement


@pytest.fixture
def benchmarks(monkeypatch):
    """A function that gives a module of the folder benchmarks."""
    monkeypatch.syspath_prepend(str(paths.checkout() / "benchmarks"))
    return importlib.import_module


def coloured(side=200):
    y, x = np.mgrid[:side, :side]
    made = np.stack([x, y, np.full_like(x, 90)], 2).astype(np.uint8)
    made[150:160, 150:160] = 140
    return made


def test_each_change_changes_what_it_says_and_its_first_level_nothing(benchmarks):
    sensitivity = benchmarks("sensitivity")
    crop = coloured()
    for change, (_, levels, _) in sensitivity.CHANGES.items():
        same, *others = [sensitivity.changed([crop, crop], change, level) for level in levels]
        away = np.abs(same[0].astype(int) - crop)
        assert (away.mean() < 1 if change == "compression" else away.max() <= 1), change
        assert all(one.shape == crop.shape and one.dtype == np.uint8 for one, _ in others), change
        assert all((one != crop).any() for one, _ in others), change
    assert sensitivity.changed([crop], "turn", 180)[0][10, 10].tolist() == pytest.approx([189, 189, 90], abs=1)
    assert (sensitivity.changed([crop], "covered from below", 0.3)[0][140:] == 128).all()
    assert (sensitivity.changed([crop], "covered from above", 0.3)[0][60:] == crop[60:]).all()
    assert sensitivity.changed([crop], "margin", 0.6)[0][100, 0, 0] == pytest.approx(40, abs=1)
    shifted = [one[100, 100].astype(int) - crop[100, 100] for one in sensitivity.changed([crop] * 8, "shift", 0.3)]
    assert [np.hypot(*one[:2]) for one in shifted] == pytest.approx([30] * 8, abs=1.5)
    assert len({tuple(one) for one in shifted}) == 8, "any direction"
    assert len(sensitivity.no_faces(3)) == 3


def test_the_curves_are_errors_and_flags_by_hand(benchmarks, tmp_path):
    report = benchmarks("scenes_report")
    names = [f"{age}_0_0_2017010{age:010d}.jpg" for age in (20, 30, 40, 50)]
    values = {"blur 0": [21.0, 30, 40, 50], "blur 2": [20.0, 30, 40, 51], "blur 4": [30.0, 40, 30, 40]}
    pd.DataFrame(values).assign(name=names).to_csv(tmp_path / "predictions.csv", index=False)
    pd.DataFrame({"blur 0": [0, 0, 0, 1], "blur 2": [0] * 4, "blur 4": [1] * 4}).assign(name=names).to_csv(
        tmp_path / "flags.csv", index=False)
    (tmp_path / "config.json").write_text("{}")
    table = report.curves(tmp_path)[0]
    assert table[["level", "mae", "flagged"]].to_numpy().tolist() == [[0, 0.25, 0.25], [2, 0.25, 0], [4, 10, 1]]
    assert report.held(table) == "0 to 2"


def test_landmarks_place_a_crop_where_they_usually_lie(benchmarks):
    """A face whose landmarks lie as usual in a turned, smaller square is found from a box that is off."""
    dlib = pytest.importorskip("dlib")
    peers = benchmarks("scenes_peers")
    true = Placement(300 + 260j, 80 * np.exp(0.2j))

    def predictor(view, _):
        """The five landmarks of `true` in the view, which is cut at `seen`."""
        return type("Shape", (), {"parts": lambda self: [dlib.point(round(p.real), round(p.imag)) for p in (
            ((true.place(z) - seen.centre) / seen.half + 1 + 1j) * 100 - 0.5 - 0.5j for z in peers.USUAL)]})()

    picture = np.zeros((600, 600, 3), np.uint8)
    for seen in (Placement(290 + 270j, 70 + 0j), Placement(310 + 250j, 95j + 10)):
        found = peers.by_landmarks(predictor, picture, [seen], rounds=1)[0]
        assert abs(found.centre - true.centre) < 1.5 and abs(found.half / true.half - 1) < 0.03


def test_other_ways_to_place_see_the_same_faces(benchmarks):
    peers = benchmarks("scenes_peers")
    boxes = [Placement(complex(100 + 200 * n, 300), 60 + 0j) for n in range(2)]
    reader = peers.Boxes(lambda _, given: [Placement(box.centre + 5, box.half) for box in given])
    reader.detect = lambda photo: [Found(box, 1.0) for box in boxes]
    placed = reader.places(np.zeros((600, 600, 3), np.uint8))
    assert placed == [Placement(box.centre + 5, box.half) for box in boxes]
    reader.detect = lambda photo: []
    assert reader.places(np.zeros((600, 600, 3), np.uint8)) == []
    told = pd.DataFrame({"name": ["a.jpg", "b.jpg"], "prediction": ["10:20:33.5 40.5:2:nan", None], "seconds": 1.0})
    found = peers.faces_of(told)
    assert found["a.jpg"].fillna(0).to_numpy().tolist() == [[10, 20, 33.5], [40.5, 2, 0]] and found["b.jpg"].empty


def test_ways_are_counted_on_the_faces_that_all_found(benchmarks, tmp_path):
    report = benchmarks("scenes_report")
    rows = [(20, 100, 25, 20, 1), (30, 100, 33, 30, 1), (40, 100, None, 41, 0), (50, 60, 50, 50, 1)]
    pd.DataFrame([{"scene": n, "name": f"{age}_0_0_2017010{n:010d}.jpg", "size": size, "turn": 0, "ours": ours,
                   "ours_found": found, "box": box, "box_found": 1} for n, (age, size, ours, box, found) in
                  enumerate(rows)]).to_csv(tmp_path / "faces.csv", index=False)
    (tmp_path / "config.json").write_text(json.dumps({
        "scenes": 4, "false": {"ours": 2, "box": 0}, "titles": {}, "photos_per_second": {"ours": 1, "box": 2}}))
    made, facts = report.against(tmp_path)
    ours, box = made
    assert (facts["usual"], facts["all"]) == (3, 2)
    assert ours["found"].value == pytest.approx(2 / 3) and box["found"].value == 1 and ours["false"] == 0.5
    assert ours["mae"] == 4 and ours["mae_all"].value == 4 and box["mae_all"].value == 0
    assert box["mae"] == pytest.approx(1 / 3)


def test_tuning_pictures_have_no_copy_among_others(benchmarks, tmp_path):
    tuning = benchmarks("tuning")
    labels = utkface_labels()
    base, pool, measured = tuning.parts(labels)
    assert "Asian" not in set(base["ethnicity"]) and set(pool["ethnicity"]) == set(measured["ethnicity"]) == {"Asian"}
    clusters = [set(part["cluster"]) for part in (base, pool, measured)]
    assert not clusters[0] & clusters[1] and not clusters[0] & clusters[2] and not clusters[1] & clusters[2]
    assert len(measured) == len(clusters[2]) == tuning.MEASURED and len(pool) > max(tuning.SIZES)
    (tmp_path / "a.jpg").write_text("a")
    folder = tuning.folder_of("some", tmp_path, pd.Series(["a.jpg"]))
    assert [file.read_text() for file in folder.iterdir()] == ["a"] and folder == tuning.folder_of("some", tmp_path, [])


def test_what_tuning_gives_by_hand(benchmarks, tmp_path):
    tuning, ages = benchmarks("tuning"), pd.Series({"a": 20.0, "b": 30.0})
    rows = [("not tuned", 0, 0, 26, 22), ("fine-tuned", 300, 0, 21, 31), ("fine-tuned", 300, 1, 23, 29)]
    table = pd.concat([pd.DataFrame({"name": ["a", "b"], "prediction": [a, b], "lower_90": [a - 2, b - 2],
                                     "upper_90": [a + 2, b + 2]}).assign(way=way, size=size, draw=draw)
                       for way, size, draw, a, b in rows])
    before, after = tuning.ways(table, ages)
    assert before["way"] == "not tuned" and before["mae"].value == 7 and before["cover"].tolist() == [0]
    assert after["mae"].value == 1.5 and after["change"].value == -5.5 and after["cover"].tolist() == [1, 0.5]


    folder = tmp_path / "record"
    folder.mkdir()
    names = utkface_labels()["name"].head(2).tolist()
    table.assign(name=table["name"].map(dict(zip("ab", names, strict=True)))).to_csv(
        folder / "predictions.csv.gz", index=False)
    (folder / "config.json").write_text(json.dumps({"subgroup": ["ethnicity", "Asian"], "base": 20000, "measured": 2,
                                                    "sizes": [300], "draws": 2, "recipe": {"epochs": 30}}))
    page = tuning.page(folder)
    assert "| fine-tuned | 300 |" in page and "on a set of 20,000 pictures without any of them. 300 random" in page


def test_pages_are_made_from_the_records(benchmarks):
    tuning = benchmarks("tuning")
    assert (tuning.HERE.parent / "docs" / "own_data.md").read_text() == tuning.page()
