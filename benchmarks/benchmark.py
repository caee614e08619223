"""How fast it is: the usual way and ours, side by side in one run, on the CPU and on a card if there is one.

``make benchmark`` runs the short parts; `--parts` names others. Leave the machine alone meanwhile. Results go to
`--out` (results.csv, config.json); `--record NAME` keeps them in benchmarks/records, where nothing is overwritten.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import trials
from measuring import CORES, HERE, Bench, cores, endless, feeders, rate, subset, synchronize
from torch.utils.flop_counter import FlopCounterMode

from agehelpers import loop, paths, runs
from agehelpers.batches import Feeder
from agehelpers.config import Config, load_config, utkface_folder
from agehelpers.index import build_index, usable
from agehelpers.loop import Trainer, autocast, pick_precision, predict
from agehelpers.model import AgeEstimationModel
from agehelpers.pixels import decode, load_pixels

RECORDS = HERE / "records"
SIZES = (64, 112, 224)


def machine(bench: Bench) -> None:
    """Physical limits: memory bandwidth, arithmetic, and what a training step of the network takes of it."""
    block = torch.ones(bench.count(128) * 2**20, dtype=torch.uint8, device=bench.device)
    target = torch.zeros_like(block)

    def copied() -> float:
        synchronize(bench.device)
        started = time.perf_counter()
        target.copy_(block)
        synchronize(bench.device)
        return 2 * block.numel() / (time.perf_counter() - started) / 1e9

    def multiplied(dtype: torch.dtype) -> float:
        side = 2048 if bench.device.type == "cpu" else 8192
        a, b = (torch.randn(side, side, device=bench.device).to(dtype) for _ in range(2))
        a @ b
        synchronize(bench.device)
        started = time.perf_counter()
        a @ b
        synchronize(bench.device)
        return 2 * side**3 / (time.perf_counter() - started) / 1e9

    precision = pick_precision(bench.config(), bench.device)
    for count in dict.fromkeys((1, CORES)):
        with cores(count):
            copied()
            rates = [copied() for _ in range(bench.repeats)]
            bench.add("machine", "memory bandwidth, a copy", "", rates, "GB/s", count)
    for dtype in dict.fromkeys((precision, torch.float32)):
        bench.add("machine", f"matrix product, {str(dtype).removeprefix('torch.')}", "",
                  [multiplied(dtype) for _ in range(bench.repeats)], "GFLOP/s")
    config = bench.config()
    for size in sorted({config.at(epoch).image_size for epoch in range(config.epochs)}):
        bench.add("machine", "arithmetic of a training step", "", [flops(bench, size)], "GFLOP/picture", size=size)


def flops(bench: Bench, size: int) -> float:
    """Floating-point operations of forward and backward, in 10^9 a picture."""
    model = AgeEstimationModel(bench.config())
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 3, size, size)).sum().backward()
    return counter.get_total_flops() / 2 / 1e9


def indexing(bench: Bench) -> None:
    """Index and first decode of the whole folder, files warm; and what a second start takes."""
    config = bench.config()
    folder = config.faces_folder()
    for file in folder.iterdir():
        if file.is_file():
            file.read_bytes()

    def timed(work: Callable[[], Any]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    bench.add("index", "index of the folder", "first time", [timed(lambda: build_index(folder))], "s")
    runs.cached_index(folder)
    again = [timed(lambda: runs.cached_index(folder)) for _ in range(bench.repeats)]
    bench.add("index", "index of the folder", "second time", again, "s")
    index = usable(runs.cached_index(folder))
    with tempfile.TemporaryDirectory() as cache:
        def load() -> np.ndarray:
            return load_pixels(folder, index, config.pixels_size, Path(cache))

        bench.add("index", "decoded pixels", "first time", [timed(load)], "s", size=config.pixels_size)
        bench.add("index", "decoded pixels", "second time", [timed(load) for _ in range(bench.repeats)], "s",
                  size=config.pixels_size)
    bench.add("index", "pictures in the index", "", [float(len(index))], "pictures")


def feeding(bench: Bench) -> None:
    """Augmented batches ready for the network, per core and on all cores."""
    with subset(bench, bench.count(2000)) as (files, index, cache):
        def decoding() -> float:
            started = time.perf_counter()
            for file in files[:bench.count(500)]:
                decode(file, 200)
            return min(len(files), bench.count(500)) / (time.perf_counter() - started)

        with cores(1):
            decoding()
            bench.add("feeding", "decode only: the usual way's limit", "PIL", [decoding() for _ in
                      range(bench.repeats)], "pictures/s", 1, 200)
        for size in SIZES:
            for count, workers in ((1, 0), (CORES, CORES))[:CORES]:  # one core: no second measurement
                with cores(count):
                    usual, ours = feeders(bench, size, files, index, cache, workers)
                    steps = bench.count(max(8, 16 * 64 // size))
                    bench.side_by_side("feeding", "batches" + " on the card" * (bench.device.type == "cuda"), {
                        "usual": lambda: rate(usual.training(0), bench.device, steps if not workers else 10**9),
                        "ours": lambda: rate(endless(ours), bench.device, 10 * steps)}, cores=count, size=size)


def training_step(bench: Bench) -> None:
    """A training step on one batch again and again, and with real feeding; at the sizes of the profile."""
    config = bench.config()
    with subset(bench, bench.count(6000)) as (files, index, cache):
        for size in sorted({config.at(epoch).image_size for epoch in range(config.epochs)}):
            _, ours = feeders(bench, size, files, index, cache, 0)
            trainer = new_trainer(bench, ours)
            images, ages = next(ours.training(0))
            steps = min(ours.steps() - 1, bench.count(max(10, 5 * 10**4 // size**2)))

            found: dict[str, list[float]] = {"synthetic": [], "real feeding": []}
            for repeat in range(bench.repeats + 1):
                batches, seconds = ours.training(repeat), dict.fromkeys(found, 0.0)
                for _ in range(steps):  # in turn step by step, so that a slow second of the machine meets both
                    for way in found:
                        started = time.perf_counter()
                        trainer.learn(*((images, ages) if way == "synthetic" else next(batches)))
                        synchronize(bench.device)
                        seconds[way] += time.perf_counter() - started
                if repeat:  # the first is the warm-up
                    for way in found:
                        found[way].append(steps * len(ages) / seconds[way])
            for way, values in found.items():
                bench.add("step", "training step", way, values, "pictures/s", size=size)
            ratios = [b / a for a, b in zip(*found.values(), strict=True)]
            bench.add("step", "training step", "real feeding / synthetic", ratios, "ratio", size=size)


def new_trainer(bench: Bench, feeder: Any) -> Trainer:
    """A seeded model in training mode and all that a step needs."""
    model = runs.build_model(feeder.config, np.asarray(feeder.ages)).train()
    return Trainer(model, feeder.config, bench.device, 10**6)


def stepped(trainer: Trainer, batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Pictures a second of training steps over `batches`."""
    synchronize(trainer.device)
    started, pictures = time.perf_counter(), 0
    for images, ages in batches:
        trainer.learn(images, ages)
        pictures += len(ages)
    synchronize(trainer.device)
    return pictures / (time.perf_counter() - started)


