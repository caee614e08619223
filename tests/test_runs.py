"""From a configuration to a record; a killed process; the command line."""

import dataclasses
import json
import os
import random
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from agehelpers import conformal, loop, runs
from agehelpers.__main__ import COMMANDS, main
from agehelpers.checkpoints import load_checkpoint, load_model, save_checkpoint
from agehelpers.config import load_config
from agehelpers.records import PACKAGED

QUICK = {"epochs": 2, "image_size": 24, "batch_size": 16}


@pytest.fixture
def config(faces):
    return load_config("ci", {**QUICK, "faces": str(faces)})


def test_a_run_leaves_a_complete_record(config, tmp_path):
    record = runs.run(config, tmp_path / "run")
    assert list(record.history["epoch"]) == [1, 2]
    table = record.predictions
    ends = [f"{end}_{level}" for level in (80, 90, 95) for end in ("lower", "upper")]
    assert list(table) == ["part", "name", "age", "gender", "ethnicity", "prediction", "spread", *ends]
    assert table["part"].unique().tolist() == list(runs.PARTS) and table["name"].is_unique
    assert table.groupby("part").size().to_dict() == record.config["counts"]
    assert record.config["config"] == dataclasses.asdict(config) and len(record.config["split"]) == 12
    assert record.config["pictures_per_second"] > 0
    assert torch.__version__.startswith(record.config["versions"]["torch"])
    validation = table[table["part"] == "validation"]
    mae = (validation["prediction"] - validation["age"]).abs().mean()
    assert mae == pytest.approx(record.history["val_mae"].min(), abs=2e-3)
    errors = (table["prediction"] - table["age"]).abs().groupby(table["part"]).mean()
    assert record.config["mae"] == pytest.approx(errors.to_dict(), abs=5e-4)
    assert record.config["train_median"] == table.loc[table["part"] == "train", "age"].median()
    seen = load_checkpoint(tmp_path / "run" / "best.safetensors")[1]
    assert seen["intervals"] == record.config["intervals"]


def test_intervals_are_those_of_the_calibration_pictures_alone(config, tmp_path):
    table = runs.run(dataclasses.replace(config, epochs=1), tmp_path / "run").predictions
    ends = [column for column in table if column.startswith(("lower_", "upper_"))]
    assert table.loc[table["part"] != "test", ends].isna().all(axis=None)
    calibration, test = (table[table["part"] == part] for part in ("calibration", "test"))
    expected = conformal.with_intervals(test, calibration)
    pd.testing.assert_frame_equal(test[ends], expected[ends])
    # fewer than 19 calibration pictures promise nothing at 95 %: all ages
    assert len(calibration) < 19 and set(test["lower_95"]) == {0.0} and set(test["upper_95"]) == {120.0}
    spoilt = table.assign(age=table["age"].mask(table["part"].isin(["train", "validation"]), 0))
    again, reaches = runs.add_intervals(spoilt.drop(columns=ends))
    pd.testing.assert_frame_equal(again.loc[again["part"] == "test", ends], test[ends])
    assert reaches["calibration"] == len(calibration) and "95" not in reaches
    plain, reaches = runs.add_intervals(table.drop(columns=[*ends, "spread"]))  # a head without spread
    assert not reaches["normalised"]
    pd.testing.assert_frame_equal(plain.loc[plain["part"] == "test", ends],
                                  conformal.with_intervals(test, calibration, False)[ends])


def test_test_pictures_are_seen_at_the_size_at_which_the_epoch_was_chosen(config, tmp_path, monkeypatch):
    growing = dataclasses.replace(config, grow_from=16, image_size=32, epochs=3)
    losses = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(loop, "evaluate", lambda *given: (1.0, next(losses)))  # the first epoch is the best
    record = runs.run(growing, tmp_path / "run")
    data = runs.prepare(growing)
    small = dataclasses.replace(growing, image_size=16)
    found = loop.predict(load_model(tmp_path / "run" / "best.safetensors"), data.feeder("test"), small)
    stored = record.predictions[record.predictions["part"] == "test"]["prediction"]
    assert stored.to_numpy() == pytest.approx(found["prediction"].to_numpy(), abs=1e-3)


