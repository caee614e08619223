"""The usual way to feed a network: a Dataset that opens, resizes and augments each picture with PIL in every epoch.

Written as its users would at their best: torchvision's own transforms, a DataLoader with persistent workers. The
augmentation has the ranges of ours; `ColorJitter` multiplies where we add, and its zoom is uniform and not in log.
`UsualFaces` gives the loop what `FaceDataset` does, so that the same loop trains with either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from agehelpers.config import Config
from agehelpers.data.augmentation import MEAN, STD
from agehelpers.data.dataset import Sample


def transform(config: Config, augment: bool) -> Callable[[Image.Image], torch.Tensor]:
    """A PIL picture as the network sees it, float32 [3, size, size]."""
    whole = [transforms.Resize((config.image_size, config.image_size)), transforms.ToTensor(),
             transforms.Normalize(MEAN, STD)]
    if not augment:
        return transforms.Compose(whole)
    geometry = transforms.RandomAffine(
        config.rotation, (config.shift, config.shift), (1 / (1 + config.scale), 1 + config.scale),
        interpolation=transforms.InterpolationMode.BILINEAR)
    light = transforms.ColorJitter(config.brightness, config.contrast)
    flip = transforms.RandomHorizontalFlip(0.5 if config.flip else 0.0)
    erasing = transforms.RandomErasing(config.erase, (0.02, 0.16))
    return transforms.Compose([whole[0], geometry, light, flip, *whole[1:], erasing])


@dataclass
class PictureFiles(Dataset):
    """Pictures read from their files: (float32 [3, size, size], age)."""

    files: list[Path]
    ages: np.ndarray
    transform: Callable[[Image.Image], torch.Tensor]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, np.float32]:
        with Image.open(self.files[row]) as picture:
            return self.transform(picture.convert("RGB")), self.ages[row]


@dataclass(eq=False)
class UsualFaces:
    """`FaceDataset`'s interface over DataLoaders of `workers` persistent processes (0: in this process)."""

    files: list[Path]
    ages: np.ndarray
    config: Config
    device: torch.device
    augment: bool = True  # for the interface: training batches are augmented, evaluation batches are not
    workers: int = 0
    loaders: dict[tuple[bool, Config], DataLoader] = field(default_factory=dict)  # kept, so that workers persist

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.files) // self.config.batch_size)

    def training_batches(self, epoch: int, first: int = 0) -> Iterator[Sample]:
        """Shuffled, augmented batches of an epoch (`first` is there for the interface: nothing is resumed here)."""
        torch.manual_seed(1000 * self.config.seed + epoch)
        return self._batches(True, self.config.at(epoch))

    def evaluation_batches(self, share: tuple[int, int] = (0, 1)) -> Iterator[Sample]:
        """Whole pictures in order."""
        return self._batches(False, self.config)

    def _batches(self, augment: bool, config: Config) -> Iterator[Sample]:
        key = (augment, config)
        if key not in self.loaders:
            self.loaders[key] = DataLoader(
                PictureFiles(self.files, self.ages, transform(config, augment)), config.batch_size if augment else 256,
                shuffle=augment, num_workers=self.workers, persistent_workers=self.workers > 0,
                pin_memory=self.device.type == "cuda")
        for images, ages in self.loaders[key]:
            yield images.to(self.device, non_blocking=True), ages.to(self.device, non_blocking=True)
