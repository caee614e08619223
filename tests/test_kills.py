"""SIGKILL at random moments: whatever was being written, no half file is in place, and the same call ends the same.

`make test-faults` kills 200 times, `make test` a few times.
"""

import json
import os
import re
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from agehelpers import paths
from agehelpers.__main__ import main
from agehelpers.config import load_config
from agehelpers.data.labels import cached_labels, usable
from agehelpers.data.pixels import load_pixels
from agehelpers.training import grid, records, runs
from agehelpers.training.checkpoints import load_checkpoint

KILLS = int(os.environ.get("AGEHELPERS_TEST_KILLS", "20"))
SHARES = {"run": 0.5, "grid": 0.2, "cache": 0.1, "record": 0.1, "photos": 0.1}


def run(place, faces, trained):
    runs.run(load_config("ci", {"faces": str(faces), "epochs": 3, "image_size": 24, "batch_size": 8,
                                "checkpoint_steps": 1}), place / "run", resume=True)


def search(place, faces, trained):
    grid.search(load_config("ci", {"faces": str(faces), "image_size": 24, "checkpoint_steps": 2, "epochs": 1}),
                place / "grid")


def cache(place, faces, trained):
    load_pixels(faces, usable(cached_labels(faces)), 120)


def record(place, faces, trained):
    if not (paths.records_folder() / "mine").exists():
        records.save_record(trained, "mine")


def photos(place, faces, trained):
    some = sorted(map(str, faces.glob("*.jpg")))[:12]
    main(["predict", *some, "--crops", "--checkpoint", str(trained / "best.safetensors"),
          "--out", str(place / "ages.csv"), "--annotate", str(place / "drawn")])


WORKS = {"run": run, "grid": search, "cache": cache, "record": record, "photos": photos}


def left(place: Path) -> dict[str, object]:
    """What is in place, by name: contents that are the same after every whole run, and that can be read."""
    found: dict[str, object] = {}
    for file in sorted(place.rglob("*")):
        name = re.sub(r"-\d+(?=\.jpg$)", "", file.relative_to(place).as_posix())  # of a second copy, beside the first
        if file.is_dir() or file.name.startswith(".") or "/." in name or file.suffix in (".log", ".lock"):
            continue  # a journal is only ever added to; Optuna reads it line by line
        if file.suffix == ".safetensors":
            tensors, state = load_checkpoint(file)
            found[name] = {key: value.numpy().tobytes() for key, value in tensors.items()} | {
                "state": {key: value for key, value in state.items() if key not in ("history", "seconds")}}
        elif file.suffix == ".json":
            found[name] = sorted(json.loads(file.read_text()))
        elif file.suffix in (".csv", ".gz"):
            found[name] = pd.read_csv(file).drop(columns="seconds", errors="ignore").to_csv()
        elif file.suffix == ".npy":
            found[name] = np.load(file).tobytes()
        else:
            Image.open(file).load()
            found[name] = file.suffix
    return found


def killed(work, seconds: float) -> bool:
    """Fork a process that does `work`, kill it after so many seconds; whether it was done before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads of this process hold no lock that it needs
        child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(3)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    code = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(code) or os.WEXITSTATUS(code) == 0, f"it ended by itself, with {os.WEXITSTATUS(code)}"
    return not os.WIFSIGNALED(code)


@pytest.mark.fault("SIGKILL at random moments of training, grid, cache, record, photos",
                   "the same call goes on; no half file in place; what it ends with is equal, bit for bit")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", list(WORKS))
def test_killed_at_any_moment_it_goes_on(name, faces, trained, tmp_path, monkeypatch, record_property):
    def fresh(number: int) -> Path:
        place = tmp_path / str(number)
        place.mkdir()
        for key in ("RUNS", "RECORDS", "CACHE"):
            monkeypatch.setenv(f"AGEHELPERS_{key}", str(place / key.lower()))
        return place

    work, place, rng = WORKS[name], fresh(0), np.random.default_rng(0)
    started = time.monotonic()
    work(place, faces, trained)
    seconds, expected = time.monotonic() - started, left(place)
    assert expected, "it leaves something"
    kills, number, late = 0, 0, 0
    while kills < max(2, round(KILLS * SHARES[name])):
        number += 1
        place, done = fresh(number), False
        while not done:
            done = killed(lambda place=place: work(place, faces, trained), float(rng.uniform(0, seconds)) * (1 + late))
            kills, late = kills + (not done), late + (not done) / 4  # later from time to time, so that it ends
            now = left(place)
            assert set(now) <= set(expected) | {one for one in now if "cell-" in one or "last." in one}, "nothing else"
            whole = {one for one in now if "last." not in one and "best." not in one and "cell-" not in one}
            assert all(now[one] == expected[one] for one in whole)
        late = 0
        assert left(place) == expected
    record_property("cases", kills)