def test_a_finished_run_is_loaded_not_trained_again(config, tmp_path, monkeypatch):
    first = runs.run(config, tmp_path / "run")
    monkeypatch.setattr(runs, "train", None)  # calling it would fail
    pd.testing.assert_frame_equal(runs.run(config, tmp_path / "run").predictions, first.predictions)
    with pytest.raises(FileExistsError, match="other settings"):
        runs.run(dataclasses.replace(config, lr=0.3), tmp_path / "run")


def test_training_never_sees_a_test_picture(config, monkeypatch):
    data = runs.prepare(config)
    test = set(data.part("test")["row"])
    seen = []
    gather = runs.Feeder.gather

    def watched(self, chosen, generator, size=0):
        seen.extend(self.rows[chosen])
        return gather(self, chosen, generator, size)

    monkeypatch.setattr(runs.Feeder, "gather", watched)
    model = runs.build_model(config, data.part("train")["age"].to_numpy("float32"))
    runs.train(model, data.feeder("train"), data.feeder("validation"), config, runs.run_folder(config))
    assert test and set(seen) and not test & set(seen)
    assert set(seen) == set(data.part("train")["row"]) | set(data.part("validation")["row"])


def test_a_run_has_no_test_picture_at_hand_until_all_is_chosen(config, tmp_path, monkeypatch):
    order = []
    prepare, train = runs.prepare, runs.train

    def watched(config, parts=runs.PARTS):
        data = prepare(config, parts)
        order.append(("data", tuple(sorted(data.table["part"].unique()))))
        return data

    monkeypatch.setattr(runs, "prepare", watched)
    monkeypatch.setattr(runs, "train", lambda *arguments: order.append(("train", ())) or train(*arguments))
    runs.run(config, tmp_path / "run")
    assert order == [("data", ("train", "validation")), ("train", ()),
                     ("data", ("calibration", "test", "train", "validation"))]


def test_nothing_that_is_chosen_depends_on_test_pictures_or_their_labels(config, tmp_path, monkeypatch):
    first = runs.run(config, tmp_path / "first")
    load_pixels, split, index_and_split = runs.load_pixels, runs.index_and_split(config)[1], runs.index_and_split
    test = set(split.loc[split["part"] == "test", "name"])

    def spoilt(folder, index, size):
        pixels = load_pixels(folder, index, size).copy()
        pixels[index["name"].isin(test).to_numpy()] = 255
        return pixels

    def relabelled(config):
        index, split = index_and_split(config)
        return index.assign(age=index["age"].mask(index["name"].isin(test), 99)), split

    monkeypatch.setattr(runs, "load_pixels", spoilt)
    monkeypatch.setattr(runs, "index_and_split", relabelled)
    second = runs.run(config, tmp_path / "second")
    pd.testing.assert_frame_equal(first.history.drop(columns="seconds"), second.history.drop(columns="seconds"))
    weights = [load_checkpoint(tmp_path / name / "best.safetensors") for name in ("first", "second")]
    assert all(torch.equal(weights[0][0][key], weights[1][0][key]) for key in weights[0][0])
    assert weights[0][1] == weights[1][1]  # the intervals in it too
    differs = first.predictions["prediction"] != second.predictions["prediction"]
    assert set(first.predictions.loc[differs, "part"]) == {"test"}
    assert set(second.predictions.loc[second.predictions["part"] == "test", "age"]) == {99}


def test_conflicting_copies_are_kept_settled_or_dropped():
    rows = pd.DataFrame({"group": [1, 1, 1, 2, 2, 3], "age": [20, 26, 50, 30, 30, 40]})
    assert runs.settle_conflicts(rows, "keep").equals(rows)
    assert runs.settle_conflicts(rows, "median")["age"].tolist() == [26, 26, 26, 30, 30, 40]
    assert runs.settle_conflicts(rows, "drop")["age"].tolist() == [30, 30, 40]


def test_only_training_labels_are_settled(config, monkeypatch):
    monkeypatch.setattr(runs, "settle_conflicts", lambda rows, how: rows.assign(age=1 if how == "median" else 2))
    data = runs.prepare(dataclasses.replace(config, conflicts="median"))
    assert set(data.feeder("train").ages) == {1}
    assert data.feeder("test").ages.tolist() == data.part("test")["age"].tolist()


