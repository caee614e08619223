"""The grid: every cell once, resumed after a death, chosen on validation."""

import dataclasses

import pandas as pd
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from agehelpers import paths
from agehelpers.config import load_config
from agehelpers.data.faces import Faces
from agehelpers.training import grid, resume, workers
from agehelpers.training.grid import SEARCHED, Grid, best_cell, budgeted, grid_of, search, to_do
from agehelpers.training.records import load_record, save_record

SMALL = Grid(lr=(0.05, 0.01), weight_decay=(5e-4, 0.0), momenta=(0.8, 0.9))


@pytest.fixture
def config(faces, monkeypatch):
    monkeypatch.setitem(grid.GRIDS, "ci", SMALL)
    return load_config("ci", {"faces": str(faces), "epochs": 1, "image_size": 16, "batch_size": 16,
                              "optimizer": "sgd"})


def test_the_grids_of_the_issue():
    for profile in ("gpu", "reference", "start"):
        found = grid.GRIDS[profile]
        assert found.lr == (0.005, 0.003, 0.001, 0.0007) and found.weight_decay == (1e-5, 1e-4, 0.0)
        assert found.momentum == 0.9 and found.momenta == (0.8, 0.9, 0.95) and len(found.plane()) == 12
    assert grid.GRIDS["scratch"].lr == (0.3, 0.15, 0.05, 0.015)
    assert grid.GRIDS["scratch"].weight_decay == (5e-4, 1e-4, 0.0)


def test_the_gpu_profile_from_scratch_searches_larger_rates():
    assert grid.grid_of(load_config("gpu")) is grid.FINE_TUNING
    assert grid.grid_of(load_config("gpu", {"weights": None})) is grid.FROM_SCRATCH


def test_the_budget_leaves_what_was_asked_for():
    config = budgeted(load_config("laptop", {"limit": 64}))
    assert config.limit == 64 and config.epochs == grid.BUDGETS["laptop"]["epochs"]
    assert config.protocol == "selection"  # no test of the protocols' first splits is met


def trained(lr, decay, budget, val_mae, momentum=0.9, state="complete"):
    return {"lr": lr, "weight_decay": decay, "momentum": momentum, "budget": budget, "val_mae": val_mae, "state": state}


def test_halving_by_hand():
    small = Grid(lr=(3.0, 2.0, 1.0), weight_decay=(0.0,), momenta=(0.8, 0.9))
    table = pd.DataFrame(columns=[*SEARCHED, "budget", "val_mae", "state"])
    assert [(cell["lr"], budget) for cell, budget in to_do(small, table)] == [
        (3.0, "short"), (2.0, "short"), (1.0, "short")]
    rows = [trained(3.0, 0.0, "short", None, state="diverged"), trained(2.0, 0.0, "short", 7.0),
            trained(1.0, 0.0, "short", 6.0)]
    assert [(cell["lr"], budget) for cell, budget in to_do(small, pd.DataFrame(rows))] == [(1.0, "full"), (2.0, "full")]
    rows += [trained(1.0, 0.0, "full", 5.5)]
    assert [(cell["lr"], budget) for cell, budget in to_do(small, pd.DataFrame(rows))] == [(2.0, "full")]
    rows += [trained(2.0, 0.0, "full", 5.0)]  # better in the end, though worse at first: the momenta are tried at it
    assert to_do(small, pd.DataFrame(rows)) == [({"lr": 2.0, "weight_decay": 0.0, "momentum": 0.8}, "short")]
    worse, better = trained(2.0, 0.0, "short", 7.5, momentum=0.8), trained(2.0, 0.0, "short", 6.9, momentum=0.8)
    assert to_do(small, pd.DataFrame([*rows, worse])) == []
    rows += [better]
    assert to_do(small, pd.DataFrame(rows)) == [({"lr": 2.0, "weight_decay": 0.0, "momentum": 0.8}, "full")]
    rows += [trained(2.0, 0.0, "full", 5.1, momentum=0.8)]
    assert to_do(small, pd.DataFrame(rows)) == [] and best_cell(pd.DataFrame(rows))["momentum"] == 0.9
    whole = pd.DataFrame(rows)
    assert [(cell["lr"], budget) for cell, budget in to_do(small, whole, halving=False)] == [(3.0, "full")]