def epoch(bench: Bench) -> None:
    """A whole epoch, feeding and steps, on all cores: the usual way with the number of workers that suits it best."""
    with subset(bench, bench.count(1500)) as (files, index, cache):
        size = bench.config().image_size
        ways: dict[str, Callable[[], float]] = {}
        for workers in dict.fromkeys((0, 1, CORES)):
            usual, ours = feeders(bench, size, files, index, cache, workers)
            ways[f"usual, {workers} workers"] = partial(whole_epoch, new_trainer(bench, usual), usual)
        ways["ours"] = partial(whole_epoch, new_trainer(bench, ours), ours)
        bench.side_by_side("epoch", "epoch, pictures", ways, size=size, over="")
        rows = [row for row in bench.rows if row["part"] == "epoch" and row["device"] == bench.device.type]
        best = max(row["value"] for row in rows if row["way"].startswith("usual"))
        bench.add("epoch", "epoch, pictures", "ours / best usual", [rows[-1]["value"] / best], "ratio", size=size)


def whole_epoch(trainer: Trainer, feeder: Any) -> float:
    """Pictures a second of an epoch."""
    return stepped(trainer, feeder.training(0))


def prediction(bench: Bench) -> None:
    """Answers for pictures: the usual loop over files, ours from the files, ours from the decoded pixels."""
    with subset(bench, bench.count(1000)) as (files, index, cache):
        size = bench.config().image_size
        usual, ours = feeders(bench, size, files, index, cache, 0, flip_average=False)
        model = AgeEstimationModel(ours.config).eval()
        fp32 = dataclasses.replace(ours.config, precision="fp32")

        def timed(work: Callable[[], Any]) -> float:
            started = time.perf_counter()
            work()
            synchronize(bench.device)
            return len(files) / (time.perf_counter() - started)

        @torch.inference_mode()
        def loop_over_files() -> None:
            model.to(bench.device)
            for images, _ in usual.evaluation():
                model.head.ages(model(images)).cpu()

        bench.side_by_side("prediction", "answers, no mirror average", {
            "usual": lambda: timed(loop_over_files),
            "ours, decoding too": lambda: timed(lambda: predict(model, dataclasses.replace(
                ours, pixels=np.stack([decode(file, fp32.pixels_size) for file in files])), fp32)),
            "ours, fp32": lambda: timed(lambda: predict(model, ours, fp32)),
            "ours": lambda: timed(lambda: predict(model, ours, ours.config))}, size=size)