def test_limit_takes_a_share_of_each_part(config):
    whole, few = runs.prepare(config), runs.prepare(dataclasses.replace(config, limit=24))
    assert len(few.table) < len(whole.table)
    assert set(few.part("test")["name"]) < set(whole.part("test")["name"])
    assert few.split == whole.split


def test_records_are_kept_once(config, tmp_path):
    runs.run(config, tmp_path / "run")
    target = runs.save_record(tmp_path / "run", "mine")
    assert sorted(file.name for file in target.iterdir()) == ["config.json", "history.csv", "predictions.csv"]
    whole, kept = runs.read_record(tmp_path / "run").predictions, runs.load_record("mine").predictions
    assert set(whole["part"]) - set(kept["part"]) == {"train"}  # rows that nobody analyses, and the most
    pd.testing.assert_frame_equal(kept, whole[whole["part"] != "train"].reset_index(drop=True))
    with pytest.raises(FileExistsError, match="never overwritten"):
        runs.save_record(tmp_path / "run", "mine")
    with pytest.raises(FileNotFoundError, match="no record 'other'; there are: mine"):
        runs.load_record("other")
    with pytest.raises(ValueError, match="record name"):
        runs.check_record_name("../elsewhere")
    with pytest.raises(FileNotFoundError, match=r"history\.csv"):
        (target / "history.csv").unlink()
        runs.load_record("mine")


@pytest.mark.parametrize("fact", runs.FACTS)
def test_a_record_of_an_older_version_is_refused(fact, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "history.csv").write_text("epoch\n1\n")
    (folder / "predictions.csv").write_text("part,name,age,gender,ethnicity,prediction\ntest,a.jpg,1,male,,2\n")
    facts = dict.fromkeys(runs.FACTS, 1)
    (folder / "config.json").write_text(json.dumps(facts))
    assert runs.read_record(folder).config == facts
    (folder / "config.json").write_text(json.dumps({key: 1 for key in facts if key != fact}))
    with pytest.raises(ValueError, match=rf"old was made by an older version: its config.json has no {fact}; remove "
                                         "the folder and make it anew"):
        runs.read_record(folder)


def test_other_faces_are_another_run(config, faces, tmp_path, monkeypatch):
    config = dataclasses.replace(config, faces=None)
    monkeypatch.setattr(type(config), "faces_folder", lambda self: faces)
    first = runs.latest_run(config)
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for file in sorted(faces.glob("*.jpg.chip.jpg"))[:50]:
        (fewer / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(type(config), "faces_folder", lambda self: fewer)
    assert len(runs.latest_run(config).predictions) < len(first.predictions)
    with pytest.raises(FileExistsError, match="or faces"):
        runs.run(config, runs.paths.runs_folder() / first.name)


def test_a_checkpoint_made_on_a_card_predicts_on_a_cpu(config, faces, tmp_path, monkeypatch):
    runs.run(config, tmp_path / "run")
    tensors, state = load_checkpoint(tmp_path / "run" / "best.safetensors")
    state["config"] |= {"device": "cuda", "precision": "fp16"}
    save_checkpoint(tmp_path / "card.safetensors", tensors, state)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    crops = sorted(faces.glob("*_20170105*.jpg.chip.jpg"))[:2]
    assert len(runs.predict_crops(tmp_path / "card.safetensors", crops)) == len(crops) > 0


def test_an_index_is_cached_until_the_folder_changes(faces, tmp_path, monkeypatch):
    folder = tmp_path / "faces"
    folder.mkdir()
    for file in sorted(faces.glob("*.jpg.chip.jpg"))[:10]:
        (folder / file.name).write_bytes(file.read_bytes())
    first = runs.cached_index(folder)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "build_index", None)  # calling it would fail
        pd.testing.assert_frame_equal(runs.cached_index(folder), first)
    next(folder.iterdir()).unlink()
    assert len(runs.cached_index(folder)) == 9