def test_finalists_that_diverge_are_replaced():
    small = Grid(lr=(3.0, 2.0, 1.0), weight_decay=(0.0,), momenta=(0.9,))
    rows = [trained(3.0, 0.0, "short", 5.0), trained(2.0, 0.0, "short", 6.0), trained(1.0, 0.0, "short", 7.0),
            trained(3.0, 0.0, "full", None, state="diverged"), trained(2.0, 0.0, "full", 5.0)]
    assert to_do(small, pd.DataFrame(rows)) == [({"lr": 1.0, "weight_decay": 0.0, "momentum": 0.9}, "full")]
    rows += [trained(1.0, 0.0, "full", None, state="diverged")]
    assert to_do(small, pd.DataFrame(rows)) == [] and best_cell(pd.DataFrame(rows))["lr"] == 2.0


def test_a_first_look_is_short_and_shares_the_pixels(config, tmp_path, monkeypatch):
    seen, arrays = [], set()
    real = grid.train_cell
    monkeypatch.setattr(grid, "train_cell", lambda faces, place: (
        seen.append(faces.config), arrays.add(id(faces.pixels)), real(faces, place))[-1])
    table = search(dataclasses.replace(config, epochs=4), tmp_path)
    assert [setting.epochs for setting in seen] == table["budget"].map({"short": 1, "full": 4}).tolist()
    assert len({setting.pixels_size for setting in seen}) == 1
    assert len(arrays) == 1  # decoded, and on a GPU copied there, once
    assert (table["budget"] == "full").sum() in (grid.FINALISTS, grid.FINALISTS + 1)


@pytest.mark.parametrize("profile", grid.SHORT)
def test_a_first_look_costs_little(profile):
    full, searched = budgeted(load_config(profile)), grid.GRIDS[profile]
    short = grid.shortened(full)
    work = [one.epochs * one.image_size**2 * (one.limit or 20_000) for one in (short, full)]
    cells = len(searched.plane()) + len(searched.momenta) - 1
    finalists = grid.FINALISTS + (len(searched.momenta) > 1)  # the last one: a momentum
    cost = (cells * work[0] + finalists * work[1]) / (cells * work[1])
    assert short.pixels_size == full.pixels_size and (profile == "ci" or cost <= (0.4 if profile == "start" else 1 / 3))


def test_what_is_cheaper_already_stays():
    mine = grid.shortened(budgeted(load_config("laptop", {"limit": 300, "image_size": 24, "ema": 0.0})))
    assert (mine.limit, mine.image_size, mine.ema) == (300, 24, 0.0)
    assert grid.shortened(load_config("laptop")).limit == grid.SHORT["laptop"]["limit"]


def test_each_cell_once_and_momenta_at_the_winner(config, tmp_path):
    table = search(config, tmp_path, halving=False)
    assert set(table["budget"]) == {"full"}
    assert len(table) == 5 and not table.duplicated(list(SEARCHED)).any()  # momentum 0.9 was there already
    first = table[table["momentum"] == 0.9]
    assert {tuple(row) for row in first[["lr", "weight_decay"]].to_numpy()} == {
        (lr, decay) for lr in SMALL.lr for decay in SMALL.weight_decay}
    winner = best_cell(first)
    other = table[table["momentum"] == 0.8].iloc[0]
    assert (other["lr"], other["weight_decay"]) == (winner["lr"], winner["weight_decay"])
    assert winner["lr"] == first.loc[first["val_mae"].idxmin(), "lr"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        ".config.json.lock", ".journal.log.lock", "config.json", "grid.csv", "journal.log"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "grid.csv"), table, check_dtype=False)


def test_a_second_search_trains_nothing_again(config, tmp_path, monkeypatch):
    whole = search(config, tmp_path / "whole")
    first = search(config, tmp_path, cells=2)
    assert len(first) == 2 and to_do(grid_of(config), first)
    count = []
    real = grid.train_faces
    monkeypatch.setattr(grid, "train_faces", lambda *given: count.append(1) or real(*given))
    second = search(config, tmp_path)
    assert len(count) == len(whole) - 2 and not to_do(grid_of(config), second)
    pd.testing.assert_frame_equal(second.drop(columns="seconds"), whole.drop(columns="seconds"))
    pd.testing.assert_frame_equal(second.head(2), first)
    search(config, tmp_path)
    assert len(count) == len(whole) - 2


