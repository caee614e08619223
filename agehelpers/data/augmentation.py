"""Augmentation: each picture changed by random parameters of its own.

`torchvision.transforms.v2` has one random value for a whole batch, so the geometry (flip, rotation, scale, shift in a
single resampling) and the light (brightness, contrast, erasing) are written here, one value a picture. The parameters
of a picture depend on (seed, epoch, picture) alone: neither on the batch that it is in, nor on the order, nor on the
device. The work is done by OpenCV's ``warpAffine`` and ``LUT`` picture by picture on CPU, and by one batched
``grid_sample`` on CUDA.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from agehelpers.config import Config
from agehelpers.data.whole import MEAN, STD, whole_arrays
from agehelpers.devices import to_device

STREAM = 2  # of the random numbers; raised when a picture becomes something else under the same seed
NUMBERS = 12  # uniform random numbers that a picture takes


@dataclass(frozen=True)
class Augmentation:
    """What happens to each picture of a batch of B.

    Attributes
    ----------
    theta : Tensor
        float32 [B, 2, 3], maps output to input coordinates, both from -1 to 1 (``affine_grid``, corners not aligned).
    gain, offset : Tensor
        float32 [B], pixel -> 0.5 + gain * (pixel - 0.5) + offset on the scale 0 to 1.
    box : Tensor
        int64 [B, 4], erased rectangle top, bottom, left, right in output pixels; empty where top == bottom.
    """

    theta: torch.Tensor
    gain: torch.Tensor
    offset: torch.Tensor
    box: torch.Tensor


def random_numbers(seed: int, epoch: int, pictures: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float32 [pictures, NUMBERS]; a row does not depend on how many rows there are.

    Examples
    --------
    >>> bool((random_numbers(0, 3, 5) == random_numbers(0, 3, 9)[:5]).all())
    True
    """
    return np.random.default_rng([seed, epoch, 1]).random((pictures, NUMBERS), dtype=np.float32)


def no_augmentation(pictures: int) -> Augmentation:
    """The unchanged whole picture, `pictures` times."""
    return Augmentation(torch.eye(2, 3).repeat(pictures, 1, 1), torch.ones(pictures), torch.zeros(pictures),
                        torch.zeros(pictures, 4, dtype=torch.int64))


def augmentation(numbers: np.ndarray, config: Config) -> Augmentation:
    """Geometry and light from uniform `numbers` [B, NUMBERS], with the strengths of `config`."""
    u = torch.from_numpy(numbers)
    spread = 2 * u - 1  # uniform in -1 to 1
    angle = spread[:, 0] * math.radians(config.rotation)
    zoom = torch.exp(spread[:, 1] * math.log1p(config.scale))
    mirror = torch.where(u[:, 2] < 0.5, -1.0, 1.0) if config.flip else torch.ones(len(u))
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    # an output point is mirrored, then turned and scaled, then shifted: the face zooms in where zoom > 1
    theta = torch.stack([torch.stack([mirror * cos, -sin, 2 * config.shift * spread[:, 3]], 1),
                         torch.stack([mirror * sin, cos, 2 * config.shift * spread[:, 4]], 1)], 1)
    side = config.image_size
    height, width = (side * (0.15 + 0.25 * u[:, 7])).long(), (side * (0.15 + 0.25 * u[:, 8])).long()
    top, left = (u[:, 9] * (side - height)).long(), (u[:, 10] * (side - width)).long()
    erased = (u[:, 6] < config.erase).long()
    box = torch.stack([top, top + erased * height, left, left + erased * width], 1)
    return Augmentation(theta, 1 + config.contrast * spread[:, 5], config.brightness * spread[:, 11], box)


def _matrices(theta: torch.Tensor, source: int, target: int) -> np.ndarray:
    """`theta` in pixel coordinates (output pixel -> input pixel), float64 [B, 2, 3]."""
    to_unit = torch.tensor([[2 / target, 0, 1 / target - 1], [0, 2 / target, 1 / target - 1], [0, 0, 1]],
                           dtype=torch.float64)
    to_pixel = torch.tensor([[source / 2, 0, source / 2 - 0.5], [0, source / 2, source / 2 - 0.5]], dtype=torch.float64)
    full = torch.cat([theta.double(), torch.tensor([[[0.0, 0, 1]]], dtype=torch.float64).expand(len(theta), 1, 3)], 1)
    return (to_pixel @ full @ to_unit).numpy()


def augment_cpu(pixels: np.ndarray, change: Augmentation, size: int) -> torch.Tensor:
    """uint8 [B, S, S, 3] changed, then ImageNet's normalisation: float32 [B, 3, size, size], channels last in memory.

    Picture by picture, so that all of it happens in the processor's cache: a resampling that repeats the edges, then
    one table from pixel value to normalised light.
    """
    import cv2

    value = np.linspace(0, 1, 256, dtype=np.float32)
    light = ((value - 0.5) * change.gain.numpy()[:, None] + (0.5 + change.offset.numpy()[:, None])).clip(0, 1)
    tables = ((light[:, :, None] - np.array(MEAN)) / np.array(STD)).astype(np.float32)[:, None]  # [B, 1, 256, 3]
    warped, out = np.empty((size, size, 3), np.uint8), np.empty((len(pixels), size, size, 3), np.float32)
    for picture, matrix, table, target in zip(
            pixels, _matrices(change.theta, pixels.shape[1], size), tables, out, strict=True):
        cv2.warpAffine(picture, matrix, (size, size), dst=warped, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                       borderMode=cv2.BORDER_REPLICATE)
        cv2.LUT(warped, table, dst=target)
    return erase(torch.from_numpy(out).permute(0, 3, 1, 2), change)


def augment_batched(pixels: torch.Tensor, change: Augmentation, size: int) -> torch.Tensor:
    """The same on a device, the whole batch in one call."""
    device = pixels.device
    images = pixels.permute(0, 3, 1, 2).float().div_(255)
    grid = F.affine_grid(to_device(change.theta, device), [len(images), 3, size, size], align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gain, offset = (to_device(v, device).view(-1, 1, 1, 1) for v in (change.gain, change.offset))
    mean, std = (to_device(torch.tensor(v), device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return erase(images.sub_(0.5).mul_(gain).add_(0.5 + offset).clamp_(0, 1).sub_(mean).div_(std), change)


def whole_pictures(pixels: np.ndarray, size: int) -> torch.Tensor:
    """uint8 [B, S, S, 3] as a network sees them unchanged: float32 [B, 3, size, size], normalised."""
    return torch.from_numpy(whole_arrays(pixels, size)).permute(0, 3, 1, 2)


def erase(images: torch.Tensor, change: Augmentation) -> torch.Tensor:
    """Normalised images [B, 3, H, W] with the rectangles of `change` at 0, ImageNet's mean colour."""
    if not bool((change.box[:, 0] != change.box[:, 1]).any()):
        return images
    rows, box = torch.arange(images.shape[2]), change.box[:, :, None]
    inside = ((rows >= box[:, 0]) & (rows < box[:, 1]))[:, :, None] & (
        (rows >= box[:, 2]) & (rows < box[:, 3]))[:, None, :]
    return images.masked_fill_(to_device(inside[:, None], images.device), 0.0)
