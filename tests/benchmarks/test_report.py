"""The block and figure of docs/benchmark.md say what the committed records hold, and those reach their aims."""

import json
import shutil
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def report(monkeypatch):
    """benchmarks/report.py"""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import report

    return report


def test_the_page_is_what_the_benchmark_records_say(report):
    from tools.readme import with_block

    text = (ROOT / "docs" / "benchmark.md").read_text()
    assert with_block(text, report.block(), report.BEGIN, report.END) == text
    configs = [json.loads(file.read_text()) for file in report.RECORDS.glob("*/config.json")
               if (file.parent / "results.csv").exists()]
    assert len(configs) == 8 and not any(config["quick"] for config in configs)


def test_the_benchmark_records_reach_their_aims(report):
    cpu = report.select(report.measured(), device="cpu")

    def value(**wanted):
        return report.one(cpu, **wanted)["value"]

    assert value(part="feeding", way="ours", over="usual", size=64, cores=1) >= 10
    assert value(part="feeding", way="ours", over="usual", size=112, cores=1) >= 6
    assert (report.select(cpu, part="step", unit="ratio")["value"] >= 0.95).all()
    assert value(measure="label table", way="first time") < 20
    assert value(measure="label table", way="second time") < 2
    assert value(measure="decoded pixels", way="first time") < 30
    assert value(measure="peak of the process") < 2
    assert (report.race_table(report.select(cpu, part="race"))["ratio"] > 1).all()
    assert value(part="grid", unit="ratio") <= 1 / 3


def test_columns_are_those_that_the_benchmark_writes(report):
    from dataclasses import fields

    from measuring import Row

    assert set(report.measured().columns) - {"record"} == {one.name for one in fields(Row)}


def test_the_race_by_hand(report):
    rows = [("usual", 1, 9.0, 10), ("usual", 2, 8.0, 20),
            ("ours", 1, 7.0, 5), ("ours", 2, 6.0, 10), ("ours", 3, 1.0, 15)]
    table = pd.DataFrame([{"way": way, "seed": 0, "epoch": epoch, "measure": measure, "value": value}
                          for way, epoch, error, time in rows
                          for measure, value in (("validation MAE", error), ("time", time))])
    found = report.race_table(table)
    assert found["usual"]["epochs"].tolist() == [2] and found["ours"]["epochs"].tolist() == [3]
    assert found["usual"]["mae"].tolist() == [8.5] and found["ours"]["mae"].tolist() == [6.5]  # of epochs both did
    assert found["ratio"].tolist() == [2]  # ten seconds an epoch, and five


def test_the_time_to_the_goal_by_hand(report):
    import matplotlib.pyplot as plt

    rows = pd.DataFrame([{"part": "goal", "device": "cpu", "way": way, "epoch": epoch, "measure": measure,
                          "value": value}
                         for way, errors in (("theirs", (9.0, 8.0)), ("ours", (7.0, 5.4181, 5.3)))
                         for epoch, error in enumerate(errors, 1)
                         for measure, value in (("validation MAE", error), ("time", 90 * epoch))])
    found = [report.reached(way, table) for way, table in report.curves(rows)]
    assert found == [{"way": "theirs", "minutes": 3, "reached": False, "lowest": 8, "epochs": 2},
                     {"way": "ours", "minutes": 3, "reached": True, "lowest": 5.4181, "epochs": 2}]  # it read 5.418
    ax, = report.goal_figure(rows).axes
    assert [line.get_xdata().tolist() for line in ax.lines[:2]] == [[1.5, 3], [1.5, 3, 4.5]]
    assert "unknown split" in ax.get_legend_handles_labels()[1][2]
    plt.close(ax.figure)


def test_growth_by_hand(report):
    import matplotlib.pyplot as plt

    rows = pd.DataFrame([{"part": "growth", "device": "cpu", "way": "index", "pictures": pictures, "measure": measure,
                          "value": value}
                         for pictures, time in ((10, 1.0), (100, 10.0), (1000, 1000.0))
                         for measure, value in (("time", time), ("memory", 5.0), ("copies found", 1.0))])
    table = report.grown(rows)
    assert table["power"].tolist()[1:] == pytest.approx([1, 2]) and pd.isna(table["power"][0])
    time, memory = report.growth_figure(table).axes
    assert time.lines[0].get_ydata().tolist() == [100, 100, 1000]  # ms a picture
    assert memory.lines[0].get_ydata().tolist() == pytest.approx([500, 50, 5])  # kB a picture
    plt.close(time.figure)


def test_a_part_is_in_one_record(report, tmp_path):
    folder = shutil.copytree(report.RECORDS, tmp_path / "records")
    shutil.copytree(folder / "step", folder / "again")
    with pytest.raises(ValueError, match="part step is in two records, again and step"):
        report.measured(folder)
    with pytest.raises(ValueError, match="0 rows instead of one"):
        report.one(report.measured(), part="step", way="none")


def test_the_benchmarks_figure_shows_the_records(report):
    import matplotlib.pyplot as plt

    figure = report.figure()
    feeding, steps, race = figure.axes
    heights = sorted(round(bar.get_height()) for bar in feeding.patches)
    fed = report.select(report.measured(), part="feeding", cores=1, unit="pictures/s", measure="batches")
    assert heights == sorted(fed["value"].round().astype(int)) and len(steps.patches) == 8
    assert {line.get_label() for line in race.lines} == {
        f"{way}, seed {seed}" for way in ("usual", "ours") for seed in (0, 1)}
    plt.close(figure)
