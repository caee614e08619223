"""FaceDataset: a `torch.utils.data.Dataset` over decoded pixels that prepares a whole batch at once, on its device."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from agehelpers.config import Config
from agehelpers.data.augmentation import augment_batched, augment_cpu, augmentation, no_augmentation, random_numbers
from agehelpers.devices import to_device, world

Sample = tuple[torch.Tensor, ...]


class Batch(Sequence[Sample]):
    """Samples of a batch, prepared in one go: images float32 [B, 3, H, W], ages float32 [B] in years [, attributes].

    `collate` hands the tensors on as they are; torch's own collating sees a sequence of (image, age).
    """

    def __init__(self, *tensors: torch.Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, place: Any) -> Any:
        return tuple(tensor[place] for tensor in self.tensors)


def collate(batch: Any) -> Sample:
    """The tensors of a `Batch`, without copying them."""
    return batch.tensors


@dataclass(eq=False)
class FaceDataset(Dataset[Sample]):
    """Faces of one part of a split, for torch's own `DataLoader`.

    ``dataset[i]`` is an image, float32 [3, H, W] in ImageNet's normalisation, and its age, float32 [] in years;
    ``__getitems__`` gives the same for a whole batch, many times faster. With `augment` a picture is changed by random
    parameters that depend on (seed, epoch, picture) only; call `set_epoch` before each epoch.

    Attributes
    ----------
    pixels : ndarray or Tensor
        uint8 [M, S, S, 3]: the memory map, or the same array on the GPU if it has room.
    rows : ndarray
        int64 [N], rows of `pixels` that belong to this part; a picture is known by its row.
    ages : ndarray
        float32 [N], years.
    attributes : ndarray, optional
        int64 [N, A], codes of further labels, handed on behind the ages; -1 is unknown.
    names : ndarray, optional
        Texts [N], for messages.

    Examples
    --------
    >>> from agehelpers.config import load_config
    >>> faces = FaceDataset(np.zeros((3, 50, 50, 3), np.uint8), np.arange(3), np.ones(3, np.float32), load_config("ci"))
    >>> [tuple(images.shape) for images, ages in DataLoader(faces, batch_size=2)]
    [(2, 3, 40, 40), (1, 3, 40, 40)]
    """

    pixels: np.ndarray | torch.Tensor
    rows: np.ndarray
    ages: np.ndarray
    config: Config
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    augment: bool = False
    epoch: int = 0
    attributes: np.ndarray | None = None
    names: np.ndarray | None = None

    def __post_init__(self) -> None:
        self._shared = torch.tensor([self.epoch]).share_memory_()  # worker processes that persist see it change
        self.set_epoch(self.epoch)

    def set_epoch(self, epoch: int) -> None:
        """Go to `epoch` (from 0): other random parameters, and the picture size and strength that `Config.at` says."""
        self.epoch = epoch
        self._shared[0] = epoch
        self._now = self.config.at(epoch) if self.augment else self.config
        self._numbers = random_numbers(
            self.config.seed, epoch, int(self.rows.max(initial=-1)) + 1) if self.augment else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Sample:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[int] | np.ndarray) -> Batch:
        if self.epoch != int(self._shared[0]):
            self.set_epoch(int(self._shared[0]))
        chosen = np.asarray(places)
        rows = self.rows[chosen]
        change = no_augmentation(len(rows)) if self._numbers is None else augmentation(self._numbers[rows], self._now)
        labels = [to_device(torch.from_numpy(values[chosen]), self.device)
                  for values in (self.ages, self.attributes) if values is not None]
        if self.device.type == "cpu":
            return Batch(augment_cpu(np.asarray(self.pixels)[rows], change, self._now.image_size), *labels)
        if isinstance(self.pixels, torch.Tensor):
            pixels = self.pixels[to_device(torch.from_numpy(rows), self.device)]
        else:
            pixels = to_device(torch.from_numpy(self.pixels[rows]), self.device)
        return Batch(augment_batched(pixels, change, self._now.image_size), *labels)

    @property
    def steps(self) -> int:
        """Batches in an epoch; the last one may be smaller, or larger by one: a single picture joins those before it.

        (Batch normalisation cannot be trained on one picture.)
        """
        size, pictures = self.config.batch_size, len(self)
        return math.ceil(pictures / size) - (pictures > size > 1 == pictures % size)

    def training_batches(self, epoch: int, first: int = 0) -> DataLoader:
        """Shuffled batches of `epoch` from step `first` on: images [B, 3, H, W] and ages [B].

        The order depends on seed and epoch alone, so that a resumed epoch goes on exactly. Of processes that train
        together each has its share of every batch; a batch of fewer pictures gives its first to the others, which do
        not count there.
        """
        self.set_epoch(epoch)
        rank, size = world()
        return self._loader([batch[rank::size] if rank < len(batch) else batch[:1]
                             for batch in self._order(epoch)[first:]])

    def batch_sizes(self, epoch: int) -> list[int]:
        """Pictures of every batch of `epoch`, all processes together."""
        return [len(batch) for batch in self._order(epoch)]

    def _order(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self))
        ends = [*range(0, len(self), self.config.batch_size)][:self.steps] + [len(self)]
        return [order[start:end] for start, end in itertools.pairwise(ends)]

    def batch_text(self, epoch: int, step: int) -> str:
        """The pictures of a training batch by name, or by their row where no names are known."""
        places = self._order(epoch)[step]
        return ", ".join(map(str, (self.rows if self.names is None else self.names)[places]))

    def evaluation_batches(self, batch_size: int = 256, share: tuple[int, int] = (0, 1)) -> DataLoader:
        """All pictures and their ages in order, never augmented; `share` (k, n): every n-th batch, from the k-th on."""
        batches = [np.arange(start, min(start + batch_size, len(self))) for start in range(0, len(self), batch_size)]
        return replace(self, augment=False, attributes=None)._loader(batches[share[0]::share[1]])

    def _loader(self, batches: list[Any]) -> DataLoader:
        # a generator of its own: making a loader must not move the seed that the training step has set
        return DataLoader(self, batch_sampler=batches, collate_fn=collate, generator=torch.Generator())


def on_device(pixels: np.ndarray, device: torch.device, share: float = 0.5) -> np.ndarray | torch.Tensor:
    """`pixels` copied to a CUDA GPU where it takes at most `share` of the free memory, else as they are."""
    if device.type != "cuda" or pixels.nbytes > share * torch.cuda.mem_get_info(device)[0]:
        return pixels
    return torch.from_numpy(np.array(pixels)).to(device)
