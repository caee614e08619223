"""The grid: every cell once, resumed after a death, chosen on validation."""

import dataclasses
import json

import pandas as pd
import pytest

from agehelpers import grid, loop, runs
from agehelpers.config import load_config
from agehelpers.grid import AXES, Axes, best_cell, budgeted, is_complete, load_grid, plane, search

SMALL = Axes(lr=(0.05, 0.01), weight_decay=(5e-4, 0.0), momenta=(0.8, 0.9))


@pytest.fixture
def config(faces, monkeypatch):
    monkeypatch.setitem(grid.GRIDS, "ci", SMALL)
    return load_config("ci", {"faces": str(faces), "epochs": 1, "image_size": 16, "batch_size": 16,
                              "optimizer": "sgd"})


def test_the_grids_of_the_issue():
    for profile in ("gpu", "reference"):
        axes = grid.GRIDS[profile]
        assert axes.lr == (0.005, 0.003, 0.001, 0.0007) and axes.weight_decay == (1e-5, 1e-4, 0.0)
        assert axes.momentum == 0.9 and axes.momenta == (0.8, 0.9, 0.95) and len(plane(axes)) == 12
    assert grid.GRIDS["laptop"].lr == (0.3, 0.15, 0.05, 0.015)
    assert grid.GRIDS["laptop"].weight_decay == (5e-4, 1e-4, 0.0)


def test_the_gpu_profile_from_scratch_searches_larger_rates():
    assert grid.axes_of(load_config("gpu")) is grid.FINE_TUNING
    assert grid.axes_of(load_config("gpu", {"weights": None})) is grid.FROM_SCRATCH


def test_the_budget_leaves_what_was_asked_for():
    config = budgeted(load_config("laptop", {"limit": 64}))
    assert config.limit == 64 and config.epochs == grid.BUDGETS["laptop"]["epochs"]


def test_each_cell_once_and_momenta_at_the_winner(config, tmp_path):
    table = search(config, tmp_path)
    assert len(table) == 5 and not table.duplicated(list(AXES)).any()  # momentum 0.9 at the winner was there already
    first = table[table["momentum"] == 0.9]
    assert {tuple(row) for row in first[["lr", "weight_decay"]].to_numpy()} == {
        (lr, decay) for lr in SMALL.lr for decay in SMALL.weight_decay}
    winner = best_cell(first)
    other = table[table["momentum"] == 0.8].iloc[0]
    assert (other["lr"], other["weight_decay"]) == (winner["lr"], winner["weight_decay"])
    assert winner["lr"] == first.loc[first["val_mae"].idxmin(), "lr"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "grid.csv", "journal.log"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "grid.csv"), table, check_dtype=False)


def test_a_second_search_trains_nothing_again(config, tmp_path, monkeypatch):
    first = search(config, tmp_path, cells=2)
    assert len(first) == 2 and not is_complete(config, first)
    trained = []
    real = grid.train_cell
    monkeypatch.setattr(grid, "train_cell", lambda *arguments: trained.append(1) or real(*arguments))
    second = search(config, tmp_path)
    assert len(trained) == 3 and is_complete(config, second)
    pd.testing.assert_frame_equal(second.head(2), first)
    search(config, tmp_path)
    assert len(trained) == 3


def test_a_cell_that_was_running_when_the_process_died_is_trained_on(config, tmp_path, monkeypatch):
    config = dataclasses.replace(config, epochs=2)
    whole = search(config, tmp_path / "whole", cells=1)
    real = loop.save_checkpoint

    def die(file, tensors, state):
        real(file, tensors, state)
        if file.name == "last.safetensors":
            (file.parent / f".{file.name}.0.part").touch()  # what a kill in the middle of writing leaves
            raise SystemExit  # after the first epoch of the first cell

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", die)
        with pytest.raises(SystemExit):
            search(config, tmp_path / "grid")
    epochs = []
    monkeypatch.setattr(loop, "save_checkpoint", lambda file, tensors, state: (
        epochs.append(state["epoch"]) if file.name == "last.safetensors" else None, real(file, tensors, state)))
    table = search(config, tmp_path / "grid")
    assert epochs[:3] == [2, 1, 2]  # the first cell goes on with its second epoch, the next one begins
    assert len(table) == 5 and is_complete(config, table)
    pd.testing.assert_frame_equal(table.head(1).drop(columns="seconds"), whole.drop(columns="seconds"))
    assert json.loads((tmp_path / "grid" / "config.json").read_text())["interrupted_cells"] == 1
    assert sorted(file.name for file in (tmp_path / "grid").iterdir()) == ["config.json", "grid.csv", "journal.log"]


def test_a_diverging_cell_is_a_row_and_never_wins(config, tmp_path, monkeypatch):
    monkeypatch.setitem(grid.GRIDS, "ci", Axes(lr=(1e30, 0.01), weight_decay=(0.0,), momenta=(0.9,)))
    table = search(config, tmp_path)
    assert table["state"].tolist() == ["diverged", "complete"]
    assert best_cell(table)["lr"] == 0.01
    with pytest.raises(ValueError, match="no cell of the grid is complete"):
        best_cell(table.head(1))


def test_test_pictures_are_not_read(config, tmp_path, monkeypatch):
    seen = []
    feeder = runs.Data.feeder
    monkeypatch.setattr(runs.Data, "feeder", lambda self, part: seen.append(part) or feeder(self, part))
    search(config, tmp_path, cells=1)
    assert set(seen) == {"train", "validation"}
    parts = []
    prepare = runs.prepare
    monkeypatch.setattr(runs, "prepare", lambda *given: parts.append(prepare(*given).table["part"]) or prepare(*given))
    search(config, tmp_path, cells=1)
    assert [set(part) for part in parts] == [{"train", "validation"}]  # the search is not even handed them


def test_a_grid_record(config, tmp_path):
    table = search(config, tmp_path / "grid")
    runs.save_record(tmp_path / "grid", "mine", grid.FILES)
    found, settings = load_grid("mine")
    pd.testing.assert_frame_equal(found, table, check_dtype=False)
    assert settings["axes"]["momenta"] == [0.8, 0.9]
    with pytest.raises(FileNotFoundError, match="there are: mine"):
        load_grid("other")
