"""Which parts of a face make the predicted age higher or lower: Grad-CAM maps, and a check of what they claim."""

from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from agehelpers import paths
from agehelpers.data.augmentation import whole_pictures
from agehelpers.data.decoder import decode
from agehelpers.devices import pick_device
from agehelpers.methods.model import AgeEstimationModel
from agehelpers.training.checkpoints import load_model

POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def load_faces(checkpoint: Path, pictures: Sequence[Path]) -> tuple[AgeEstimationModel, Tensor]:
    """The model and the face crops as it sees them, float32 [N, 3, H, W] in ImageNet's normalisation, on one device.

    ValueError names a picture that cannot be read.
    """
    model = load_model(checkpoint)
    pixels = np.stack([decode(picture, model.config.pixels_size) for picture in pictures])
    device = pick_device(replace(model.config, device="auto"))
    return model.to(device), whole_pictures(pixels, model.config.image_size).to(device)


def expected_ages(model: AgeEstimationModel, images: Tensor) -> Tensor:
    """Predicted ages in years [B], differentiable; mirror images are averaged in where the model's settings say so.

    Of a distribution it is the mean: the gradient of its median, the usual prediction, sees little but one bin.
    """
    seen = torch.cat([images, images.flip(3)]) if model.config.flip_average else images
    outputs = model(seen).unflatten(0, (-1, len(images))).mean(0)
    p = model.head.distribution(outputs)
    return model.head.ages(outputs) if p is None else (p * torch.arange(p.shape[1], device=p.device)).sum(1)


def last_stage(model: AgeEstimationModel, images: Tensor) -> nn.Module:
    """The last step of the backbone, pooling aside, that gives a map [B, C, h, w] of more than one cell.

    Seen as `images` pass, so it knows no names. ValueError if tokens [B, T, C] or convolutions to one cell follow.
    """
    if model.config.front or model.config.head == "stagewise":
        raise ValueError(f"saliency maps are not for front={model.config.front}, head={model.config.head}: what such a "
                         "network sees last does not lie where it lies in the picture, or is but one of its streams")
    stages: list[nn.Module] = []
    pooled: list[object] = []  # a container that ends in pooling hands on the very same tensor

    def watch(module: nn.Module, _: object, output: object) -> None:
        if isinstance(module, POOLS):
            pooled.append(output)
        elif isinstance(output, Tensor) and not any(output is seen for seen in pooled):
            cells = output[0, 0].numel() if output.ndim == 4 else 0
            if cells > 1:
                stages.append(module)
            elif output.ndim == 3 or (cells == 1 and any(isinstance(part, nn.Conv2d) for part in module.modules())):
                stages.clear()

    with ExitStack() as hooks, torch.no_grad():
        for module in model.backbone.modules():
            hooks.enter_context(module.register_forward_hook(watch))
        model.backbone(images)
    if not stages:
        raise ValueError(f"backbone={model.config.backbone!r} does not end in a convolutional stage of more than one "
                         f"cell at {images.shape[3]} pixels, which Grad-CAM needs")
    return stages[-1]


def saliency_maps(model: AgeEstimationModel, images: Tensor) -> np.ndarray:
    """Signed Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391; no ReLU), float32 [N, H, W], of `load_faces`.

    Positive where what the backbone's `last_stage` saw raises the predicted age (`expected_ages`). A cell of that stage
    has the sum over channels of activation x gradient, the gradient averaged over the cells: in years, to first order
    what the prediction owes to the cell. Only the regression head behind global average pooling makes the cells add up
    to the prediction less the head's bias. Behind a softmax they stay far below what hiding that part of the face
    changes: see `deletion`. ImportError without captum, ValueError without such a stage. `model` is left as it was.
    """
    attr = paths.needed("captum.attr", "a saliency map", "captum")
    model, parts = deepcopy(model).eval().requires_grad_(False), []
    cam = attr.LayerGradCam(lambda seen: expected_ages(model, seen), last_stage(model, images[:1]))
    for part in images.split(32):
        cells, *mirrored = cam.attribute(part).detach().split(len(part))
        for other in mirrored:
            cells = cells + other.flip(3)
        parts.append(F.interpolate(cells, images.shape[2:], mode="bilinear")[:, 0].cpu())
    return torch.cat(parts).numpy()


def deletion(model: AgeEstimationModel, images: Tensor, maps: np.ndarray,
             shares: Sequence[float] = (0.05, 0.1, 0.2, 0.3), seed: int = 0) -> pd.DataFrame:
    """Do `maps` [N, H, W] show what the predictions of `images` [N, 3, H, W] depend on? Hide pixels and predict again.

    Hidden pixels are taken from the face blurred by 1/16 of its side: wrinkles go, and no new edge comes. A row for
    each of `shares` of the pixels, means over pictures in years. change_*: absolute change of the prediction with the
    highest |map| hidden. sign_*: prediction with the lowest values hidden less that with the highest hidden; positive
    if signs are right. By the picture's own `map`; by it moved to a `random` place (scattered pixels would be noise,
    worse than any patch); by the map of an `other` picture, which knows where faces are but not this face.
    """
    if maps.shape != (wanted := (len(images), *images.shape[2:])):
        raise ValueError(f"expected maps of shape {list(wanted)}, got {list(maps.shape)}")
    model, side, rng = deepcopy(model).eval(), images.shape[3], np.random.default_rng(seed)
    blurred = gaussian_blur(images, [2 * (side // 8) + 1] * 2, [side / 16] * 2)
    moved = np.stack([np.roll(values, tuple(rng.integers(values.shape)), (0, 1)) for values in maps])

    @torch.inference_mode()
    def without(by: Tensor, count: int) -> Tensor:
        """Predicted ages [N] with the `count` pixels of highest `by` hidden."""
        top = by.flatten(1).topk(count).indices
        hidden = torch.zeros_like(by, dtype=torch.bool).flatten(1).scatter_(1, top, True).view_as(by)
        seen = torch.where(hidden[:, None], blurred, images)
        return torch.cat([expected_ages(model, part) for part in seen.split(64)])

    rows, before = [], without(images[:, 0], 0)
    for share in shares:
        count, row = max(1, round(share * maps[0].size)), {"share": share}
        for name, values in (("map", maps), ("random", moved), ("other", np.roll(maps, 1, 0))):
            by = torch.from_numpy(values).to(images.device)
            row[f"change_{name}"] = float((without(by.abs(), count) - before).abs().mean())
            row[f"sign_{name}"] = float((without(-by, count) - without(by, count)).mean())
        rows.append(row)
    return pd.DataFrame(rows)
