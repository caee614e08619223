"""The hyper-parameter grid, through Optuna on one resumable journal; cells are compared on validation only."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from agehelpers import paths, runs
from agehelpers.config import PROFILES, Config
from agehelpers.loop import pick_precision, train

if TYPE_CHECKING:
    import optuna

FILES = ("config.json", "grid.csv")
AXES = ("lr", "weight_decay", "momentum")
COLUMNS = [*AXES, "val_mae", "val_loss", "train_mae", "seconds", "state"]


@dataclass(frozen=True)
class Axes:
    """lr x weight_decay at `momentum`, then `momenta` at the winner."""

    lr: tuple[float, ...]
    weight_decay: tuple[float, ...]
    momentum: float = 0.9
    momenta: tuple[float, ...] = (0.8, 0.9, 0.95)


FINE_TUNING = Axes(lr=(0.005, 0.003, 0.001, 0.0007), weight_decay=(1e-5, 1e-4, 0.0))
FROM_SCRATCH = Axes(lr=(0.3, 0.15, 0.05, 0.015), weight_decay=(5e-4, 1e-4, 0.0))
GRIDS = {"gpu": FINE_TUNING, "reference": FINE_TUNING, "laptop": FROM_SCRATCH,
         "ci": Axes(lr=(0.2, 0.05, 0.01), weight_decay=(5e-4, 0.0), momenta=(0.8, 0.9))}


def axes_of(config: Config) -> Axes:
    """The grid of a profile; `gpu` without ImageNet weights searches the rates of a training from scratch."""
    return FROM_SCRATCH if config.profile == "gpu" and config.weights is None else GRIDS[config.profile]


# A cell is a short, small run: enough to rank settings, not to use the result.
BUDGETS: dict[str, dict[str, Any]] = {
    "ci": {"epochs": 4},
    # `selection` meets no test of the protocols' first splits. A few hundred steps: a shorter running mean.
    "laptop": {"protocol": "selection", "epochs": 4, "image_size": 40, "grow_from": None, "limit": 7000, "ema": 0.98,
               "evaluate_every": 100},
    "gpu": {"protocol": "selection", "epochs": 5, "image_size": 112, "grow_from": None, "ema": 0.98},
    "reference": {"protocol": "selection", "epochs": 5},
}


def budgeted(config: Config) -> Config:
    """`config` at its profile's grid budget; settings that were changed from the profile's own stay as they are."""
    preset = PROFILES[config.profile]
    return dataclasses.replace(config, **{key: value for key, value in BUDGETS[config.profile].items()
                                          if getattr(config, key) == getattr(preset, key)})


def grid_folder(config: Config) -> Path:
    """Folder of the grid around `config`: runs/grid-<profile>-<digest>."""
    return paths.runs_folder() / f"grid-{runs.run_folder(budgeted(config)).name}"


def journal(folder: Path) -> Path:
    """Optuna's storage in a grid's folder."""
    return Path(folder) / "journal.log"


def plane(axes: Axes) -> list[dict[str, float]]:
    """Cells of the first stage: every lr with every weight_decay."""
    return [{"lr": lr, "weight_decay": decay, "momentum": axes.momentum}
            for lr in axes.lr for decay in axes.weight_decay]


def best_cell(table: pd.DataFrame) -> dict[str, float]:
    """lr, weight_decay and momentum of the complete cell with the lowest validation MAE."""
    done = table[table["state"] == "complete"]
    if done.empty:
        raise ValueError("no cell of the grid is complete; search on, or try lower learning rates")
    winner = done.sort_values("val_mae", kind="stable").iloc[0]
    return {key: float(winner[key]) for key in AXES}


def is_complete(config: Config, table: pd.DataFrame) -> bool:
    """Whether every cell of both stages has been tried."""
    axes = axes_of(config)
    tried = {tuple(row) for row in table[list(AXES)].to_numpy()}
    first = {tuple(cell.values()) for cell in plane(axes)}
    if not first <= tried:
        return False
    stage = table[table["momentum"] == axes.momentum]
    return {tuple((best_cell(stage) | {"momentum": m}).values()) for m in axes.momenta} <= tried


def search(config: Config, folder: Path, cells: int = 0) -> pd.DataFrame:
    """Search the grid of `config`'s profile in `folder`, going on where an earlier search stopped.

    A cell that a killed process left running is trained on from its checkpoint. Test pictures are not read.

    Parameters
    ----------
    config : Config
        Its learning rate, weight decay and momentum are replaced cell by cell; `budgeted` is applied.
    folder : Path
        Holds Optuna's journal, a folder a cell while it runs, and in the end config.json and grid.csv.
    cells : int
        Stop after training this many cells, 0: all.

    Returns
    -------
    DataFrame
        One row a finished cell: lr, weight_decay, momentum, val_mae (years, best epoch), val_loss, train_mae,
        seconds, state ("complete", or "diverged" where the loss was no longer finite).
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config, axes, folder = budgeted(config), axes_of(config), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(journal(folder)))),
                                study_name="grid", direction="minimize", load_if_exists=True)
    data = runs.prepare(config, runs.SELECTION)
    left = _train_missing(study, plane(axes), cells or 1000, config, data, folder)
    table = cells_table(study)
    if left:  # the first stage is complete
        winner = best_cell(table[table["momentum"] == axes.momentum])
        line = [winner | {"momentum": momentum} for momentum in axes.momenta]
        _train_missing(study, line, left, config, data, folder)
        table = cells_table(study)
    paths.write_atomically(folder / "grid.csv", table.to_csv(index=False))
    paths.write_json(folder / "config.json", {
        "config": dataclasses.asdict(config), "axes": dataclasses.asdict(axes), "split": data.split,
        "counts": {part: len(data.part(part)) for part in runs.SELECTION},
        "interrupted_cells": study.user_attrs.get("interrupted_cells", 0),
        "training_seconds": round(float(table["seconds"].sum()), 1), "device": data.device.type,
        "precision": str(pick_precision(config, data.device)).removeprefix("torch."),
        "hardware": runs.hardware(), "versions": paths.versions((*paths.PACKAGES, "optuna"))})
    return table