def options(bench: Bench) -> None:
    """What each way of computing a step is worth, one changed at a time, and what evaluation costs."""
    size = 48 if bench.device.type == "cpu" else bench.config().image_size
    with subset(bench, bench.count(3000)) as (files, index, cache):
        _, ours = feeders(bench, size, files, index, cache, 0)
        images, ages = next(ours.training(0))
        steps = bench.count(12)
        auto = pick_precision(ours.config, bench.device)
        choices: dict[str, dict[str, Any]] = {
                "precision fp32": {"precision": torch.float32}, "memory format NCHW": {"channels_last": False},
                "fp32 and NCHW": {"precision": torch.float32, "channels_last": False},
                "no running mean (EMA)": {"ema": False}, "running mean every 8 steps": {"ema_every": 8},
                "optimiser: one tensor at a time": {"optimiser": {"foreach": False, "fused": False}},
                "optimiser: foreach": {"optimiser": {"foreach": True, "fused": False}},
                "torch.compile": {"compile": True}}
        for what, changes in choices.items():
            base = PlainStep(ours.config, bench.device, precision=auto)
            settings: dict[str, Any] = {"precision": auto, **changes}
            other = PlainStep(ours.config, bench.device, **settings)
            try:
                other.run(images, ages, 2)
            except Exception as error:  # torch.compile needs a C++ compiler, and says so in many ways
                print(f"  {what}: cannot run here ({type(error).__name__})")
                continue
            bench.side_by_side("options", what, {
                "as it is": lambda: base.run(images, ages, steps), "changed": lambda: other.run(images, ages, steps)},
                size=size, over="as it is")
        if bench.device.type == "cpu" and CORES > 1:
            base = PlainStep(ours.config, bench.device, precision=auto)

            def one_core() -> float:
                with cores(1):
                    return base.run(images, ages, steps)

            bench.side_by_side("options", f"threads: 1 instead of {CORES}", {
                "as it is": lambda: base.run(images, ages, steps), "changed": one_core}, size=size, over="as it is")
            with multiprocessing.get_context("spawn").Pool(CORES) as pool:
                bench.side_by_side("options", f"{CORES} trainings at once, a thread each", {
                    "as it is": lambda: base.run(images, ages, steps),
                    "changed": lambda: sum(pool.map(_one_thread, [(ours.config, size, 2 * steps)] * CORES, 1))},
                    size=size, over="as it is")
        model, held = AgeEstimationModel(ours.config).to(bench.device).eval(), dataclasses.replace(
            ours, rows=ours.rows[:bench.count(1000)])
        modes = {"as it is": torch.inference_mode, "changed": torch.no_grad,
                 "changed, with gradients": torch.enable_grad}
        bench.side_by_side("options", "evaluation: no_grad for inference_mode", {
            name: partial(_evaluated, model, held, mode) for name, mode in modes.items()}, size=size,
            over="as it is")
        plain = dataclasses.replace(held, config=dataclasses.replace(held.config, flip_average=False))
        bench.side_by_side("options", "evaluation: no mirror average", {
            "as it is": lambda: _evaluated(model, held, torch.inference_mode),
            "changed": lambda: _evaluated(model, plain, torch.inference_mode)}, size=size, over="as it is")
        used = [row for row in bench.rows if row["part"] == "options" and row["way"] == "as it is"]
        rates = {row["what"]: row["value"] for row in used}
        share = rates["precision fp32"] / rates["evaluation: no mirror average"] / 9  # a tenth is held for validation
        bench.add("options", "evaluation after every epoch, of its time", "", [share / (1 + share)], "share", size=size)


