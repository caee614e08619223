"""From a configuration to a record; a process that dies; what no choice may depend on."""

import contextlib
import dataclasses
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest
import torch

from agehelpers import paths
from agehelpers.__main__ import main
from agehelpers.config import config_from_dict, differing_settings, load_config
from agehelpers.data import faces as faces_module
from agehelpers.data.dataset import FaceDataset
from agehelpers.data.faces import PARTS, prepare_faces
from agehelpers.training import loop, runs
from agehelpers.training.calibration import attach_intervals
from agehelpers.training.checkpoints import load_checkpoint, load_model
from agehelpers.training.records import read_record
from agehelpers.training.trainer import Trainer


def same_tensors(some, other) -> bool:
    """Whether two checkpoints hold the same tensors, bit for bit."""
    (tensors, _), (others, _) = load_checkpoint(some), load_checkpoint(other)
    return tensors.keys() == others.keys() and all(torch.equal(tensors[key], others[key]) for key in tensors)


def test_a_run_leaves_a_complete_record(quick, trained):
    assert sorted(file.name for file in trained.iterdir()) == [
        ".config.json.lock", "best.safetensors", "config.json", "history.csv", "last.safetensors", "predictions.csv"]
    record = read_record(trained)
    assert list(record.history["epoch"]) == [1, 2]
    table = record.predictions
    assert table["part"].unique().tolist() == list(PARTS) and table["name"].is_unique
    facts = record.facts
    assert table.groupby("part").size().to_dict() == facts["counts"]
    assert record.settings == dataclasses.asdict(quick) and len(facts["split"]) == 12
    assert {"pictures_per_second", "training_seconds", "hardware"} <= set(facts)
    assert torch.__version__.startswith(facts["versions"]["torch"])
    validation = record.part("validation")
    mae = (validation["prediction"] - validation["age"]).abs().mean()
    assert mae == pytest.approx(record.history["val_mae"].min(), abs=2e-3)
    errors = (table["prediction"] - table["age"]).abs().groupby(table["part"]).mean()
    assert facts["mae"] == pytest.approx(errors.to_dict(), abs=5e-4)
    assert facts["train_median"] == record.part("train")["age"].median()
    assert load_checkpoint(trained / "best.safetensors")[1]["intervals"] == facts["intervals"]
    assert facts["parameters"] == sum(p.numel() for p in load_model(trained / "best.safetensors").parameters())


@pytest.mark.parametrize("change", [
    {"auxiliary": 0.3, "conflicts": "drop"}, {"backbone": "ssrnet", "head": "stagewise"}, {"head": "compare"},
    {"head": "corn", "front": "nested", "mixup": 0.2}])
def test_every_kind_of_method_runs_from_end_to_end_and_goes_on_exactly(quick, tmp_path, change):
    config = dataclasses.replace(quick, limit=48, epochs=2, checkpoint_steps=1, lr=0.01, **change)
    whole = runs.run(config, tmp_path / "whole")
    assert set(whole.predictions["part"]) == set(PARTS) and whole.predictions["prediction"].notna().all()
    assert list(whole.history["epoch"]) == [1, 2]
    save, saved = loop.save_training, []

    def stop(trainer, file):
        save(trainer, file)
        saved.append(trainer.step)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_training", stop)
        with pytest.raises(KeyboardInterrupt):
            runs.run(config, tmp_path / "parts")
    again = runs.run(config, tmp_path / "parts", resume=True)
    assert same_tensors(tmp_path / "whole" / "last.safetensors", tmp_path / "parts" / "last.safetensors")
    pd.testing.assert_frame_equal(whole.predictions, again.predictions)


def test_predictions_are_those_of_the_best_weights_read_back_to_the_digit(quick, trained):
    """Labels and intervals are in no file: they are joined and computed again on reading."""
    best, faces = load_model(trained / "best.safetensors"), prepare_faces(quick)
    direct = pd.concat([runs.predictions_of(best, faces, part) for part in PARTS], ignore_index=True)
    pd.testing.assert_frame_equal(read_record(trained).predictions, attach_intervals(direct), check_exact=True)
    assert (trained / "predictions.csv").read_text().splitlines()[0] == "part,name,prediction,spread"


def test_test_pictures_are_seen_at_the_size_at_which_the_epoch_was_chosen(quick, tmp_path, monkeypatch):
    growing = dataclasses.replace(quick, grow_from=16, image_size=32, epochs=3)
    maes = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(loop, "evaluate", lambda *given: (1.0, next(maes)))  # the first epoch is the best
    record = runs.run(growing, tmp_path / "run")
    small = dataclasses.replace(growing, image_size=16)
    test = prepare_faces(growing).dataset("test")
    found = loop.predict(load_model(tmp_path / "run" / "best.safetensors"), test, small)
    assert record.part("test")["prediction"].to_numpy() == pytest.approx(found["prediction"].to_numpy(), abs=1e-3)


