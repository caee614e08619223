"""The model: a torchvision backbone whose last layer is replaced by a head that knows how to answer in years.

A head is a module from features [B, C] to raw outputs [B, K], with four methods: ``loss(outputs, ages)``, the loss of
each picture [B]; ``ages(outputs)``, predictions in years [B]; ``spread(outputs)``, their standard deviation in years
[B], or None; ``start_at(ages)``, which sets the biases so that the untrained head answers as the training ages suggest.
"""

from __future__ import annotations

import pandas as pd
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from agehelpers.config import Config

MAX_AGE = 100  # the last bin of a distribution; older people's targets are clipped to it, their errors are not


def _check(outputs: Tensor, width: int, ages: Tensor | None = None) -> None:
    if outputs.ndim != 2 or outputs.shape[1] != width:
        raise ValueError(f"expected outputs of shape [B, {width}], got {list(outputs.shape)}")
    if ages is not None and ages.shape != outputs.shape[:1]:
        raise ValueError(f"expected ages of shape [{outputs.shape[0]}], got {list(ages.shape)}")


class RegressionHead(nn.Linear):
    """One linear output, the age in years; loss: absolute error (L1)."""

    def __init__(self, features: int) -> None:
        super().__init__(features, 1)

    def loss(self, outputs: Tensor, ages: Tensor) -> Tensor:
        """|output - age|, [B]."""
        _check(outputs, 1, ages)
        return F.l1_loss(outputs[:, 0], ages, reduction="none")

    def ages(self, outputs: Tensor) -> Tensor:
        """The output itself, [B]."""
        _check(outputs, 1)
        return outputs[:, 0]

    def spread(self, outputs: Tensor) -> None:
        """A single number has no spread."""

    def start_at(self, ages: Tensor) -> None:
        """The untrained answer is near the median, the constant with the least absolute error."""
        with torch.no_grad():
            self.bias.fill_(ages.median())


class DistributionHead(nn.Linear):
    """Logits over the ages 0, 1, ..., 100; loss: cross-entropy with soft labels, plus L1 of the expectation.

    The soft label of an age is a normal density of width `sigma` about it (DLDL, Gao et al., IEEE TIP 2017), the
    added L1 term that of DLDL-v2 (Gao et al., IJCAI 2018). Decoded by the median, which has the least expected
    absolute error, or by the mean (DEX, Rothe et al., ICCV Workshops 2015).

    Parameters
    ----------
    features : int
        Width C of the backbone's features.
    sigma, l1_weight : float
        Width of the soft labels in years; weight of the L1 term.
    decode : str
        "median" or "mean".
    """

    bins: Tensor

    def __init__(self, features: int, sigma: float = 2.0, l1_weight: float = 0.1, decode: str = "median") -> None:
        super().__init__(features, MAX_AGE + 1)
        self.sigma, self.l1_weight, self.decode = sigma, l1_weight, decode
        self.register_buffer("bins", torch.arange(MAX_AGE + 1, dtype=torch.float32), persistent=False)

    def soft_labels(self, ages: Tensor) -> Tensor:
        """Target distributions [B, 101], each summing to 1."""
        return torch.softmax(-0.5 * ((self.bins - ages.clamp(0, MAX_AGE)[:, None]) / self.sigma) ** 2, 1)

    def loss(self, outputs: Tensor, ages: Tensor) -> Tensor:
        """Cross-entropy with the soft label + l1_weight * |expectation - age|, [B]."""
        _check(outputs, MAX_AGE + 1, ages)
        log_p = F.log_softmax(outputs, 1)
        expected = (log_p.exp() * self.bins).sum(1)
        cross_entropy = -(self.soft_labels(ages) * log_p).sum(1)
        return cross_entropy + self.l1_weight * (expected - ages.clamp(0, MAX_AGE)).abs()

    def ages(self, outputs: Tensor) -> Tensor:
        """Median (each bin k spread evenly over k - 0.5 to k + 0.5) or mean of the distribution, [B]."""
        _check(outputs, MAX_AGE + 1)
        p = F.softmax(outputs, 1)
        if self.decode == "mean":
            return (p * self.bins).sum(1)
        total = p.cumsum(1)
        k = (total < 0.5).sum(1, keepdim=True).clamp(max=MAX_AGE)
        p_k = p.gather(1, k)
        below = total.gather(1, k) - p_k
        inside = ((0.5 - below) / p_k.clamp(min=1e-12)).clamp(0, 1)
        return (k - 0.5 + inside)[:, 0].clamp(0, MAX_AGE)

    def spread(self, outputs: Tensor) -> Tensor:
        """Standard deviation of the distribution in years, [B]."""
        p = F.softmax(outputs, 1)
        mean = (p * self.bins).sum(1, keepdim=True)
        return (p * (self.bins - mean) ** 2).sum(1).sqrt()

    def start_at(self, ages: Tensor) -> None:
        """The untrained answer is the (soft) distribution of the training ages."""
        with torch.no_grad():
            self.bias.copy_(self.soft_labels(ages).mean(0).clamp(min=1e-4).log())


