"""The model: a backbone that turns a picture into features, and a head that turns features into years."""

from contextlib import ExitStack
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from agehelpers.config import Config
from agehelpers.devices import single_precision
from agehelpers.methods.attributes import AttributeHead
from agehelpers.methods.backbones import build_backbone, feature_width
from agehelpers.methods.fronts import add_front
from agehelpers.methods.heads import build_head


class AgeEstimationModel(nn.Module):
    """A backbone that gives features [B, C] and a head on them.

    Parameters
    ----------
    config : Config
        ``backbone``, ``weights``, ``image_size``, ``head`` and the head's settings.
    load_weights : bool
        False builds the same network without fetching ``weights``, for a checkpoint to fill.

    Examples
    --------
    >>> from agehelpers.config import load_config
    >>> AgeEstimationModel(load_config("ci"))(torch.zeros(2, 3, 40, 40)).shape
    torch.Size([2, 101])
    """

    def __init__(self, config: Config, load_weights: bool = True) -> None:
        super().__init__()
        self.config = config
        weights = config.weights if load_weights else None
        network, width = build_backbone(config.backbone, weights, config.image_size)
        self.backbone, self.features = add_front(config.front, network, width)
        if (first := config.at(0).image_size) != config.image_size:  # refused now, not in the first epoch
            feature_width(self.backbone, config.backbone, first)
        self.head = build_head(config, self.features)
        self.attributes = AttributeHead(self.features) if config.auxiliary else None

    def forward(self, images: Tensor) -> Tensor:
        """Raw outputs of the head, [B, K] in fp32, for normalised images [B, 3, H, W]."""
        return self.outputs(images)[0]

    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Raw outputs of the head, and those of the `AttributeHead` where there is one, in fp32.

        Heads are left out of mixed precision: bf16 numbers near 50 are a quarter of a year apart.
        """
        features = self.backbone(images)
        with single_precision(features.device):
            features = features.float()
            return self.head(features), None if self.attributes is None else self.attributes(features)


def build_model(config: Config, training_ages: np.ndarray) -> AgeEstimationModel:
    """The untrained model, seeded, its head's biases set from the training ages [N] where the configuration says so."""
    torch.manual_seed(config.seed)
    model, ages = AgeEstimationModel(config), torch.as_tensor(training_ages, dtype=torch.float32)
    model.head.count_ages(ages)
    if config.start_at_median:
        model.head.start_at(ages)
    return model


def trace_shapes(model: AgeEstimationModel, image_size: int) -> pd.DataFrame:
    """What a batch [B, 3, H, W] becomes on its way: columns step, shape (of its output), parameters (of the step)."""
    rows = [("images", f"B x 3 x {image_size} x {image_size}", 0)]

    def note(name: str, module: nn.Module, _: object, output: Tensor) -> None:
        shape = " x ".join(["B", *map(str, output.shape[1:])])
        rows.append((name, shape, sum(p.numel() for p in module.parameters())))

    steps = {f"backbone.{name}": child for name, child in model.backbone.named_children()}
    steps |= {name: child for name, child in model.named_children() if name != "backbone"}
    with ExitStack() as after, torch.inference_mode():
        for name, child in steps.items():
            after.enter_context(child.register_forward_hook(partial(note, name)))
        after.callback(model.train, model.training)
        model.eval()(torch.zeros(2, 3, image_size, image_size))
    return pd.DataFrame(rows, columns=["step", "shape", "parameters"])
