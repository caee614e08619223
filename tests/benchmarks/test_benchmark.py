"""The benchmark measures what it says; nothing here depends on the clock."""

import itertools
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from agehelpers.config import load_config
from agehelpers.data.dataset import FaceDataset
from agehelpers.data.labels import build_labels, usable
from agehelpers.data.pixels import load_pixels
from agehelpers.photos.estimator import PACKAGED
from agehelpers.photos.onnx import OnnxEstimator

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The folder benchmarks/ importable."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def both(faces):
    """A function that gives the usual way and ours over the drawn faces, with some settings."""
    from usual import UsualFaces

    labels = usable(build_labels(faces))
    ages, files = labels["age"].to_numpy(np.float32), [faces / name for name in labels["name"]]

    def made(**settings):
        config = load_config("scratch", {"image_size": 48, "grow_from": None, "augment_from": 1.0, "batch_size": 16,
                                        "backbone": "tiny", **settings})
        pixels = load_pixels(faces, labels, config.pixels_size)
        return (UsualFaces(files, ages, config, torch.device("cpu")),
                FaceDataset(pixels, np.arange(len(labels)), ages, config, augment=True))

    return made


@pytest.fixture
def bench(faces, tmp_path, monkeypatch):
    """A function that gives a benchmark so small that it says nothing but that it runs, in this process."""
    import measuring
    import trials

    monkeypatch.setattr(trials, "beside", lambda bench, works: [work() for work in works])

    def made(part, **settings):
        tiny = {"faces": str(faces), "epochs": 1, "batch_size": 16, "protocol": "holdout"}
        return measuring.Bench("ci", torch.device("cpu"), 2, tmp_path / "place", 0.02, tiny | settings, part)

    return made


def test_both_ways_show_the_same_pictures(both):
    from dataclasses import replace

    usual, ours = both()
    whole = replace(ours, augment=False)
    for (theirs, their_ages), (images, ages) in zip(usual.evaluation_batches(), whole.evaluation_batches(),
                                                    strict=True):
        assert torch.equal(their_ages, ages) and theirs.shape == images.shape
        assert (theirs - images).abs().mean() < 0.06  # one resampling there, two here
    assert usual.steps == ours.steps == len(list(usual.training_batches(0)))
    assert sorted(torch.cat([ages for _, ages in usual.training_batches(1)]).tolist()) == sorted(ours.ages.tolist())


def test_the_same_loop_evaluates_and_trains_both_ways(both, tmp_path):
    from agehelpers.methods.model import build_model
    from agehelpers.training.loop import evaluate, train

    (usual, ours), config = both(), both(epochs=2)[0].config
    model = build_model(config, ours.ages)
    assert evaluate(model, usual, config)[1] == pytest.approx(evaluate(model, ours, config)[1], abs=0.1)
    histories = [train(build_model(config, ours.ages), way, way, config, tmp_path / str(number),
                       on_epoch=lambda trainer: trainer.epoch == 1) for number, way in enumerate((usual, ours))]
    assert [len(history) for history in histories] == [1, 1]  # the hook ends it after one of two epochs


def test_both_ways_augment_as_strongly(both):
    from dataclasses import replace

    geometry = {"rotation": 10.0, "shift": 0.05, "scale": 0.1, "brightness": 0.0, "contrast": 0.0, "flip": False}
    usual, ours = both(**geometry)
    twice, _ = both(**geometry | {"rotation": 20.0, "shift": 0.1, "scale": 0.2})
    inside = (..., slice(12, 36), slice(12, 36))  # corners that come in from outside are black there, repeated here
    still = torch.cat([images for images, _ in replace(ours, augment=False).evaluation_batches()])[inside]

    def moved(way) -> float:
        """How far augmented pictures are from themselves, on average; in their order by age."""
        found = []
        for epoch in range(6):
            batches = list(way.training_batches(epoch))
            images, ages = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
            found += [(images[inside][ages == age].mean(0) - still[torch.from_numpy(ours.ages) == age].mean(0))
                      .abs().mean() for age in ages.unique()]
        return float(torch.stack(found).mean())

    assert moved(usual) == pytest.approx(moved(ours), rel=0.15)
    assert moved(twice) > 1.3 * moved(ours)  # so that other ranges would be seen


