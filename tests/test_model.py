"""Heads against values derived by hand, the backbone's replaced layer, and weights that cannot be had."""

import math
import urllib.error

import pytest
import torch
import torchvision
from torch import nn

from agehelpers.config import load_config
from agehelpers.model import MAX_AGE, AgeEstimationModel, DistributionHead, RegressionHead


def outputs_for(probabilities: dict[int, float]) -> torch.Tensor:
    """Logits [1, 101] of a distribution given by its masses."""
    p = torch.full((MAX_AGE + 1,), 1e-30)
    for age, mass in probabilities.items():
        p[age] = mass
    return p.log()[None]


def test_regression_is_the_absolute_error():
    head = RegressionHead(4)
    outputs = torch.tensor([[30.0], [20.0]])
    assert head.loss(outputs, torch.tensor([27.5, 26.0])).tolist() == [2.5, 6.0]
    assert head.ages(outputs).tolist() == [30.0, 20.0]
    assert head.spread(outputs) is None


def test_median_and_mean_of_a_two_sided_distribution():
    # 0.6 on 20 and 0.4 on 80: the mean is 44, the median lies 0.5/0.6 of the way through the bin 19.5 to 20.5.
    outputs = outputs_for({20: 0.6, 80: 0.4})
    assert DistributionHead(4, decode="mean").ages(outputs).item() == pytest.approx(44, abs=1e-3)
    assert DistributionHead(4, decode="median").ages(outputs).item() == pytest.approx(19.5 + 0.5 / 0.6, abs=1e-3)
    assert DistributionHead(4).spread(outputs).item() == pytest.approx(60 * math.sqrt(0.24), abs=1e-2)


def test_median_of_a_single_bin_is_its_centre_also_at_the_ends():
    head = DistributionHead(4)
    for age in (1, 50, 99):
        assert head.ages(outputs_for({age: 1.0})).item() == pytest.approx(age, abs=1e-3)
    assert head.ages(outputs_for({0: 1.0})).item() == 0
    assert head.ages(outputs_for({MAX_AGE: 1.0})).item() == pytest.approx(MAX_AGE, abs=1e-3)


def test_soft_labels_are_a_normal_density_and_older_people_are_clipped():
    labels = DistributionHead(4, sigma=2.0).soft_labels(torch.tensor([30.0, 116.0]))
    assert labels.sum(1).tolist() == pytest.approx([1, 1])
    assert (labels[0, 32] / labels[0, 30]).item() == pytest.approx(math.exp(-0.5))
    assert labels[1].argmax().item() == MAX_AGE


def test_distribution_loss_of_an_undecided_head():
    head = DistributionHead(4, sigma=2.0, l1_weight=0.1)
    loss = head.loss(torch.zeros(1, 101), torch.tensor([30.0]))
    assert loss.item() == pytest.approx(math.log(101) + 0.1 * 20, abs=1e-4)  # the mean of 0..100 is 50


def test_the_right_answer_has_the_least_loss():
    head = DistributionHead(4)
    losses = [head.loss(torch.log(head.soft_labels(torch.tensor([guess])) + 1e-9), torch.tensor([40.0])).item()
              for guess in (20.0, 36.0, 40.0, 44.0, 60.0)]
    assert losses.index(min(losses)) == 2


@pytest.mark.parametrize("head", [RegressionHead(4), DistributionHead(4)])
def test_wrong_shapes_are_named(head):
    with pytest.raises(ValueError, match="expected outputs of shape"):
        head.loss(torch.zeros(3, 7), torch.zeros(3))
    with pytest.raises(ValueError, match="expected ages of shape"):
        head.loss(torch.zeros(3, head.out_features), torch.zeros(2))


@pytest.mark.parametrize("kind", ["regression", "distribution"])
def test_an_untrained_model_answers_near_the_training_median(kind):
    model = AgeEstimationModel(load_config("ci", {"head": kind})).eval()
    ages = torch.tensor([10.0] * 10 + [30.0] * 11 + [70.0] * 10)
    model.head.start_at(ages)
    with torch.inference_mode():
        answer = model.head.ages(model(torch.zeros(1, 3, 40, 40))).item()
    assert abs(answer - 30) < 2


def test_the_reference_is_resnet50_with_one_output():
    model = AgeEstimationModel(load_config("reference", {"weights": None}))
    assert isinstance(model.head, nn.Linear) and model.head.weight.shape == (1, 2048)
    with torch.inference_mode():
        assert model.eval().backbone(torch.zeros(2, 3, 64, 64)).shape == (2, 2048)
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 1)
    assert sum(p.numel() for p in model.parameters()) == 23_508_032 + 2049  # ResNet-50 less its last layer


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_other_backbones_lose_their_last_layer_only(backbone):
    model = AgeEstimationModel(load_config("laptop", {"backbone": backbone})).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 101)


def test_unknown_names_are_errors_that_help():
    with pytest.raises(ValueError, match="resnet18"):
        AgeEstimationModel(load_config("laptop", {"backbone": "resnet19"}))
    with pytest.raises(ValueError, match="IMAGENET1K_V2"):
        AgeEstimationModel(load_config("reference", {"weights": "IMAGENET_V9"}))


def test_weights_that_cannot_be_had_are_never_replaced(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(FileNotFoundError, match=r"resnet50-\w+\.pth.*checkpoints.*weights=none"):
        AgeEstimationModel(load_config("reference"))


def test_weights_in_the_cache_are_loaded(monkeypatch, tmp_path):
    donor = torchvision.models.resnet18()
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    file = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(donor.state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = AgeEstimationModel(load_config("laptop", {"weights": "IMAGENET1K_V1"}))
    assert torch.equal(model.backbone.conv1.weight, donor.conv1.weight)


@pytest.mark.parametrize(("short", "whole"), [("resnet14", "resnet18"), ("resnet28", "resnet34")])
def test_truncated_networks_are_the_first_three_stages(short, whole):
    model = AgeEstimationModel(load_config("laptop", {"backbone": short})).eval()
    full = torchvision.models.get_model(whole).eval()
    full.layer4, full.fc = nn.Identity(), nn.Identity()
    full.load_state_dict(model.backbone.state_dict())
    images = torch.rand(2, 3, 64, 64)
    assert model.features == 256 and torch.equal(model.backbone(images), full(images))


def test_statistics_follow_the_weights_in_every_network():
    model = AgeEstimationModel(load_config("laptop", {"backbone": "mobilenet_v3_small"}))
    norms = [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and set(norms) == {0.1}
