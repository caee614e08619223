"""Folders of photos: which files are meant, a table of all faces, copies with ages drawn in."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from agehelpers.__main__ import main
from agehelpers.photos import batch, estimator
from agehelpers.photos.align import Aligner, save_aligner
from agehelpers.photos.find import Found
from agehelpers.photos.placement import Placement


@pytest.fixture
def own(trained, tmp_path, monkeypatch):
    """A checkpoint whose estimator finds one face in every photo that is not dark."""
    shutil.copy(trained / "best.safetensors", tmp_path)
    save_aligner(tmp_path / "aligner.safetensors", Aligner(), {})

    def one(photo):
        height, width = photo.shape[:2]
        return [Found(Placement(complex(width, height) / 2, 30 * (1 + 0.3j)), 1.0)] if photo.mean() > 20 else []

    monkeypatch.setattr(estimator.Estimator.__init__, "__defaults__", (tmp_path / "best.safetensors", one))
    return tmp_path / "best.safetensors"


@pytest.fixture
def photos(tmp_path):
    """A folder with photos, one of them dark, a damaged one, a note, a hidden and an inner folder."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    (folder / "inner").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("a.jpg", "inner/a.PNG", ".hidden/b.png"):
        Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8)).resize((200, 150)).save(folder / name)
    Image.new("RGB", (100, 80)).save(folder / "dark.webp")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "note.txt").write_text("hello")
    return folder


def test_folders_are_searched_for_pictures(photos):
    names = [file.relative_to(photos).as_posix() for file in batch.photo_files([photos, photos / "a.jpg"])]
    assert names == ["a.jpg", "broken.png", "dark.webp", "inner/a.PNG"]
    assert batch.photo_files([photos / "note.txt"]) == [photos / "note.txt"]  # named: its row will say what is wrong


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_folder_becomes_a_table_and_copies_with_ages(own, photos, tmp_path, capsys, kind):
    out, copies = tmp_path / f"ages.{kind}", tmp_path / "copies"
    arguments = ["predict", str(photos), "--checkpoint", str(own), "--out", str(out), "--annotate", str(copies)]
    assert main(arguments) == 1  # one file could not be read
    shown = capsys.readouterr().out
    table = pd.read_csv(out) if kind == "csv" else pd.DataFrame(json.loads(out.read_text()))
    assert len(table) == 4 and table["prediction"].notna().tolist() == [True, False, False, True]
    assert "not a picture" in table["reason"][1] and table["reason"][2] == "no face found" and "no face found" in shown
    assert sorted(file.name for file in copies.iterdir()) == ["a-2.jpg", "a.jpg"]
    assert main(["predict", str(photos / "dark.webp"), "--checkpoint", str(own)]) == 0  # an answer, no fault
    before = {file: file.read_bytes() for file in copies.iterdir()}
    main(arguments)
    assert all(file.read_bytes() == content for file, content in before.items())  # nothing is overwritten
    assert len(list(copies.iterdir())) == 4 and not [file for file in copies.iterdir() if file.name.startswith(".")]


def test_what_is_done_is_kept_where_something_stops_the_rest(own, photos, tmp_path, capsys, monkeypatch):
    real = batch.predict_photos

    def stopped(*arguments):
        yield next(real(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "predict_photos", stopped)
    assert main(["predict", str(photos), "--checkpoint", str(own), "--out", str(tmp_path / "ages.csv")]) == 130
    err = capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "ages.csv")) == 1
    assert "stopped after 1 of 4 files" in err and "Interrupted" in err and "checkpoint" not in err


def test_what_is_drawn_is_where_the_face_is(own, photos):
    photo = Image.new("RGB", (400, 300), "navy")
    rows = pd.DataFrame([{"x": 200.0, "y": 150.0, "side": 120.0, "turn": 0.0, "reason": "", "prediction": 31.4,
                          "lower_90": 22.0, "upper_90": 40.6},
                         {"x": 380.0, "y": 280.0, "side": 30.0, "turn": 45.0, "reason": "too small",
                          "prediction": np.nan},
                         {"x": np.nan, "y": np.nan, "side": np.nan, "reason": "no face found"}])
    drawn = np.asarray(batch.annotate(photo, rows)).astype(int)
    yellow = (abs(drawn - [255, 212, 0]).sum(2) < 30)
    assert yellow[85:95, 150:250].any(0).all() and yellow[100:200, 255:265].any(1).all()  # the square's edges
    assert not yellow[100:200, 145:255].any()  # and nothing on the face
    assert (drawn[60:85, 145:255] == 0).all(2).mean() > 0.3  # a dark plate above it, with letters
    assert yellow[60:88, 145:300].sum() > 40 and np.asarray(photo).max() == 128  # a copy was drawn on
    marked = np.asarray(batch.annotate(photo, rows.assign(unlike=[True, None, None]))).astype(int)
    assert (marked != drawn)[:88].any() and (marked == drawn)[110:].all()  # a question mark
    assert (np.asarray(batch.annotate(photo, rows.assign(unlike=[False, None, None]))) == drawn).all()


def test_crops_are_predicted_many_at_once(own, photos, tmp_path, monkeypatch):
    calls = []
    real = estimator.Estimator.ages
    monkeypatch.setattr(estimator.Estimator, "ages",
                        lambda self, crops, views: calls.append(len(crops)) or real(self, crops, views))
    Image.open(photos / "a.jpg").crop((0, 0, 150, 150)).save(photos / "0.jpg")
    for number in range(1, 70):
        shutil.copy(photos / "0.jpg", photos / f"{number}.jpg")
    files = batch.photo_files([photos])
    tables = list(batch.predict_photos(estimator.Estimator(), files, cropped=True))
    assert calls == [1, 32, 32, 6]  # the photos among the last ten files are no crops
    assert [table["photo"].item() for table in tables] == [str(file) for file in files]