def test_rates_and_ratios_by_hand(bench, monkeypatch):
    import measuring

    clock = itertools.count(0, 2)  # seconds: two between any two looks at it
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    batches = [(torch.zeros(4, 3), torch.zeros(4)), (torch.zeros(2, 3), torch.zeros(2))]
    learned = []
    assert measuring.rate(batches, torch.device("cpu")) == 3  # six pictures in two seconds
    assert measuring.rate(batches, torch.device("cpu"), 1, lambda images, ages: learned.append(len(ages))) == 2
    assert learned == [4]
    made = bench("feeding")
    usual, ours = iter([99.0, 1.0, 3.0]), iter([99.0, 8.0, 3.0])  # the first is the warm-up
    found = made.in_turn({"usual": lambda: next(usual), "ours": lambda: next(ours)})
    made.add_ways("batches", found, "usual", size=64)
    rows = {(row.way, row.over): (row.low, row.value, row.high, row.unit, row.size) for row in made.rows}
    assert rows == {("usual", ""): (1, 2, 3, "pictures/s", 64), ("ours", ""): (3, 5.5, 8, "pictures/s", 64),
                    ("ours", "usual"): (1, 4.5, 8, "ratio", 64)}
    assert made.times(lambda: None) == [2, 2] and made.speeds({"usual": lambda: None}, 10) == {"usual": [5, 5]}
    with pytest.raises(TypeError, match="speed"):
        made.add("batches", [1.0], "pictures/s", speed=1)  # a fact without a column


def test_pictures_are_decoded_once_or_in_every_epoch(both, monkeypatch):
    """What the benchmark compares, counted: openings of picture files in two epochs."""
    import usual as usual_module

    opened, really = [], usual_module.Image.open
    usual, ours = both()
    monkeypatch.setattr(usual_module.Image, "open", lambda *args, **more: opened.append(args) or really(*args, **more))
    for way, expected in ((usual, 2 * len(usual.files)), (ours, 0)):
        opened.clear()
        assert sum(len(ages) for epoch in (0, 1) for _, ages in way.training_batches(epoch)) == 2 * len(usual.files)
        assert len(opened) == expected


