"""Fine-tuning: a training that starts from a checkpoint, on few pictures of another style and other ages."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps

from agehelpers.config import load_config
from agehelpers.data.drawn import draw_face, draw_faces
from agehelpers.data.faces import prepare_faces
from agehelpers.methods.model import build_model
from agehelpers.methods.table import method_settings
from agehelpers.training.checkpoints import PACKAGED, load_model, start_from
from agehelpers.training.runs import predictions_of, run, train_faces


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """300 drawn faces of another style, their colours reversed, all said to be ten years older."""
    folder, rows = tmp_path_factory.mktemp("others"), []
    for number in range(300):
        rng = np.random.default_rng([9, number])
        age = int(rng.integers(5, 80))
        face: Image.Image = ImageOps.invert(draw_face(age, number % 2, rng))
        face.resize((80, 80)).save(folder / f"{number}.png")
        rows.append((f"{number}.png", age + 10))
    pd.DataFrame(rows, columns=["path", "age"]).to_csv(folder / "ages.csv", index=False)
    return folder / "ages.csv"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """best.safetensors of a training on the usual drawn faces."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGEHELPERS_CACHE", str(folder / "cache"))
        run(load_config("ci", {"faces": str(draw_faces(folder / "faces", 500))}), folder / "run")
    return str(folder / "run" / "best.safetensors")


def settings(others, **more):
    return load_config("ci", {"faces": str(others), "epochs": 4, "lr": 0.03, **more})


def test_a_tuned_network_beats_its_start_and_one_from_scratch(base, others, tmp_path):
    tuned = run(settings(others, start_from=base), tmp_path / "tuned")
    scratch = run(settings(others), tmp_path / "scratch")
    faces = prepare_faces(settings(others))
    untuned = predictions_of(load_model(base), faces, "test")
    error = {name: (rows["prediction"] - rows["age"]).abs().mean() for name, rows in {
        "tuned": tuned.part("test"), "scratch": scratch.part("test"), "untuned": untuned}.items()}
    assert error["tuned"] < 0.85 * error["scratch"] and error["tuned"] < 0.85 * error["untuned"]
    assert tuned.facts["intervals"]["calibration"] == len(tuned.part("calibration"))  # calibrated anew


def test_statistics_of_batch_normalisation_stay(trained, others, tmp_path):
    faces = prepare_faces(settings(others, start_from=str(trained / "best.safetensors"), epochs=1, ema=0.0))
    train_faces(faces, tmp_path)
    before, after = (load_model(folder / "best.safetensors").state_dict() for folder in (trained, tmp_path))
    changed = {key.rpartition(".")[2] for key in before if not torch.equal(before[key], after[key])}
    assert "weight" in changed and not changed & {"running_mean", "running_var", "num_batches_tracked"}


def test_the_packaged_weights_are_a_start():
    config = load_config("laptop", {"auxiliary": 0.5}, method_settings("tuned"))
    model = build_model(dataclasses.replace(config, start_from=None), np.arange(90))
    kept = model.attributes.weight.clone()
    start_from(model, config.start_from)
    packaged = load_model(PACKAGED).eval()
    images = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), packaged(images)) and torch.equal(model.attributes.weight, kept)


def test_what_does_not_fit_is_refused(trained, others, tmp_path):
    base = str(trained / "best.safetensors")
    with pytest.raises(ValueError, match="has backbone=tiny, this training resnet14: use --set backbone=tiny"):
        run(settings(others, start_from=base, backbone="resnet14"), tmp_path / "a")
    with pytest.raises(ValueError, match="has head=distribution, this training regression"):
        run(settings(others, start_from=base, head="regression"), tmp_path / "b")
    with pytest.raises(ValueError, match=r"trained on the same faces by another split \(holdout, 0\)"):
        same = load_model(trained / "best.safetensors").config.faces
        run(load_config("ci", {"faces": same, "start_from": base, "split_seed": 1, "image_size": 24}), tmp_path / "d")
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: no such checkpoint"):
        run(settings(others, start_from=str(tmp_path / "none.safetensors")), tmp_path / "c")
