"""Backbones: every network on offer trains at any size, weights are loaded or missed loudly, the rest is refused."""

import copy
import os
import re
import urllib.error
from importlib.resources import files

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from striped import train_a_step
from torch import nn
from torchvision.models.regnet import BlockParams

from agehelpers.config import PROFILES
from agehelpers.methods.backbones import CLASSIFIERS, REFUSED, build_backbone
from agehelpers.methods.networks import OWN, first_three_stages
from agehelpers.training.checkpoints import STATISTICS

FOR_REAL = os.environ.get("AGEHELPERS_TEST_METHODS") == "1"
SMALL = ["tiny", "resnet14", "resnet18", "mobilenet_v3_small", "squeezenet1_0", "googlenet", "efficientnet_b0"]
OFFERED = [*OWN, *sorted(set(CLASSIFIERS) - set(REFUSED))]
# In `make test` one network of each family, the first by name; all of them in `make test-methods`.
FIRSTS = {re.match("efficientnet_v2|swin_v2|[a-z]+", name)[0]: name for name in reversed(OFFERED)}
TRIED = OFFERED if FOR_REAL else [*OWN, *sorted(set(FIRSTS.values()) - set(OWN))]


@pytest.mark.parametrize("name", TRIED)
def test_networks_on_offer_train_at_growing_sizes(name, monkeypatch):
    """Built at 64 px, trained at 48: shapes only (torch's device "meta"), or numbers with AGEHELPERS_TEST_METHODS=1."""
    device = "cpu" if FOR_REAL else "meta"
    plan = BlockParams.from_init_params

    def plan_on_cpu(*args, **kwargs):  # RegNets compute their widths with tensors, which need numbers
        with torch.device("cpu"):
            return plan(*args, **kwargs)

    monkeypatch.setattr(BlockParams, "from_init_params", plan_on_cpu)
    with torch.device(device):
        network, width = build_backbone(name, None, 64)
    for size in (48, 64) if FOR_REAL else (48,):  # building it has tried 64
        train_a_step(network, width, size, device)
    assert {module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)} <= {0.1}


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_train_for_real(name):
    torch.manual_seed(0)
    network, width = build_backbone(name, None, 64)
    assert network.training
    for size in (48, 64):
        train_a_step(network, width, size, "cpu")
    pictures = torch.rand(4, 3, 64, 64)
    with torch.inference_mode():
        features = network.eval()(pictures)
        assert torch.allclose(network(pictures[:1]), features[:1], atol=1e-4)
    assert features.isfinite().all() and features.std(0).max() > 0


@pytest.mark.parametrize(("name", "width"), [("resnet50", 2048), ("squeezenet1_0", 512), ("googlenet", 1024),
                                             ("vgg11", 4096), ("resnet28", 256)])
def test_widths(name, width):
    with torch.device("meta"):
        assert build_backbone(name, None, 64)[1] == width


@pytest.mark.parametrize(("name", "reason"), [
    ("alexnet", "at least 63 px.*vgg11"), ("inception_v3", "at least 75 px.*googlenet"),
    ("maxvit_t", "224 px only.*swin_t"),
    ("vit_b_16", "one size of picture; timm/vit_base_patch16_224 takes all"), ("vit_h_14", "timm/vit_base_patch16_224"),
    ("resnet19", "ours .tiny, plain, ssrnet, resnet14, resnet28.*resnet18.*timm/NAME"),
    ("deeplabv3_resnet50", "segmentation"), ("quantized_resnet18", "quantised"), ("", "resnet18")])
def test_other_names_are_refused_with_the_reason(name, reason):
    with pytest.raises(ValueError, match=f"backbone='{name}'.*{reason}"):
        build_backbone(name, None, 64)


def test_too_small_pictures_are_named_when_the_network_is_built():
    with pytest.raises(ValueError, match="'vgg11' gives no features .* at 16 px.*grow_from=none.*too small"):
        build_backbone("vgg11", None, 16)


