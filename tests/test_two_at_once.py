"""Two processes at once on one run, one cache, one record, one grid: the second waits, or gets a clear answer."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest

from agehelpers import paths
from agehelpers.data import pixels
from agehelpers.data.labels import cached_labels, usable
from agehelpers.training import records
from agehelpers.training.grid import search

RUN = """
import sys
from pathlib import Path
from agehelpers.config import config_from_dict
from agehelpers.training import grid, runs
import json
config = config_from_dict(json.loads(sys.argv[2]))
folder = Path(sys.argv[1])
grid.search(config, folder, halving=False) if len(sys.argv) > 3 else runs.run(config, folder, True)
"""


def start(folder, config, *more):
    return subprocess.Popen([sys.executable, "-c", RUN, str(folder), json.dumps(dataclasses.asdict(config)), *more],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


@pytest.mark.fault("two processes on one run, or one grid", "the second waits; one result, that of one alone")
@pytest.mark.parametrize("grid", [False, True])
def test_two_processes_leave_one_result(quick, trained, tmp_path, grid):
    more = ["grid"] if grid else []
    both = [start(tmp_path / "one", quick, *more) for _ in range(2)]
    told = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(error[-1500:] for _, error in told)
    if grid:
        search(quick, tmp_path / "alone", halving=False)
    tables = [pd.read_csv(tmp_path / "one" / "grid.csv"), pd.read_csv(tmp_path / "alone" / "grid.csv")] if grid else [
        pd.read_csv(folder / "predictions.csv") for folder in (tmp_path / "one", trained)]
    pd.testing.assert_frame_equal(*[table.drop(columns="seconds", errors="ignore") for table in tables])
    assert not list((tmp_path / "one").glob("*.part")) and not list((tmp_path / "one").glob("cell-*"))


def test_a_second_process_trains_nothing_while_the_first_is_at_work(quick, trained, tmp_path):
    with paths.alone(tmp_path / "one" / "config.json"):
        second = start(tmp_path / "one", quick)
        assert second.stderr is not None
        assert any("another process is at work there" in line for line in second.stderr)  # it ends the loop
        assert [file.name for file in (tmp_path / "one").iterdir()] == [".config.json.lock"]
        shutil.copytree(trained, tmp_path / "one", dirs_exist_ok=True)  # what the first leaves
        before = (tmp_path / "one" / "last.safetensors").stat().st_mtime_ns
    second.communicate(timeout=60)
    assert second.returncode == 0 and (tmp_path / "one" / "last.safetensors").stat().st_mtime_ns == before


@pytest.mark.fault("two at once on one cache", "the second waits; each picture is decoded once")
def test_two_at_once_decode_each_picture_once(faces, tmp_path, monkeypatch):
    labels, seen, real = usable(cached_labels(faces)), [], pixels.decode

    def slow(file, size):
        time.sleep(0.02)
        seen.append(file.name)
        return real(file, size)

    monkeypatch.setattr(pixels, "decode", slow)
    both = [threading.Thread(target=pixels.load_pixels, args=(faces, labels, 20, tmp_path)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert sorted(seen) == sorted(labels["name"])


def test_who_comes_second_waits_and_says_so(tmp_path, capsys):
    order = []

    def second():
        with paths.alone(tmp_path / "new" / "run"):
            order.append("second")

    with paths.alone(tmp_path / "new" / "run"):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.3)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"] and "run: another process is at work there" in capsys.readouterr().err
    with pytest.raises(KeyError), paths.alone(tmp_path / "new" / "run"):
        raise KeyError
    with paths.alone(tmp_path / "new" / "run"):  # an error has freed it
        pass


@pytest.mark.fault("two records of one name at once", "the second is refused, the first is whole")
def test_the_second_of_two_records_of_one_name_is_refused(trained, monkeypatch):
    records.save_record(trained, "mine")
    before = {file.name: file.read_bytes() for file in (paths.records_folder() / "mine").iterdir()}
    real, calls = records.check_record_name, []

    def late(name):  # as if the first had not been there yet when the second looked
        calls.append(name)
        return paths.records_folder() / name if len(calls) == 1 else real(name)

    monkeypatch.setattr(records, "check_record_name", late)
    with pytest.raises(FileExistsError, match="mine exists; records are never overwritten"):
        records.save_record(trained, "mine")
    assert {file.name: file.read_bytes() for file in (paths.records_folder() / "mine").iterdir()} == before
    assert [entry.name for entry in paths.records_folder().iterdir()] == ["mine"]
