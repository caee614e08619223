"""Batches from decoded pixels, each picture augmented by its own random draw.

`torchvision.transforms.v2` draws one random value for a whole batch, so the geometry (flip, rotation, scale, shift in
a single resampling) and the light (brightness, contrast, erasing) are drawn here, one value a picture. The draws are
the same on every device; the work is done by OpenCV's ``warpAffine`` and ``LUT`` picture by picture on CPU, and by one
batched ``grid_sample`` on CUDA.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from agehelpers.config import Config

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's weights expect


def step_seed(seed: int, epoch: int, step: int) -> int:
    """One seed for one step, so that nothing random has to be stored for an exact resume."""
    return int(np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class Draw:
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


def draw_augmentation(count: int, config: Config, generator: torch.Generator | None) -> Draw:
    """Random geometry and light for `count` pictures; without a generator the unchanged whole picture."""
    theta = torch.eye(2, 3).repeat(count, 1, 1)
    box = torch.zeros(count, 4, dtype=torch.int64)
    if generator is None:
        return Draw(theta, torch.ones(count), torch.zeros(count), box)
    u = torch.rand(count, 11, generator=generator)
    spread = 2 * u - 1  # uniform in -1 to 1
    angle = spread[:, 0] * math.radians(config.rotation)
    zoom = torch.exp(spread[:, 1] * math.log1p(config.scale))
    mirror = torch.where(u[:, 2] < 0.5, -1.0, 1.0) if config.flip else torch.ones(count)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    # an output point is mirrored, then turned and scaled, then shifted: the face zooms in where zoom > 1
    theta[:, 0] = torch.stack([mirror * cos, -sin, 2 * config.shift * spread[:, 3]], 1)
    theta[:, 1] = torch.stack([mirror * sin, cos, 2 * config.shift * spread[:, 4]], 1)
    side = config.image_size
    height, width = (side * (0.15 + 0.25 * u[:, 7])).long(), (side * (0.15 + 0.25 * u[:, 8])).long()
    top, left = (u[:, 9] * (side - height)).long(), (u[:, 10] * (side - width)).long()
    erased = (u[:, 6] < config.erase).long()
    box = torch.stack([top, top + erased * height, left, left + erased * width], 1)
    return Draw(theta, 1 + config.contrast * spread[:, 5], config.brightness * (2 * torch.rand(
        count, generator=generator) - 1), box)


def _matrices(theta: torch.Tensor, source: int, target: int) -> np.ndarray:
    """`theta` in pixel coordinates (output pixel -> input pixel), float64 [B, 2, 3]."""
    to_unit = torch.tensor([[2 / target, 0, 1 / target - 1], [0, 2 / target, 1 / target - 1], [0, 0, 1]],
                           dtype=torch.float64)
    to_pixel = torch.tensor([[source / 2, 0, source / 2 - 0.5], [0, source / 2, source / 2 - 0.5]],
                            dtype=torch.float64)
    full = torch.cat([theta.double(), torch.tensor([[[0.0, 0, 1]]], dtype=torch.float64).expand(len(theta), 1, 3)], 1)
    return (to_pixel @ full @ to_unit).numpy()


def augment_cpu(pixels: np.ndarray, draw: Draw, size: int) -> torch.Tensor:
    """uint8 [B, S, S, 3] as drawn, then ImageNet's normalisation: float32 [B, 3, size, size] (channels last in memory).

    Picture by picture, so that all of it happens in the processor's cache: a resampling that repeats the edges, then
    one table from pixel value to normalised light.
    """
    import cv2

    value = np.linspace(0, 1, 256, dtype=np.float32)
    light = ((value - 0.5) * draw.gain.numpy()[:, None] + (0.5 + draw.offset.numpy()[:, None])).clip(0, 1)
    tables = ((light[:, :, None] - np.array(MEAN)) / np.array(STD)).astype(np.float32)[:, None]  # [B, 1, 256, 3]
    warped, out = np.empty((size, size, 3), np.uint8), np.empty((len(pixels), size, size, 3), np.float32)
    for picture, matrix, table, target in zip(
            pixels, _matrices(draw.theta, pixels.shape[1], size), tables, out, strict=True):
        cv2.warpAffine(picture, matrix, (size, size), dst=warped, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                       borderMode=cv2.BORDER_REPLICATE)
        cv2.LUT(warped, table, dst=target)
    return erase(torch.from_numpy(out).permute(0, 3, 1, 2), draw)


def augment_batched(pixels: torch.Tensor, draw: Draw, size: int) -> torch.Tensor:
    """The same on a device, the whole batch in one call."""
    device = pixels.device
    images = pixels.permute(0, 3, 1, 2).float().div_(255)
    grid = F.affine_grid(to_device(draw.theta, device), [len(images), 3, size, size], align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gain, offset = (to_device(v, device).view(-1, 1, 1, 1) for v in (draw.gain, draw.offset))
    mean, std = (to_device(torch.tensor(v), device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return erase(images.sub_(0.5).mul_(gain).add_(0.5 + offset).clamp_(0, 1).sub_(mean).div_(std), draw)


def erase(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Normalised images [B, 3, H, W] with the drawn rectangles at 0, ImageNet's mean colour."""
    if not bool((draw.box[:, 0] != draw.box[:, 1]).any()):
        return images
    rows, box = torch.arange(images.shape[2]), draw.box[:, :, None]
    inside = ((rows >= box[:, 0]) & (rows < box[:, 1]))[:, :, None] & (
        (rows >= box[:, 2]) & (rows < box[:, 3]))[:, None, :]
    return images.masked_fill_(to_device(inside[:, None], images.device), 0.0)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on `device`; a copy to a card does not wait for what the card is doing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@dataclass(frozen=True)
