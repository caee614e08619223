"""Grad-CAM on networks whose answers are known, every head and backbone, and the check by hiding pixels."""

import sys
from copy import deepcopy
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from agehelpers.config import load_config
from agehelpers.evaluation import saliency
from agehelpers.methods.heads import RegressionHead
from agehelpers.methods.model import AgeEstimationModel
from agehelpers.training.checkpoints import save_checkpoint

SIDE = 16


class TopLeft(nn.Module):
    """Everything but the upper left quarter is black to the layers behind."""

    def forward(self, images):
        mask = torch.zeros_like(images)
        mask[:, :, :SIDE // 2, :SIDE // 2] = 1
        return images * mask


def quadrant_model(weight: float) -> AgeEstimationModel:
    """Answers 30 + weight * (mean over all pixels of the positive red values in the upper left quarter)."""
    model = AgeEstimationModel(load_config("ci", {"head": "regression", "flip_average": False}))
    convolution = nn.Conv2d(3, 1, 1, bias=False)
    model.backbone = nn.Sequential(TopLeft(), convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.head = RegressionHead(1)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1))
        model.head.weight.fill_(weight)
        model.head.bias.fill_(30)
    return model


def noise(count: int, side: int = SIDE) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("weight", [500.0, -500.0])
def test_the_map_is_where_the_answer_comes_from_with_its_sign(weight):
    images = noise(35)  # more than a batch
    maps = saliency.saliency_maps(quadrant_model(weight), images)
    assert maps.shape == (35, SIDE, SIDE) and maps.dtype == np.float32
    expected = weight * images[:, 0].clamp(min=0) / SIDE ** 2  # activation x gradient
    expected[:, SIDE // 2:] = expected[:, :, SIDE // 2:] = 0
    np.testing.assert_allclose(maps, expected.numpy(), rtol=1e-5)
    answers = saliency.expected_ages(quadrant_model(weight), images)
    np.testing.assert_allclose(maps.sum((1, 2)), answers.detach().numpy() - 30, rtol=1e-4)


BACKBONES = [("tiny", 24), ("resnet14", 40), ("resnet28", 40), ("resnet18", 40), ("resnet50", 40),
             ("mobilenet_v3_small", 40)]


@pytest.mark.parametrize(("backbone", "side"), BACKBONES)
@pytest.mark.parametrize("head", ["regression", "distribution"])
def test_every_head_and_backbone_gives_maps(backbone, side, head):
    model = AgeEstimationModel(load_config("ci", {"backbone": backbone, "head": head, "image_size": side}))
    maps = saliency.saliency_maps(model, noise(2, side))
    assert maps.shape == (2, side, side) and np.isfinite(maps).all()
    assert all(np.ptp(values) > 0 for values in maps)


def test_the_cells_of_a_regression_add_up_to_the_answer_less_the_bias():
    torch.manual_seed(0)
    model = AgeEstimationModel(load_config("ci", {"backbone": "resnet14", "head": "regression"})).eval()
    images = noise(3, 64)
    maps, cells = saliency.saliency_maps(model, images), 4 * 4
    answers = saliency.expected_ages(model, images) - model.head.bias
    np.testing.assert_allclose(cells * maps.mean((1, 2)), answers.detach().numpy(), rtol=1e-3)


def test_with_mirror_images_in_the_answer_the_mirrored_face_has_the_mirrored_map():
    torch.manual_seed(0)
    model = AgeEstimationModel(load_config("ci", {"flip_average": True}))
    images = noise(2, 40)
    maps, mirrored = (saliency.saliency_maps(model, seen) for seen in (images, images.flip(3)))
    np.testing.assert_allclose(mirrored, maps[:, :, ::-1], rtol=1e-3, atol=1e-3 * np.abs(maps).max())
    model.config = replace(model.config, flip_average=False)
    assert not np.allclose(saliency.saliency_maps(model, images), maps, rtol=1e-3)


@pytest.mark.parametrize("decode", ["median", "mean"])
def test_of_a_distribution_the_mean_is_asked(decode):
    torch.manual_seed(0)
    model = AgeEstimationModel(load_config("ci", {"decode": decode, "flip_average": False})).eval()
    asked, images = saliency.expected_ages(model, noise(2, 24)), noise(2, 24)
    assert asked.tolist() == pytest.approx((model(images).softmax(1) @ torch.arange(101.0)).tolist(), rel=1e-5)


@pytest.mark.parametrize("use", [saliency.saliency_maps, lambda model, images: saliency.deletion(
    model, images, np.ones((2, 24, 24), np.float32), [0.1])])
def test_the_model_is_left_as_it_was(use):
    model = AgeEstimationModel(load_config("ci")).train()
    model.backbone[1].eval()
    model.backbone[0].requires_grad_(False)
    model.head.bias.grad = torch.ones_like(model.head.bias)
    before, modes = deepcopy(model.state_dict()), [module.training for module in model.modules()]
    use(model, noise(2, 24))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {key for key, value in model.named_parameters() if value.grad is not None} == {"head.bias"}
    assert (model.head.bias.grad == 1).all() and not model.backbone[0].weight.requires_grad
    assert not any(module._forward_hooks for module in model.modules())


def test_backbones_without_a_last_map_are_named():
    model = AgeEstimationModel(load_config("ci", {"backbone": "timm/vit_tiny_patch16_224"}))
    with pytest.raises(ValueError, match="backbone='timm/vit_tiny_patch16_224' does not end in a convolutional stage"):
        saliency.saliency_maps(model, noise(1, 32))
    model = AgeEstimationModel(load_config("ci", {"backbone": "resnet18"}))
    with pytest.raises(ValueError, match="backbone='resnet18' .* more than one cell at 32 pixels"):
        saliency.saliency_maps(model, noise(1, 32))


@pytest.mark.parametrize("change", [{"front": "parts"}, {"front": "spatial_transformer"},
                                    {"backbone": "ssrnet", "head": "stagewise"}])
def test_networks_whose_maps_do_not_lie_in_the_picture_are_refused(change):
    model = AgeEstimationModel(load_config("ci", change))
    with pytest.raises(ValueError, match="saliency maps are not for front="):
        saliency.saliency_maps(model, torch.zeros(2, 3, 64, 64))


def test_from_a_checkpoint_and_picture_files(faces, tmp_path):
    torch.manual_seed(0)
    model = AgeEstimationModel(load_config("ci", {"device": "cpu"})).eval()
    file = tmp_path / "best.safetensors"
    save_checkpoint(file, {f"model.{key}": value for key, value in model.state_dict().items()},
                    {"config": asdict(model.config)})
    pictures = [path for path in sorted(faces.glob("[1-9]*_2017*.jpg")) if path.stat().st_size > 2000][:3]
    loaded, images = saliency.load_faces(file, pictures)
    assert images.shape == (3, 3, 40, 40) and not loaded.training
    maps = saliency.saliency_maps(loaded, images)
    assert maps.shape == (3, 40, 40) and maps.dtype == np.float32
    np.testing.assert_array_equal(saliency.saliency_maps(model, images), maps)  # the weights of the checkpoint
    with pytest.raises(ValueError, match=r"missing\.jpg: no such picture"):
        saliency.load_faces(file, [*pictures, tmp_path / "missing.jpg"])


@pytest.mark.parametrize("gone", ["captum", "captum.attr"])
def test_without_captum_the_remedy_is_named(monkeypatch, gone):
    monkeypatch.delitem(sys.modules, "captum.attr", raising=False)
    monkeypatch.setitem(sys.modules, gone, None)
    with pytest.raises(ImportError, match="a saliency map needs captum, which is missing: pip install captum"):
        saliency.saliency_maps(quadrant_model(1.0), noise(1))


@pytest.mark.parametrize("weight", [500.0, -500.0])
def test_hiding_what_a_true_map_shows_changes_the_answer_more_than_hiding_elsewhere(weight):
    model, images = quadrant_model(weight), noise(16)
    maps = saliency.saliency_maps(model, images)
    table = saliency.deletion(model, images, maps, [0.05, 0.1])
    assert list(table) == ["share", "change_map", "sign_map", "change_random", "sign_random", "change_other",
                           "sign_other"]
    assert table["share"].tolist() == [0.05, 0.1]
    assert (table["change_map"] > 2 * table[["change_random", "change_other"]].max(axis=1)).all()
    assert (table["sign_map"] > 5).all()
    wrong = saliency.deletion(model, images, -maps, [0.05, 0.1])
    np.testing.assert_allclose(wrong["sign_map"], -table["sign_map"], rtol=1e-5)
    np.testing.assert_allclose(wrong["change_map"], table["change_map"], rtol=1e-5)


def test_hiding_a_pixel_by_hand():
    model, images = quadrant_model(256.0), torch.zeros(1, 3, SIDE, SIDE)
    images[0, 0, 2, 3] = 1.0  # the answer is 31; blurred by one pixel (a 5 x 5 window), the dot keeps a share of itself
    maps = saliency.saliency_maps(model, images)
    assert np.argwhere(maps).tolist() == [[0, 2, 3]] and maps[0, 2, 3] == pytest.approx(1.0)
    table = saliency.deletion(model, images, maps, [1 / SIDE ** 2])
    kept = (1 / np.exp(-0.5 * np.arange(-2, 3) ** 2).sum()) ** 2
    assert table["change_map"].item() == pytest.approx(1 - kept, rel=1e-4)


def test_the_check_repeats_itself_and_only_places_depend_on_the_seed():
    model, images = quadrant_model(500.0), noise(4)
    maps = saliency.saliency_maps(model, images)
    tables = [saliency.deletion(model, images, maps, [0.1], seed=seed) for seed in (0, 0, 1)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    differs = [key for key in tables[0] if tables[0][key].item() != tables[2][key].item()]
    assert set(differs) <= {"change_random", "sign_random"} and "change_random" in differs
    with pytest.raises(ValueError, match=r"expected maps of shape \[4, 16, 16\], got \[3, 16, 16\]"):
        saliency.deletion(model, images, maps[:3])
