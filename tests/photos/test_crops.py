"""Ages of crops: what the checkpoint says of them, and rows that say what is wrong with a file."""

import io
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import ExifTags, Image

from agehelpers.data.decoder import open_picture
from agehelpers.photos.estimator import PACKAGED, Estimator
from agehelpers.training.checkpoints import load_checkpoint, save_checkpoint
from agehelpers.training.records import read_record


def predicted(checkpoint, files):
    """The table of crops without what only photos have."""
    table = Estimator(checkpoint)(files, cropped=True)
    return table.drop(columns=["face", "x", "y", "side", "turn"])


@pytest.fixture
def best(trained):
    return trained / "best.safetensors"


@pytest.fixture
def crop(trained, faces):
    """A drawn face of the test."""
    return faces / read_record(trained).part("test")["name"].iloc[0]


def test_predictions_are_those_of_the_record(trained, best, faces):
    record = read_record(trained).part("test")
    found = predicted(best, [faces / name for name in record["name"]])
    assert list(found) == ["photo", "reason", *record.columns[5:]]  # prediction, spread, lower_80, upper_80, ...
    assert found["photo"].tolist() == [str(faces / name) for name in record["name"]]
    difference = found[["prediction", "spread"]].to_numpy() - record[["prediction", "spread"]].to_numpy()
    assert np.abs(difference).max() < 0.0511  # one decimal is shown
    ends = list(record.columns[7:])
    assert np.abs(found[ends].to_numpy() - record[ends].to_numpy()).max() < 0.6  # from the rounded spread


def test_a_prediction_does_not_depend_on_the_others(best, crop, faces):
    several = [*sorted(faces.glob("*.jpg.chip.jpg"))[20:24], crop]
    several = [file for file in several if file.stat().st_size > 1000]
    alone = predicted(best, [crop])
    assert predicted(best, several).tail(1).reset_index(drop=True).equals(alone)


def test_the_packaged_weights_are_calibrated(crop):
    found = predicted(PACKAGED, [crop]).iloc[0]
    assert 0 <= found["lower_95"] <= found["lower_90"] <= found["prediction"] <= found["upper_90"] < 120
    reach = load_checkpoint(PACKAGED)[1]["intervals"]["80"]
    assert found["upper_80"] - found["prediction"] == pytest.approx(found["spread"] * reach, abs=0.011)


def test_a_checkpoint_without_calibration_gives_no_intervals(best, crop, tmp_path):
    tensors, state = load_checkpoint(best)
    del state["intervals"]
    save_checkpoint(tmp_path / "plain.safetensors", tensors, state)
    assert list(predicted(tmp_path / "plain.safetensors", [crop])) == ["photo", "reason", "prediction", "spread"]


def test_a_checkpoint_made_on_a_gpu_predicts_on_a_cpu_in_single_precision(best, crop, tmp_path, monkeypatch):
    tensors, state = load_checkpoint(best)
    state["config"] |= {"device": "cuda", "precision": "fp16"}
    save_checkpoint(tmp_path / "gpu.safetensors", tensors, state)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pd.testing.assert_frame_equal(predicted(tmp_path / "gpu.safetensors", [crop]), predicted(best, [crop]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_lies_on_its_side_is_turned(best, crop, tmp_path, orientation):
    """Rotated pixels with the tag that says so are predicted as the upright picture, both saved without loss."""
    turned = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
              7: "TRANSVERSE", 8: "ROTATE_270"}  # how a camera's picture lies, the inverse of what is to be done
    upright = Image.open(crop).convert("RGB").crop((0, 0, 190, 200))
    lying = upright.transpose(Image.Transpose[turned[orientation]]) if orientation in turned else upright
    tag = Image.Exif()
    tag[ExifTags.Base.Orientation] = orientation
    upright.save(tmp_path / "upright.png")
    lying.save(tmp_path / "lying.png", exif=tag)
    found = predicted(best, [tmp_path / "upright.png", tmp_path / "lying.png"]).drop(columns="photo")
    assert found.loc[0].equals(found.loc[1])
    if orientation in (3, 4, 6):  # where the tag is not said, the picture is another one
        lying.save(tmp_path / "untagged.png")
        seen = [np.asarray(open_picture(tmp_path / f"{name}.png")) for name in ("upright", "lying", "untagged")]
        assert np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[0], seen[2])


def encoded(picture: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
BAD = {
    "EPS": (encoded(NOISE, "EPS"), "not a picture"),  # PIL would start Ghostscript
    "PDF": (encoded(NOISE, "PDF"), "not a picture"),
    "text": (b"not a picture at all", "not a picture"),
    "nothing": (b"", "empty file"),
    "truncated": (encoded(NOISE, "JPEG")[:700], "truncated"),
    "far from square": (encoded(Image.new("RGB", (4000, 3000)), "JPEG"), "not a square crop of a face"),
    "black": (encoded(Image.new("RGB", (200, 200)), "JPEG"), "blank: a picture of one colour"),
    "white": (encoded(Image.new("L", (200, 200), 255), "PNG"), "blank: a picture of one colour"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_crop_is_an_error_that_names_the_file(kind, best, crop, tmp_path, monkeypatch):
    def started(*given, **options):
        raise AssertionError(f"a program was started: {given}")

    monkeypatch.setattr(subprocess, "Popen", started)
    content, reason = BAD[kind]
    file = tmp_path / "face.jpg"
    file.write_bytes(content)
    found = predicted(best, [crop, file])
    assert found["reason"][0] == "" and found["prediction"].notna().tolist() == [True, False]  # the good one is kept
    said = found["reason"][1]
    assert reason in said and said.startswith(f"{file}: ") and "\n" not in said


def test_a_missing_file_and_a_folder_are_named(best, tmp_path):
    for file, reason in ((tmp_path / "none.jpg", "no such picture"), (tmp_path, "a folder, not a picture")):
        assert predicted(best, [file])["reason"].item().startswith(f"{file}: {reason}")
    with pytest.raises(FileNotFoundError, match="none.safetensors: no such checkpoint"):
        predicted(tmp_path / "none.safetensors", [tmp_path / "none.jpg"])
