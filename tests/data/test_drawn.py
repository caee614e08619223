"""Drawn faces: deterministic, complete or not there, age in shape and not in colour."""

import hashlib
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict

from agehelpers.data import drawn
from agehelpers.data.drawn import COPIES, FAULTS, MARKER, NEAR_COPIES, draw_face, draw_faces

DIGESTS = [  # age, gender, and a hash of the pixels, as drawn by the first code of this version
    (1, 0, "c0a83ded224e"), (5, 1, "e127c3fb0af7"), (17, 0, "b867bd99d361"), (34, 1, "f6ddfb264d3d"),
    (52, 0, "b65a3079691c"), (71, 1, "2235987c9f87"), (92, 0, "daab20634c04")]
NAME = re.compile(r"(\d+)_([01])_([0-4])_(\d{17})\.jpg\.chip\.jpg")


def test_the_same_arguments_give_the_same_bytes(tmp_path, faces):
    again = draw_faces(tmp_path / "again", count=60)
    files = sorted(file.name for file in faces.iterdir())
    assert files == sorted(file.name for file in again.iterdir())
    assert all((faces / name).read_bytes() == (again / name).read_bytes() for name in files)
    other = draw_faces(tmp_path / "other", count=60, seed=1)
    assert sorted(file.name for file in other.iterdir()) != files


def test_what_is_in_the_folder(faces):
    files = [file for file in faces.iterdir() if file.name != MARKER]
    assert len(files) == 60 + len(COPIES) + NEAR_COPIES + len(FAULTS)
    assert {name for name, _ in FAULTS} <= {file.name for file in files}
    contents = [file.read_bytes() for file in files]
    assert len(contents) - len(set(contents)) == len(COPIES)
    good = [file for file in files if NAME.fullmatch(file.name) and file.name not in dict(FAULTS)]
    with Image.open(good[0]) as picture:
        assert picture.size == (200, 200) and picture.mode == "RGB" and picture.format == "JPEG"
    ages = [int(file.name.split("_")[0]) for file in good]
    assert min(ages) < 10 and max(ages) > 80


@pytest.fixture(scope="module")
def colours_and_ages():
    """Mean and standard deviation of each channel of 260 faces, and their ages in years."""
    ages = np.random.default_rng(0).uniform(1, 92, 260)
    faces = [np.asarray(draw_face(age, number % 2, np.random.default_rng([1, number])), float)
             for number, age in enumerate(ages)]
    return np.stack([np.concatenate([face.mean((0, 1)), face.std((0, 1))]) for face in faces]), ages


@pytest.mark.parametrize("features", [slice(0, 3), slice(0, 6)], ids=["means", "means and spreads"])
def test_the_colours_do_not_tell_the_age(colours_and_ages, features):
    colours, ages = colours_and_ages
    baseline = np.abs(ages - np.median(ages)).mean()
    from_colour = np.abs(cross_val_predict(Ridge(), colours[:, features], ages, cv=5) - ages).mean()
    assert from_colour > 0.9 * baseline


@pytest.mark.parametrize(("age", "gender", "digest"), DIGESTS)
def test_the_pictures_of_this_version_do_not_change(age, gender, digest):
    pixels = draw_face(age, gender, np.random.default_rng(age)).tobytes()
    assert drawn.VERSION == 1 and hashlib.sha256(pixels).hexdigest()[:12] == digest


def test_the_shape_does_change_with_age():
    young, old = (np.asarray(draw_face(age, 0, np.random.default_rng(3)), float) for age in (4, 80))
    same = np.asarray(draw_face(80.5, 0, np.random.default_rng(3)), float)
    assert np.abs(young - old).mean() > 5 * np.abs(old - same).mean()


def test_a_folder_is_drawn_once_and_never_drawn_over(tmp_path):
    folder = draw_faces(tmp_path / "faces", count=3)
    stamp = (folder / MARKER).stat().st_mtime_ns
    (folder / ".DS_Store").write_bytes(b"")  # hidden files do no harm
    assert draw_faces(folder, count=3) == folder and (folder / MARKER).stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError, match="something else"):
        draw_faces(folder, count=4)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="mine holds something else"):
        draw_faces(mine, count=3)
    assert [file.name for file in mine.iterdir()] == ["photo.jpg"]
    with pytest.raises(FileExistsError, match="photo.jpg holds something else"):
        draw_faces(mine / "photo.jpg", count=3)
    with pytest.raises(ValueError, match="count=0"):
        draw_faces(tmp_path / "none", count=0)


@pytest.mark.parametrize("harm", [
    lambda folder: (folder / "face.jpg").unlink(),
    lambda folder: (folder / "25_0_1_20170101000000000.jpg").write_bytes(b"mine"),
    lambda folder: (folder / MARKER).write_text("{"),
])
def test_a_folder_that_was_changed_is_neither_used_nor_touched(tmp_path, harm):
    folder = draw_faces(tmp_path / "faces", count=2)
    harm(folder)
    before = sorted(file.name for file in folder.iterdir())
    with pytest.raises(FileExistsError, match="move it away"):
        draw_faces(folder, count=2)
    assert sorted(file.name for file in folder.iterdir()) == before


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(drawn, "_encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw_faces(tmp_path / "faces", count=2)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_are_no_trouble(tmp_path, monkeypatch):
    real = drawn._contents

    def slow(count, seed):  # somebody else finishes while these are drawn
        monkeypatch.setattr(drawn, "_contents", real)
        draw_faces(tmp_path / "faces", count=2)
        return real(count, seed)

    monkeypatch.setattr(drawn, "_contents", slow)
    folder = draw_faces(tmp_path / "faces", count=2)
    assert json.loads((folder / MARKER).read_text())["count"] == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["faces"]


def test_sample_faces_of_each_version_have_their_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AGEHELPERS_HOME", str(tmp_path))
    monkeypatch.setattr(draw_faces, "__defaults__", (2, 0))
    first = drawn.sample_faces()
    assert first.parent == tmp_path / "data" / "sample_faces"
    monkeypatch.setattr(drawn, "VERSION", drawn.VERSION + 1)
    assert drawn.sample_faces() != first and first.is_dir()


def test_faulty_files_are_faulty_as_listed(faces):
    for name, kind in FAULTS:
        content = (faces / name).read_bytes()
        if kind in ("empty", "text", "truncated"):
            with pytest.raises(OSError), Image.open(io.BytesIO(content)) as picture:
                picture.load()
        else:
            with Image.open(io.BytesIO(content)) as picture:
                picture.load()
                assert picture.mode == {"face": "RGB", "grey": "L"}.get(kind, kind)
                assert picture.format == ("PNG" if kind == "RGBA" else "JPEG")


def test_copies_carry_the_listed_conflicts(faces):
    labels: dict[bytes, list[tuple[int, ...]]] = {}
    for file in sorted(faces.iterdir(), key=lambda file: file.name[-31:]):  # by time stamp: originals, then copies
        if (match := NAME.fullmatch(file.name)) and file.name not in dict(FAULTS):
            labels.setdefault(file.read_bytes(), []).append(tuple(int(part) for part in match.groups()[:3]))
    pairs = [found for found in labels.values() if len(found) > 1]
    found = sorted((b[0] - a[0], (b[1] - a[1]) % 2, (b[2] - a[2]) % 5) for a, b in pairs)
    assert found == sorted(COPIES)
