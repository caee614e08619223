"""Tests write to temporary folders only, draw a few faces once a session, and compute on one thread."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from agehelpers.data import faces as faces_module
from agehelpers.data.drawn import draw_faces

os.environ["TQDM_DISABLE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # of child processes
torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--faults", metavar="PAGE", help="write the table of the faults that were tried into this page")


def pytest_configure(config):
    config.addinivalue_line("markers", "fault(what, outcome): a fault that is tried; a row of docs/faults.md")


def pytest_runtest_setup(item):
    for mark in item.iter_markers("fault"):
        item.user_properties.append(("fault", mark.args))
        if examples := getattr(item.obj, "_hypothesis_internal_use_settings", None):
            item.user_properties.append(("cases", examples.max_examples))


def pytest_terminal_summary(terminalreporter, config):
    """With --faults: a row a fault, of the tests that passed; cases are a test's own count, else its parameters.

    Rows of tests that were not run stay as they are.
    """
    if not (page := config.getoption("--faults")):
        return
    from tools.readme import with_block

    text, rows, kinds, measured = Path(page).read_text(), {}, {}, {}
    for report in terminalreporter.stats.get("passed", []):
        told = dict(report.user_properties)
        for what in (tuple(value) for key, value in report.user_properties if key == "fault" and report.when == "call"):
            rows[what] = rows.get(what, 0) + told.get("cases", 1)
            kinds |= told.get("kinds", {})
            measured |= {what: told["measured"]} if "measured" in told else {}
    begin, end = "<!-- faults: begin (make test-faults) -->", "<!-- faults: end -->"
    before = [line for line in text.partition(begin)[2].partition(end)[0].splitlines() if line.startswith("| ")]
    faults = {line.split(" | ")[0][2:]: line for line in before if line.count(" | ") == 2 and "| fault |" not in line}
    faults |= {what: f"| {what} | {outcome} | {measured.get((what, outcome), f'{cases:,}')} |"
               for (what, outcome), cases in rows.items()}
    changed = {line.split(" | ")[0][2:]: line for line in before if line.count(" | ") == 3 and "| kind |" not in line}
    changed |= {kind: f"| {kind} | {n['cases']:,} | {n['read']:,} | {n['refused']:,} |" for kind, n in kinds.items()}
    lines = ["| fault | what has to happen, and did | cases |", "|---|---|---|", *faults.values(), "",
             "Files changed at random, by kind:", "", "| kind | cases | read | refused by name |", "|---|---|---|---|",
             *changed.values()]
    Path(page).write_text(with_block(text, "\n".join(lines), begin, end))


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


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """Folder of a checkpoint with an aligner, and of their ONNX files in `onnx`; to be read and copied."""
    from agehelpers.__main__ import main
    from agehelpers.photos.align import Aligner, save_aligner

    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("exported")
    shutil.copy(trained / "best.safetensors", folder)
    save_aligner(folder / "aligner.safetensors", Aligner(), {})
    assert main(["export", "--checkpoint", str(folder / "best.safetensors"), "--out", str(folder / "onnx")]) == 0
    return folder


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