def test_a_quick_benchmark_and_its_record(faces, tmp_path, monkeypatch):
    import benchmark
    import short

    parts = ["machine", "labels", "feeding", "step", "epoch", "prediction", "options"]
    monkeypatch.setenv("AGEHELPERS_FACES", str(faces))
    monkeypatch.setattr(short, "SIZES", (32,))
    for module in (benchmark, short):
        monkeypatch.setattr(module, "CORES", 1)  # no worker processes
    monkeypatch.setattr(torch, "compile", lambda model: model)
    monkeypatch.setattr(benchmark, "RECORDS", tmp_path)
    monkeypatch.setitem(benchmark.PROFILES, "cpu", "ci")
    monkeypatch.setattr(benchmark, "QUICK", benchmark.QUICK | {"faces": str(faces)})
    benchmark.main(["--quick", "--devices", "cpu", "--record", "mine", "--parts", *parts])
    rows = pd.read_csv(tmp_path / "mine" / "results.csv").fillna({"way": "", "over": ""})
    assert json.loads((tmp_path / "mine" / "config.json").read_text())["quick"] is True
    assert rows["part"].unique().tolist() == parts
    assert (rows["value"] > 0).all() and (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()
    for part in ("feeding", "prediction", "epoch"):
        assert set(rows.loc[rows["part"] == part, "way"]) >= {"usual"}
    with pytest.raises(SystemExit):
        benchmark.main(["--quick", "--record", "mine"])  # nothing is overwritten


def test_the_packaged_weights_are_timed_both_ways(bench, exported, monkeypatch):
    import trials

    written = []
    monkeypatch.setattr(trials, "export", lambda *which: written.append(which))
    monkeypatch.setattr(trials, "OnnxEstimator", lambda place: OnnxEstimator(exported / "onnx"))
    made = bench("packaged")
    trials.packaged(made)
    assert written == [(PACKAGED, made.place)]
    rows = pd.DataFrame(made.rows)
    assert rows["way"].tolist() == ["PyTorch", "ONNX", "ONNX"] * 2 and (rows["value"] > 0).all()
    assert rows["measure"].unique().tolist() == ["many at once", "one by one"]


def test_a_race_one_after_the_other(bench):
    import trials

    made = bench("race")
    trials.race(made, seeds=(0, 1))
    rows = pd.DataFrame(made.rows)
    assert rows["epoch"].tolist() == [1] * 8  # no time, but one epoch each
    counts = rows.groupby(["way", "seed", "measure"]).size()
    assert len(counts) == 8 and (counts == 1).all() and (rows["value"] > 0).all()


def test_both_grids(bench, monkeypatch):
    import trials

    from agehelpers.training import grid

    monkeypatch.setitem(grid.GRIDS, "ci", grid.Grid(lr=(0.05, 0.01), weight_decay=(0.0,), momenta=(0.9,)))
    trained, really = [], grid.train_cell
    monkeypatch.setattr(grid, "train_cell", lambda faces, place: trained.append(faces.config) or really(faces, place))
    made = bench("grid", epochs=2)  # a short look is one epoch
    trials.halving(made)
    rows = pd.DataFrame(made.rows)
    assert [config.epochs for config in trained] == [2, 2, 1, 1, 2, 2]  # in full; then short looks, and two in full
    winners = rows[rows["measure"] == "validation MAE of the winner"]
    assert winners["way"].tolist() == ["every cell in full", "halving"] and set(winners["lr"]) <= {0.05, 0.01}
    assert rows.loc[rows["unit"] == "ratio", ["way", "over"]].values.tolist() == [["halving", "every cell in full"]]


@pytest.mark.parametrize(("reached_at", "minutes", "epochs"), [(200, 60, 1), (0, 60, 3), (0, 0, 1)])
def test_a_goal_ends_each_training_once_it_is_reached_or_the_time_is_over(reached_at, minutes, epochs, bench,
                                                                           monkeypatch):
    import trials

    monkeypatch.setattr(trials, "GOAL_WAYS", {"one": ("laptop", {"epochs": 9}), "two": ("start", {})})
    monkeypatch.setattr(trials, "GOAL", reached_at)  # years of validation MAE
    monkeypatch.setattr(trials, "GOAL_MINUTES", minutes)
    made = bench("goal", epochs=3, backbone="tiny", image_size=24, grow_from=None, cache_size=30)
    made.share = 1.0
    trials.goal(made)
    rows = pd.DataFrame(made.rows)
    assert rows.groupby("way", sort=False)["epoch"].max().to_dict() == {"one": epochs, "two": epochs}
    assert set(rows["measure"]) == {"validation MAE", "time"} and set(rows["size"]) == {24}


class Here:
    """A pool whose work is done in this process."""

    def __init__(self, *_):
        pass

    def Pool(self, processes):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def apply(self, work, arguments):
        return work(*arguments)


def test_growth_measures_every_work_on_sets_that_grow(bench, monkeypatch):
    import growth

    monkeypatch.setattr(multiprocessing, "get_context", Here)
    made = bench("growth")
    monkeypatch.setattr(growth, "FIRST", 5100)  # a fiftieth of it is measured
    monkeypatch.setattr(growth, "TIMES", {"index": (1, 2), "pixel cache": (2,), "epoch": (1,), "evaluation": (1,)})
    growth.growth(made)
    rows = pd.DataFrame(made.rows)
    times = rows[rows["measure"] == "time"]
    assert times[["way", "pictures"]].values.tolist() == [["index", 101], ["epoch", 101], ["evaluation", 101],
                                                          ["index", 203], ["pixel cache", 203]]
    assert (times["value"] > 0).all() and (rows.loc[rows["measure"] == "memory", "value"].dropna() >= 0).all()
    assert rows.loc[rows["measure"] == "copies found", "value"].tolist() == [1, 1]  # all, and none that is no copy
    smaller, larger = (sorted((made.place / times).iterdir()) for times in "12")
    for file in smaller:
        assert file.read_bytes() == (made.place / "2" / file.name).read_bytes()
    assert len({file.read_bytes() for file in larger}) == len(larger)


def test_scaling_asks_for_the_processes_and_threads_that_it_names(bench, monkeypatch):
    import growth

    asked = []

    def torchrun(command, env, **_):
        asked.append((command[command.index("--nproc-per-node") + 1], env["OMP_NUM_THREADS"]))
        assert "backbone=tiny" in command and "limit=60" in command
        run = Path(env["AGEHELPERS_RUNS"]) / "run"
        run.mkdir(parents=True)
        pd.DataFrame({"seconds": [99.0, 3.0 if asked[-1] == ("2", "1") else 6.0]}).to_csv(run / "history.csv")

    monkeypatch.setattr(growth.subprocess, "run", torchrun)
    monkeypatch.setattr(growth, "LAYOUTS", {"one": (1, 2), "two": (2, 1)})
    made = bench("scaling", backbone="tiny")
    growth.scaling(made)
    assert asked == [("1", "2"), ("2", "1")] * 2
    assert {(row.way, row.over): (row.value, row.repeats) for row in made.rows} == {
        ("one", ""): (6, 2), ("two", ""): (3, 2), ("two", "one"): (0.5, 2)}


def test_memory_is_that_of_a_whole_run(bench, monkeypatch):
    import short

    monkeypatch.setattr(multiprocessing, "get_context", Here)
    made = bench("memory")
    short.memory(made)
    assert [(row.measure, row.unit) for row in made.rows] in ([], [("peak of the process", "GB")])  # []: not on Linux
    assert all(0.2 < row.value < 20 for row in made.rows)
    assert (made.place / "run" / "predictions.csv").is_file()


def test_flops_by_hand():
    import short

    stem = 2 * 64 * 3 * 49 * 32 * 32 / 1e9  # multiply-adds of the first convolution at 64 px: 64 x 3 x 7 x 7, stride 2
    stage = 2 * (4 * 64 * 64 * 9 * 16 * 16 + (64 * 128 * 9 + 3 * 128 * 128 * 9 + 64 * 128) * 8 * 8
                 + (128 * 256 * 9 + 3 * 256 * 256 * 9 + 128 * 256) * 4 * 4) / 1e9
    # backward computes two products as large as the forward one, but the pictures' own gradient is not asked for
    assert short.flops(load_config("scratch"), 64) == pytest.approx(3 * (stem + stage) - stem, rel=0.001)
