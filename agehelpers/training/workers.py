"""One grid, any number of workers: Optuna's storage says which cells are waiting, running and done.

The storage is a journal in a shared folder, or a database. A cell belongs to the worker whose trial of it has the
lowest number. Of a worker that died, the trial fails and the cell is free again: a database knows it by missing
heartbeats, a journal by a lock file that nobody holds.
"""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from agehelpers import paths

if TYPE_CHECKING:
    import optuna

Cell = dict[str, float]
JOURNAL = "journal.log"  # Optuna's storage in a grid's folder
LOCKS = "locks"  # attribute of a study whose workers hold lock files; others send heartbeats
HEARTBEAT = 60  # seconds between those of a worker at a database; after twice as many it is taken for dead


def open_study(folder: Path, storage: str | None = None, name: str = "grid") -> optuna.Study:
    """Optuna's study in the journal of `folder`, or of that `name` in the database `storage` (a URL of SQLAlchemy's).

    It is made on first use. ValueError where the journal is damaged or the database cannot be reached.
    """
    optuna = paths.needed("optuna", "the grid", "optuna")
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    for again in (3, 2, 1, 0) if storage else (0,):  # two that make the tables of a database get into each other's way
        try:
            if storage:
                with _quiet():
                    kept: Any = optuna.storages.RDBStorage(storage, heartbeat_interval=HEARTBEAT,
                                                           grace_period=2 * HEARTBEAT)
            else:
                lock: Any = FileLock(folder / f".{JOURNAL}.lock")  # free once its holder is dead; Optuna's is not
                kept = optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL), lock))
            study = optuna.create_study(storage=kept, study_name=name, direction="minimize", load_if_exists=True)
            for trial in study.trials:
                if not _what(trial)[0] and trial.state.name == "COMPLETE":
                    raise ValueError(f"trial {trial.number} has no parameters")
            if storage:
                weakref.finalize(study, kept.engine.dispose)  # else its connections stay open
            elif LOCKS not in study.user_attrs:
                study.set_user_attr(LOCKS, True)
            return study
        except OSError:
            raise
        except Exception as error:  # Optuna checks no journal: it fails wherever it stumbles
            if not again:
                where, remedy = (storage.rpartition("@")[2], "check its address") if storage else (
                    folder / JOURNAL, "remove it to begin anew")
                raise ValueError(f"{where}: not the storage of a grid, or damaged ({type(error).__name__}: {error}); "
                                 f"{remedy}") from error
            time.sleep(1)
    raise AssertionError("not reached")


@contextmanager
def _quiet() -> Iterator[None]:
    """Heartbeats are old enough, since 2021, to do without Optuna's warning that they are experimental."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _what(trial: Any) -> tuple[tuple[tuple[str, float], ...], str | None]:
    """Cell and budget of a trial, also of one that has not begun."""
    cell = trial.system_attrs.get("fixed_params") or trial.params
    return tuple(sorted((key, float(value)) for key, value in cell.items())), trial.user_attrs.get("budget")


def _trials(study: optuna.Study, *states: str) -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in states]


class _TakenError(Exception):
    """Another worker has this cell."""


def _lock(folder: Path, number: int) -> Any:
    """Held by the worker that trains the trial of that number."""
    return FileLock(folder / f".trial-{number}.lock")


def free_dead(study: optuna.Study, folder: Path) -> None:
    """Trials whose worker is dead fail, so that their cells are free."""
    import optuna

    if LOCKS not in study.user_attrs:
        with _quiet():
            optuna.storages.fail_stale_trials(study)
        return
    for trial in _trials(study, "RUNNING"):
        with suppress(Timeout), _lock(folder, trial.number).acquire(timeout=0):  # nobody holds it
            if study.get_trials(deepcopy=False)[trial.number].state.name == "RUNNING":
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def work(study: optuna.Study, folder: Path, left: Sequence[tuple[Cell, str]],
         train: Callable[[Cell, str], dict[str, float]]) -> int:
    """Train one of the cells that are `left`, with its budget, or wait a moment where others have them all; how many.

    `train` gives the cell's figures, val_mae among them, or nothing where it diverged.
    """
    import optuna

    free_dead(study, folder)
    begun, waiting = ({_what(trial) for trial in _trials(study, state)} for state in ("RUNNING", "WAITING"))
    free = [(cell, budget) for cell, budget in left if (tuple(sorted(cell.items())), budget) not in begun]
    if not free:
        time.sleep(0.2)
        return 0
    cell, budget = free[0]
    if (tuple(sorted(cell.items())), budget) not in waiting:
        study.enqueue_trial(cell, user_attrs={"budget": budget})
    trained: list[int] = []
    with ExitStack() as locks:  # held until the trial's end is in the storage

        def objective(trial: optuna.Trial) -> float:
            if LOCKS in study.user_attrs:
                locks.enter_context(_lock(folder, trial.number))
            trained.append(trial.number)
            return _train(study, trial, train)

        try:
            study.optimize(objective, n_trials=1, catch=(_TakenError,))
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError) as error:
            if isinstance(error, ValueError) and "Cannot tell a" not in str(error):
                raise
            return 0  # taken for dead by another worker, whose trial of the cell counts
    return sum(study.get_trials(deepcopy=False)[number].state.name != "FAIL" for number in trained)


def _train(study: optuna.Study, trial: optuna.Trial, train: Callable[[Cell, str], dict[str, float]]) -> float:
    """Validation MAE of the trial's cell; its figures become the trial's attributes."""
    import optuna

    everything = study.get_trials(deepcopy=False)
    own = everything[trial.number]
    cell, budget = _what(own)
    if own.state.name != "RUNNING" or budget is None or any(
            _what(other) == (cell, budget) and other.state.name != "FAIL" for other in everything[:trial.number]):
        raise _TakenError
    row = train({key: trial.suggest_float(key, 0.0, 1e40) for key, _ in cell}, budget)
    for key, value in row.items():
        trial.set_user_attr(key, value)
    if not row:
        raise optuna.TrialPruned
    return row["val_mae"]
