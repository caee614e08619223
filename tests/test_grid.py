"""The grid: every cell once, resumed after a death, chosen on validation."""

import pandas as pd
import pytest

from agehelpers import grid, runs
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
    real = grid.train_cell

    def die(cell, data, folder):
        if len(list(folder.glob("*/last.safetensors"))) == 0 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            data_ = data
            model = runs.build_model(cell, data_.part("train")["age"].to_numpy("float32"))
            runs.train(model, data_.feeder("train"), data_.feeder("validation"), cell,
                       folder / runs.run_folder(cell).name)
            raise KeyboardInterrupt  # leaves the trial RUNNING in the journal, as a kill does
        return real(cell, data, folder)

    monkeypatch.setattr(grid, "train_cell", die)
    with pytest.raises(KeyboardInterrupt):
        search(config, tmp_path / "grid")
    table = search(config, tmp_path / "grid")
    assert len(table) == 5 and is_complete(config, table)
    assert load_json(tmp_path / "grid" / "config.json")["interrupted_cells"] == 1


def load_json(file):
    import json

    return json.loads(file.read_text())


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


def test_a_grid_record(config, tmp_path):
    table = search(config, tmp_path / "grid")
    runs.save_record(tmp_path / "grid", "mine", grid.FILES)
    found, settings = load_grid("mine")
    pd.testing.assert_frame_equal(found, table, check_dtype=False)
    assert settings["axes"]["momenta"] == [0.8, 0.9]
    with pytest.raises(FileNotFoundError, match="there are: mine"):
        load_grid("other")