def test_unknown_weights_are_named():
    with pytest.raises(ValueError, match="IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT, or none"):
        build_backbone("resnet50", "IMAGENET_V9", 64)
    with pytest.raises(ValueError, match="resnet18 has IMAGENET1K_V1, DEFAULT, or none"):
        build_backbone("resnet14", "IMAGENET1K_V2", 64)
    with pytest.raises(ValueError, match="there are none for tiny; use weights=none"):
        build_backbone("tiny", "IMAGENET1K_V1", 64)


def test_weights_that_cannot_be_had_are_never_replaced(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(FileNotFoundError, match=r"no network.*resnet18-\w+\.pth.*checkpoints.*weights=none"):
        build_backbone("resnet18", "IMAGENET1K_V1", 64)


@pytest.mark.parametrize("name", ["resnet18", "resnet14"])
def test_weights_in_the_cache_are_loaded(name, monkeypatch, tmp_path):
    donor = torchvision.models.resnet18()
    file = tmp_path / "hub" / "checkpoints" / torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(donor.state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network, _ = build_backbone(name, "IMAGENET1K_V1", 64)
    assert torch.equal(network.conv1.weight, donor.conv1.weight)
    assert torch.equal(network.layer3[1].conv2.weight, donor.layer3[1].conv2.weight)


def test_downloaded_weights_are_loaded_and_googlenet_normalises_as_they_expect(monkeypatch):
    donor = torchvision.models.googlenet(init_weights=False)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: donor.state_dict())
    donor.transform_input, pictures = True, torch.rand(2, 3, 64, 64)
    network, _ = build_backbone("googlenet", "IMAGENET1K_V1", 64)
    assert torch.allclose(donor.eval().fc(network.eval()(pictures)), donor(pictures), atol=1e-5)
    without, _ = build_backbone("googlenet", None, 64)
    without.load_state_dict(network.state_dict())
    assert torch.equal(without.eval()(pictures), network(pictures))


@pytest.mark.parametrize(("short", "whole"), [("resnet14", "resnet18"), ("resnet28", "resnet34")])
def test_truncated_networks_are_the_first_three_stages(short, whole):
    network, width = build_backbone(short, None, 64)
    full = torchvision.models.get_model(whole)
    full.layer4, full.fc = nn.Identity(), nn.Identity()
    full.load_state_dict(network.state_dict())
    pictures = torch.rand(2, 3, 64, 64)
    assert width == 256 and torch.equal(network.eval()(pictures), full.eval()(pictures))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_parameters_keep_the_names_of_torchvision(name):
    with torch.device("meta"):
        whole = torchvision.models.get_model(name).state_dict()
        ours = build_backbone(name, None, 224)[0].state_dict()
    assert set(whole) - set(ours) <= {f"{layer}.{key}" for key in ("weight", "bias")
                                      for layer in ("fc", "classifier.1", "classifier.3")}
    assert all(whole[key].shape == tensor.shape for key, tensor in ours.items())


def test_the_packaged_weights_fit_their_backbone():
    prefix, laptop = "model.backbone.", PROFILES["laptop"]
    packaged = load_file(str(files("agehelpers") / "weights" / "laptop.safetensors"))
    state = {key.removeprefix(prefix): value for key, value in packaged.items() if key.startswith(prefix)}
    own = build_backbone(laptop.backbone, None, laptop.image_size)[0].state_dict()
    assert all(own[key].shape == value.shape for key, value in state.items())
    assert {key.rpartition(".")[2] for key in own.keys() - state.keys()} == set(STATISTICS)


def test_the_tiny_network_keeps_its_names():
    assert list(build_backbone("tiny", None, 40)[0].state_dict())[:2] == ["0.weight", "1.weight"]


def test_building_draws_no_random_numbers_beyond_the_weights():
    torch.manual_seed(3)
    first_three_stages(torchvision.models.resnet18())
    expected = torch.rand(1)
    torch.manual_seed(3)
    build_backbone("resnet14", None, 64)
    assert torch.rand(1) == expected


def test_depthwise_convolutions_stay_in_single_precision_on_a_cpu():
    network, _ = build_backbone("mobilenet_v3_small", None, 64)
    network = copy.deepcopy(network)  # as the moving average does
    kinds = {}
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, _, output: kinds.setdefault(m.groups > 1, set()).add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.zeros(2, 3, 64, 64))
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