def _train_missing(study: optuna.Study, cells: list[dict[str, float]], most: int, config: Config, data: runs.Data,
                   folder: Path) -> int:
    """Train those of `cells` that the journal does not hold, `most` of them at the most; how many more there may be.

    A cell enters the journal when it is finished, so a process that dies leaves nothing there to clean up.
    """
    from optuna.distributions import FloatDistribution
    from optuna.trial import TrialState, create_trial

    tried = {_key(trial.params) for trial in study.trials}
    for cell in cells:
        if not most or _key(cell) in tried:
            continue
        setting = dataclasses.replace(config, **cell)  # type: ignore[arg-type]
        place = folder / f"cell-{runs.settings_digest(setting, data.split)}"
        if (place / "last.safetensors").exists():
            study.set_user_attr("interrupted_cells", study.user_attrs.get("interrupted_cells", 0) + 1)
        row: dict[str, float] = {}
        with contextlib.suppress(FloatingPointError):  # diverged
            row = train_cell(setting, data, place)
        study.add_trial(create_trial(
            state=TrialState.COMPLETE if row else TrialState.PRUNED, value=row.get("val_mae"), params=cell,
            distributions={key: FloatDistribution(0.0, 1e40) for key in AXES}, user_attrs=row))
        shutil.rmtree(place, ignore_errors=True)
        most -= 1
    return most


def train_cell(config: Config, data: runs.Data, place: Path) -> dict[str, float]:
    """Train one cell on the shared pixels, from its checkpoint in `place` if there is one; its best epoch."""
    data = dataclasses.replace(data, config=config)
    model = runs.build_model(config, data.part("train")["age"].to_numpy(np.float32))
    history = train(model, data.feeder("train"), data.feeder("validation"), config, place, resume=True)
    best = history.sort_values("val_mae", kind="stable").iloc[0]  # epochs not evaluated are last
    return {key: round(float(best[key]), 5) for key in ("val_mae", "val_loss", "train_mae")} | {
        "seconds": round(float(history["seconds"].sum()), 1)}


def _key(cell: dict[str, float]) -> tuple[float, ...]:
    return tuple(cell[key] for key in AXES)


def cells_table(study: optuna.Study) -> pd.DataFrame:
    """One row a tried cell, in the order in which they were tried; see `search`."""
    states = {"COMPLETE": "complete", "PRUNED": "diverged"}
    rows = [{**trial.params, **trial.user_attrs, "state": states[trial.state.name]}
            for trial in study.trials if trial.state.name in states]
    return pd.DataFrame(rows, columns=COLUMNS)


def load_grid(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A committed grid's table and its settings; FileNotFoundError lists the records there are."""
    folder = paths.records_folder() / name
    if not (folder / "grid.csv").is_file():
        known = sorted(file.parent.name for file in paths.records_folder().glob("*/grid.csv"))
        raise FileNotFoundError(f"no grid record {name!r}; there are: {', '.join(known) or 'none'}")
    return pd.read_csv(folder / "grid.csv"), json.loads((folder / "config.json").read_text())