def child(own_folders, faces, *more):
    """Start `train` in a process of its own, one thread, a checkpoint each step."""
    command = [sys.executable, "-m", "agehelpers", "train", "--profile", "ci", "--faces", str(faces), "--set",
               "epochs=30", "image_size=24", "batch_size=8", "checkpoint_steps=1", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_at_random_points_and_resumed_is_bit_for_bit_the_same(own_folders, faces, monkeypatch):
    def finish(process):
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return out

    monkeypatch.setenv("AGEHELPERS_RUNS", str(own_folders / "whole"))
    finish(child(own_folders, faces))
    whole = next((own_folders / "whole").glob("*/last.safetensors"))
    monkeypatch.setenv("AGEHELPERS_RUNS", str(own_folders / "killed"))
    chance, killed, steps = random.Random(time.time_ns()), own_folders / "killed" / whole.parent.name, []
    for _ in range(2):
        process = child(own_folders, faces, "--resume")
        before = (killed / "last.safetensors").stat().st_mtime_ns if steps else 0
        while process.poll() is None and not (
                (killed / "last.safetensors").exists()
                and (killed / "last.safetensors").stat().st_mtime_ns > before):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.communicate()
        state = load_checkpoint(killed / "last.safetensors")[1]
        steps.append((state["epoch"], state["step"]))
    assert steps[0] <= steps[1] < (30, 0), steps  # both were killed while they trained
    assert "MAE" in finish(child(own_folders, faces, "--resume"))
    expected, found = load_checkpoint(whole)[0], load_checkpoint(killed / "last.safetensors")[0]
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected), steps
    names = ("predictions.csv", "best.safetensors")
    assert all((whole.parent / name).read_bytes() == (killed / name).read_bytes() for name in names)


def test_commands_from_a_folder_to_a_prediction(faces, tmp_path, capsys):
    assert main(["index", str(faces), "--out", str(tmp_path / "table.csv")]) == 0
    assert "rejected" in capsys.readouterr().out and (tmp_path / "table.csv").exists()
    quick = ["--set", *(f"{key}={value}" for key, value in QUICK.items())]
    train = ["train", "--profile", "ci", "--faces", str(faces), *quick]
    assert main([*train, "--record", "mine"]) == 0
    out = capsys.readouterr().out
    assert "test: MAE" in out and (runs.paths.records_folder() / "mine" / "predictions.csv").exists()
    assert main([*train, "--record", "mine"]) == 1 and "never overwritten" in capsys.readouterr().err
    assert main(train) == 1 and "--resume" in capsys.readouterr().err
    checkpoint = next(runs.paths.runs_folder().glob("*/best.safetensors"))
    record = runs.load_record("mine").predictions
    row = record[record["part"] == "test"].iloc[0]
    assert main(["predict", str(faces / row["name"]), "--checkpoint", str(checkpoint)]) == 0
    header, printed = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    columns = header[1:]
    assert columns == list(record.columns[5:])  # prediction, spread, lower_80, upper_80, ...
    found = dict(zip(columns, map(float, printed[1:]), strict=True))
    assert found == pytest.approx(row[columns].to_dict(), abs=0.08)  # what the record says of this picture
    assert main(["predict", str(faces / row["name"])]) == 0  # with the weights that come with the package
    packaged = dict(zip(columns, map(float, capsys.readouterr().out.splitlines()[-1].split()[1:]), strict=True))
    assert 0 <= packaged["lower_95"] <= packaged["lower_90"] <= packaged["prediction"] <= packaged["upper_90"] < 120
    assert packaged["upper_80"] - packaged["prediction"] == pytest.approx(  # calibrated, not the spread itself
        packaged["spread"] * load_checkpoint(PACKAGED)[1]["intervals"]["80"], abs=0.3)


def test_a_full_card_is_explained_and_other_faults_are_not_hidden(monkeypatch, capsys):
    def fail(options):
        raise RuntimeError(message)

    monkeypatch.setitem(COMMANDS, "train", fail)
    message = "CUDA out of memory. Tried to allocate"
    assert main(["train"]) == 1 and "smaller batch_size" in capsys.readouterr().err
    message = "a fault of ours"
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["train"])


@pytest.mark.parametrize(("arguments", "message"), [
    (["train", "--profile", "ci", "--set", "learning_rate=1"], "unknown setting 'learning_rate'"),
    (["train", "--profile", "ci", "--faces", "/nowhere"], "/nowhere: no such folder"),
    (["predict", "face.jpg", "--checkpoint", "none.safetensors"], "none.safetensors: no such checkpoint"),
    (["index", "/nowhere", "--out", "table.csv"], "/nowhere"),
])
def test_errors_are_one_line_that_names_the_thing(arguments, message, capsys):
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and "Traceback" not in err
