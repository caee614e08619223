"""The benchmark measures what it says, and the README says what its records hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

from agehelpers.batches import Feeder
from agehelpers.config import load_config
from agehelpers.index import build_index, usable
from agehelpers.pixels import load_pixels

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def scripts(monkeypatch):
    """The folder benchmarks/ importable."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def both(scripts, faces, **settings):
    from usual import UsualFeeder

    config = load_config("laptop", {"image_size": 48, "grow_from": None, "augment_from": 1.0, "batch_size": 16,
                                    **settings})
    index = usable(build_index(faces))
    ages = index["age"].to_numpy(np.float32)
    ours = Feeder(load_pixels(faces, index, config.pixels_size), np.arange(len(index)), ages, config)
    return UsualFeeder([faces / name for name in index["name"]], ages, config, torch.device("cpu")), ours


def test_both_ways_show_the_same_pictures(scripts, faces):
    usual, ours = both(scripts, faces)
    for (theirs, their_ages), (images, ages) in zip(usual.evaluation(), ours.evaluation(), strict=True):
        assert torch.equal(their_ages, ages) and theirs.shape == images.shape
        assert (theirs - images).abs().mean() < 0.06  # one resampling there, two here
    assert usual.steps() == ours.steps() == len(list(usual.training(0)))
    assert sorted(torch.cat([ages for _, ages in usual.training(1)]).tolist()) == sorted(ours.ages.tolist())


def test_both_ways_augment_as_strongly(scripts, faces):
    geometry = {"rotation": 10.0, "shift": 0.05, "scale": 0.1, "brightness": 0.0, "contrast": 0.0, "flip": False}
    usual, ours = both(scripts, faces, **geometry)
    twice, _ = both(scripts, faces, **geometry | {"rotation": 20.0, "shift": 0.1, "scale": 0.2})
    still = torch.cat([images for images, _ in ours.evaluation()])[:, :, 12:36, 12:36]

    def moved(feeder) -> float:
        """How far augmented pictures are from themselves, on average; in their order by age."""
        found = []
        for epoch in range(6):
            batches = list(feeder.training(epoch))
            images, ages = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
            images = images[:, :, 12:36, 12:36]  # corners that come in from outside are black there, repeated here
            found.append(torch.stack([(images[ages == age].mean(0) - still[torch.from_numpy(ours.ages) == age].mean(0))
                                      .abs().mean() for age in ages.unique()]).mean())
        return float(torch.stack(found).mean())

    assert moved(usual) == pytest.approx(moved(ours), rel=0.15)
    assert moved(twice) > 1.3 * moved(ours)  # so that other ranges would be seen


@pytest.fixture
def bench(scripts, faces, monkeypatch):
    """A benchmark so small that it says nothing but that it runs."""
    import benchmark
    import measuring

    monkeypatch.setenv("AGEHELPERS_FACES", str(faces))
    monkeypatch.setattr(benchmark, "SIZES", (32,))
    return measuring.Bench("laptop", torch.device("cpu"), 2, 0.02)


def test_side_by_side_by_hand(scripts):
    import measuring

    bench = measuring.Bench("laptop", torch.device("cpu"), 3, 1.0)
    usual, ours = iter([99.0, 1.0, 2.0, 3.0]), iter([99.0, 8.0, 4.0, 3.0])  # the first is the warm-up
    bench.side_by_side("part", "what", {"usual": lambda: next(usual), "ours": lambda: next(ours)})
    found = {row["way"]: (row["low"], row["value"], row["high"]) for row in bench.rows}
    assert found == {"usual": (1, 2, 3), "ours": (3, 4, 8), "ours / usual": (1, 2, 8)}


