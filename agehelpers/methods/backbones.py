"""Backbones: networks from pictures [B, 3, H, W] to features [B, C], our own, torchvision's and timm's."""

import importlib
from contextlib import suppress
from functools import partial
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import VisionTransformer

from agehelpers.data.augmentation import MEAN, STD
from agehelpers.methods.networks import OWN, AnySizeViT, Renormalised

CLASSIFIERS = torchvision.models.list_models(module=torchvision.models)
REFUSED = {
    "alexnet": "it needs pictures of at least 63 px, and growing ones begin smaller; vgg11 takes those",
    "inception_v3": "it needs pictures of at least 75 px, and growing ones begin smaller; googlenet takes those",
    "maxvit_t": "its windows fit pictures of 224 px only; swin_t takes all sizes",
}


def offered() -> list[str]:
    """Names for `build_backbone`, our own and torchvision's. All take pictures of any side from 48 px on."""
    return [*OWN, *(name for name in CLASSIFIERS if name not in REFUSED)]


def build_backbone(name: str, weights: str | None, image_size: int) -> tuple[nn.Module, int]:
    """A network without its classifier, from pictures [B, 3, H, W] to features [B, C], and their width C.

    Batch normalisation averages its statistics as in ResNets (momentum 0.1) in every network. MobileNets come with
    0.01, which after a few hundred steps still holds statistics of weights long gone.

    `name` is one of `offered`, or ``timm/NAME``: one of a thousand networks of the optional library timm. `weights`
    are torchvision's (``IMAGENET1K_V1``), a tag of timm's, "pretrained" for timm's default, or None. `image_size` is
    the side of the pictures in pixels; others can be taken too, except by some networks of timm.
    ValueError for an unknown or refused network, unknown weights, or a size that the network cannot take.
    FileNotFoundError where the weights are neither in the cache nor can be downloaded: they are never replaced.

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
    if isinstance(network, VisionTransformer):
        network = AnySizeViT(network, image_size)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return network, feature_width(network, name, image_size)


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
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise ImportError(f"backbone={name!r} needs the library timm: pip install timm") from error
    plain = name.removeprefix("timm/")
    if "." in plain or not timm.is_model(plain):
        raise ValueError(f"backbone={name!r} is not in timm.list_models(); the tag of weights is given as weights=TAG")
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
