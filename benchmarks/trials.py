"""The long parts of the benchmark: whole trainings, side by side. `benchmark.py` runs them."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measuring import ALLOWED, CORES, Bench, SomeFaces, warm
from usual import UsualFaces

from agehelpers.config import Config, load_config
from agehelpers.data.decoder import open_picture
from agehelpers.data.faces import SELECTION, faces_folder, prepare_faces
from agehelpers.methods.model import build_model
from agehelpers.photos.estimator import PACKAGED, Estimator
from agehelpers.photos.onnx import OnnxEstimator, export
from agehelpers.photos.reader import PhotoReader
from agehelpers.training import grid, loop
from agehelpers.training.trainer import Trainer

RACE_MINUTES, RACE_SIZE = 10.0, 48  # minutes for each way, side of the pictures in pixels


def beside(bench: Bench, works: list[Callable[[], Any]]) -> list[Any]:
    """What `works` give, each in a fresh process: on a CPU at the same time with a thread each, on a GPU in turn."""
    at_once = min(CORES, len(works)) if bench.device.type == "cpu" else 1
    pinned = bench.device.type == "cpu" and at_once == len(works)
    jobs = [(work, bench.device.type, core if pinned else None) for core, work in enumerate(works)]
    with multiprocessing.get_context("spawn").Pool(at_once, maxtasksperchild=1) as pool:
        return pool.starmap(alone, jobs, 1)


def alone(work: Callable[[], Any], device: str, core: int | None) -> Any:
    """`work` in this process: on a CPU with one thread, on the core of that number where one is given."""
    os.environ["TQDM_DISABLE"] = "1"
    if device == "cpu":
        torch.set_num_threads(1)
        if core is not None and ALLOWED:
            os.sched_setaffinity(0, [ALLOWED[core]])
    return work()


def race(bench: Bench, seeds: tuple[int, ...] = (0, 1)) -> None:
    """The same recipe trained both ways at the same time, a core each: error by epoch and by time.

    Constant rate, so that a training may be cut anywhere; `holdout`'s training and validation pictures, 48 pixels.
    Files are in the system's cache; our pixels were decoded before, as they are for every training but the first.
    """
    seconds = 60 * RACE_MINUTES if bench.share == 1 else 0.0
    for seed in seeds:
        config = bench.config(image_size=RACE_SIZE, grow_from=None, epochs=500, augment_from=1.0, schedule="constant",
                              lr=0.05, evaluate_every=1, seed=seed, checkpoint_steps=10**6)
        ways = ("usual", "ours") if seed % 2 == 0 else ("ours", "usual")  # so that each way has each core once
        histories = beside(bench, [partial(raced, config, way, seconds, bench.place / f"{way}-{seed}") for way in ways])
        for way, history in zip(ways, histories, strict=True):
            for row in history:
                facts = {"way": way, "seed": seed, "epoch": row["epoch"], "cores": 1, "size": RACE_SIZE}
                bench.add("validation MAE", [row["val_mae"]], "years", **facts)
                bench.add("time", [row["wall"]], "s", **facts)


def raced(config: Config, way: str, seconds: float, place: Path, goal: float = 0.0) -> list[dict[str, float]]:
    """Train one way until the time is over or validation reads `goal` years, at least one epoch.

    Its history with the wall time of each epoch.
    """
    faces = prepare_faces(config, SELECTION)
    parts: list[Any] = [faces.dataset(part) for part in SELECTION]
    if way == "usual":
        workers = 0 if faces.device.type == "cpu" else min(16, CORES)  # on one core a worker only takes turns with us
        parts = [UsualFaces([faces_folder(config) / name for name in faces.part(part)["name"]], ours.ages, config,
                            faces.device, workers=workers) for part, ours in zip(SELECTION, parts, strict=True)]
        warm(file for part in parts for file in part.files)
    model = build_model(config, faces.part("train")["age"].to_numpy(np.float32))
    history: list[dict[str, float]] = []
    started = time.perf_counter()

    def is_over(trainer: Trainer) -> bool:
        wall = time.perf_counter() - started
        if wall <= seconds or not history:
            history.append(trainer.history[-1] | {"wall": wall})
        return wall > seconds or round(history[-1]["val_mae"], 3) <= goal

    loop.train(model, parts[0], parts[1], config, place, on_epoch=is_over)
    return history


GOAL, GOAL_MINUTES = 5.418, 60.0  # years of validation MAE reported for the starting point; then a training is stopped
GOAL_WAYS: dict[str, tuple[str, dict[str, Any]]] = {  # way -> profile, and what is changed of it
    "its recipe, from ImageNet (Lite0)": ("start", {"epochs": 200}),  # its rate is constant: it goes on
    "ours, from ImageNet (Lite2, a schedule of 3 epochs)": ("laptop", {"epochs": 3}),
    "ours, from scratch": ("scratch", {})}


def goal(bench: Bench) -> None:
    """Time until `holdout`'s validation reads the figure reported for the starting point: three recipes, one run each.

    In turn, on all cores, each epoch validated at its own picture size. Who is not there after `GOAL_MINUTES` stops.
    """
    own = {"device": bench.device.type, "evaluate_every": 1, "checkpoint_steps": 10**6} | bench.settings
    for way, (profile, change) in GOAL_WAYS.items():
        fetched = {"weights": None} if bench.settings else {}  # a quick run has none
        config = load_config(profile, change | own | fetched)
        seconds = 60 * GOAL_MINUTES if bench.share == 1 else 0.0
        for row in raced(config, "ours", seconds, bench.place / profile, GOAL):
            size = config.at(int(row["epoch"]) - 1).image_size
            facts: dict[str, Any] = {"way": way, "epoch": row["epoch"], "size": size}
            bench.add("validation MAE", [row["val_mae"]], "years", **facts)
            bench.add("time", [row["wall"]], "s", **facts)


def halving(bench: Bench) -> None:
    """The grid with every cell in full, and with its short first look, at the same time, a core each."""
    ways = {"every cell in full": False, "halving": True}
    found = beside(bench, [partial(searched, bench.config(), short, bench.place / way) for way, short in ways.items()])
    for way, (table, _) in zip(ways, found, strict=True):
        bench.add("validation MAE of the winner", [table.loc[table["budget"] == "full", "val_mae"].min()], "years",
                  way=way, cores=1, **grid.best_cell(table))
    times = {way: [seconds] for way, (_, seconds) in zip(ways, found, strict=True)}
    bench.add_ways("time", times, "every cell in full", "s", cores=1)


def searched(config: Config, short: bool, place: Path) -> tuple[pd.DataFrame, float]:
    """A whole grid: its table, and its wall time in seconds, decoding left out."""
    prepare_faces(grid.budgeted(config), SELECTION)
    started = time.perf_counter()
    return grid.search(config, place, halving=short), time.perf_counter() - started


def packaged(bench: Bench) -> None:
    """Crops of the packaged weights, shrinking, mirror images and intervals included: by PyTorch and by ONNX."""
    files = SomeFaces(bench, 512).files
    crops = [np.asarray(open_picture(file).resize((200, 200))) for file in files]
    export(PACKAGED, bench.place)
    readers = {"PyTorch": Estimator(), "ONNX": OnnxEstimator(bench.place)}
    for measure, at_once in (("many at once", len(crops)), ("one by one", 1)):
        some = crops[:max(at_once, bench.count(40))]

        def read(reader: PhotoReader, some: list[np.ndarray] = some, at_once: int = at_once) -> None:
            for start in range(0, len(some), at_once):
                reader.ages(some[start:start + at_once])

        works = {way: partial(read, reader) for way, reader in readers.items()}
        bench.add_ways(measure, bench.speeds(works, len(some)), "PyTorch", "crops/s")


PARTS: dict[str, Callable[[Bench], None]] = {"race": race, "grid": halving, "goal": goal, "packaged": packaged}