class TinyBackbone(nn.Sequential):
    """Four convolutions for the `ci` profile's drawn faces: [B, 3, H, W] -> [B, 64], seconds on a CPU."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, after in ((3, 16), (16, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
                       nn.MaxPool2d(2)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class AgeEstimationModel(nn.Module):
    """A backbone that gives features [B, C] and a head on them.

    Parameters
    ----------
    config : Config
        ``backbone``: a classification network of `torchvision.models`, or "tiny"; ``weights``: the name of its
        weights there, or None; ``head``.
    load_weights : bool
        False builds the same network without fetching ``weights``, for a checkpoint to fill.
    """

    def __init__(self, config: Config, load_weights: bool = True) -> None:
        super().__init__()
        self.config = config
        self.backbone: nn.Module
        if config.backbone == "tiny":
            if config.weights is not None:
                raise ValueError(f"weights={config.weights!r}: the tiny backbone has none; use weights=none")
            self.backbone, self.features = TinyBackbone(), 64
        else:
            self.backbone, self.features = build_backbone(config.backbone, config.weights if load_weights else None)
        self.head: RegressionHead | DistributionHead = (
            RegressionHead(self.features) if config.head == "regression"
            else DistributionHead(self.features, config.sigma, config.l1_weight, config.decode))

    def forward(self, images: Tensor) -> Tensor:
        """Raw outputs of the head, [B, K] in fp32, for normalised images [B, 3, H, W].

        The head is left out of mixed precision: bf16 numbers near 50 are a quarter of a year apart.
        """
        features = self.backbone(images)
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float())


TRUNCATED = {"resnet14": "resnet18", "resnet28": "resnet34"}  # without the fourth stage: see build_backbone


def build_backbone(name: str, weights: str | None) -> tuple[nn.Module, int]:
    """A torchvision network without its last linear layer, and the width of its features.

    "resnet14" and "resnet28" are the first three stages of resnet18 and resnet34. At 64 pixels the fourth stage works
    on 2 x 2 cells, where a CPU is slow, and holds most of the weights.

    Batch normalisation averages its statistics as in ResNets (momentum 0.1) in every network. MobileNets come with
    0.01, which after a few hundred steps still holds statistics of weights long gone.

    Raises
    ------
    ValueError
        Unknown network or weights.
    FileNotFoundError
        The weights are neither in torch's cache nor can they be downloaded. They are never silently replaced.
    """
    whole = TRUNCATED.get(name, name)
    if whole not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f"backbone={name!r} is not in torchvision.models, nor one of {', '.join(TRUNCATED)}; "
                         "for example resnet18, mobilenet_v3_small")
    chosen = None
    if weights is not None:
        kinds = torchvision.models.get_model_weights(whole)
        if weights not in kinds.__members__:
            raise ValueError(f"weights={weights!r}: {name} has {', '.join(kinds.__members__)}, or none")
        chosen = kinds[weights]
    try:
        network = torchvision.models.get_model(whole, weights=chosen)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a broken download fails its hash
        if chosen is None:
            raise
        folder = torch.hub.get_dir()
        raise FileNotFoundError(
            f"The weights {weights} of {name} could not be had ({error}). Download {chosen.url} on another machine and "
            f"put the file into {folder}/checkpoints/, or train from scratch with weights=none.") from error
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    last, layer = [(key, module) for key, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    parent, _, key = last.rpartition(".")
    setattr(network.get_submodule(parent), key, nn.Identity())
    if name in TRUNCATED:
        network.layer4 = nn.Identity()
        return network, network.layer3[-1].conv2.out_channels
    return network, layer.in_features


def trace_shapes(model: AgeEstimationModel, image_size: int, batch: int = 2) -> pd.DataFrame:
    """What a batch [B, 3, H, W] becomes on its way: columns step, shape (of its output), parameters (of the step)."""
    rows = [("images", f"B x 3 x {image_size} x {image_size}", 0)]

    def note(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            shape = " x ".join(["B", *map(str, output.shape[1:])])
            rows.append((name, shape, sum(p.numel() for p in module.parameters())))

        return module.register_forward_hook(hook)

    handles = [note(f"backbone.{name}", child) for name, child in model.backbone.named_children()]
    handles.append(note("head", model.head))
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(batch, 3, image_size, image_size))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return pd.DataFrame(rows, columns=["step", "shape", "parameters"])
