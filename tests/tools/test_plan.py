"""The plan of records: complete, resumable, one failure stops no other; the packaged weights have their own record."""

from __future__ import annotations

import dataclasses
import json

import pandas as pd
import pytest
import torch

from agehelpers import paths
from agehelpers.config import load_config
from agehelpers.evaluation.comparison import baseline_of
from agehelpers.training import grid
from agehelpers.training.checkpoints import load_checkpoint, save_checkpoint
from agehelpers.training.records import RUN_FACTS, Record, load_record, read_record
from agehelpers.training.runs import run_folder
from tools import plan as planning
from tools.plan import PLAN, Planned, main

QUICK = {"epochs": 1, "image_size": 16, "batch_size": 16}


@pytest.fixture
def plan(faces, monkeypatch, tmp_path):
    """Two quick records on drawn faces, and one that cannot be made."""
    monkeypatch.setattr("agehelpers.paths.utkface_folder", lambda: faces)
    monkeypatch.setattr(planning, "PACKAGED", tmp_path / "weights" / "laptop.safetensors")
    chosen = QUICK | {"faces": str(faces)}
    made = (Planned("bad", "train", "ci", 1, chosen | {"protocol": "coral"}), Planned("good", "train", "ci", 1, chosen),
            Planned("packaged", "package", "ci", 1, chosen), Planned("later", "train", "ci", 1, chosen, first=False),
            Planned("gpu", "train", "gpu", 1))
    monkeypatch.setattr(planning, "PLAN", made)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return made


def test_the_plan_covers_the_protocols_and_profiles():
    names = [planned.name for planned in PLAN]
    assert len(set(names)) == len(names)
    for planned in PLAN:
        load_config(planned.profile, planned.settings)  # raises for an unknown or wrong setting
        assert planned.minutes > 0 and (planned.grid is None or planned.grid in names[:names.index(planned.name)])
        if planned.kind == "grid":
            budget = grid.BUDGETS[planned.profile]
            assert {key: getattr(planned.recorded(), key) for key in budget} == budget
    for profile in ("laptop", "gpu"):
        first = [p for p in PLAN if p.profile == profile and p.kind == "train" and p.first]
        protocols = {load_config(p.profile, p.settings).protocol for p in first}
        assert protocols == {"holdout", "benchmark", "coral"}
    assert [p.number for p in PLAN if p.family == "gpu_benchmark"] == [0, 1, 2, 3, 4]
    scratch = [p for p in PLAN if p.family in ("gpu_benchmark", "gpu_holdout", "gpu_coral")]
    assert len(scratch) == 7 and all(p.settings["weights"] is None and p.grid == "gpu_grid" for p in scratch)
    assert all(p.minutes <= 75 for p in PLAN if p.profile in ("laptop", "scratch", "start") and p.kind == "train")


def test_missing_records_are_made_and_a_failure_stops_no_other(plan, capsys):
    assert planning.make_all() == ["bad"]
    out = capsys.readouterr().out
    assert "bad: not made" in out and "needs the whole UTKFace" in out and "needs a CUDA GPU" in out
    table = planning.overview(everything=True).set_index("record")["state"]
    assert table.to_dict() == {"bad": "to do", "good": "made", "packaged": "made", "later": "to do",
                               "gpu": "needs a CUDA GPU"}
    assert main(["--only", "good"]) == 0 and "0 to make" in capsys.readouterr().out
    assert main(["--only", "other"]) == 1 and "no record other is planned" in capsys.readouterr().err
    assert main(["--list"]) == 0 and "later" not in capsys.readouterr().out
    assert main(["--only", "bad"]) == 1


