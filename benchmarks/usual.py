"""The usual way to feed a network: a Dataset that opens, resizes and augments each picture with PIL in every epoch.

Written as its users would at their best: torchvision's own transforms, a DataLoader with persistent workers. The
augmentation has the ranges of ours; `ColorJitter` multiplies where we add, and draws its zoom evenly and not in log.
`UsualFeeder` has the interface of `agehelpers.batches.Feeder`, so that the same loop trains with either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from agehelpers.batches import MEAN, STD
from agehelpers.config import Config


class FaceDataset(Dataset):
    """Pictures read from their files: (float32 [3, size, size], age)."""

    def __init__(self, files: list[Path], ages: np.ndarray, config: Config, augment: bool) -> None:
        self.files, self.ages = files, ages
        steps: list[object] = [transforms.Resize((config.image_size, config.image_size))]
        if augment:
            if config.rotation or config.shift or config.scale:
                steps.append(transforms.RandomAffine(
                    config.rotation, (config.shift, config.shift), (1 / (1 + config.scale), 1 + config.scale),
                    interpolation=transforms.InterpolationMode.BILINEAR))
            if config.brightness or config.contrast:
                steps.append(transforms.ColorJitter(config.brightness, config.contrast))
            if config.flip:
                steps.append(transforms.RandomHorizontalFlip())
        steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        if augment and config.erase:
            steps.append(transforms.RandomErasing(config.erase, (0.02, 0.16)))
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, np.float32]:
        with Image.open(self.files[row]) as picture:
            return self.transform(picture.convert("RGB")), self.ages[row]


@dataclass
class UsualFeeder:
    """`Feeder`'s interface over a DataLoader of `workers` persistent processes (0: in this process)."""

    files: list[Path]
    ages: np.ndarray
    config: Config
    device: torch.device
    workers: int = 0
    loaders: dict[tuple[bool, Config], DataLoader] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def steps(self) -> int:
        """Batches in an epoch."""
        return -(-len(self) // self.config.batch_size)

    def _loader(self, augment: bool, config: Config) -> DataLoader:
        key = (augment, config)
        if key not in self.loaders:  # kept, so that its workers persist
            self.loaders[key] = DataLoader(
                FaceDataset(self.files, self.ages, config, augment), config.batch_size if augment else 256,
                shuffle=augment, num_workers=self.workers, persistent_workers=self.workers > 0,
                pin_memory=self.device.type == "cuda")
        return self.loaders[key]

    def training(self, epoch: int, first: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Shuffled, augmented batches of an epoch (`first` is there for the interface: nothing is resumed here)."""
        torch.manual_seed(1000 * self.config.seed + epoch)
        for images, ages in self._loader(True, self.config.at(epoch)):
            yield images.to(self.device, non_blocking=True), ages.to(self.device, non_blocking=True)

    def evaluation(self, config: Config | None = None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Whole pictures in order."""
        for images, ages in self._loader(False, config or self.config):
            yield images.to(self.device), ages.to(self.device)
