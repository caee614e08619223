"""Made scenes: the same at every call, pictures where they are said to be, faces matched with what was found."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from agehelpers.photos.placement import cut


@pytest.fixture
def scenes(monkeypatch):
    """benchmarks/whole_photos.py"""
    import whole_photos

    return whole_photos


def test_layouts_are_the_same_at_every_call_and_do_not_touch(scenes):
    sizes, turns = [], []
    for number in range(120):
        kind, pasted, _ = scenes.layout(number, 50)
        assert (kind, pasted) == scenes.layout(number, 50)[:2]
        assert kind == scenes.KINDS[number % 3] and (len(pasted) == 1 or kind == "several faces")
        for place, one in enumerate(pasted):
            corners = [one.where.place(z) for z in (-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j)]
            assert all(0 <= c.real <= scenes.WIDTH and 0 <= c.imag <= scenes.HEIGHT for c in corners)
            assert all(abs(one.centre - other.centre) > 0.6 * (one.size + other.size) for other in pasted[:place])
            assert (abs(one.turn) > 25) == (number % 8 == 7) and 0 <= one.row < 50
        sizes += [one.size for one in pasted]
        turns += [one.turn for one in pasted]
    assert 40 <= min(sizes) < 60 and 250 < max(sizes) <= 400 and -45 <= min(turns) < -30 and 30 < max(turns) <= 45
    assert len({one.row for number in range(0, 120, 3) for one in scenes.layout(number, 5000)[1]}) == 40


@pytest.mark.parametrize("size", [60, 300])
def test_what_is_pasted_can_be_cut_out_again(scenes, size):
    y, x = np.mgrid[:200, :200]
    crop = np.stack([x, y, np.full_like(x, 80)], 2).astype(np.uint8)
    scene = np.full((scenes.HEIGHT, scenes.WIDTH, 3), 220, np.uint8)
    where = scenes.Pasted(0, size, 20.0, 500 + 380j).where
    scenes.paste(scene, crop, where)
    again = cut(scene, where, 200).astype(int)
    assert np.abs(again[5:195, 5:195] - crop[5:195, 5:195]).max() <= 4
    assert np.abs(again - crop).max() <= 12  # its edge goes on: nothing of the scene in its frame
    assert (scene[:120] == 220).all() and (scene[:, :240] == 220).all()


@pytest.mark.parametrize("kind", ["plain", "photograph"])
def test_backgrounds_fill_the_scene(scenes, kind):
    made = [scenes.background(kind, np.random.default_rng(seed)) for seed in range(3)]
    assert {one.shape for one in made} == {(scenes.HEIGHT, scenes.WIDTH, 3)} and made[0].dtype == np.uint8
    assert not (made[0] == made[1]).all()


def test_faces_are_matched_with_what_was_found(scenes, tmp_path):
    names = [f"{n}.jpg" for n in range(12)]
    for name in names:
        Image.new("RGB", (200, 200), (200, 40, 40)).save(tmp_path / name)

    class Estimator:
        """Finds the first face of a scene, a little beside, and one box where nothing is."""

        def __call__(self, scene):
            first = scenes.layout(self.scene, len(names))[1][0]
            return pd.DataFrame({"x": [first.centre.real + first.size / 4, 5], "y": [first.centre.imag, 5],
                                 "side": [first.size, 9], "prediction": [30.0, 1.0], "unlike": [False, True]})

        def ages(self, crops):
            assert {crop.shape for crop in crops} == {(200, 200, 3)}
            return pd.DataFrame({"prediction": [25.0] * len(crops)})

    finder = Estimator()
    for finder.scene in (0, 2):
        pasted = scenes.layout(finder.scene, len(names))[1]
        table = scenes.measure(range(finder.scene, finder.scene + 1), tmp_path, pd.DataFrame({"name": names}), finder)
        faces = table.dropna(subset="name")
        assert faces["name"].tolist() == [names[one.row] for one in pasted]
        assert faces["found"].tolist() == [True] + [False] * (len(pasted) - 1)
        assert faces["prediction"].iloc[0] == 30 and faces["prediction"].iloc[1:].isna().all()
        assert (faces["original"] == 25).all() and table["name"].isna().sum() == 1  # a false box
        assert table.loc[table["name"].isna(), "unlike"].all() and not faces["unlike"].iloc[0]


@pytest.fixture
def report():
    """benchmarks/scenes_report.py"""
    import scenes_report

    return scenes_report


def made_record(folder, faces):
    """A record of `faces`: (age, size, turn, found, prediction, original, same_size) each, and two false boxes."""
    rows = [{"scene": number, "kind": "plain", "name": f"{age}_0_0_2017010{number:010d}.jpg", "size": size,
             "turn": turn, "found": found, "prediction": prediction, "original": original, "same_size": same,
             "unlike": prediction == 29 if found else None}
            for number, (age, size, turn, found, prediction, original, same) in enumerate(faces)]
    folder.mkdir()
    false = [{"scene": 0, "kind": "plain", "found": False, "unlike": True}] * 2
    pd.DataFrame([*rows, *false]).to_csv(folder / "scenes.csv.gz", index=False)
    (folder / "config.json").write_text('{"scenes": 8, "split": "abc"}')
    return folder


def test_the_report_counts_by_hand(report, tmp_path):
    folder = made_record(tmp_path / "scenes", [
        (30, 100, 0, True, 36, 34, 50), (30, 200, -25, True, 29, 32, 50), (30, 90, 10, False, None, 90, 90),
        (70, 399, 5, True, 64, 70, 50),  # error 6, 0 on the crop
        (30, 60, 0, True, 40, 30, 38),  # small: against the reduced crop, 10 and 8
        (30, 300, 40, True, 50, 30, 30)])  # turned far: 20 and 0
    faces, false, facts = report.read(folder)
    table = report.rows(faces).set_index("which")
    assert false == 2 and facts["scenes"] == 8
    first = table.loc["80 to 400 px, turned up to 25°"]
    assert (first["n"], first["found"]) == (4, 0.75)
    assert first["error"] == pytest.approx((6 + 1 + 6) / 3) and first["own"] == pytest.approx((4 + 2 + 0) / 3)
    assert first["lost"] == pytest.approx(first["error"] - first["own"])
    small, turned = table.loc["40 to 80 px, turned up to 25°"], table.loc["80 to 400 px, turned 25 to 45°"]
    assert (small["n"], small["lost"], turned["n"], turned["lost"]) == (1, 2, 1, 20)
    assert table.loc["of 70+ years", "lost"] == 6
    text, figures = report.page(folder)
    assert "**Found are 75.0 %" in text and "There are 0.25 false boxes a scene" in text
    assert "20.0 % of the faces found, and 100 % of the 2 false boxes" in text
    assert list(figures) == ["whole_photos"] and len(figures["whole_photos"].axes) >= 2


def test_the_page_is_made_from_the_record(report):
    if report.RECORD.exists():
        assert (report.HERE.parent / "docs" / "whole_photos.md").read_text() == report.page()[0]
