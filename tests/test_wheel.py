"""The package as pip installs it: from an empty folder, without a checkout, it predicts, indexes and trains."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything under `folder`."""
    return {file.relative_to(folder).as_posix(): (file.stat().st_size, file.stat().st_mtime_ns)
            for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of installed packages that holds only agehelpers, built as a wheel of a copy of the sources."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    shutil.copytree(ROOT / "agehelpers", source / "agehelpers", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", base, source], check=True,
                   capture_output=True)
    wheel, = base.glob("agehelpers-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--no-compile", "--target", base / "site", wheel],
                   check=True, capture_output=True)
    return base / "site"


@pytest.fixture
def python(site, tmp_path):
    """Runs Python in an empty folder, as a user with an empty home; what is installed comes before the checkout."""
    work = tmp_path / "work"
    work.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("AGEHELPERS_", "PYTHON"))}
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {f"XDG_{kind}_HOME": str(tmp_path / "home" / kind.lower()) for kind in ("DATA", "CACHE", "CONFIG")}

    def run(*arguments):
        done = subprocess.run([sys.executable, *map(str, arguments)], cwd=work, env=environment, text=True,
                              capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_all_rooms_and_the_weights_are_in_the_wheel(site):
    inside = set(files(site / "agehelpers"))
    expected = {name for name in files(ROOT / "agehelpers") if "__pycache__" not in name and not name.startswith(".")}
    assert {name for name in expected if name.endswith(".py")} == {name for name in inside if name.endswith(".py")}
    lists = {"data/utkface_splits.csv.gz", "data/utkface_splits.csv.json"}
    assert {name for name in expected if name.startswith("weights/")} | lists <= inside
    assert sorted(entry.name for entry in site.iterdir() if entry.suffix != ".dist-info") == ["agehelpers", "bin"]


def test_what_is_installed_works_where_there_is_no_checkout(site, python, faces, tmp_path):
    before = files(site)
    assert python("-c", "import agehelpers; print(agehelpers.__file__)").strip() == str(
        site / "agehelpers" / "__init__.py")
    crop = next(file for file in sorted(faces.glob("*_20170105*.jpg.chip.jpg")))
    header, row = (line.split() for line in python("-m", "agehelpers", "predict", "--crops", crop).splitlines())
    assert header[:2] == ["photo", "prediction"] and row[0] == str(crop) and 0 < float(row[1]) < 120
    assert "12 rows written" in python("-m", "agehelpers", "index", few(faces, tmp_path), "--out", "t.csv")
    assert len(pd.read_csv(tmp_path / "work" / "t.csv")) == 12
    out = python("-m", "agehelpers", "train", "--profile", "ci", "--record", "mine", "--set", "epochs=1", "limit=48",
                 "image_size=24")
    assert "test: MAE" in out
    assert files(site) == before
    run, = (tmp_path / "work" / "runs").iterdir()
    assert f"Run: runs/{run.name}" in out and "Record: records/mine" in out
    assert sorted(entry.name for entry in (tmp_path / "work").iterdir()) == ["records", "runs", "t.csv"]
    drawn, = (tmp_path / "home" / "data" / "agehelpers" / "sample_faces").iterdir()
    assert len(list(drawn.iterdir())) > 600
    assert {file.suffix for file in (tmp_path / "home" / "cache" / "agehelpers").iterdir()} == {".gz", ".npy", ".lock"}


def few(faces: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "few"
    folder.mkdir()
    for file in sorted(faces.glob("*.jpg.chip.jpg"))[:12]:
        shutil.copy(file, folder)
    return folder


def test_what_only_the_repository_has_says_so(python):
    code = "import agehelpers\ntry: agehelpers.utkface_labels()\nexcept FileNotFoundError as error: print(error)"
    assert "set the environment variable AGEHELPERS_HOME to a checkout" in python("-c", code)
