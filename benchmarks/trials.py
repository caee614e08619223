"""The long parts of the benchmark: whole trainings, side by side. `benchmark.py` runs them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measuring import CORES, HERE, Bench
from usual import UsualFeeder

from agehelpers import grid, loop, paths, runs
from agehelpers.config import load_config, utkface_folder
from agehelpers.loop import Trainer

TARGET = 6.5  # years
QUICK = {"limit": 100, "epochs": 1, "batch_size": 8}  # of a cell of the grid in a trial run


class Over(Exception):
    """The time is up."""


def beside(bench: Bench, work: Callable[[Any], Any], jobs: list[Any]) -> list[Any]:
    """`work` on each job in a fresh process: on a CPU at the same time, a core each; on a card in turn."""
    at_once = len(jobs) if bench.device.type == "cpu" and CORES >= len(jobs) else 1
    with multiprocessing.get_context("spawn").Pool(at_once, maxtasksperchild=1) as pool:
        return pool.map(work, jobs, 1)


def pinned(core: int, device: str) -> None:
    """This process with one thread, on one core where the system lets it choose."""
    os.environ["TQDM_DISABLE"] = "1"
    if device == "cpu" and CORES > 1:
        torch.set_num_threads(1)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})


def race(bench: Bench, minutes: float = 10.0, seeds: tuple[int, ...] = (0, 1)) -> None:
    """The same recipe trained both ways at the same time, a core each: error by epoch and by time.

    Constant rate, so that a training may be cut anywhere; `holdout`'s training and validation pictures, 48 pixels.
    Files are in the system's cache; our pixels were decoded before, as they are for every training but the first.
    """
    for seed in seeds:
        seconds = 60 * minutes if bench.share >= 1 else 0.0
        jobs = [(bench.profile, bench.device.type, way, seed, seconds, (number + seed) % 2, bench.share < 1)
                for number, way in enumerate(("usual", "ours"))]
        histories = dict(zip(("usual", "ours"), beside(bench, raced, jobs), strict=True))
        done = min(len(history) for history in histories.values())
        for way, history in histories.items():
            for row in history:
                bench.add("race", f"seed {seed}, validation MAE after epoch {row['epoch']:.0f}", way, [row["val_mae"]],
                          "years", 1, 48)
                bench.add("race", f"seed {seed}, time after epoch {row['epoch']:.0f}", way, [row["wall"]], "s", 1, 48)
            last = [row["val_mae"] for row in history[:done][-3:]]
            bench.add("race", f"seed {seed}, mean validation MAE of the last {len(last)} epochs both did", way,
                      [float(np.mean(last))], "years", 1, 48)
            bench.add("race", f"seed {seed}, seconds an epoch", way, [history[-1]["wall"] / len(history)], "s", 1, 48)
            bench.add("race", f"seed {seed}, epochs in the time", way, [float(len(history))], "epochs", 1, 48)
        per_epoch = {way: history[-1]["wall"] / len(history) for way, history in histories.items()}
        bench.add("race", f"seed {seed}, epochs in the same time", "ours / usual",
                  [per_epoch["usual"] / per_epoch["ours"]], "ratio", 1, 48)


def raced(job: tuple[str, str, str, int, float, int, bool]) -> list[dict[str, float]]:
    """Train one way until the time is over, at least one epoch; its history."""
    profile, device, way, seed, seconds, core, quick = job
    pinned(core, device)
    config = load_config(profile, {
        "weights": None, "device": device, "image_size": 48, "grow_from": None, "epochs": 500, "augment_from": 1.0,
        "schedule": "constant", "lr": 0.05, "evaluate_every": 1, "seed": seed, "checkpoint_steps": 10**6,
        "limit": 100 if quick else 0})
    data = runs.prepare(config, runs.SELECTION)
    parts: list[Any] = [data.feeder(part) for part in runs.SELECTION]
    if way == "usual":
        folder = config.faces_folder()
        workers = 0 if device == "cpu" else min(16, CORES)  # on one core a worker process only takes turns with us
        parts = [UsualFeeder([folder / name for name in data.part(part)["name"]], f.ages, config, data.device, workers)
                 for part, f in zip(runs.SELECTION, parts, strict=True)]
        for file in (file for part in parts for file in part.files):
            file.read_bytes()
    model = runs.build_model(config, data.part("train")["age"].to_numpy(np.float32))
    history: list[dict[str, float]] = []
    started, finish = time.perf_counter(), loop._finish_epoch

    def watched(trainer: Trainer, validation: Any, best: Path, spent: float) -> None:
        finish(trainer, validation, best, spent)
        wall = time.perf_counter() - started
        if wall <= seconds or not history:
            history.append(trainer.history[-1] | {"wall": wall})
        if wall > seconds:
            raise Over

    loop._finish_epoch = watched  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory() as place, contextlib.suppress(Over):
            loop.train(model, parts[0], parts[1], config, Path(place))
    finally:
        loop._finish_epoch = finish
    return history


def target(bench: Bench, against: str, seeds: tuple[int, ...] = (0,)) -> None:
    """Training time until the profile's validation MAE reaches `TARGET`, all cores, at the commit `against` and now.

    Two measures: validation as each version does it, and validation at the size of the epoch's training pictures for
    both. Validation itself is in the time as each version does it; saving is not.
    """
    if utkface_folder() is None:
        raise FileNotFoundError("part target needs UTKFace; see data/README.md")
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "before"
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), against], cwd=paths.ROOT, check=True)
        try:
            for seed in seeds:
                ways = {f"at {against}": tree, "now": paths.ROOT}
                found = {way: until(bench, root, seed, Path(place)) for way, root in ways.items()}
                for key, measure in (("own", "its own validation"), ("trained", "validation at the trained size")):
                    took: dict[str, float] = {}
                    for way, epochs in found.items():
                        for row in epochs:
                            what = f"seed {seed}, {measure} after epoch {row['epoch']:.0f}"
                            bench.add("target", what, way, [row[key]], "years")
                            bench.add("target", f"seed {seed}, time after epoch {row['epoch']:.0f}", way,
                                      [row["seconds"]], "s") if key == "own" else None
                        took[way] = next((row["seconds"] for row in epochs if row[key] <= TARGET), math.nan)
                        bench.add("target", f"seed {seed}, time to {TARGET} years, {measure}", way, [took[way]], "s")
                    bench.add("target", f"seed {seed}, time to {TARGET} years, {measure}", f"now / at {against}",
                              [took["now"] / took[f"at {against}"]], "ratio")
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=paths.ROOT, check=True)


def until(bench: Bench, root: Path, seed: int, place: Path) -> list[dict[str, float]]:
    """Epochs of the training of the tree `root` until both measures are below `TARGET`; see until.py."""
    changed = {"PYTHONPATH": str(root), "AGEHELPERS_CACHE": str(paths.cache_folder().resolve()),
               "AGEHELPERS_FACES": str((utkface_folder() or place).resolve())}
    out = subprocess.run([sys.executable, str(HERE / "until.py"), str(TARGET), str(seed), str(CORES),
                          bench.device.type, "60" if bench.share >= 1 else "1"], check=True, cwd=place,
                         env=os.environ | changed, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(out.splitlines()[-1])
    if not Path(found["package"]).is_relative_to(root):
        raise RuntimeError(f"{found['package']} was measured instead of {root}")
    return found["epochs"]


def halving(bench: Bench) -> None:
    """The grid with its short first look, and at the same time with every cell in full, a core each.

    Where they choose different winners, both again with three other seeds: the noise within which they are a tie.
    """
    ways = ("every cell in full", "halving")
    quick = bench.share < 1
    jobs = [(bench.profile, bench.device.type, way == "halving", core, quick) for core, way in enumerate(ways)]
    found = dict(zip(ways, beside(bench, searched, jobs), strict=True))
    for way, (table, seconds) in found.items():
        for _, row in table.iterrows():
            what = " ".join(f"{key} {row[key]:g}" for key in grid.AXES) + f", {row['budget']}"
            bench.add("grid", what, way, [row["val_mae"]], "years", 1)
        bench.add("grid", "time of the grid", way, [seconds], "s", 1)
    bench.add("grid", "time of the grid", "halving / in full",
              [found["halving"][1] / found["every cell in full"][1]], "ratio", 1)
    winners = {way: grid.best_cell(table) for way, (table, _) in found.items()}
    cells = [cell for number, cell in enumerate(winners.values()) if cell not in list(winners.values())[:number]]
    again = [(cell, seed) for seed in (1, 2, 3) for cell in cells] if len(cells) > 1 else []
    values: list[tuple[dict[str, float], float]] = []
    for start in range(0, len(again), CORES):
        values += beside(bench, trained_again, [(bench.profile, bench.device.type, cell, seed, core, quick) for
                                                core, (cell, seed) in enumerate(again[start:start + CORES])])
    for way, winner in winners.items():
        name = " ".join(f"{key} {winner[key]:g}" for key in grid.AXES)
        table = found[way][0]
        lowest = float(table.loc[table["budget"] == "full", "val_mae"].min())
        bench.add("grid", f"the winner, {name}", way, [lowest], "years", 1)
        if again:
            bench.add("grid", f"with three other seeds, {name}", way, [mae for cell, mae in values if cell == winner],
                      "years", 1)


def searched(job: tuple[str, str, bool, int, bool]) -> tuple[pd.DataFrame, float]:
    """A whole grid on one core: its table, and its wall time in seconds."""
    profile, device, short, core, quick = job
    pinned(core, device)
    config = load_config(profile, {"weights": None, "device": device} | (QUICK if quick else {}))
    with tempfile.TemporaryDirectory() as place:
        runs.prepare(grid.budgeted(config), runs.SELECTION)
        started = time.perf_counter()
        return grid.search(config, Path(place), halving=short), time.perf_counter() - started


def trained_again(job: tuple[str, str, dict[str, float], int, int, bool]) -> tuple[dict[str, float], float]:
    """A cell at the full budget with another seed: the cell, and its validation MAE."""
    profile, device, cell, seed, core, quick = job
    pinned(core, device)
    changes: dict[str, Any] = {"weights": None, "device": device} | (QUICK if quick else {})
    config = dataclasses.replace(grid.budgeted(load_config(profile, changes)), seed=seed, **cell)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as place:
        return cell, grid.train_cell(config, runs.prepare(config, runs.SELECTION), Path(place))["val_mae"]


SCHEDULES: dict[str, dict[str, Any]] = {  # what each changes of the `laptop` profile
    "as it was: 36 epochs, 48 to 72 px, full augmentation throughout": {
        "epochs": 36, "warmup": 0.2, "augment_from": 1.0},
    "24 epochs, 32 to 72 px, peak rate 0.1": {"epochs": 24, "grow_from": 32, "lr": 0.1},
    "30 epochs, 48 px": {"epochs": 30, "image_size": 48, "grow_from": None},
    "the profile: 26 epochs, 48 to 72 px": {},
}


def schedules(bench: Bench) -> None:
    """Whole trainings on `selection`, a thread each, with other sizes, lengths and augmentation; resumable.

    Their seconds are upper bounds: a training may have run beside other work.
    """
    jobs = [(bench.profile, bench.device.type, change, bench.share < 1) for change in SCHEDULES.values()]
    with multiprocessing.get_context("spawn").Pool(CORES if bench.device.type == "cpu" else 1) as pool:
        for name, history in zip(SCHEDULES, pool.map(scheduled, jobs, 1), strict=True):
            seen = history.dropna(subset="val_mae")
            total = history["seconds"].cumsum()
            bench.add("schedules", name, "validation MAE", [float(seen["val_mae"].min())], "years", 1)
            bench.add("schedules", name, "time", [float(total.iloc[-1])], "s", 1)
            reached = seen.index[seen["val_mae"] <= TARGET]
            bench.add("schedules", name, f"time to {TARGET}", [float(total[reached[0]]) if len(reached) else math.nan],
                      "s", 1)


def scheduled(job: tuple[str, str, dict[str, Any], bool]) -> pd.DataFrame:
    """Train one schedule on one thread, going on where it was interrupted; its history."""
    profile, device, change, quick = job
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
    config = load_config(profile, {"protocol": "selection", "evaluate_every": 2} | change
                         | ({"epochs": 2, "limit": 64} if quick else {}))
    data = runs.prepare(dataclasses.replace(config, device=device), runs.SELECTION)
    model = runs.build_model(config, data.part("train")["age"].to_numpy(np.float32))
    place = paths.runs_folder() / "schedules" / runs.settings_digest(config, data.split)
    return loop.train(model, data.feeder("train"), data.feeder("validation"), config, place, resume=True)


PARTS: dict[str, Callable[..., None]] = {"race": race, "target": target, "grid": halving, "schedules": schedules}
