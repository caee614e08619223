"""The short parts of the benchmark: limits, start, feeding, steps, prediction, memory. `benchmark.py` runs them."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
from collections.abc import Callable
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from measuring import CORES, Bench, SomeFaces, cores, rate, warm
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode
from usual import UsualFaces

from agehelpers.config import Config
from agehelpers.data.dataset import FaceDataset
from agehelpers.data.decoder import decode
from agehelpers.data.faces import faces_folder
from agehelpers.data.labels import build_labels, cached_labels, usable
from agehelpers.data.pixels import load_pixels
from agehelpers.devices import pick_precision
from agehelpers.methods.model import AgeEstimationModel, build_model
from agehelpers.training.loop import evaluate, predict
from agehelpers.training.runs import run
from agehelpers.training.trainer import Trainer

SIZES = (64, 112, 224)  # pixels, of part feeding


def sizes_of(config: Config) -> list[int]:
    """Sides of the training pictures over the epochs of `config`."""
    return sorted({config.at(epoch).image_size for epoch in range(config.epochs)})


def machine(bench: Bench) -> None:
    """Physical limits: memory bandwidth, arithmetic, and what a training step of the network takes of it."""
    block = torch.ones(bench.count(128) * 2**20, dtype=torch.uint8, device=bench.device)
    target, side = torch.zeros_like(block), 2048 if bench.device.type == "cpu" else 8192
    precision = pick_precision(bench.config(), bench.device)
    a, b = (torch.randn(side, side, device=bench.device).to(precision) for _ in range(2))
    with cores(1):
        copies = bench.times(lambda: target.copy_(block))
    bench.add("memory bandwidth", [2 * block.numel() / seconds / 1e9 for seconds in copies], "GB/s", cores=1)
    products = [2 * side**3 / seconds / 1e9 for seconds in bench.times(lambda: a @ b)]
    bench.add("matrix product", products, "GFLOP/s", way=str(precision).removeprefix("torch."))
    for size in sizes_of(bench.config()):
        bench.add("arithmetic of a training step", [flops(bench.config(), size)], "GFLOP/picture", size=size)


def flops(config: Config, size: int) -> float:
    """Floating-point operations of forward and backward, in 10^9 a picture."""
    model = AgeEstimationModel(config)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 3, size, size)).sum().backward()
    return counter.get_total_flops() / 2 / 1e9


def labels(bench: Bench) -> None:
    """Label table and pixels of the whole folder, its files in the system's cache; and what a second start takes."""
    config, folder = bench.config(), faces_folder(bench.config())
    warm(folder.iterdir())
    bench.add("label table", [bench.seconds(lambda: build_labels(folder))], "s", way="first time")
    bench.add("label table", bench.times(lambda: cached_labels(folder)), "s", way="second time")
    table, size = usable(cached_labels(folder)), config.pixels_size
    load = partial(load_pixels, folder, table, size, bench.place)
    bench.add("decoded pixels", [bench.seconds(load)], "s", way="first time", size=size)
    bench.add("decoded pixels", bench.times(load), "s", way="second time", size=size)
    bench.add("pictures", [float(len(table))], "pictures")


