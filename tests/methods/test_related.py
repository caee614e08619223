"""What the related works build, against values derived by hand: heads, networks, fronts, references, costs."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from striped import changed, datasets, fresh
from torch import nn
from torch.nn import functional as F

from agehelpers.config import load_config
from agehelpers.methods.cost import cost, overview
from agehelpers.methods.fronts import VIEWS, SpatialTransformer, Views
from agehelpers.methods.heads import DistributionHead, RegressionHead
from agehelpers.methods.heads.compare import CompareHead
from agehelpers.methods.heads.mean_variance import MeanVarianceHead
from agehelpers.methods.heads.stagewise import StagewiseHead
from agehelpers.methods.model import AgeEstimationModel
from agehelpers.methods.networks import SSRNet
from agehelpers.methods.table import METHODS
from agehelpers.training.checkpoints import load_model
from agehelpers.training.loop import train
from agehelpers.training.references import take_references

TWO = torch.full((1, 101), -1e4).index_fill(1, torch.tensor([30, 40]), 0.0)  # 30 or 40 years, half and half


def test_regression_losses_by_hand():
    outputs, ages = torch.tensor([[30.0], [20.0]]), torch.tensor([28.0, 30.0])
    assert RegressionHead(4, "l1").loss(outputs, ages).tolist() == [2, 10]
    assert RegressionHead(4, "l2").loss(outputs, ages).tolist() == [2, 50]
    assert RegressionHead(4, "huber").loss(outputs, ages).tolist() == [2, 5 * (10 - 2.5)]


def test_hard_labels_and_those_of_sord_by_hand():
    outputs, ages = torch.randn(3, 101), torch.tensor([0.0, 33, 100])
    hard = DistributionHead(4, sigma=0.1, l1_weight=0.0)
    assert torch.allclose(hard.loss(outputs, ages), F.cross_entropy(outputs, ages.long(), reduction="none"))
    sord = DistributionHead(4, sigma=1.0, label_shape="laplace").soft_labels(torch.tensor([50.0]))[0]
    total = 1 + 2 * sum(math.exp(-k) for k in range(1, 51))
    assert sord[[48, 50, 51]].tolist() == pytest.approx([math.exp(-2) / total, 1 / total, math.exp(-1) / total])


def test_the_mean_variance_loss_by_hand():
    head = MeanVarianceHead(4)
    assert head.loss(TWO, torch.tensor([30.0])).item() == pytest.approx(math.log(2) + 0.2 * 25 / 2 + 0.05 * 25)
    assert head.loss(TWO, torch.tensor([40.0])).item() == pytest.approx(math.log(2) + 0.2 * 25 / 2 + 0.05 * 25)


def test_stages_by_hand():
    head = StagewiseHead(21)
    outputs = torch.tensor([[0, 1, 0, 0, 0.2, 0, 0.0,  # 1.2 of 3
                             0.5, 0, 0.5, 0, 0, 0, 0.5,  # 1 of 3 * 1.5
                             1, 0, 0, 0.1, 0, 0, 0.0]])  # 0.1 of 3
    years = 101 * (1.2 / 3 + 1 / (3 * 4.5) + 0.1 / (3 * 4.5 * 3))
    assert head.ages(outputs).item() == pytest.approx(years, rel=1e-6)
    assert head.loss(outputs, torch.tensor([50.0])).item() == pytest.approx(abs(years - 50), rel=1e-6)
    assert not list(head.parameters()) and torch.equal(head(outputs), outputs)
    with pytest.raises(ValueError, match="reads the 21 outputs of backbone=ssrnet, not 64 features"):
        StagewiseHead(64)


def test_ssrnet_has_the_parameters_of_the_published_network():
    network = SSRNet()
    statistics = sum(2 * module.num_features for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    assert sum(p.numel() for p in network.parameters()) + statistics == 40_915  # as Keras counts
    outputs = network.eval()(torch.rand(3, 3, 64, 64))
    stages = outputs.view(3, 3, 7)
    assert (stages[..., :3] >= 0).all() and (stages[..., 3:].abs() < 1).all()
    larger = torch.rand(1, 3, 128, 128)
    small = F.interpolate(larger, (64, 64), mode="bilinear", antialias=True)
    assert torch.allclose(network(larger), network(small), atol=1e-6)


def test_a_spatial_transformer_starts_without_a_warp_and_can_make_any():
    front, images = SpatialTransformer(nn.AdaptiveAvgPool2d(2)), torch.rand(2, 3, 16, 16)
    warped, matrices = front.warp(images)
    assert torch.allclose(warped, images, atol=1e-5) and matrices.tolist() == [[[1, 0, 0], [0, 1, 0]]] * 2
    last = front.locate[-1]
    with torch.no_grad():
        last.bias.copy_(torch.tensor([-1.0, 0, 0, 0, 1, 0]))  # a mirror
    assert torch.allclose(front.warp(images)[0], images.flip(3), atol=1e-5)
    front(images).square().mean().backward()
    assert last.weight.grad is not None and last.bias.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", VIEWS)
def test_views_share_one_network_and_lie_side_by_side(kind):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    views, images = Views(network, kind), torch.rand(2, 3, 40, 40)
    crops = views.crops(images)
    assert torch.equal(crops[0], images) and {view.shape for view in crops} == {(2, 3, 40, 40)}
    left, top, right, bottom = (round(40 * end) for end in list(VIEWS[kind].values())[1])
    cut = F.interpolate(images[:, :, top:bottom, left:right], (40, 40), mode="bilinear")
    assert torch.equal(crops[1], cut)
    assert torch.allclose(views(images), torch.cat([view.mean((2, 3)) for view in crops], 1), atol=1e-6)


def test_a_comparison_by_hand():
    head = CompareHead(2)
    head.NEAREST = 2
    features = torch.zeros(256, 2)
    features[:, 1] = -1.0
    features[0], features[1] = torch.tensor([1.0, 0]), torch.tensor([0.6, 0.8])
    ages = torch.full((256,), 90.0)
    ages[:2] = torch.tensor([20.0, 40.0])
    head.refer(features, ages)
    nn.init.zeros_(head.difference.weight)
    nn.init.constant_(head.difference.bias, 3.0)
    w = 1 / (1 + math.exp((0.6 - 1) / 0.1))
    assert head(torch.tensor([[2.0, 0]])).item() == pytest.approx(3 + 20 * w + 40 * (1 - w), rel=1e-5)


def test_a_comparing_head_is_trained_with_references_that_its_checkpoint_carries(tmp_path):
    config = changed(head="compare", epochs=4, lr=0.003, optimizer="adamw", ema=0.5)
    training, validation = datasets(config)
    history = train(fresh(config), training, validation, config, tmp_path)
    kept = load_model(tmp_path / "best.safetensors").eval()
    assert history["val_mae"].min() < np.abs(validation.ages - np.median(training.ages)).mean()
    assert kept.head.known_ages.tolist() == sorted(kept.head.known_ages.tolist())
    assert {kept.head.known_ages.min().item(), kept.head.known_ages.max().item()} == {
        training.ages.min(), training.ages.max()}
    before = kept.head.known.clone()
    take_references(kept, training, config)  # those of its own weights, unaugmented
    assert torch.allclose(kept.head.known, before, atol=1e-5) and before.std(0).max() > 0 and not kept.training
    silent = fresh()
    take_references(silent, None, config)  # a head without references reads no picture


def test_costs_by_hand():
    linear = dataclasses.replace(load_config("ci"), head="regression", image_size=16)
    convolutions = sum(cells**2 * 9 * before * after for cells, before, after in (
        (16, 3, 16), (8, 16, 32), (4, 32, 64), (2, 64, 64)))
    assert cost(linear) == {"parameters": sum(p.numel() for p in AgeEstimationModel(linear).parameters()),
                            "multiply_adds": convolutions + 64}
    wide = cost(load_config("laptop", {"backbone": "vgg16", "weights": "IMAGENET1K_V1", "image_size": 224,
                                       "grow_from": None}))
    assert wide["multiply_adds"] == pytest.approx(15.47e9, rel=0.01)  # known of VGG-16 at 224 px


def test_the_overview_has_each_method_and_each_related_work(monkeypatch):
    monkeypatch.setattr("agehelpers.methods.cost.METHODS", {name: METHODS[name] for name in ("ssrnet", "parts", "l1")})
    table = overview(64).set_index("method")
    assert table["network"].tolist() == ["ssrnet", "parts + timm/tf_efficientnet_lite0", "timm/tf_efficientnet_lite0"]
    assert table.loc["ssrnet", ["head", "parameters"]].tolist() == ["stagewise", 40_531]
    assert table.loc["parts", "multiply_adds"] > 3.9 * table.loc["l1", "multiply_adds"]
    assert table["source"].str.len().min() > 10
    assert sum(method.cited != "" for method in METHODS.values()) == 11
