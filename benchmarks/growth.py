"""How time and memory grow with the pictures, and how fast processes train together. `benchmark.py` runs the parts.

So that there can be any number of pictures they are made: drawn people in light and noise of their own, 48 pixels.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from measuring import CORES, Bench
from PIL import Image, ImageOps
from short import new_trainer

from agehelpers.config import Config
from agehelpers.data.dataset import FaceDataset
from agehelpers.data.drawn import draw_face
from agehelpers.data.labels import index_folder
from agehelpers.data.pixels import load_pixels
from agehelpers.evaluation.bootstrap import confidence_interval
from agehelpers.methods.model import build_model
from agehelpers.training.loop import predict

FIRST, SIDE = 2500, 48  # pictures of the smallest set; pixels
EACH = 10  # of so many pictures all show one person: a larger set has more people, not more pictures of each
TIMES = {"index": (1, 10, 40), "pixel cache": (1, 10), "epoch": (1, 10), "evaluation": (1, 10)}
EVERY = 50  # of so many pictures one is there again, in another quality or mirrored: a copy to be found
# Of part scaling: layout -> processes, threads of each.
LAYOUTS = {f"1 process, {CORES} threads": (1, CORES), f"{CORES} processes, 1 thread each": (CORES, 1),
           "1 process, 1 thread": (1, 1)}
TRAINED: dict[str, Any] = {"backbone": "timm/tf_efficientnet_lite0", "weights": "none", "auxiliary": 0,
                           "image_size": 72, "grow_from": "none", "epochs": 2, "batch_size": 64, "evaluate_every": 2}


def make_set(folder: Path, count: int) -> Path:
    """A folder of `count` pictures named as UTKFace's; those of a smaller set are among those of a larger one."""
    rng = np.random.default_rng(0)
    people = [np.asarray(draw_face(number % 100 + 1, number % 2, rng).resize((SIDE, SIDE)), float)
              for number in range(-(-count // EACH))]
    folder.mkdir(parents=True)
    for number in range(count):
        if number % EVERY:
            rng = np.random.default_rng([1, number])
            light = cv2.resize(rng.normal(0, 25, (12, 12, 3)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            shown = people[number // EACH] + light + rng.normal(0, 15, (SIDE, SIDE, 1))
            picture = Image.fromarray(np.clip(shown, 0, 255).astype(np.uint8))
        elif number % (2 * EVERY):
            picture = ImageOps.mirror(picture)
        name = f"{number % 100 + 1}_{number % 2}_{number % 5}_{20170101 * 10**9 + number}.jpg.chip.jpg"
        if number:  # a multiple of EVERY is the picture before it
            picture.save(folder / name, "JPEG", quality=95 if number % EVERY else 85)
    return folder


def index(folder: Path, table: pd.DataFrame, config: Config, place: Path) -> Callable[[], Any]:
    """The label table, its search for copies included; gives the share of the made copies that is found."""
    made = (len(table) - 1) // EVERY
    return lambda: len(index_folder(folder)[1]) / made


def cache(folder: Path, table: pd.DataFrame, config: Config, place: Path) -> Callable[[], Any]:
    """All pictures decoded."""
    return partial(load_pixels, folder, table, config.pixels_size, place)


def _dataset(folder: Path, table: pd.DataFrame, config: Config, place: Path) -> FaceDataset:
    pixels = load_pixels(folder, table, config.pixels_size, place)
    return FaceDataset(pixels, np.arange(len(table)), table["age"].to_numpy(np.float32), config, augment=True)


def epoch(folder: Path, table: pd.DataFrame, config: Config, place: Path) -> Callable[[], Any]:
    """All pictures augmented and learned from once."""
    faces = _dataset(folder, table, config, place)
    learn = new_trainer(faces).learn
    return lambda: [learn(*batch) for batch in faces.training_batches(0)]


def evaluation(folder: Path, table: pd.DataFrame, config: Config, place: Path) -> Callable[[], Any]:
    """Predictions of all pictures, and the confidence interval of their error."""
    faces = _dataset(folder, table, config, place)
    model = build_model(config, faces.ages).eval()
    return lambda: confidence_interval((predict(model, faces, config)["prediction"] - faces.ages).abs())


WORKS = {"index": index, "pixel cache": cache, "epoch": epoch, "evaluation": evaluation}


def peak() -> float:
    """Most memory that this process had so far, in MB; NaN where the system does not say (Linux: VmHWM)."""
    status = Path("/proc/self/status")
    found = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")
             ] if status.exists() else []
    return 1024 * int(found[0]) / 1e6 if found else float("nan")


def measured(work: str, folder: Path, config: Config, place: Path) -> tuple[float, float, float | None]:
    """Time (s) of a work on the pictures of a folder, the memory it added at its peak (MB), a share that it gave."""
    names = sorted(os.listdir(folder))
    table = pd.DataFrame({"name": names, "sha256": names, "age": [int(name.split("_")[0]) for name in names]})
    ready = WORKS[work](folder, table, config, place)
    before, started = peak(), time.perf_counter()
    given = ready()
    seconds = time.perf_counter() - started
    return seconds, peak() - before, given if isinstance(given, float) else None


def growth(bench: Bench) -> None:
    """Index, pixel cache, epoch and evaluation of a made set and of ones 10 (index: and 40) times as large.

    Each in a process of its own, once, files in the system's cache since they were just written.
    """
    config = bench.config(backbone="tiny", image_size=SIDE, grow_from=None, cache_size=None, epochs=1, auxiliary=0.0)
    for times in sorted(set().union(*TIMES.values())):
        folder = make_set(bench.place / str(times), times * bench.count(FIRST))
        for work in (work for work, asked in TIMES.items() if times in asked):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, memory, found = pool.apply(measured, (work, folder, config, bench.place))
            facts: dict[str, Any] = {"way": work, "pictures": len(os.listdir(folder))}
            bench.add("time", [seconds], "s", **facts)
            bench.add("memory", [memory], "MB", **facts)
            if found is not None:
                bench.add("copies found", [found], "share", **facts)


def trained(bench: Bench, processes: int, threads: int, place: Path) -> float:
    """Time (s) of the second epoch of a training by so many processes, its validation and checkpoint included."""
    environment = os.environ | {"AGEHELPERS_RUNS": str(place), "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    settings = TRAINED | {"limit": bench.count(3000)} | bench.settings
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m",
                    "agehelpers", "train", "--profile", "laptop", "--set",
                    *(f"{key}={value}" for key, value in settings.items())], env=environment, check=True,
                   stdout=subprocess.DEVNULL)
    return float(pd.read_csv(next(place.glob("*/history.csv")))["seconds"].iloc[-1])


def scaling(bench: Bench) -> None:
    """An epoch by one process on all cores, by one process a core together, and by one process on one core."""
    found: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    for repeat in range(bench.repeats):
        for layout, (processes, threads) in LAYOUTS.items():
            found[layout].append(trained(bench, processes, threads, bench.place / f"{repeat} {processes} {threads}"))
    bench.add_ways("epoch", found, next(iter(LAYOUTS)), "s")


PARTS: dict[str, Callable[[Bench], None]] = {"growth": growth, "scaling": scaling}
