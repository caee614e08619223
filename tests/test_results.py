"""Tables and pages made from records: by hand from small ones, and every file that is to be written."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pandas as pd
import pytest

from agehelpers import paths, results
from agehelpers.runs import Record

NAMES = [f"face{i:02d}.jpg" for i in range(20)]
INDEX = pd.DataFrame({"name": NAMES, "group": pd.array([1, 1, *range(2, 20)], dtype="Int64")})


def record(name, held, protocol="holdout", calibration=39, width=10.0):
    """20 test pictures of 50 years, of whose 80, 90 and 95 % intervals the first `held` hold the age."""
    test = pd.DataFrame({"part": "test", "name": NAMES, "age": 50, "gender": "male", "ethnicity": "White",
                         "prediction": 50.0, "spread": 1.0})
    for level, count in zip((80, 90, 95), held, strict=True):
        test[f"lower_{level}"] = np.where(np.arange(20) < count, 49.0, 51.0)
        test[f"upper_{level}"] = test[f"lower_{level}"] + width
    other = test.head(3).assign(part="calibration", age=0).reset_index(drop=True)  # has no say
    config = {"config": {"protocol": protocol}, "intervals": {"calibration": calibration}}
    return Record(name, config, pd.DataFrame(), pd.concat([test, other], ignore_index=True))


def chance(level, calibration, test):
    """Ends of the middle 95 % of beta-binomial shares of `test`, summed up from its definition."""
    k = math.ceil((calibration + 1) * level - 1e-9)
    a, b = k, calibration + 1 - k

    def beta(x, y):
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    mass = np.cumsum([math.comb(test, i) * math.exp(beta(i + a, test - i + b) - beta(a, b)) for i in range(test + 1)])
    assert mass[-1] == pytest.approx(1)
    return [int(np.argmax(mass >= tail)) / test for tail in (0.025, 0.975)]


def test_coverage_table_by_hand():
    made = [record("first", (15, 18, 20)), record("leaks", (20, 20, 20), "coral_published"),
            record("second", (8, 10, 12), "coral", 199, 4.0)]
    found = results.coverage_table(made, INDEX)
    assert found["record"].tolist() == ["first"] * 3 + ["second"] * 3  # not the one that leaks between its parts
    assert found["level"].tolist() == [0.8, 0.9, 0.95] * 2 and (found["n"] == 20).all()
    assert found["coverage"].tolist() == [0.75, 0.9, 1, 0.4, 0.5, 0.6]
    assert found["calibration"].tolist() == [39] * 3 + [199] * 3
    assert found["width"].tolist() == pytest.approx([10] * 3 + [4] * 3)
    # k of n + 1: 32, 36 and 38 of 40; 160, 180 and 190 of 200
    expected = [chance(level, n, 20) for n in (39, 199) for level in (0.8, 0.9, 0.95)]
    assert found[["expected_low", "expected_high"]].to_numpy() == pytest.approx(np.array(expected))
    assert (found["expected_low"] < found["level"]).all() and (found["level"] < found["expected_high"]).all()
    # the first two pictures are copies: fewer pieces of evidence than pictures
    apart = results.coverage_table(made, INDEX.assign(group=range(20)))
    assert (found["low"] < apart["low"]).all() and found["coverage"].equals(apart["coverage"])


def test_chance_by_another_way():
    # one calibration picture, a level of a half: 0 to 99 held of 99, each as likely
    assert chance(0.5, 1, 99) == pytest.approx([2 / 99, 97 / 99])


def test_every_generated_file_is_written(tmp_path, monkeypatch):
    data = paths.ROOT / "data"
    for source in (data / "utkface_labels.csv", data / "published.csv", paths.ROOT / "README.md"):
        target = tmp_path / source.relative_to(paths.ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)
    monkeypatch.setenv("AGEHELPERS_RECORDS", str(data / "records"))
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    card = tmp_path / "weights" / "laptop.safetensors"
    monkeypatch.setattr(results, "PACKAGED", card)
    made = {}

    def kept(name):  # what the function answers, on the way to its file
        function = getattr(results, name)

        def call(*given):
            made[name] = function(*given)
            return made[name]

        monkeypatch.setattr(results, name, call)

    for name in ("results_block", "ablation_block", "coverage_block", "model_card", "group_page", "suspected_labels"):
        kept(name)
    readme = tmp_path / "README.md"
    before, blocks = readme.read_text(), {"results:": "results_block", "ablation:": "ablation_block",
                                          "intervals:": "coverage_block"}
    stale = before
    for marker in blocks:
        stale = results.with_block(stale, "old", results.BEGIN.replace("results:", marker),
                                   results.END.replace("results:", marker))
    readme.write_text(stale)
    results.update(readme, "laptop_packaged")
    fresh = stale
    for marker, name in blocks.items():
        begin, end = (mark.replace("results:", marker) for mark in (results.BEGIN, results.END))
        assert f"{begin}\n\nold\n\n{end}" in stale
        fresh = fresh.replace(f"{begin}\n\nold\n\n{end}", f"{begin}\n\n{made[name]}\n\n{end}")
    assert readme.read_text() == fresh != stale
    page = (tmp_path / "docs" / "error_by_group.md").read_text()
    assert page == made["group_page"] and "Record `laptop_packaged`" in page
    assert card.with_name("README.md").read_text() == made["model_card"]
    listed = pd.read_csv(tmp_path / "data" / "suspected_labels.csv", keep_default_na=False)
    assert len(listed) == len(made["suspected_labels"]) > 100
    assert listed["name"].tolist() == made["suspected_labels"]["name"].tolist()
    written = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert written == {"README.md", "docs/error_by_group.md", "docs/results.png", "docs/published.png",
                       "weights/README.md", "data/suspected_labels.csv", "data/utkface_labels.csv",
                       "data/published.csv"}
    for name in ("results", "published"):
        assert (tmp_path / "docs" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
