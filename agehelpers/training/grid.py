"""The hyper-parameter grid, through Optuna on one resumable journal; cells are compared on validation only.

Every cell is trained shortly, the best few at the full budget: successive halving with two rungs (Jamieson and
Talwalkar, AISTATS 2016, arXiv 1502.07943). On UTKFace that is a third of the time of training all of it, or less.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from agehelpers import paths
from agehelpers.config import PROFILES, Config
from agehelpers.data.faces import SELECTION, Faces, prepare_faces
from agehelpers.methods.heads import check_head
from agehelpers.training.records import circumstances, write_record
from agehelpers.training.runs import run_folder, settings_digest, train_faces
from agehelpers.training.workers import JOURNAL, Cell, open_study, work

if TYPE_CHECKING:
    import optuna

SEARCHED = ("lr", "weight_decay", "momentum")
COLUMNS = [*SEARCHED, "budget", "val_mae", "val_loss", "train_mae", "seconds", "state"]


@dataclass(frozen=True)
class Grid:
    """lr x weight_decay at `momentum`, then `momenta` at the winner."""

    lr: tuple[float, ...]
    weight_decay: tuple[float, ...]
    momentum: float = 0.9
    momenta: tuple[float, ...] = (0.8, 0.9, 0.95)

    def plane(self) -> list[Cell]:
        """Cells of the first stage: every lr with every weight_decay."""
        return [{"lr": lr, "weight_decay": decay, "momentum": self.momentum}
                for lr in self.lr for decay in self.weight_decay]


FINE_TUNING = Grid(lr=(0.005, 0.003, 0.001, 0.0007), weight_decay=(1e-5, 1e-4, 0.0))
FROM_SCRATCH = Grid(lr=(0.3, 0.15, 0.05, 0.015), weight_decay=(5e-4, 1e-4, 0.0))
ADAPTIVE = Grid(lr=(0.002, 0.001, 0.0005), weight_decay=(0.1, 0.05, 0.0), momenta=(0.9,))  # AdamW has no momentum
GRIDS = {"gpu": FINE_TUNING, "reference": FINE_TUNING, "start": FINE_TUNING,
         "laptop": ADAPTIVE, "scratch": FROM_SCRATCH,
         "ci": Grid(lr=(0.2, 0.05, 0.01), weight_decay=(5e-4, 0.0), momenta=(0.8, 0.9))}

# A cell at its full budget is a small run: enough to rank settings, not to use the result.
BUDGETS: dict[str, dict[str, Any]] = {
    "ci": {"epochs": 4},
    # `selection` meets no test of the protocols' first splits. A few hundred steps: a shorter moving average.
    "laptop": {"protocol": "selection", "epochs": 3, "image_size": 64, "grow_from": None, "limit": 7000, "ema": 0.98,
               "evaluate_every": 100},
    "scratch": {"protocol": "selection", "epochs": 4, "image_size": 40, "grow_from": None, "limit": 7000, "ema": 0.98,
                "evaluate_every": 100},
    "gpu": {"protocol": "selection", "epochs": 5, "image_size": 112, "grow_from": None, "ema": 0.98},
    "reference": {"protocol": "selection", "epochs": 5},
    "start": {"protocol": "selection", "epochs": 4, "image_size": 96},
}
# What is changed further for the first look at every cell: about a tenth of the full budget's time.
SHORT: dict[str, dict[str, Any]] = {
    "ci": {"epochs": 1},
    "laptop": {"epochs": 1, "image_size": 48, "limit": 4000, "ema": 0.95},
    "scratch": {"epochs": 1, "image_size": 32, "limit": 4000, "ema": 0.95},
    "gpu": {"epochs": 1, "image_size": 80, "ema": 0.95},
    "reference": {"epochs": 2, "image_size": 112},
    "start": {"epochs": 1, "image_size": 80},
}
FINALISTS = 2  # cells that are trained at the full budget


def grid_of(config: Config) -> Grid:
    """The grid of a profile; `gpu` without ImageNet weights searches the rates of a training from scratch."""
    return FROM_SCRATCH if config.profile == "gpu" and config.weights is None else GRIDS[config.profile]


def budgeted(config: Config) -> Config:
    """`config` at its profile's grid budget; settings that were changed from the profile's own stay as they are."""
    preset = PROFILES[config.profile]
    return dataclasses.replace(config, **{key: value for key, value in BUDGETS[config.profile].items()
                                          if getattr(config, key) == getattr(preset, key)})


def shortened(config: Config) -> Config:
    """`config`, which is at its full budget, at that of the first look; it reads the same decoded pixels.

    What is smaller already stays as it is (`limit` 0 is all pictures).
    """
    change = {key: min(getattr(config, key), value) if getattr(config, key) or key != "limit" else value
              for key, value in SHORT[config.profile].items()}
    return dataclasses.replace(config, cache_size=config.pixels_size, **change)


def grid_folder(config: Config) -> Path:
    """Folder of the grid around `config`: runs/grid-<profile>-<digest>."""
    return paths.runs_folder() / f"grid-{run_folder(budgeted(config)).name}"


def best_cells(table: pd.DataFrame, count: int) -> list[Cell]:
    """The `count` complete cells with the lowest validation MAE, best first."""
    done = table[table["state"] == "complete"]
    if done.empty:
        raise ValueError("no cell of the grid is complete; search on, or try lower learning rates")
    rows = done.sort_values("val_mae", kind="stable").head(count)
    return [{key: float(row[key]) for key in SEARCHED} for _, row in rows.iterrows()]


def best_cell(table: pd.DataFrame) -> Cell:
    """The best cell among those trained at the full budget."""
    return best_cells(table[table["budget"] == "full"], 1)[0]


def to_do(grid: Grid, table: pd.DataFrame, halving: bool = True) -> list[tuple[Cell, str]]:
    """Cells to train next, each with its budget ("short" or "full"), given those in `table`; empty: all is done.

    The plane shortly, its best `FINALISTS` fully; then the momenta at the winner shortly, and the best of them fully.
    Without `halving` everything at the full budget.
    """
    first = "short" if halving else "full"
    looked, full = table[table["budget"] == first], table[table["budget"] == "full"]
    diverged = {_key(row) for _, row in full[full["state"] != "complete"].iterrows()}

    def best(rows: pd.DataFrame, count: int) -> list[Cell]:
        return [cell for cell in best_cells(rows, len(rows)) if _key(cell) not in diverged][:count]

    def missing(cells: list[Cell], budget: str) -> list[tuple[Cell, str]]:
        tried = {_key(row) for _, row in table[table["budget"] == budget].iterrows()}
        return [(cell, budget) for cell in cells if _key(cell) not in tried]

    if left := missing(grid.plane(), first):
        return left
    if left := missing(best(looked[looked["momentum"] == grid.momentum], FINALISTS), "full"):
        return left
    line = [best_cell(full[full["momentum"] == grid.momentum]) | {"momentum": momentum} for momentum in grid.momenta]
    if left := missing(line, first):
        return left
    keys = {_key(cell) for cell in line}
    return missing(best(looked[[_key(row) in keys for _, row in looked.iterrows()]], 1), "full")


def search(config: Config, folder: Path, cells: int = 0, halving: bool = True, storage: str | None = None
           ) -> pd.DataFrame:
    """Search the grid of `config`'s profile in `folder`, going on where an earlier search stopped.

    A cell that a killed process left unfinished is trained on from its checkpoint. Test pictures are not read.
    Processes that search in one `folder`, or on one `storage`, share the cells (`workers`).

    Parameters
    ----------
    config : Config
        Learning rate, weight decay and momentum are replaced cell by cell; `budgeted` is applied.
    folder : Path
        Holds Optuna's journal, a folder a cell while it runs, and in the end config.json and grid.csv.
    cells : int
        Stop after this many trainings, 0: all.
    halving : bool
        False trains every cell at the full budget.
    storage : str, optional
        URL of a database in place of the journal, such as postgresql+psycopg://user@host/name.

    Returns
    -------
    DataFrame
        One row a training: lr, weight_decay, momentum, budget ("short" or "full"), val_mae (years, best epoch),
        val_loss, train_mae, seconds, state ("complete", or "diverged" where the loss was no longer finite).
    """
    config, folder = budgeted(config), Path(folder)
    check_head(config)  # a wrong name is refused before pictures are read
    with paths.naming(folder / JOURNAL):
        grid, study = grid_of(config), open_study(folder, storage, folder.name if storage else "grid")
        faces = {"full": prepare_faces(config, SELECTION)}
        if halving:  # on the same decoded pixels: on a GPU, too, they are there once
            faces["short"] = prepare_faces(shortened(config), SELECTION, faces["full"].pixels)

        trained, places = 0, list[Path]()
        while (left := to_do(grid, cells_table(study), halving)) and (not cells or trained < cells):
            if done := work(study, folder, left, partial(_train_one, faces, folder, places)):
                trained += done
                shutil.rmtree(places[-1], ignore_errors=True)
    table = cells_table(study)
    _finish(folder, circumstances(faces["full"], float(table["seconds"].sum()), ("optuna",)) | {
        "axes": dataclasses.asdict(grid), "short": SHORT[config.profile] if halving else None}, table, not left)
    return table


def _finish(folder: Path, facts: Mapping[str, Any], table: pd.DataFrame, whole: bool) -> None:
    """Write the record; of a `whole` grid remove the locks and what processes left that were killed while tidying."""
    with paths.alone(folder / "config.json"):
        for spare in folder.glob("cell-*") if whole else ():
            shutil.rmtree(spare, ignore_errors=True)
        for lock in folder.glob(".trial-*.lock") if whole else ():
            lock.unlink(missing_ok=True)
        write_record(folder, facts, {"grid": table})


def _train_one(faces: Mapping[str, Faces], folder: Path, places: list[Path], cell: Cell, budget: str
               ) -> dict[str, float]:
    """Figures of a cell, nothing where it diverged; its folder is added to `places`."""
    setting = dataclasses.replace(faces[budget].config, **cell)  # type: ignore[arg-type]
    places.append(folder / f"cell-{settings_digest(setting, faces[budget].split)}")
    try:
        return train_cell(dataclasses.replace(faces[budget], config=setting), places[-1])
    except FloatingPointError:
        return {}


def train_cell(faces: Faces, place: Path) -> dict[str, float]:
    """Train one cell, from its checkpoint in `place` if there is one; figures of its best epoch."""
    history = train_faces(faces, place)
    best = history.sort_values("val_mae", kind="stable").iloc[0]  # epochs not evaluated are last
    return {key: round(float(best[key]), 5) for key in ("val_mae", "val_loss", "train_mae")} | {
        "seconds": round(float(history["seconds"].sum()), 1)}


def _key(cell: Mapping[str, Any] | pd.Series) -> tuple[float, ...]:
    return tuple(float(cell[key]) for key in SEARCHED)


def cells_table(study: optuna.Study) -> pd.DataFrame:
    """One row a training, in their order; see `search`."""
    states = {"COMPLETE": "complete", "PRUNED": "diverged"}
    rows = [{**trial.params, **trial.user_attrs, "state": states[trial.state.name]}
            for trial in study.trials if trial.state.name in states]
    return pd.DataFrame(rows, columns=COLUMNS)
