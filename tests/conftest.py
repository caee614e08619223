"""Tests write to temporary folders only, draw a few faces once a session, and compute on one thread."""

import os

import pytest
import torch

from agehelpers.data import faces as faces_module
from agehelpers.data.drawn import draw_faces

os.environ["TQDM_DISABLE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # of child processes
torch.set_num_threads(1)


def pytest_configure(config):
    config.addinivalue_line("markers", "fault(what, outcome): a fault that is tried; a row of docs/faults.md")


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory, monkeypatch):
    """Runs, records and caches of a test lie outside the repository, and no setting comes from the environment."""
    base = tmp_path_factory.mktemp("home")
    for name in ("RUNS", "RECORDS", "CACHE"):
        monkeypatch.setenv(f"AGEHELPERS_{name}", str(base / name.lower()))
    for name in ("FACES", "PROFILE", "SET", "DATA", "HOME"):
        monkeypatch.delenv(f"AGEHELPERS_{name}", raising=False)
    return base


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """A folder of 60 drawn faces, faulty names and duplicates among them."""
    return draw_faces(tmp_path_factory.mktemp("drawn") / "faces", count=60)


@pytest.fixture
def newer(monkeypatch):
    """`Config` with one more setting, in place of agehelpers' own: what a later version will be."""
    from pydantic import ConfigDict, Field
    from pydantic.dataclasses import dataclass

    from agehelpers import config

    @dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
    class Newer(config.Config):
        label_noise: float = Field(0.0, ge=0, description="years")

    monkeypatch.setattr(config, "Config", Newer)
    return Newer


@pytest.fixture(scope="session")
def quick(faces):
    """Settings of a training that takes half a second."""
    from agehelpers.config import load_config

    return load_config("ci", {"epochs": 2, "image_size": 24, "batch_size": 12, "checkpoint_steps": 2,
                              "faces": str(faces)})


@pytest.fixture(scope="session")
def trained(quick, tmp_path_factory):
    """Folder of the finished run of `quick`, to be read and copied, not changed."""
    from agehelpers.training.runs import run

    base = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGEHELPERS_CACHE", str(base / "cache"))
        run(quick, base / "run")
    return base / "run"


@pytest.fixture
def spoil_test(monkeypatch):
    """A function after which the test pictures of `config` are white and of 99 years, whoever reads them."""
    load_pixels, labels_and_split = faces_module.load_pixels, faces_module.labels_and_split

    def spoil(config):
        split = labels_and_split(config)[1]
        test = set(split.loc[split["part"] == "test", "name"])

        def spoilt(folder, labels, size):
            pixels = load_pixels(folder, labels, size).copy()
            pixels[labels["name"].isin(test).to_numpy()] = 255
            return pixels

        def relabelled(config):
            labels, split = labels_and_split(config)
            return labels.assign(age=labels["age"].mask(labels["name"].isin(test), 99)), split

        monkeypatch.setattr(faces_module, "load_pixels", spoilt)
        monkeypatch.setattr(faces_module, "labels_and_split", relabelled)

    return spoil
