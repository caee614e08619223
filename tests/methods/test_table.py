"""METHODS: each row can be trained, and the profiles are what the rows of their kind say."""

import dataclasses
import os

import numpy as np
import pytest
import torch

from agehelpers.config import PROFILES, Config, load_config
from agehelpers.methods.heads import HEADS
from agehelpers.methods.model import AgeEstimationModel, build_model
from agehelpers.methods.table import METHODS, method_settings
from agehelpers.photos.estimator import Estimator
from agehelpers.photos.onnx import OnnxEstimator, export
from agehelpers.training.checkpoints import load_model, save_checkpoint
from agehelpers.training.trainer import Trainer

# One narrow member of each family of heads, fronts and networks of our own; `make test-methods` takes every method.
EVERY = bool(os.environ.get("AGEHELPERS_TEST_METHODS"))
OWN = {"ssrnet", "plain"}
NARROW = list(METHODS) if EVERY else sorted(
    {*{row.head: name for name, row in METHODS.items()}.values(),
     *{row.settings.get("front"): name for name, row in METHODS.items()}.values(), *OWN})


def narrow(name: str, **settings) -> Config:
    """The method of that name under the `ci` profile, on the tiny network unless it is one of our own."""
    backbone = {} if EVERY or name in OWN else {"backbone": "tiny"}
    return load_config("ci", {"weights": None, **backbone, **settings}, method_settings(name))


@pytest.mark.parametrize("name", METHODS)
def test_forward_backward_and_evaluation_of_one_picture(name):
    config = load_config("laptop", {"weights": None, "image_size": 32, "grow_from": None}, method_settings(name))
    assert config.method == name and METHODS[name].source
    model = AgeEstimationModel(config)
    assert type(model.head) is HEADS[METHODS[name].head]
    outputs, guesses = model.outputs(torch.rand(2, 3, 32, 32))
    loss = model.head.loss(outputs, torch.tensor([20.0, 60.0]))
    assert loss.shape == (2,) and (guesses is None) == (config.auxiliary == 0)
    if guesses is not None:
        loss = loss + model.attributes.loss(guesses, torch.tensor([[0, 1], [1, 4]]))
    loss.mean().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None]
    assert without == [] and all(p.grad.isfinite().all() for p in model.parameters())
    with torch.inference_mode():
        outputs = model.eval()(torch.rand(1, 3, 32, 32))
    assert model.head.ages(outputs).shape == (1,) and model.head.ages(outputs).isfinite().all()
    distribution = model.head.distribution(outputs)
    assert (distribution is None) == (model.head.spread(outputs) is None)
    if distribution is not None:
        assert distribution.shape == (1, 101) and distribution.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", NARROW)
def test_it_memorises_eight_faces(name):
    config = narrow(name)
    torch.manual_seed(0)
    model, ages = AgeEstimationModel(config), torch.linspace(5, 85, 8)
    model.head.start_at(ages)
    side = 64 if name == "ssrnet" else 32  # others are resized
    images = torch.randn(8, 3, side, side)
    rate = (0.002 if config.lr > 0.0005 else config.lr) if EVERY else 0.005 if name == "ssrnet" else 0.02
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(400 if EVERY else 200):
        if model.head.references:
            with torch.no_grad():
                model.head.refer(model.backbone(images).repeat(32, 1), ages.repeat(32))
        optimizer.zero_grad()
        outputs = model(images)
        model.head.loss(outputs, ages).mean().backward()
        optimizer.step()
        if (error := (model.head.ages(outputs.detach()) - ages).abs().mean()) < 2.5:
            break
    assert error < 3


@pytest.mark.parametrize("name", NARROW)
def test_a_step_of_training_and_a_round_trip_through_a_checkpoint(name, tmp_path):
    config = narrow(name, image_size=32)
    model = build_model(config, np.float32([20, 30]))
    trainer = Trainer(model, config, torch.device("cpu"), steps=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer.learn(torch.rand(4, 3, 32, 32), torch.tensor([10.0, 20, 60, 80]))
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    save_checkpoint(tmp_path / "best.safetensors", weights, {"config": dataclasses.asdict(config)})
    kept, picture = load_model(tmp_path / "best.safetensors"), torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(kept(picture), model.eval()(picture), atol=1e-4)


@pytest.mark.parametrize("name", NARROW if EVERY else ["coral", "parts", "ssrnet"])
def test_as_an_onnx_file_it_takes_any_number_of_pictures(name, tmp_path):
    config = narrow(name, image_size=64 if name == "ssrnet" else 32)
    weights = {f"model.{key}": value for key, value in build_model(config, np.float32([20, 60])).state_dict().items()}
    save_checkpoint(tmp_path / "best.safetensors", weights, {"config": dataclasses.asdict(config)})
    export(tmp_path / "best.safetensors", tmp_path / "onnx")
    images = np.random.default_rng(0).normal(0, 1, (3, *2 * [config.image_size], 3)).astype(np.float32)
    ours = OnnxEstimator(tmp_path / "onnx").years(images)
    theirs = Estimator(tmp_path / "best.safetensors").years(images)
    assert list(ours) == list(theirs)
    assert all(np.abs(ours[key] - theirs[key]).max() < 0.01 for key in theirs)  # years


@pytest.mark.parametrize("width", range(8))
def test_every_efficientnet_can_be_built(width):
    with torch.device("meta"):  # sizes without numbers
        settings = {"backbone": f"efficientnet_b{width}", "weights": None}
        model = AgeEstimationModel(load_config("laptop", settings, method_settings("efficientnet")))
    assert model.features == [1280, 1280, 1408, 1536, 1792, 2048, 2304, 2560][width]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_the_same_in_every_profile(profile, name):
    row = method_settings(name)
    config = load_config(profile, row=row)
    assert {key: getattr(config, key) for key in row} == row
    assert {"weights", "optimizer", "schedule", "lr", "ema", "start_at_median", "flip_average"} <= set(row)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="unknown method 'magic'; choose one of reference, distribution, pre"):
        method_settings("magic")


# Profile -> the row of its kind, and what differs from it on purpose.
KINDS = {
    "ci": ("tiny", {}),
    "laptop": ("pretrained", {}),
    "scratch": ("distribution", {}),
    "gpu": ("distribution", {"backbone": "resnet50", "weights": "IMAGENET1K_V2", "lr": 0.02, "weight_decay": 1e-4,
                             "ema": 0.99}),
    "reference": ("reference", {}),
    "start": ("reference", {"backbone": "timm/tf_efficientnet_lite0", "weights": "imagenet-pip"}),
}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_is_what_the_method_of_its_kind_says(profile):
    name, other = KINDS[profile]
    config, row = PROFILES[profile], method_settings(name)
    found = {key: getattr(config, key) for key in row if key != "method"}
    assert found == {key: value for key, value in row.items() if key != "method"} | other
    if not other:  # so a profile by its method is the profile
        assert load_config(profile, row=row) == dataclasses.replace(config, method=name)


def test_the_starting_point_is_not_augmented_under_any_profile():
    row = method_settings("reference")
    for profile in PROFILES:
        config = load_config(profile, {}, row)
        assert not any(getattr(config, key) for key in ("flip", "rotation", "scale", "shift", "brightness", "contrast",
                                                        "erase", "mixup"))