class PlainStep:
    """A training step like `Trainer.learn`, with what is fixed there as choices."""

    def __init__(self, config: Config, device: torch.device, precision: torch.dtype, channels_last: bool = True,
                 ema: bool = True, ema_every: int = 1, optimiser: dict[str, bool] | None = None,
                 compile: bool = False) -> None:
        config = dataclasses.replace(config, ema=config.ema if ema else 0.0)
        self.trainer = Trainer(AgeEstimationModel(config).train(), config, device, 10**6)
        self.trainer.precision, self.every, self.device = precision, ema_every, device
        if not channels_last:
            self.trainer.model.to(memory_format=torch.contiguous_format)
            if self.trainer.averaged is not None:
                self.trainer.averaged.to(memory_format=torch.contiguous_format)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        if optimiser is not None:
            self.trainer.optimizer = torch.optim.SGD(
                self.trainer.model.parameters(), config.lr, config.momentum, nesterov=config.nesterov,
                weight_decay=config.weight_decay, **optimiser)
        self.model: Any = torch.compile(self.trainer.model) if compile else self.trainer.model

    def run(self, images: torch.Tensor, ages: torch.Tensor, steps: int) -> float:
        """Pictures a second of `steps` steps on one batch."""
        trainer = self.trainer
        images = images.contiguous(memory_format=self.format)
        synchronize(self.device)
        started = time.perf_counter()
        for step in range(steps):
            with autocast(self.device, trainer.precision):
                outputs = self.model(images)
            loss = trainer.model.head.loss(outputs, ages)
            trainer.optimizer.zero_grad()
            loss.mean().backward()
            trainer.optimizer.step()
            if trainer.averaged is not None and step % self.every == 0:
                trainer.averaged.update_parameters(trainer.model)
            trainer.loss.update(loss.detach(), 1.0)
            trainer.mae.update(trainer.model.head.ages(outputs.detach()), ages)
        synchronize(self.device)
        return steps * len(ages) / (time.perf_counter() - started)


def _one_thread(job: tuple[Config, int, int]) -> float:
    config, size, steps = job
    torch.set_num_threads(1)
    device = torch.device("cpu")
    images, ages = torch.zeros(config.batch_size, 3, size, size), torch.full((config.batch_size,), 30.0)
    step = PlainStep(config, device, pick_precision(config, device))
    step.run(images, ages, 2)
    return step.run(images, ages, steps)


def _evaluated(model: AgeEstimationModel, feeder: Feeder, mode: Any) -> float:
    started = time.perf_counter()
    with mode():
        for images, _ in feeder.evaluation():
            loop.outputs_of(model, images, feeder.config, feeder.device)
    synchronize(feeder.device)
    return len(feeder) / (time.perf_counter() - started)