class Feeder:
    """Pictures and ages of one part of a split, as batches on a device.

    Attributes
    ----------
    pixels : ndarray or Tensor
        uint8 [M, S, S, 3]: the memory map, or the same array on the card if it has room.
    rows : ndarray
        int64 [N], rows of `pixels` that belong to this part.
    ages : ndarray
        float32 [N], years.
    """

    pixels: np.ndarray | torch.Tensor
    rows: np.ndarray
    ages: np.ndarray
    config: Config
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.rows)

    def steps(self) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return math.ceil(len(self) / self.config.batch_size)

    def gather(self, chosen: np.ndarray, generator: torch.Generator | None, config: Config | None = None
               ) -> torch.Tensor:
        """Pictures `chosen` (positions in this part), augmented under `generator`: float32 [B, 3, H, W].

        `config`: that of the moment, by default the feeder's.
        """
        config = config or self.config
        draw, rows = draw_augmentation(len(chosen), config, generator), self.rows[chosen]
        if self.device.type == "cpu":
            return augment_cpu(np.asarray(self.pixels)[rows], draw, config.image_size)
        if isinstance(self.pixels, torch.Tensor):
            pixels = self.pixels[to_device(torch.from_numpy(rows), self.device)]
        else:
            pixels = to_device(torch.from_numpy(self.pixels[rows]), self.device)
        return augment_batched(pixels, draw, config.image_size)

    def training(self, epoch: int, first: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Shuffled, augmented batches of an epoch from step `first` on.

        Order and augmentation depend on seed, epoch and step alone, so that a resumed epoch goes on exactly.
        """
        order, now = np.random.default_rng([self.config.seed, epoch]).permutation(len(self)), self.config.at(epoch)
        for step in range(first, self.steps()):
            chosen = order[step * self.config.batch_size:(step + 1) * self.config.batch_size]
            generator = torch.Generator().manual_seed(step_seed(self.config.seed, epoch, step))
            images = self.gather(chosen, generator, now)
            yield images, to_device(torch.from_numpy(self.ages[chosen]), self.device)

    def evaluation(self, config: Config | None = None, batch_size: int = 256
                   ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Whole pictures in order, nothing random; at the image_size of `config`, by default the feeder's."""
        for first in range(0, len(self), batch_size):
            chosen = np.arange(first, min(first + batch_size, len(self)))
            yield self.gather(chosen, None, config), to_device(torch.from_numpy(self.ages[chosen]), self.device)


def on_device(pixels: np.ndarray, device: torch.device, share: float = 0.5) -> np.ndarray | torch.Tensor:
    """`pixels` copied to a CUDA card where it takes at most `share` of the free memory, else as they are."""
    if device.type != "cuda" or pixels.nbytes > share * torch.cuda.mem_get_info(device)[0]:
        return pixels
    return torch.from_numpy(np.array(pixels)).to(device)
