"""Tests write to temporary folders only, and draw a few faces once a session."""

import os

import pytest

from agehelpers.draw import draw_faces

os.environ["TQDM_DISABLE"] = "1"


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory, monkeypatch):
    """Runs, records and caches of a test lie outside the repository."""
    base = tmp_path_factory.mktemp("home")
    for name in ("RUNS", "RECORDS", "CACHE"):
        monkeypatch.setenv(f"AGEHELPERS_{name}", str(base / name.lower()))
    for name in ("AGEHELPERS_PROFILE", "AGEHELPERS_SET"):
        monkeypatch.delenv(name, raising=False)
    return base


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """A folder of 60 drawn faces, faulty names and duplicates among them."""
    return draw_faces(tmp_path_factory.mktemp("drawn") / "faces", count=60)