def test_a_finished_run_is_loaded_not_trained_again(quick, trained, monkeypatch):
    monkeypatch.setattr(runs, "train_faces", None)  # calling it would fail
    pd.testing.assert_frame_equal(runs.run(quick, trained).predictions, read_record(trained).predictions)
    with pytest.raises(FileExistsError, match="holds a finished run with another flip, lr; choose another name"):
        runs.run(dataclasses.replace(quick, lr=0.3, flip=False), trained)


def test_a_finished_run_stays_the_same_when_a_setting_is_added(quick, trained, newer, monkeypatch):
    given = {key: value for key, value in dataclasses.asdict(quick).items() if key != "profile"}
    config = load_config("ci", given)
    assert type(config) is newer
    assert runs.run_folder(config) == runs.run_folder(quick)
    assert runs.settings_digest(config, "a split") == runs.settings_digest(quick, "a split")
    assert not differing_settings(config, config_from_dict(read_record(trained).settings))
    monkeypatch.setattr(runs, "train_faces", None)  # calling it would fail
    assert runs.run(config, trained).facts == read_record(trained).facts
    other = load_config("ci", given | {"label_noise": 2.0})
    assert runs.run_folder(other) != runs.run_folder(quick)
    assert differing_settings(other, config_from_dict(read_record(trained).settings)) == ["label_noise"]
    with pytest.raises(FileExistsError, match="another label_noise;"):
        runs.run(other, trained)


