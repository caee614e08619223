"""The repository keeps its promises: one list of dependencies, no pictures of people, a generated results block."""

import dataclasses
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from agehelpers import grid, results, runs
from agehelpers.config import PROFILES

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(line) for lines in (PROJECT["dependencies"], *extras) for line in lines]


def test_environment_delegates_to_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *plain, pip = environment["dependencies"]
    names = [re.split(r"[=<>]", line)[0] for line in plain]
    assert names == ["python", "pip", "make"]  # nothing of pyproject's list is written a second time
    python = next(line for line in plain if line.startswith("python=")).split("=")[1]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)
    *options, install = pip["pip"]
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", install)
    assert extras and set(extras[1].split(",")) == set(PROJECT["optional-dependencies"])
    assert options == ["--constraint requirements.lock"]


def test_the_lock_satisfies_pyproject():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}
    for requirement in requirements():
        assert requirement.specifier.contains(locked[requirement.name.lower()]), requirement


def test_no_picture_of_a_person_and_nothing_large_is_tracked():
    files = tracked()
    assert files
    pictures = [file for file in files if re.search(r"\.(jpe?g|webp|bmp|npy|npz)$", file.name, re.I)]
    assert pictures == []
    assert {file.parent.name for file in files if file.suffix == ".png"} <= {"docs"}
    assert sum(file.stat().st_size for file in files) < 20_000_000


def test_the_results_block_is_what_the_records_say():
    text = (ROOT / "README.md").read_text()
    block = results.results_block(ROOT / "data" / "records")
    assert results.with_block(text, block) == text
    typed = re.sub(r"\*\*\d+\.\d+\*\*", "**1.00**", text)
    assert typed != text and results.with_block(typed, block) == text
    with pytest.raises(ValueError, match="markers"):
        results.with_block("no markers", block)


def test_the_laptop_profile_is_the_grids_winner_and_what_the_record_was_trained_with(monkeypatch):
    monkeypatch.setenv("AGEHELPERS_RECORDS", str(ROOT / "data" / "records"))
    laptop = dataclasses.asdict(PROFILES["laptop"])
    assert {key: laptop[key] for key in grid.AXES} == grid.best_cell(grid.load_grid("laptop_grid")[0])
    assert runs.load_record("laptop_holdout").config["config"] == laptop


def test_the_readme_names_what_is_there():
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert notebook.stem in text
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (ROOT / link).exists(), link
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
