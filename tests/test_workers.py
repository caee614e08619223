"""Four workers on one grid, some of them killed: every cell once, the table that of one worker alone.

`make test-workers` does the same on PostgreSQL, which it starts and stops (Debian: apt-get install postgresql).
"""

import faulthandler
import os
import shutil
import signal
import subprocess
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from agehelpers.config import load_config
from agehelpers.training import grid, workers

KILLS = min(10, int(os.environ.get("AGEHELPERS_TEST_KILLS", "20")) // 4)  # more often they would get nowhere
BUDGET = ["lr", "weight_decay", "momentum", "budget"]


@pytest.fixture
def config(faces, monkeypatch):
    monkeypatch.setitem(grid.GRIDS, "ci", grid.Grid(lr=(0.2, 0.05, 0.01), weight_decay=(5e-4, 0.0), momenta=(0.8, 0.9)))
    return load_config("ci", {"faces": str(faces), "image_size": 24, "batch_size": 12, "checkpoint_steps": 2,
                              "epochs": 2})


@pytest.fixture
def postgres(tmp_path_factory):
    """URL of a database that is started here, as another user than root, and stopped in the end."""
    if not os.environ.get("AGEHELPERS_TEST_WORKERS"):
        pytest.skip("make test-workers")
    tools = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert tools, "apt-get install postgresql"
    place = Path("/tmp") / f"agehelpers-postgres-{os.getpid()}"
    place.mkdir()
    who = {}
    if os.getuid() == 0:
        who = {"user": "nobody", "group": "nogroup"}
        shutil.chown(place, "nobody", "nogroup")
    data, log = place / "data", place / "log"
    subprocess.run([tools[-1], "-D", data, "-A", "trust", "-U", "tester"], check=True, stdout=subprocess.DEVNULL, **who)
    control, port = tools[-1].with_name("pg_ctl"), 20_000 + os.getpid() % 20_000
    subprocess.run([control, "-D", data, "-w", "-l", log, "-o", f"-p {port} -k {place}", "start"], check=True,
                   stdout=subprocess.DEVNULL, **who)
    yield f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres"
    subprocess.run([control, "-D", data, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, **who)
    shutil.rmtree(place)


def begin(config, folder, storage) -> int:
    """A worker, forked: the number of its process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(350, exit=True)  # one that hangs says where
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            grid.search(config, folder, storage=storage)
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(3)
    return child


def swarm(config, place, storage, kills) -> tuple[pd.DataFrame, int]:
    """The table that four workers leave, of which one is killed from time to time, and replaced."""
    def folder(worker):  # machines that share a database share no folder
        return place if storage is None else place / str(worker) / "grid-shared"

    rng, killed = np.random.default_rng(0), 0
    running = {begin(config, folder(worker), storage): worker for worker in range(4)}
    until = time.monotonic() + 400
    while running and time.monotonic() < until:
        time.sleep(float(rng.uniform(0.1, 0.6)))
        if killed < kills and running:
            os.kill(victim := int(rng.choice(list(running))), signal.SIGKILL)
            code = os.waitpid(victim, 0)[1]
            worker = running.pop(victim)
            if os.WIFSIGNALED(code):  # else it had ended
                killed += 1
                running[begin(config, folder(worker), storage)] = worker
        for child in list(running):
            done, code = os.waitpid(child, os.WNOHANG)
            if done:
                assert code == 0, f"worker {running[child]} failed"
                del running[child]
    assert not running, "a worker hangs"
    study = workers.open_study(folder(0), storage, folder(0).name if storage else "grid")
    return grid.cells_table(study), killed


def check(config, tmp_path, table):
    alone = grid.search(config, tmp_path / "alone")
    assert not table.duplicated(BUDGET).any(), "a cell was done twice"
    one, four = (frame.drop(columns="seconds").sort_values(BUDGET, ignore_index=True) for frame in (alone, table))
    pd.testing.assert_frame_equal(one, four)


@pytest.mark.fault("four workers on one grid (journal in a shared folder), some killed at random",
                   "every cell once or redone after a death; the table of one worker")
def test_four_workers_share_a_journal(config, tmp_path, record_property):
    table, killed = swarm(config, tmp_path / "grid", None, KILLS)
    check(config, tmp_path, table)
    left = {file.name for file in (tmp_path / "grid").iterdir() if not file.name.startswith(".")}
    assert left == {"config.json", "grid.csv", "journal.log"} and killed > 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "grid" / "grid.csv"), table, check_dtype=False)
    record_property("cases", killed)


def test_a_lock_is_held_until_the_end_of_its_trial_is_written(tmp_path, monkeypatch):
    study, other = workers.open_study(tmp_path), workers.open_study(tmp_path)
    write, looked = study._storage.set_trial_state_values, []

    def late(trial, state, values=None):
        if state.is_finished():
            looked.append(workers.free_dead(other, tmp_path))  # who finds the lock free ends the trial
        return write(trial, state, values)

    monkeypatch.setattr(study._storage, "set_trial_state_values", late)
    done = workers.work(study, tmp_path, [({"lr": 0.1}, "full")], lambda cell, budget: {"val_mae": 7.0})
    assert done == 1 and looked and [trial.state.name for trial in other.trials] == ["COMPLETE"]


@pytest.mark.fault("a worker that died within a cell", "its cell is done by another, once")
def test_a_dead_workers_cell_is_done_again(tmp_path):
    study, cell = workers.open_study(tmp_path), {"lr": 0.1}
    study.enqueue_trial(cell, user_attrs={"budget": "full"})
    study.ask({"lr": FloatDistribution(0.0, 1.0)})  # it begins, and nobody holds its lock
    for _ in range(3):
        workers.work(study, tmp_path, [(cell, "full")], lambda cell, budget: {"val_mae": 7.0})
        if "COMPLETE" in [trial.state.name for trial in study.trials]:
            break
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]


def test_a_worker_killed_while_it_writes_the_journal_keeps_nobody_waiting(tmp_path):
    workers.open_study(tmp_path)
    if (child := os.fork()) == 0:
        try:
            held = FileLock(tmp_path / f".{workers.JOURNAL}.lock").acquire()
            (tmp_path / "holds it").touch(exist_ok=held is None)
            time.sleep(60)
        finally:
            os._exit(1)
    for _ in range(1000):
        if (tmp_path / "holds it").exists():
            break
        time.sleep(0.01)
    killer = threading.Timer(0.5, os.kill, (child, signal.SIGKILL))
    killer.start()
    started = time.monotonic()
    workers.open_study(tmp_path).set_user_attr("waited", True)  # until it is dead, and no longer
    assert 0.2 < time.monotonic() - started < 10
    os.waitpid(child, 0)


def test_a_finished_trial_without_parameters_is_refused(tmp_path):
    workers.open_study(tmp_path).add_trial(create_trial(value=1.0, user_attrs={"budget": "full"}))
    with pytest.raises(ValueError, match=r"journal.log: not the storage of a grid.*trial 0 has no parameters"):
        workers.open_study(tmp_path)


def test_a_database_keeps_a_grid(config, tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/grid.db"
    first = grid.search(config, tmp_path / "here" / "grid", cells=2, storage=url)
    table = grid.search(config, tmp_path / "there" / "grid", storage=url)
    pd.testing.assert_frame_equal(table.head(2), first)
    check(config, tmp_path, table)
    with pytest.raises(ValueError, match="nowhere/grid.db: not the storage of a grid, or damaged"):
        grid.search(config, tmp_path / "grid", storage=f"sqlite:///{tmp_path}/nowhere/grid.db")


def test_four_workers_share_a_database(config, tmp_path, postgres, monkeypatch):
    monkeypatch.setattr(workers, "HEARTBEAT", 1)
    table, killed = swarm(config, tmp_path, postgres, KILLS)
    check(config, tmp_path, table)
    assert killed > 0