def test_a_quick_benchmark_and_its_record(bench, tmp_path, monkeypatch):
    import benchmark

    monkeypatch.setattr(benchmark, "RECORDS", tmp_path / "records")
    benchmark.main(["--quick", "--devices", "cpu", "--parts", "machine", "index", "feeding", "step", "epoch",
                    "prediction", "--out", str(tmp_path / "out"), "--record", "mine"])
    rows = pd.read_csv(tmp_path / "records" / "mine" / "results.csv", keep_default_na=False)
    assert json.loads((tmp_path / "records" / "mine" / "config.json").read_text())["quick"] is True
    assert (rows["value"] > 0).all() and (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()
    fed = rows[(rows["part"] == "feeding") & (rows["cores"] == 1)].set_index("way")["value"]
    assert fed["ours"] > 2 * fed["usual"]
    assert set(rows["part"]) == {"machine", "index", "feeding", "step", "epoch", "prediction"}
    with pytest.raises(SystemExit):
        benchmark.main(["--quick", "--record", "mine"])  # nothing is overwritten


def test_a_race_one_after_the_other(bench, monkeypatch):
    import trials

    from agehelpers import loop

    before = loop._finish_epoch
    monkeypatch.setattr(trials, "beside", lambda bench, work, jobs: [work(job) for job in jobs])
    monkeypatch.setattr(trials, "pinned", lambda core, device: None)
    trials.race(bench, seeds=(0,))
    assert loop._finish_epoch is before
    rows = pd.DataFrame(bench.rows)
    assert rows.loc[rows["unit"] == "epochs", "value"].tolist() == [1, 1]  # no time, but one epoch each
    assert (rows.loc[rows["unit"] == "ratio", "value"] > 0).all()
    assert rows["what"].str.contains("validation MAE after epoch 1").sum() == 2


def test_both_grids(bench, monkeypatch):
    import trials

    from agehelpers import grid

    monkeypatch.setattr(trials, "beside", lambda bench, work, jobs: [work(job) for job in jobs])
    monkeypatch.setattr(trials, "pinned", lambda core, device: None)
    monkeypatch.setitem(grid.GRIDS, "laptop", grid.Axes(lr=(0.05, 0.01), weight_decay=(0.0,), momenta=(0.9,)))
    trials.halving(bench)
    rows = pd.DataFrame(bench.rows)
    assert rows[rows["way"] == "every cell in full"]["what"].str.endswith(", full").sum() == 2
    assert rows[rows["way"] == "halving"]["what"].str.endswith(", short").sum() == 2
    assert rows[rows["what"].str.startswith("the winner")]["unit"].tolist() == ["years"] * 2


def test_memory_is_that_of_a_whole_run(bench, capsys):
    import benchmark

    benchmark.whole_run("laptop", "cpu", "40")
    peak = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert peak == {} or 0.2 < peak["peak of the process, mapped pixels included"] < 20  # GB; {}: not on Linux


def test_a_training_until_a_target(bench):
    found = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "until.py"), "200", "0", "1", "cpu", "3"],
                           check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    found = json.loads(found.stdout.splitlines()[-1])
    assert Path(found["package"]) == ROOT / "agehelpers"
    (epoch,) = found["epochs"]  # everything is below 200 years at once
    assert epoch["size"] == 48 and epoch["own"] == pytest.approx(epoch["trained"], abs=0.01) and epoch["seconds"] > 0


def test_flops_by_hand(scripts):
    import benchmark
    import measuring

    bench = measuring.Bench("laptop", torch.device("cpu"), 1, 1.0)
    stem = 2 * 64 * 3 * 49 * 32 * 32 / 1e9  # multiply-adds of the first convolution at 64 px: 64 x 3 x 7 x 7, stride 2
    stage = 2 * (4 * 64 * 64 * 9 * 16 * 16 + (64 * 128 * 9 + 3 * 128 * 128 * 9 + 64 * 128) * 8 * 8
                 + (128 * 256 * 9 + 3 * 256 * 256 * 9 + 128 * 256) * 4 * 4) / 1e9
    # backward computes two products as large as the forward one, but the pictures' own gradient is not asked for
    assert benchmark.flops(bench, 64) == pytest.approx(3 * (stem + stage) - stem, rel=0.001)


def test_the_readme_is_what_the_benchmark_records_say(scripts):
    import report

    from agehelpers import results

    text = (ROOT / "README.md").read_text()
    assert results.with_block(text, report.block(), report.BEGIN, report.END) == text
    for name in ("short", "step", "race", "target", "grid", "schedules"):
        assert json.loads((report.RECORDS / name / "config.json").read_text())["quick"] is False


def test_the_benchmark_records_reach_their_aims(scripts):
    import report

    def value(record, **wanted):
        return report.find(report.rows_of(record), device="cpu", **wanted)["value"]

    assert value("short", part="feeding", way="ours /", size=64, cores=1).item() >= 10
    assert value("short", part="feeding", way="ours /", size=112, cores=1).item() >= 6
    assert (value("step", part="step", unit="ratio") >= 0.95).all()
    assert value("short", what="index of the folder", way="first").item() < 20
    assert value("short", what="index of the folder", way="second").item() < 2
    assert value("short", what="decoded pixels", way="first").item() < 30
    assert value("short", what="peak of the process").item() < 2
    assert (value("race", unit="ratio") > 1).all()
    assert value("target", what="seed 0, time to 6.5 years, its own", unit="ratio").item() <= 0.5
    assert value("grid", what="time of the grid", unit="ratio").item() <= 1 / 3


def test_the_benchmarks_figure_shows_the_records(scripts):
    import matplotlib.pyplot as plt
    import report

    figure = report.figure()
    feeding, steps, race, target = figure.axes
    heights = sorted(round(bar.get_height()) for bar in feeding.patches)
    fed = report.find(report.rows_of("short"), part="feeding", cores=1, unit="pictures/s", what="batches")
    assert heights == sorted(fed["value"].round().astype(int))
    assert len(race.lines) == 4 and {line.get_label() for line in race.lines} >= {"usual, seed 0", "ours, seed 1"}
    assert len(target.lines) >= 3 and steps.get_legend() is not None
    plt.close(figure)
