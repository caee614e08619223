"""ONNX files predict as PyTorch does, for photos and crops, where PyTorch cannot even be imported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from agehelpers.photos.estimator import Estimator
from agehelpers.photos.find import Found
from agehelpers.photos.onnx import OnnxEstimator, export
from agehelpers.photos.placement import Placement
from agehelpers.training.records import read_record

ROOT = Path(__file__).resolve().parent.parent.parent


def one(photo):
    """A detector that finds a face in the middle."""
    return [Found(Placement(complex(photo.shape[1], photo.shape[0]) / 2, 60 * (1 + 0.2j)), 1.0)]


def test_the_same_ages_for_crops_and_photos(exported, trained, faces):
    torch_one, onnx_one = Estimator(exported / "best.safetensors", one), OnnxEstimator(exported / "onnx", one)
    images = np.random.default_rng(0).normal(0, 1, (7, onnx_one.image_size, onnx_one.image_size, 3)).astype(np.float32)
    theirs, ours = (reader.years(images) for reader in (torch_one, onnx_one))
    assert list(ours) == list(theirs) == ["prediction", "spread"]
    for name in ours:
        assert np.abs(ours[name] - theirs[name]).max() < 1e-3 < np.ptp(theirs[name])  # years
    files = [faces / name for name in read_record(trained).part("test")["name"]]
    theirs, ours = (reader(5 * files, cropped=True) for reader in (torch_one, onnx_one))
    assert len(ours) > 32  # more than one batch
    pd.testing.assert_frame_equal(ours, theirs, atol=0.11)  # one decimal is shown
    photo = np.asarray(Image.open(files[0]).convert("RGB").resize((300, 260)))
    theirs, ours = torch_one(photo), onnx_one(photo)
    assert len(ours) == 1 and ours["side"].item() == pytest.approx(2 * abs(60 * (1 + 0.2j)), abs=0.2)
    pd.testing.assert_frame_equal(ours, theirs, atol=0.2)


def test_one_picture_and_an_export_without_an_aligner(trained, exported, faces, tmp_path):
    shutil.copy(trained / "best.safetensors", tmp_path)
    assert [file.name for file in export(tmp_path / "best.safetensors", tmp_path / "onnx")] == ["age.onnx"]
    crop = next(file for file in sorted(faces.glob("*.jpg")) if file.stat().st_size > 1000)
    reader = OnnxEstimator(tmp_path / "onnx")
    assert len(reader(crop, cropped=True)) == 1
    with pytest.raises(FileNotFoundError, match="aligner.onnx: no aligner, without which only crops can be read"):
        reader(crop)


def test_all_of_it_runs_without_torch(exported, trained, faces, tmp_path):
    files = [str(faces / name) for name in read_record(trained).part("test")["name"].head(3)]
    code = """if True:
        import sys
        class Forbidden:
            def find_spec(self, name, *rest):
                if name.split(".")[0] in ("torch", "torchvision", "timm", "torchmetrics", "sklearn"):
                    raise ImportError(f"{name} is forbidden here")
        sys.meta_path.insert(0, Forbidden())
        from agehelpers.__main__ import main
        sys.exit(main(sys.argv[1:]))"""
    arguments = ["predict", *files, "--checkpoint", str(exported / "onnx"), "--out", str(tmp_path / "ages.json")]
    for more, faces_found in ((["--crops"], 3), ([], None)):  # crops, and photos by dlib
        done = subprocess.run([sys.executable, "-c", code, *arguments, *more], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        table = pd.DataFrame(json.loads((tmp_path / "ages.json").read_text()))
        assert len(table) == 3 and (faces_found is None or table["prediction"].notna().sum() == faces_found)
    done = subprocess.run([sys.executable, "-c", code, "predict", files[0]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "torch is forbidden here" in done.stderr  # the other way does need it


def test_what_is_missing_or_broken_is_named(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match="age.onnx: no such file; `agehelpers export` writes it"):
        OnnxEstimator(tmp_path)
    (tmp_path / "age.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match="age.onnx: not a readable ONNX file"):
        OnnxEstimator(tmp_path)
    shutil.copy(exported / "onnx" / "aligner.onnx", tmp_path / "age.onnx")
    with pytest.raises(ValueError, match="age.onnx: .*not written by agehelpers"):
        OnnxEstimator(tmp_path)
