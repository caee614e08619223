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
            assert all(abs(one.centre - other.centre) > (one.size + other.size) / 2 for other in pasted[:place])
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
    assert np.abs(again[20:180, 20:180] - crop[20:180, 20:180]).max() <= 4
    assert (scene[:180] == 220).all() and (scene[:, :300] == 220).all()


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
                                 "side": [first.size, 9], "prediction": [30.0, 1.0]})

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