def test_a_cell_that_was_running_when_the_process_died_is_trained_on(config, tmp_path, monkeypatch):
    config = dataclasses.replace(config, epochs=2)
    whole = search(config, tmp_path / "whole", cells=1, halving=False)
    real = resume.save_checkpoint

    def die(file, tensors, state):
        real(file, tensors, state)
        file.with_name(f".{file.name}.0.part").touch()  # what a kill in the middle of writing leaves
        raise SystemExit  # after the first epoch of the first cell

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(resume, "save_checkpoint", die)
        search(config, tmp_path / "grid", halving=False)
    epochs = []
    monkeypatch.setattr(resume, "save_checkpoint", lambda file, tensors, state: (
        epochs.append(state["epoch"]), real(file, tensors, state)))
    table = search(config, tmp_path / "grid", halving=False)
    assert epochs[:3] == [2, 1, 2]  # the first cell goes on with its second epoch, the next one begins
    assert len(table) == 5
    pd.testing.assert_frame_equal(table.head(1).drop(columns="seconds"), whole.drop(columns="seconds"))
    assert sorted(file.name for file in (tmp_path / "grid").iterdir()) == [
        ".config.json.lock", ".journal.log.lock", "config.json", "grid.csv", "journal.log"]


def test_a_diverging_cell_is_a_row_and_never_wins(config, tmp_path, monkeypatch):
    monkeypatch.setitem(grid.GRIDS, "ci", Grid(lr=(1e30, 0.01), weight_decay=(0.0,), momenta=(0.9,)))
    table = search(config, tmp_path)
    assert table["state"].tolist() == ["diverged", "complete", "complete"]
    assert table["budget"].tolist() == ["short", "short", "full"]  # what diverged is no finalist
    assert best_cell(table)["lr"] == 0.01
    with pytest.raises(ValueError, match="no cell of the grid is complete"):
        best_cell(table.head(1))


def test_a_trial_that_another_program_left_running_is_no_row(tmp_path):
    study = workers.open_study(tmp_path)
    free = {key: FloatDistribution(0.0, 1.0) for key in SEARCHED}
    for state in (TrialState.RUNNING, TrialState.FAIL, TrialState.COMPLETE):
        study.add_trial(create_trial(state=state, value=5.0 if state == TrialState.COMPLETE else None,
                                     params=dict.fromkeys(SEARCHED, 0.5), distributions=free,
                                     user_attrs={"budget": "full"}))
    assert grid.cells_table(study)["state"].tolist() == ["complete"]


def test_test_pictures_are_not_read(config, tmp_path, monkeypatch):
    seen, parts = [], []
    dataset, prepare = Faces.dataset, grid.prepare_faces

    def watched(*given):
        found = prepare(*given)
        parts.append(set(found.table["part"]))
        return found

    monkeypatch.setattr(Faces, "dataset", lambda self, part: seen.append(part) or dataset(self, part))
    monkeypatch.setattr(grid, "prepare_faces", watched)
    search(config, tmp_path, cells=1)
    assert set(seen) == {"train", "validation"}
    assert parts == 2 * [{"train", "validation"}]  # the search is not even handed them


def test_a_grid_record(config, tmp_path):
    table = search(config, tmp_path / "grid", cells=2)
    target = save_record(tmp_path / "grid", "mine")
    assert sorted(file.name for file in target.iterdir()) == ["config.json", "grid.csv"]
    found = load_record("mine")
    pd.testing.assert_frame_equal(found.tables["grid"], table, check_dtype=False)
    assert found.facts["axes"]["momenta"] == [0.8, 0.9] and "optuna" in found.facts["versions"]


def test_the_folder_of_a_grid_does_not_depend_on_what_the_grid_replaces(config):
    folder = grid.grid_folder(config)
    assert folder.parent == paths.runs_folder() and folder.name.startswith("grid-ci-")
    assert folder != grid.grid_folder(dataclasses.replace(config, seed=1))


@pytest.mark.parametrize("content", [b"{\n{}\n", b"\x80\n\n", b'{"op_code": 0}\n{"op_code": 99}\n', b"[]\n[]\n"])
def test_a_damaged_journal_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / workers.JOURNAL).write_bytes(content)
    with pytest.raises(ValueError, match=r"journal\.log: not the storage of a grid, or damaged"):
        workers.open_study(tmp_path)
    assert (tmp_path / workers.JOURNAL).read_bytes() == content
