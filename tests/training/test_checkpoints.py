"""Checkpoints: tensors with their settings, whole or not at all."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from striped import CONFIG, changed, fresh

from agehelpers.config import load_config
from agehelpers.methods.model import AgeEstimationModel
from agehelpers.training.checkpoints import (
    STATISTICS,
    fused,
    load_checkpoint,
    load_model,
    save_checkpoint,
    slim_tensors,
)


def test_a_model_comes_back_with_its_settings(tmp_path):
    model, file = fresh(), tmp_path / "new" / "best.safetensors"
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    save_checkpoint(file, {**tensors, "optimizer.0.step": torch.ones(1)}, {"config": dataclasses.asdict(CONFIG)})
    found = load_model(file)
    assert found.config == CONFIG and not found.training
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_model_comes_back_with_its_decoding(tmp_path):
    model, file = fresh(), tmp_path / "best.safetensors"
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    prior = [0.4 if age < 30 else 0.1 for age in range(101)]
    outputs = torch.randn(5, 101, generator=torch.Generator().manual_seed(0))
    plain = model.head.ages(outputs)
    for state, tau in (({}, 0), ({"decoding": {"tau": 0.7, "prior": prior}}, 0.7)):  # those of before have none
        save_checkpoint(file, tensors, {"config": dataclasses.asdict(CONFIG)} | state)
        found = load_model(file)
        assert found.head.tau == tau
        model.head.adjust(tau, prior)
        assert torch.equal(found.head.ages(outputs), model.head.ages(outputs))
        assert torch.equal(found.head.ages(outputs), plain) is (tau == 0)
    save_checkpoint(file, tensors, {"config": dataclasses.asdict(CONFIG), "decoding": {"tau": 0.7, "prior": prior[1:]}})
    with pytest.raises(ValueError, match="best.safetensors: cannot be used"):
        load_model(file)


@pytest.mark.parametrize("backbone", ["tiny", "timm/tf_efficientnet_lite0"])
def test_slim_tensors_predict_the_same(backbone, tmp_path):
    model, images = fresh(changed(backbone=backbone, auxiliary=0.3)), torch.rand(8, 3, 48, 48)
    for _ in range(3):
        model.train()(3 * images + 1)  # statistics that are not those of a fresh network
    slim, file = slim_tensors(model.eval()), tmp_path / "slim.safetensors"
    left = {key.removeprefix("model.") for key in slim}
    assert {key.rpartition(".")[2] for key in model.state_dict().keys() - left if "attributes" not in key} == set(
        STATISTICS) and {value.dtype for value in slim.values()} == {torch.float16}
    state = {"config": dataclasses.asdict(changed(backbone=backbone)), "slim": True}
    save_checkpoint(file, slim, state)
    found = load_model(file)
    with torch.inference_mode():
        difference = (found(images) - model(images)).abs().max() / model(images).std()
    assert 0 < difference < 0.02 and found.attributes is None
    save_checkpoint(file, slim, state | {"slim": False})
    with pytest.raises(ValueError, match=r"(?s)slim.safetensors: cannot be used.*running_mean"):
        load_model(file)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    file = tmp_path / "last.safetensors"
    save_checkpoint(file, {"a": torch.ones(2)}, {"epoch": 1})

    def full_disk(stream):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr("agehelpers.paths.os.fsync", full_disk)
        save_checkpoint(file, {"a": torch.zeros(2)}, {"epoch": 2})
    assert load_checkpoint(file)[1] == {"epoch": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.safetensors"]


REPLACE = """
import os, sys
versions = [open(name, "rb").read() for name in sys.argv[1:3]]
while True:
    for version in versions:
        with open(sys.argv[3] + ".part", "wb") as file:
            file.write(version)
        os.replace(sys.argv[3] + ".part", sys.argv[3])
"""


@pytest.mark.fault("a checkpoint read while a training replaces it", "one of the two, whole")
def test_a_checkpoint_that_is_replaced_meanwhile_is_read_as_one_of_the_two(tmp_path):
    names = [str(tmp_path / f"{name}.safetensors") for name in ("one", "two", "best")]
    for number, name in enumerate(names):
        state = {"value": number, "more": "x" * 80 * number}
        save_checkpoint(name, {"value": torch.full((20_000,), float(number))}, state)
    with subprocess.Popen([sys.executable, "-c", REPLACE, *names]) as writer:
        try:
            while load_checkpoint(names[-1])[1]["value"] == 2 and writer.poll() is None:
                pass
            for _ in range(1000):
                tensors, state = load_checkpoint(names[-1])
                assert (tensors["value"] == state["value"]).all()
        finally:
            writer.kill()
    assert state["value"] < 2


def test_damaged_missing_and_foreign_checkpoints_are_named(tmp_path):
    file = tmp_path / "best.safetensors"
    with pytest.raises(FileNotFoundError, match="best.safetensors: no such checkpoint"):
        load_model(file)
    for content in (b"not a checkpoint", b""):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="best.safetensors: cannot be used.*no checkpoint"):
            load_model(file)
    save_file({"weight": torch.ones(2)}, file)
    with pytest.raises(ValueError, match="best.safetensors: cannot be used.*no checkpoint of agehelpers"):
        load_checkpoint(file)


def test_what_cannot_predict_is_refused_with_the_files_name(tmp_path):
    file = tmp_path / "mine.safetensors"
    save_checkpoint(file, {}, {"config": dataclasses.asdict(CONFIG), "param_groups": []})
    with pytest.raises(ValueError, match="mine.safetensors is there to resume a training; predict with best"):
        load_model(file)
    for state in ({}, {"config": dataclasses.asdict(CONFIG) | {"new": 1}}, {"config": dataclasses.asdict(CONFIG)}):
        save_checkpoint(file, {}, state)  # no settings, those of a newer version, no weights
        with pytest.raises(ValueError, match="mine.safetensors: cannot be used"):
            load_model(file)


def unsettled(backbone):
    """A model whose batch normalisations have statistics of their own, and these."""
    model, normalised = AgeEstimationModel(load_config("ci", {"backbone": backbone})).eval(), []
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            normalised.append(module)
    return model, normalised


@pytest.mark.parametrize("backbone", ["resnet18", "timm/tf_efficientnet_lite0", "densenet121"])
def test_normalisation_is_multiplied_into_convolutions(backbone):
    model, normalised = unsettled(backbone)
    faster = fused(model)
    left = [module for module in faster.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(left) < 0.6 * len(normalised) and len(normalised) == sum(
        isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()), "the model itself stays"
    assert len(left) == (62 if backbone == "densenet121" else 0)  # there some come before their convolution
    seen = torch.rand(3, 3, 40, 40)
    with torch.no_grad():
        assert torch.allclose(faster(seen), model(seen), atol=1e-4) and faster(seen).std() > 0


def test_a_network_that_computes_in_another_order_is_not_fused():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.last = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 512)

        def forward(self, images):
            return self.last(self.conv(self.norm(images)).mean((2, 3)))

    model, _ = unsettled("resnet18")
    model.backbone = Odd()
    model.backbone.norm.running_mean.fill_(1)
    assert fused(model) is model