def memory(bench: Bench) -> None:
    """Peak memory of an epoch of the profile on the whole set, decoding and prediction of all pictures included."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import benchmark; benchmark.whole_run(*sys.argv[2:])"
    with tempfile.TemporaryDirectory() as folder:
        changed = {"AGEHELPERS_CACHE": folder, "AGEHELPERS_RUNS": folder}
        out = subprocess.run([sys.executable, "-c", code, str(HERE), bench.profile, bench.device.type,
                              "200" if bench.share < 1 else "0"],
                             env=os.environ | changed, check=True, stdout=subprocess.PIPE, text=True).stdout
    for what, value in json.loads(out.splitlines()[-1]).items():
        bench.add("memory", what, "", [value], "GB")


def whole_run(profile: str, device: str, limit: str) -> None:
    """Index, decode, train one epoch, evaluate and predict; print the peak memory of this process as JSON.

    `limit` 0 is the whole set. The peak is Linux' own count (VmHWM), which starts anew with the process.
    """
    settings = {"weights": None, "device": device, "epochs": 1, "limit": int(limit)}
    config = load_config(profile, settings)
    runs.run(config, runs.run_folder(config))
    found = {}
    if (status := Path("/proc/self/status")).exists():
        kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        found["peak of the process, mapped pixels included"] = 1024 * int(kilobytes) / 1e9
    if torch.cuda.is_available() and device == "cuda":
        found["peak on the card"] = torch.cuda.max_memory_allocated() / 1e9
    print(json.dumps(found))


SHORT: dict[str, Callable[[Bench], None]] = {
    "machine": machine, "index": indexing, "feeding": feeding, "step": training_step, "epoch": epoch,
    "prediction": prediction, "options": options, "memory": memory}


def main(arguments: list[str] | None = None) -> None:
    """Measure the chosen parts on every device that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=[*SHORT, *trials.PARTS], default=list(SHORT), metavar="PART",
                        help=f"{', '.join([*SHORT, *trials.PARTS])}; by default without the last {len(trials.PARTS)}")
    parser.add_argument("--devices", nargs="+", choices=["cpu", "cuda"], default=["cpu", "cuda"])
    parser.add_argument("--against", default="69b4058", help="commit that part target compares with")
    parser.add_argument("--minutes", type=float, default=10.0, help="of part race, for each training")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few pictures and steps: a trial, not a measurement")
    parser.add_argument("--out", type=Path, default=paths.runs_folder() / "benchmark")
    parser.add_argument("--record", help="keep the results under this name in benchmarks/records")
    chosen = parser.parse_args(arguments)
    if chosen.record and (RECORDS / chosen.record).exists():
        parser.error(f"{RECORDS / chosen.record} exists; choose another name, or remove it")
    rows: list[dict[str, Any]] = []
    started = time.perf_counter()
    torch.set_num_threads(CORES)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=paths.ROOT, capture_output=True,
                            text=True).stdout.strip() if shutil.which("git") else ""
    devices = [name for name in chosen.devices if name == "cpu" or torch.cuda.is_available()]
    for name in devices:
        bench = Bench({"cpu": "laptop", "cuda": "gpu"}[name], torch.device(name), 2 if chosen.quick else chosen.repeats,
                      0.02 if chosen.quick else 1.0, rows)
        for part in chosen.parts:
            print(f"{part} ({name})", flush=True)
            if part in SHORT:
                SHORT[part](bench)
            else:
                trials.PARTS[part](bench, **{"target": {"against": chosen.against},
                                             "race": {"minutes": chosen.minutes}}.get(part, {}))
            table = pd.DataFrame(rows).to_csv(index=False, float_format="%.6g")
            paths.write_atomically(chosen.out / "results.csv", table)  # after each part: a later one may fail
    paths.write_json(chosen.out / "config.json", {
        "parts": chosen.parts, "devices": devices, "repeats": chosen.repeats, "quick": chosen.quick,
        "faces": "named or in data/UTKFace" if utkface_folder() else "drawn",
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "precision": {name: str(pick_precision(load_config("laptop", {"device": name}), torch.device(name)))
                      .removeprefix("torch.") for name in devices},
        "commit": commit, "race_minutes": chosen.minutes,
        "hardware": runs.hardware(), "versions": paths.versions((*paths.PACKAGES, "opencv-python-headless"))})
    if chosen.record:
        shutil.copytree(chosen.out, RECORDS / chosen.record)
    print(f"Results: {paths.relative(chosen.out)}" + f", kept as {chosen.record}" * bool(chosen.record))


if __name__ == "__main__":
    main()