def test_an_interrupted_run_goes_on_when_a_setting_is_added(quick, trained, newer, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after_a_step(patch, 6)
        runs.run(quick, tmp_path / "run")
    config = newer(**dataclasses.asdict(quick))
    assert runs.run(config, tmp_path / "run", resume=True).facts["config"]["label_noise"] == 0.0
    assert same_tensors(tmp_path / "run" / "last.safetensors", trained / "last.safetensors")


@pytest.mark.parametrize(("change", "moves"), [({"epochs": 3}, True), ({"split_seed": 1}, True), ({"lr": 0.1}, False)])
def test_the_folder_of_a_run_follows_its_settings(quick, change, moves):
    """lr=0.1 is what `quick` has."""
    other = runs.run_folder(dataclasses.replace(quick, **change))
    assert other.parent == paths.runs_folder() and other.name.startswith("ci-")
    assert (other != runs.run_folder(quick)) is moves


def test_runs_and_others_train_by_one_function(quick, tmp_path, monkeypatch):
    seen = []
    real = runs.train_faces
    monkeypatch.setattr(runs, "train_faces", lambda *given: seen.append(given) or real(*given))
    runs.run(quick, tmp_path / "run", resume=True)
    assert [(given[0].config, *given[1:]) for given in seen] == [(quick, tmp_path / "run", True)]


def test_what_is_called_after_an_epoch_can_stop_a_training(quick, tmp_path):
    seen = []
    faces = prepare_faces(quick)
    history = runs.train_faces(faces, tmp_path, on_epoch=lambda trainer: seen.append(trainer.epoch) or True)
    assert seen == [1] and history["epoch"].tolist() == [1]
    history = runs.train_faces(faces, tmp_path)  # by default it goes on
    assert history["epoch"].tolist() == [1, 2]


def test_training_never_sees_a_test_picture(quick, tmp_path, monkeypatch):
    faces = prepare_faces(quick)
    test, seen = set(faces.part("test")["row"]), []
    prepared = FaceDataset.__getitems__
    monkeypatch.setattr(FaceDataset, "__getitems__",
                        lambda self, places: seen.extend(self.rows[places]) or prepared(self, places))
    runs.train_faces(faces, tmp_path)
    assert test and seen and not test & set(seen)
    assert set(seen) == set(faces.part("train")["row"]) | set(faces.part("validation")["row"])


def test_a_run_has_no_test_picture_at_hand_until_all_is_chosen(quick, tmp_path, monkeypatch):
    order = []
    prepare, train = runs.prepare_faces, runs.train

    def watched(config, parts=PARTS):
        faces = prepare(config, parts)
        order.append(("faces", tuple(sorted(faces.table["part"].unique()))))
        return faces

    monkeypatch.setattr(runs, "prepare_faces", watched)
    monkeypatch.setattr(runs, "train", lambda *given: order.append(("train", ())) or train(*given))
    runs.run(quick, tmp_path / "run")
    assert order == [("faces", ("train", "validation")), ("train", ()),
                     ("faces", ("calibration", "test", "train", "validation"))]


def test_nothing_that_is_chosen_depends_on_test_pictures_or_their_labels(quick, trained, tmp_path, spoil_test):
    spoil_test(quick)
    first, second = read_record(trained), runs.run(quick, tmp_path / "second")
    pd.testing.assert_frame_equal(first.history.drop(columns="seconds"), second.history.drop(columns="seconds"))
    assert same_tensors(trained / "best.safetensors", tmp_path / "second" / "best.safetensors")
    states = [load_checkpoint(folder / "best.safetensors")[1] for folder in (trained, tmp_path / "second")]
    assert states[0] == states[1]  # the intervals in it too
    differs = first.predictions["prediction"] != second.predictions["prediction"]
    assert set(first.predictions.loc[differs, "part"]) == {"test"}
    assert set(second.part("test")["age"]) == {99}


def test_other_faces_are_another_run(quick, faces, trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    fewer = tmp_path / "faces"
    shutil.copytree(faces, fewer)
    next(fewer.glob("*.jpg.chip.jpg")).unlink()
    monkeypatch.setattr(faces_module, "sample_faces", lambda: faces)
    drawn = dataclasses.replace(quick, faces=None)
    before = runs.run_folder(drawn)
    facts = (trained / "config.json").read_text().replace(f'"faces": "{faces}"', '"faces": null')
    (tmp_path / "run" / "config.json").write_text(facts)
    assert runs.run(drawn, tmp_path / "run").name == "run"
    monkeypatch.setattr(faces_module, "sample_faces", lambda: fewer)
    assert runs.run_folder(drawn) != before
    with pytest.raises(FileExistsError, match="holds a finished run with another set of faces; choose another name"):
        runs.run(drawn, tmp_path / "run")


class Killed(BaseException):
    """In place of a signal."""


def stop_after_a_step(monkeypatch, number):
    """From now on the process dies after its step of this `number`."""
    learn, count = Trainer.learn, []

    def dying(self, images, ages, **more):
        learn(self, images, ages, **more)
        count.append(1)
        if len(count) == number:
            raise Killed

    monkeypatch.setattr(Trainer, "learn", dying)


# Four steps an epoch, a checkpoint every second one.
@pytest.mark.parametrize("steps", [[1], [3], [4, 1], [6, 1, 1], [7]])
def test_a_run_that_dies_and_is_resumed_is_bit_for_bit_the_same(quick, trained, tmp_path, monkeypatch, steps):
    """It dies after the first of `steps`, is resumed, dies again ...."""
    for number in steps:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            stop_after_a_step(patch, number)
            runs.run(quick, tmp_path / "run", resume=True)
    check_same(trained, tmp_path / "run", runs.run(quick, tmp_path / "run", resume=True))


@pytest.mark.parametrize("place", ["interval_facts", "save_checkpoint", "write_record"])
def test_a_run_that_dies_after_its_training_is_finished_without_training(quick, trained, tmp_path, monkeypatch, place):
    def die(*given):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(runs, place, die)
        runs.run(quick, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    monkeypatch.setattr(Trainer, "learn", die)
    check_same(trained, tmp_path / "run", runs.run(quick, tmp_path / "run", resume=True))


def check_same(whole, resumed, record):
    """Weights and predictions of two runs are the same, bit for bit, and so are their histories but for the time."""
    for name in ("last.safetensors", "best.safetensors"):
        assert same_tensors(whole / name, resumed / name), name
    for name in ("best.safetensors", "predictions.csv"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name
    pd.testing.assert_frame_equal(record.history.drop(columns="seconds"),
                                  read_record(whole).history.drop(columns="seconds"))


def test_a_killed_process_and_resume_are_bit_for_bit_the_same(own_folders, faces, monkeypatch, capsys):
    command = ["train", "--profile", "ci", "--faces", str(faces), "--set", "epochs=12", "image_size=24",
               "batch_size=8", "checkpoint_steps=1"]
    monkeypatch.setenv("AGEHELPERS_RUNS", str(own_folders / "killed"))
    process = subprocess.Popen([sys.executable, "-m", "agehelpers", *command], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((own_folders / "killed").glob("*/last.safetensors")):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    process.kill()
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    killed = next((own_folders / "killed").glob("*/last.safetensors")).parent
    state = load_checkpoint(killed / "last.safetensors")[1]
    assert (0, 0) < (state["epoch"], state["step"]) < (12, 0)  # it was killed while it trained
    assert main(command) == 1 and "add --resume to go on" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0 and "test: MAE" in capsys.readouterr().out
    monkeypatch.setenv("AGEHELPERS_RUNS", str(own_folders / "whole"))
    assert main(command) == 0
    check_same(own_folders / "whole" / killed.name, killed, read_record(killed))


@pytest.mark.fault("a kernel interrupt in a notebook", "says how to go on; the same cell goes on")
def test_an_interrupted_notebook_is_told_how_to_go_on(quick, own_folders, monkeypatch, capsys):
    real = Trainer.learn

    def learn(trainer, *batch, **more):
        if trainer.step == 3:
            raise KeyboardInterrupt
        return real(trainer, *batch, **more)

    monkeypatch.setattr(Trainer, "learn", learn)
    with pytest.raises(KeyboardInterrupt):
        runs.latest_run(quick)
    assert "Run this again, and it goes on from its last checkpoint" in capsys.readouterr().err
    kept = load_checkpoint(runs.run_folder(quick) / "last.safetensors")[1]
    monkeypatch.setattr(Trainer, "learn", real)
    assert kept["step"] == 2 and len(runs.latest_run(quick).history) == quick.epochs
