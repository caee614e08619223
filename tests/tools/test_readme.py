"""Every generated file is written from records, and an unknown name in a template is an error."""

import shutil
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from agehelpers.training.records import Record
from tools import readme

ROOT = Path(__file__).resolve().parent.parent.parent


def test_every_generated_file_is_written(tmp_path, monkeypatch):
    for name in ("data/utkface_labels.csv", "data/published.csv", *readme.PAGES):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True, parents=True)
        shutil.copyfile(ROOT / name, target)
    monkeypatch.setenv("AGEHELPERS_RECORDS", str(ROOT / "data" / "records"))
    monkeypatch.setenv("AGEHELPERS_HOME", str(tmp_path))
    monkeypatch.setattr(readme, "PACKAGED", tmp_path / "weights" / "laptop.safetensors")
    made = {name: f"{name} as made\n" for name in (
        "headline_block", "results_block", "start_block", "ablation_block", "methods_block", "intervals_block",
        "model_card", "subgroup_page")}
    made["suspected_labels"] = pd.DataFrame({"name": ["a.jpg"]})
    for name, value in made.items():  # that these are right is compared with the committed files elsewhere
        monkeypatch.setattr(readme, name, lambda value=value: value)
    stale = {}
    for page, names in readme.PAGES.items():
        stale[page] = (tmp_path / page).read_text()
        for name in names:
            stale[page] = readme.with_block(stale[page], "old", readme.marker(name), readme.marker(name, end=True))
        (tmp_path / page).write_text(stale[page])
    monkeypatch.setattr(readme, "strip", plt.figure)  # trains
    readme.update(tmp_path)
    for page, names in readme.PAGES.items():
        fresh = (tmp_path / page).read_text()
        for name in names:
            begin, end = readme.marker(name), readme.marker(name, end=True)
            assert f"{begin}\n\nold\n\n{end}" in stale[page]
            assert f"{begin}\n\n{made[f'{name}_block'].strip()}\n\n{end}" in fresh
    assert (tmp_path / "docs" / "error_by_subgroup.md").read_text() == made["subgroup_page"]
    assert (tmp_path / "weights" / "README.md").read_text() == made["model_card"]
    assert (tmp_path / "data" / "suspected_labels.csv").read_text() == "name\na.jpg\n"
    written = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert written == {*readme.PAGES, "docs/error_by_subgroup.md", "docs/faces.png", "docs/results.png",
                       "docs/published.png", "weights/README.md", "data/suspected_labels.csv",
                       "data/utkface_labels.csv", "data/published.csv"}
    for name in ("results", "published"):
        assert (tmp_path / "docs" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_starting_point_stands_beside_ours(monkeypatch):
    labels, split = readme.utkface_labels(), readme.make_split(readme.utkface_labels(), "holdout")
    tests = split[split["part"] == "test"].merge(labels, on="name").astype({"age": "int64"})
    good, old = readme.split_hash(split), "0123456789ab"
    made = [Record(name, {"split": where, "mae": {"validation": off - 0.5}, "config": {
        "backbone": "tiny", "weights": weights}}, {"predictions": tests.assign(prediction=tests["age"] + off)})
        for name, off, where, weights in (("laptop_lite0_0", 4, good, "w"), ("laptop_lite0_1", 5, good, "w"),
                                          ("start_printed_0", 7, good, "w"), ("scratch_holdout", 9, old, None),
                                          ("gpu_scratch", 3, good, None), ("reference_scratch", 5, good, None))]
    monkeypatch.setattr(readme, "planned_records", lambda: made)
    rows = [line for line in readme.start_block().splitlines() if line.startswith("| `")]
    assert rows == [
        "| `laptop_lite0`: ours | tiny, w | 2 | 4.00 | **4.50** | 4.00 to 5.00 |  |",
        "| `start_printed`: the starting point's, as printed | tiny, w | 1 | 6.50 | **7.00** | one run | "
        "+2.50 (+2.50 to +2.50) |",
        "| `laptop_holdout`: ours on a larger network, the profile `laptop` | | | | not measured on this split | | |",
        "| `start_tuned`: the same at the best cell of its own grid | | | | not measured on this split | | |",
        "| `scratch_holdout`: ours from random weights | | | | not measured on this split | | |",  # on an older one
        "| `gpu_scratch`: ours, growing from 128 to 224 pixels | tiny, random weights | 1 | 2.50 | **3.00** "
        "| one run |  |",
        "| `reference_scratch`: the starting point's, as printed | tiny, random weights | 1 | 4.50 | **5.00** | "
        "one run | +2.00 (+2.00 to +2.00) |"]
    assert "*5.418*" in readme.start_block()


def test_a_template_with_an_unknown_name_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        readme.render("ablation")


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="lacks the markers"):
        readme.with_block("no markers", "", "<!-- begin -->", "<!-- end -->")
