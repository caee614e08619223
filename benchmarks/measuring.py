"""What the parts of the benchmark share: how something is measured, and the pictures it is measured on."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from usual import UsualFaces

from agehelpers.config import Config, load_config
from agehelpers.data.dataset import FaceDataset, Sample, on_device
from agehelpers.data.faces import faces_folder
from agehelpers.data.labels import cached_labels, usable
from agehelpers.data.pixels import load_pixels

ALLOWED = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []  # cores, where they can be chosen
CORES = len(ALLOWED) or os.cpu_count() or 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A figure with its repeats' lowest and highest value; every fact about it is a column of its own."""

    part: str
    device: str
    measure: str
    way: str = ""
    over: str = ""  # of a ratio: the way that `way` is divided by
    seed: int | None = None
    epoch: int | None = None  # from 1
    workers: int | None = None  # processes of a DataLoader
    lr: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    size: int | None = None  # side in pixels
    pictures: int | None = None  # of a made set
    cores: int
    value: float  # the median
    low: float
    high: float
    unit: str
    repeats: int


@dataclasses.dataclass
class Bench:
    """How much of `part` is measured, on what device, an empty folder for its files, and all rows so far."""

    profile: str
    device: torch.device
    repeats: int
    place: Path
    share: float = 1.0  # of the pictures and steps that a full measurement takes
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    part: str = ""
    rows: list[Row] = dataclasses.field(default_factory=list)

    def config(self, **settings: Any) -> Config:
        """The profile, on the device, from scratch: weights change no speed. The bench's own settings come last."""
        return load_config(self.profile, {"weights": None, "device": self.device.type, **settings, **self.settings})

    def count(self, full: int) -> int:
        """`full` steps or pictures, or fewer in a quick run."""
        return max(2, round(self.share * full))

    def seconds(self, work: Callable[[], Any]) -> float:
        """Wall time of `work`, the GPU's work included."""
        synchronize(self.device)
        started = time.perf_counter()
        work()
        synchronize(self.device)
        return time.perf_counter() - started

    def times(self, work: Callable[[], Any]) -> list[float]:
        """`seconds` of each repeat, after one warm-up."""
        return [self.seconds(work) for _ in range(self.repeats + 1)][1:]

    def in_turn(self, ways: Mapping[Any, Callable[[], float]]) -> dict[Any, list[float]]:
        """What each way gives, `repeats` times in turn after one warm-up: a slow minute of the machine meets all."""
        rounds = [{name: way() for name, way in ways.items()} for _ in range(self.repeats + 1)]
        return {name: [one[name] for one in rounds[1:]] for name in ways}

    def speeds(self, works: Mapping[str, Callable[[], Any]], pictures: int) -> dict[str, list[float]]:
        """Pictures a second of works on that many `pictures`, measured in turn."""
        found = self.in_turn({way: partial(self.seconds, work) for way, work in works.items()})
        return {way: [pictures / one for one in seconds] for way, seconds in found.items()}

    def add(self, measure: str, values: list[float], unit: str, cores: int = CORES, **facts: Any) -> None:
        """A row: median, lowest and highest of `values`; `facts` are other columns of `Row`."""
        row = Row(part=self.part, device=self.device.type, measure=measure, value=statistics.median(values),
                  low=min(values), high=max(values), unit=unit, repeats=len(values), cores=cores, **facts)
        self.rows.append(row)
        print(f"  {measure}: {row.value:,.4g} {unit}", facts or "", flush=True)

    def add_ways(self, measure: str, found: dict[str, list[float]], over: str, unit: str = "pictures/s",
                 **facts: Any) -> None:
        """A row for each way, and one for its ratio to the way `over`."""
        for way, values in found.items():
            self.add(measure, values, unit, way=way, **facts)
        for way, values in found.items():
            if way != over:
                ratios = [a / b for a, b in zip(values, found[over], strict=True)]
                self.add(measure, ratios, "ratio", way=way, over=over, **facts)


@contextlib.contextmanager
def cores(count: int) -> Iterator[None]:
    """This process, its threads and its workers on the first `count` cores."""
    import cv2

    before, threads = torch.get_num_threads(), cv2.getNumThreads()
    if ALLOWED:
        os.sched_setaffinity(0, ALLOWED[:count])
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        if ALLOWED:
            os.sched_setaffinity(0, ALLOWED)
        torch.set_num_threads(before)
        cv2.setNumThreads(threads)


def synchronize(device: torch.device) -> None:
    """Wait until the GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(batches: Iterable[Sample], device: torch.device, most: int | None = None,
         learn: Callable[[torch.Tensor, torch.Tensor], None] | None = None) -> float:
    """Pictures a second of the first `most` batches (none: of all), their making and `learn` included."""
    synchronize(device)
    started, pictures = time.perf_counter(), 0
    for images, ages in itertools.islice(batches, most):
        if learn is not None:
            learn(images, ages)
        pictures += len(ages)
    synchronize(device)
    return pictures / (time.perf_counter() - started)


def warm(files: Iterable[Path]) -> None:
    """Read `files` once, so that they are in the system's cache: no disk is measured."""
    for file in files:
        if file.is_file():
            file.read_bytes()


class SomeFaces:
    """`count` of the faces (in a quick run fewer), spread over the folder."""

    def __init__(self, bench: Bench, count: int) -> None:
        self.bench, self.folder = bench, faces_folder(bench.config())
        labels = usable(cached_labels(self.folder))
        rows = np.linspace(0, len(labels) - 1, min(bench.count(count), len(labels))).astype(int)
        self.labels = labels.iloc[rows].reset_index(drop=True)
        self.files = [self.folder / name for name in self.labels["name"]]
        warm(self.files)

    def both(self, size: int, workers: int = 0, **settings: Any) -> tuple[UsualFaces, FaceDataset]:
        """The usual way and ours over the same pictures, at one size and full augmentation."""
        config = dataclasses.replace(self.bench.config(**settings), image_size=size, grow_from=None, augment_from=1.0,
                                     cache_size=None)
        ages, device = self.labels["age"].to_numpy(np.float32), self.bench.device
        pixels = on_device(load_pixels(self.folder, self.labels, config.pixels_size, self.bench.place), device)
        return (UsualFaces(self.files, ages, config, device, workers=workers),
                FaceDataset(pixels, np.arange(len(ages)), ages, config, device, augment=True))
