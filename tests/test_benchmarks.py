"""The benchmark measures what it says, and the README says what its records hold."""

import json
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
    usual, ours = both(scripts, faces, rotation=10.0, shift=0.05, scale=0.1, brightness=0.0, contrast=0.0)
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


def test_a_quick_benchmark_and_its_record(scripts, faces, tmp_path, monkeypatch):
    import benchmark

    monkeypatch.setenv("AGEHELPERS_FACES", str(faces))
    monkeypatch.setattr(benchmark, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(benchmark, "SIZES", (32,))
    benchmark.main(["--quick", "--devices", "cpu", "--parts", "machine", "index", "feeding", "epoch",
                    "--out", str(tmp_path / "out"), "--record", "mine"])
    rows = pd.read_csv(tmp_path / "records" / "mine" / "results.csv", keep_default_na=False)
    assert json.loads((tmp_path / "records" / "mine" / "config.json").read_text())["quick"] is True
    assert (rows["value"] > 0).all() and (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()
    fed = rows[(rows["part"] == "feeding") & (rows["cores"] == 1)].set_index("way")["value"]
    assert fed["ours"] > 2 * fed["usual"] and fed["ours / usual"] == pytest.approx(fed["ours"] / fed["usual"], rel=0.6)
    assert set(rows["part"]) == {"machine", "index", "feeding", "epoch"}
    with pytest.raises(SystemExit):
        benchmark.main(["--quick", "--record", "mine"])  # nothing is overwritten


def test_flops_by_hand(scripts):
    import benchmark

    bench = benchmark.Bench("laptop", torch.device("cpu"), 1, 1.0)
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
    ratio = report.find(report.rows_of("short"), part="feeding", way="ours /", size=64, cores=1)["value"].item()
    assert f"| {ratio:.1f} (" in text and ratio > 10  # the aim: ten times the usual way at 64 px
    for name in ("race", "target", "grid", "schedules"):
        assert len(report.rows_of(name)) > 3, name
        assert json.loads((report.RECORDS / name / "config.json").read_text())["quick"] is False


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