def test_settings_come_from_the_grids_winner(monkeypatch):
    planned = Planned("mine", "train", "gpu", 1, {"weights": None}, grid="gpu_grid")
    with pytest.raises(FileNotFoundError, match="no record 'gpu_grid'"):
        planned.config()
    table = pd.DataFrame({"lr": [0.3, 0.05, 0.3], "weight_decay": [0.0, 5e-4, 0.0], "momentum": [0.9, 0.95, 0.9],
                          "budget": ["full", "full", "short"], "val_mae": [7.0, 6.0, 5.0], "state": "complete"})
    monkeypatch.setattr(planning.records, "load_record", lambda name: Record(name, {}, {"grid": table}))
    config = planned.config()
    assert (config.lr, config.weight_decay, config.momentum, config.weights) == (0.05, 5e-4, 0.95, None)


def test_a_record_with_other_settings_is_not_taken_for_the_planned_one(plan, monkeypatch):
    planning.make(plan[1])
    assert planning.state(plan[1]) == "made"
    assert planning.state(dataclasses.replace(plan[1], settings=plan[1].settings | {"lr": 0.3})) == (
        "made with other settings")


def test_a_record_of_an_older_version_is_not_taken_for_the_planned_one(plan):
    file = planning.make(plan[1]) / "config.json"
    facts = json.loads(file.read_text())
    for fact in RUN_FACTS:
        file.write_text(json.dumps({key: value for key, value in facts.items() if key != fact}))
        assert planning.state(plan[1]) == "made with other settings", fact
    file.write_text(json.dumps(facts))
    assert planning.state(plan[1]) == "made"


def test_a_laptop_record_is_not_made_on_a_gpu(plan, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "hide the GPU" in planning.state(Planned("x", "train", "laptop", 1))


def test_packaged_weights_are_halves_with_a_record_of_their_own(plan, monkeypatch):
    good, packaged = plan[1], plan[2]
    with pytest.raises(FileNotFoundError, match="no finished run to package; .*train --profile ci"):
        planning.make(packaged)
    planning.make(good)
    folder = planning.make(packaged)
    tensors, state = load_checkpoint(planning.PACKAGED)
    assert {value.dtype for value in tensors.values()} == {torch.float16} and state["slim"]
    assert state["config"] == dataclasses.asdict(good.config())
    facts = json.loads((folder / "config.json").read_text())
    assert facts["weights"]["bytes"] == planning.PACKAGED.stat().st_size and facts["weights"]["precision"] == "float16"
    full, half = load_record("good").predictions, load_record("packaged").predictions
    assert state["intervals"] == facts["intervals"]
    whole = read_record(run_folder(good.config())).predictions
    assert facts["train_median"] == whole.loc[whole["part"] == "train", "age"].median()
    assert baseline_of(load_record("packaged")) == baseline_of(load_record("good"))
    full = full[full["part"].isin(["calibration", "test"])].reset_index(drop=True)
    assert full["name"].tolist() == half["name"].tolist()
    gap = (full["prediction"] - half["prediction"]).abs()
    assert 0 < gap.max() < 1  # other weights, nearly the same predictions
    error = (half["prediction"] - half["age"]).abs().groupby(half["part"]).mean()
    assert {part: facts["mae"][part] for part in error.index} == pytest.approx(error.to_dict(), abs=5e-4)
    assert facts["mae"]["train"] == load_record("good").facts["mae"]["train"]  # known from the run only
    before = planning.PACKAGED.read_bytes()
    planning.package(packaged.config(), planning.PACKAGED)  # killed after the weights were written: it goes on
    assert planning.PACKAGED.read_bytes() == before
    other = {key: value + 1 if value.is_floating_point() else value for key, value in tensors.items()}
    save_checkpoint(planning.PACKAGED, other, state)
    with pytest.raises(FileExistsError, match="holds other weights; remove it"):
        planning.package(packaged.config(), planning.PACKAGED)


def test_without_utkface_nothing_is_made(plan, monkeypatch, capsys):
    monkeypatch.setattr("agehelpers.paths.utkface_folder", lambda: None)
    assert planning.make_all() == [] and "needs UTKFace" in capsys.readouterr().out
    assert not list(paths.records_folder().glob("*/predictions.csv*"))
    assert isinstance(planning.overview(), pd.DataFrame)
