"""Files changed at random, and settings of any text: read, or refused by name. `make test-faults` tries 20,000.

Whatever is found is mended, and stays here as a case.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from agehelpers import paths
from agehelpers.config import Config, config_from_dict, load_config, parse_settings
from agehelpers.data.labels import read_listed
from agehelpers.data.names import parse_name
from agehelpers.photos.align import Aligner, save_aligner
from agehelpers.training import grid, workers

CASES, SEED = int(os.environ.get("AGEHELPERS_TEST_CASES", "500")), int(os.environ.get("AGEHELPERS_TEST_SEED", "0"))


@pytest.fixture(scope="module")
def stock(trained, exported, tmp_path_factory):
    """A finished run with an aligner, a grid's journal and ONNX files."""
    place = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(trained, place / "run", ignore=shutil.ignore_patterns(".*"))
    save_aligner(place / "run" / "aligner.safetensors", Aligner(), {"pictures": 1})
    study = workers.open_study(place / "run" / "grid")
    for lr in (0.1, 0.2):
        study.add_trial(create_trial(value=lr, params={"lr": lr, "weight_decay": 0.0, "momentum": 0.9}, user_attrs={
            "budget": "short"}, distributions={key: FloatDistribution(0.0, 1e40) for key in grid.SEARCHED}))
    shutil.copytree(exported / "onnx", place / "onnx")
    return place


@pytest.mark.fault("files changed at random (kinds: below)",
                   "read, or an error that names the file; no hang, no program, no socket, no file elsewhere")
def test_changed_files_are_read_or_refused_by_name(stock, record_property):
    done = subprocess.run([sys.executable, str(Path(__file__).with_name("fuzz.py")), str(stock), "--cases", str(CASES),
                           "--seed", str(SEED)], capture_output=True, text=True, timeout=60 + CASES)
    assert done.returncode == 0, f"crashed on {list((stock / 'work' / 'case').iterdir())}: {done.stderr[-3000:]}"
    counts = json.loads(done.stdout.splitlines()[-1])
    found = {kind: count for kind, count in counts.items() if count["findings"]}
    assert not found, done.stderr[-6000:]
    assert sum(count["cases"] for count in counts.values()) == CASES
    assert all(count["refused"] > 0 for count in counts.values())
    assert counts["picture"]["read"] > 0 and counts["photo"]["read"] > 0
    record_property("cases", CASES)
    record_property("kinds", counts)


def test_a_finding_is_found(stock, tmp_path, monkeypatch):
    """A reader that hangs, starts a program, writes elsewhere or fails otherwise is reported: the check can fail."""
    code = """
import os, random, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
import fuzz
from pathlib import Path
fuzz.SECONDS = 1
acts = [lambda file: time.sleep(9), lambda file: subprocess.run(["true"]), lambda file: 1 / 0,
        lambda file: open(sys.argv[3], "w").write("x"), lambda file: bytearray(9 * 2**30),
        lambda file: int("no file is named here"), lambda file: None]
turn = iter([6, *range(7)])
class Kinds:
    place, valid = Path(sys.argv[2]), {"thing": {"a.txt": b"abc"}}
    read = {"thing": lambda file: acts[next(turn)](file)}
print(fuzz.fuzz(Kinds, 7, 0)["thing"]["findings"])
"""
    (place := tmp_path / "work").mkdir()
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(place), str(tmp_path / "other")],
                          capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["6"], done.stderr
    assert all(said in done.stderr for said in ("took too long", "subprocess.Popen", "ZeroDivisionError", "wrote",
                                                "MemoryError", "names no file"))
    assert len(list((place / "found").iterdir())) == 6


TEXT = st.text(max_size=20)
FIELDS = sorted(Config.__dataclass_fields__)


@pytest.mark.fault("settings of any text", "a configuration, or an error that names the setting")
@hypothesis_settings(max_examples=CASES // 5, deadline=1000, derandomize=not SEED)
@given(st.dictionaries(st.one_of(st.sampled_from(FIELDS), TEXT), st.one_of(
    TEXT, st.integers().map(str), st.floats().map(str), st.none(), st.booleans(), st.floats(), st.lists(TEXT)),
    max_size=3))
def test_any_settings_are_taken_or_refused(settings):
    try:
        config = load_config("ci", settings)
        assert config_from_dict(config.__dict__) == config
    except ValueError as error:
        assert any(key in str(error) for key in settings) or "nesterov" in str(error)


@hypothesis_settings(max_examples=CASES // 10, deadline=1000, derandomize=not SEED)
@given(st.lists(TEXT, max_size=4))
def test_any_arguments_are_pairs_or_refused(entries):
    try:
        assert all(isinstance(value, str) for value in parse_settings(entries).values())
    except ValueError as error:
        assert "is not KEY=VALUE" in str(error)


@pytest.mark.fault("tables of pictures of any text", "labels, or an error that names the file")
@hypothesis_settings(max_examples=CASES // 5, deadline=2000, derandomize=not SEED)
@given(st.lists(st.lists(st.one_of(TEXT, st.sampled_from(["path", "age", "person", "name", "", "30", "a.jpg"])),
                         max_size=5), max_size=5), st.sampled_from(["utf-8", "utf-16", "latin-1"]))
def test_any_table_is_read_or_refused(rows, encoding):
    file = paths.cache_folder() / "listed.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("\n".join(",".join(row) for row in rows).encode(encoding, "replace"))
    try:
        listed = read_listed(file)
        assert all(row["verdict"] in ("ok", "rejected") for row in listed.values())
    except ValueError as error:
        assert "listed.csv" in str(error)


@hypothesis_settings(max_examples=CASES // 5, deadline=1000, derandomize=not SEED)
@given(st.one_of(st.text(max_size=60), st.from_regex(r"[0-9]{0,4}_[0-9]{0,2}_[0-9]{0,2}_[0-9]{0,20}(\.\w+)*",
                                                      fullmatch=True)))
def test_any_name_has_labels_or_none(name):
    found = parse_name(name)
    assert found.age is None or 0 <= found.age <= 130
