"""The model: backbone and head together, where it starts, and in what precision it predicts."""

import math

import pytest
import torch
from torch import nn

from agehelpers.config import load_config
from agehelpers.methods import backbones
from agehelpers.methods.attributes import AttributeHead
from agehelpers.methods.model import AgeEstimationModel, build_model, trace_shapes


@pytest.mark.parametrize("kind", ["regression", "distribution"])
def test_an_untrained_model_predicts_near_the_training_median(kind):
    ages = torch.tensor([10.0] * 10 + [30.0] * 11 + [70.0] * 10)
    started, blind = (build_model(load_config("ci", {"head": kind, "start_at_median": start}), ages.numpy()).eval()
                      for start in (True, False))
    with torch.inference_mode():
        found, other = (model.head.ages(model(torch.zeros(1, 3, 40, 40))).item() for model in (started, blind))
    assert abs(found - 30) < 2 < abs(other - 30)
    assert all(torch.equal(a, b) for a, b in zip(started.backbone.parameters(), blind.backbone.parameters(),
                                                 strict=True))  # the seed is the same


def test_the_seed_makes_the_model():
    ages = torch.tensor([30.0]).numpy()
    weights = [next(build_model(load_config("ci", {"seed": seed}), ages).parameters()) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_reference_is_resnet50_with_one_output():
    with torch.device("meta"):  # sizes without numbers
        model = AgeEstimationModel(load_config("reference", {"weights": None}))
    assert isinstance(model.head, nn.Linear) and model.head.weight.shape == (1, 2048) and model.features == 2048
    assert sum(p.numel() for p in model.parameters()) == 23_508_032 + 2049  # ResNet-50 less its last layer


def test_a_checkpoint_is_read_without_fetching_weights(monkeypatch):
    asked, models = [], backbones.torchvision.models
    monkeypatch.setattr(models, "get_model", lambda name, weights=None: asked.append(weights) or models.resnet18())
    config = load_config("scratch", {"weights": "IMAGENET1K_V1"})
    AgeEstimationModel(config, load_weights=False)
    AgeEstimationModel(config)
    assert asked == [None, models.ResNet18_Weights.IMAGENET1K_V1]


def test_the_head_computes_in_single_precision():
    model = AgeEstimationModel(load_config("ci", {"head": "regression"})).eval()
    nn.init.zeros_(model.head.weight)
    nn.init.constant_(model.head.bias, 77.123)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(torch.zeros(2, 3, 40, 40))
    assert outputs.dtype == torch.float32 and outputs[0].item() == pytest.approx(77.123, abs=1e-4)


def test_guesses_of_attributes_stand_beside_the_age():
    config = load_config("ci", {"auxiliary": 0.3})
    torch.manual_seed(0)
    model, images = AgeEstimationModel(config).eval(), torch.rand(2, 3, 40, 40)
    outputs, guesses = model.outputs(images)
    features = model.backbone(images)
    assert torch.equal(model(images), outputs) and torch.equal(outputs, model.head(features))
    assert guesses.shape == (2, 7) and torch.equal(guesses, model.attributes(features))
    plain = AgeEstimationModel(load_config("ci"))
    assert plain.outputs(images)[1] is None and not any("attributes" in key for key in plain.state_dict())
    table = trace_shapes(model, 40)
    assert table["shape"].iloc[-1] == "B x 7"
    assert table["parameters"].sum() == sum(p.numel() for p in model.parameters())


def test_the_loss_of_attributes_by_hand():
    head = AttributeHead(4)
    outputs = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 3.0, 0.0, 0.0, 5.0, 0.0, 0.0]])
    gender, ethnicity = math.log(1 + math.exp(-2)), math.log(1 + 4 * math.exp(-5))
    both = head.loss(outputs, torch.tensor([[0, 4], [1, 2]]))
    assert both.tolist() == pytest.approx([math.log(2) + math.log(5), gender + ethnicity], abs=1e-6)
    unknown = head.loss(outputs, torch.tensor([[-1, -1], [1, -1]]))
    assert unknown.tolist() == pytest.approx([0.0, gender], abs=1e-6)


def test_the_shapes_on_the_way():
    model = AgeEstimationModel(load_config("ci")).train()
    table = trace_shapes(model, 40)
    assert list(table) == ["step", "shape", "parameters"] and model.training
    assert table["shape"].iloc[[0, 1, 4, -2, -1]].tolist() == [
        "B x 3 x 40 x 40", "B x 16 x 40 x 40", "B x 16 x 20 x 20", "B x 64", "B x 101"]
    assert table["parameters"].sum() == sum(p.numel() for p in model.parameters())
    assert not model.head._forward_hooks  # none is left behind