def feeding(bench: Bench) -> None:
    """Augmented batches ready for the network, on one core and on all; ours also picture by picture."""
    faces = SomeFaces(bench, 2000)
    files = faces.files[:500]
    with cores(1):
        seconds = bench.times(lambda: [decode(file, 200) for file in files])
    bench.add("decoding", [len(files) / one for one in seconds], "pictures/s", cores=1, size=200)
    for size in SIZES:
        for used, workers in ((1, 0), (CORES, CORES))[:CORES]:  # one core: no second measurement
            steps = bench.count(max(8, 16 * 64 // size))
            with cores(used):
                usual, ours = faces.both(size, workers)
                ways = {"usual": lambda: rate(usual.training_batches(0), bench.device, None if workers else steps),
                        "ours": lambda: rate(chain.from_iterable(map(ours.training_batches, count())), bench.device,
                                             10 * steps),
                        "ours, picture by picture": lambda: rate(
                            (default_collate([ours[(64 * n + place) % len(ours)] for place in range(64)])
                             for n in range(steps)), bench.device)}
                bench.add_ways("batches", bench.in_turn(ways), "usual", cores=used, size=size)


def step(bench: Bench) -> None:
    """A training step on one batch again and again, and with real feeding; at the sizes of the profile."""
    faces = SomeFaces(bench, 6000)
    for size in sizes_of(bench.config()):
        _, ours = faces.both(size)
        trainer, repeated = new_trainer(ours), next(iter(ours.training_batches(0)))
        steps = min(ours.steps - 1, bench.count(max(10, 5 * 10**4 // size**2)))
        seconds = np.zeros((2, bench.repeats + 1))
        for repeat in range(bench.repeats + 1):
            batches = iter(ours.training_batches(repeat))
            for _ in range(steps):  # in turn step by step, so that a slow second of the machine meets both
                seconds[0, repeat] += bench.seconds(lambda: trainer.learn(*repeated))
                seconds[1, repeat] += bench.seconds(lambda: trainer.learn(*next(batches)))
        speeds = (steps * len(repeated[1]) / seconds[:, 1:]).tolist()  # the first round is the warm-up
        bench.add_ways("training step", {"repeated batch": speeds[0], "real feeding": speeds[1]}, "repeated batch",
                       size=size)


def new_trainer(faces: FaceDataset | UsualFaces, **settings: Any) -> Trainer:
    """A seeded model in training mode and all that a step needs."""
    config = dataclasses.replace(faces.config, **settings)
    return Trainer(build_model(config, faces.ages).train(), config, faces.device, 10**6)


def epoch(bench: Bench) -> None:
    """A whole epoch, feeding and steps, on all cores; the usual way with several numbers of worker processes."""
    def whole(faces: FaceDataset | UsualFaces) -> Callable[[], float]:
        trainer = new_trainer(faces)
        return lambda: rate(faces.training_batches(0), bench.device, learn=trainer.learn)

    faces = SomeFaces(bench, 1500)
    size = bench.config().image_size
    both = {workers: faces.both(size, workers) for workers in sorted({0, 1, CORES})}
    ways = {("usual", workers): whole(usual) for workers, (usual, _) in both.items()}
    ways["ours", 0] = whole(both[0][1])
    for (way, workers), values in bench.in_turn(ways).items():
        bench.add("epoch", values, "pictures/s", way=way, workers=workers, size=size)


def prediction(bench: Bench) -> None:
    """Predictions for pictures, in fp32: the usual loop over files, ours from files, ours from decoded pixels."""
    faces = SomeFaces(bench, 1000)
    size = bench.config().image_size
    usual, ours = faces.both(size, precision="fp32", flip_average=False)
    model = AgeEstimationModel(ours.config).to(bench.device).eval()

    @torch.inference_mode()
    def loop_over_files() -> None:
        for images, _ in usual.evaluation_batches():
            model.head.ages(model(images)).cpu()

    def from_files() -> None:
        pixels = np.stack([decode(file, ours.config.pixels_size) for file in faces.files])
        predict(model, dataclasses.replace(ours, pixels=pixels), ours.config)

    bench.add_ways("predictions", bench.speeds({
        "usual": loop_over_files, "ours, from files": from_files,
        "ours, from pixels": lambda: predict(model, ours, ours.config)}, len(ours)), "usual", size=size)


def options(bench: Bench) -> None:
    """What choices in a training step and in validation are worth, one changed at a time."""
    faces = SomeFaces(bench, 3000)
    size = 48 if bench.device.type == "cpu" else bench.config().image_size
    _, ours = faces.both(size)
    batches = [next(iter(ours.training_batches(0)))] * bench.count(12)
    trainers = {"as it is": new_trainer(ours), "precision fp32": new_trainer(ours, precision="fp32"),
                "no moving average (EMA)": new_trainer(ours, ema=0.0)}
    if shutil.which("c++"):  # torch.compile needs a compiler
        trainers["torch.compile"] = new_trainer(ours)
        trainers["torch.compile"].model = torch.compile(trainers["torch.compile"].model)  # type: ignore[assignment]
    steps: dict[str, Callable[[], float]] = {
        way: partial(rate, batches, bench.device, learn=one.learn) for way, one in trainers.items()}
    if bench.device.type == "cpu" and CORES > 1:
        steps["one thread"] = cores(1)(steps["as it is"])
    bench.add_ways("training step", bench.in_turn(steps), "as it is", size=size)
    few, model = dataclasses.replace(ours, rows=ours.rows[:1000], ages=ours.ages[:1000]), trainers["as it is"].model
    without = dataclasses.replace(ours.config, flip_average=False)
    bench.add_ways("validation", bench.speeds({
        "as it is": lambda: evaluate(model, few, ours.config),
        "no mirror average": lambda: evaluate(model, few, without)}, len(few)), "as it is", size=size)


def memory(bench: Bench) -> None:
    """Peak memory of an epoch of the profile on the whole set, decoding and prediction of all pictures included."""
    with (mock.patch.dict(os.environ, AGEHELPERS_CACHE=str(bench.place)),
          multiprocessing.get_context("spawn").Pool(1) as pool):  # the peak is counted anew with a process
        for measure, value in pool.apply(peak_of_a_run, (bench.config(epochs=1), bench.place / "run")).items():
            bench.add(measure, [value], "GB")


def peak_of_a_run(config: Config, folder: Path) -> dict[str, float]:
    """Label table, decoding, training, evaluation and prediction; peak memory of this process in GB (Linux: VmHWM)."""
    run(config, folder)
    found = {}
    if (status := Path("/proc/self/status")).exists():
        kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        found["peak of the process"] = 1024 * int(kilobytes) / 1e9
    if config.device == "cuda":
        found["peak on the GPU"] = torch.cuda.max_memory_allocated() / 1e9
    return found


PARTS: dict[str, Callable[[Bench], None]] = {
    "machine": machine, "labels": labels, "feeding": feeding, "step": step, "epoch": epoch, "prediction": prediction,
    "options": options, "memory": memory}
