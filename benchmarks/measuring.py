"""What the parts of the benchmark share: how something is measured, and the pictures it is measured on."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from usual import UsualFeeder

from agehelpers import runs
from agehelpers.batches import Feeder, on_device
from agehelpers.config import Config, load_config
from agehelpers.pixels import load_pixels

HERE = Path(__file__).resolve().parent
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass
class Bench:
    """What the parts share: where results go and how much is measured."""

    profile: str
    device: torch.device
    repeats: int
    share: float  # of the pictures and steps that a full measurement takes
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def config(self, **settings: Any) -> Config:
        """The profile, on the device, from scratch: weights change no speed."""
        return load_config(self.profile, {"weights": None, "device": self.device.type, **settings})

    def count(self, full: int) -> int:
        """`full` steps or pictures, or fewer in a quick run."""
        return max(2, round(self.share * full))

    def add(self, part: str, what: str, way: str, values: list[float], unit: str, cores: int = CORES,
            size: int | None = None) -> None:
        """A row: median, lowest and highest of `values`."""
        row = {"part": part, "device": self.device.type, "what": what, "way": way, "size": size, "cores": cores,
               "value": statistics.median(values), "low": min(values), "high": max(values), "unit": unit,
               "repeats": len(values)}
        self.rows.append(row)
        print(f"  {part:<11}{what:<34}{way:<26}{size or '':>4} {cores} cores {row['value']:>12,.4g} {unit}", flush=True)

    def side_by_side(self, part: str, what: str, ways: dict[str, Callable[[], float]], unit: str = "pictures/s",
                     cores: int = CORES, size: int | None = None, over: str = "usual") -> None:
        """Measure `ways` in turn, `repeats` times after one warm-up, and their ratio to the way `over`."""
        for way in ways.values():
            way()
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(self.repeats):
            for name, way in ways.items():
                found[name].append(way())
        for name, values in found.items():
            self.add(part, what, name, values, unit, cores, size)
        for name in ways:
            if name != over and over in found:
                self.add(part, what, f"{name} / {over}", [a / b for a, b in zip(found[name], found[over], strict=True)],
                         "ratio", cores, size)


@contextlib.contextmanager
def cores(count: int) -> Iterator[None]:
    """This process, its threads and its workers on the first `count` cores."""
    import cv2

    before, threads = torch.get_num_threads(), cv2.getNumThreads()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if allowed:
        os.sched_setaffinity(0, sorted(allowed)[:count])
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        if allowed:
            os.sched_setaffinity(0, allowed)
        torch.set_num_threads(before)
        cv2.setNumThreads(threads)


def synchronize(device: torch.device) -> None:
    """Wait until the card has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(batches: Iterator[tuple[torch.Tensor, torch.Tensor]], device: torch.device, most: int) -> float:
    """Pictures a second of the first `most` batches, the start of the iterator included."""
    started, pictures = time.perf_counter(), 0
    for number, (images, _) in enumerate(batches, 1):
        pictures += len(images)
        if number == most:
            break
    synchronize(device)
    return pictures / (time.perf_counter() - started)


def endless(feeder: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Training batches of one epoch after the other."""
    return (batch for epoch in itertools.count() for batch in feeder.training(epoch))


@contextlib.contextmanager
def subset(bench: Bench, pictures: int) -> Iterator[tuple[list[Path], pd.DataFrame, Path]]:
    """Files, rows of the index and an empty cache folder for some of the faces, spread over the folder."""
    config = bench.config()
    index = runs.index_and_split(config)[0]
    index = index.iloc[np.linspace(0, len(index) - 1, min(pictures, len(index))).astype(int)].reset_index(drop=True)
    files = [config.faces_folder() / name for name in index["name"]]
    for file in files:
        file.read_bytes()  # warm: what is measured is no disk
    with tempfile.TemporaryDirectory() as cache:
        yield files, index, Path(cache)


def feeders(bench: Bench, size: int, files: list[Path], index: pd.DataFrame, cache: Path, workers: int, **settings: Any
            ) -> tuple[UsualFeeder, Feeder]:
    """Both ways over the same pictures, at one size and full augmentation."""
    config = bench.config(image_size=size, grow_from=None, augment_from=1.0, cache_size=None, **settings)
    ages = index["age"].to_numpy(np.float32)
    pixels = on_device(load_pixels(bench.config().faces_folder(), index, config.pixels_size, cache), bench.device)
    return (UsualFeeder(files, ages, config, bench.device, workers),
            Feeder(pixels, np.arange(len(index)), ages, config, bench.device))
