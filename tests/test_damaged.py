"""Files that are valid in form and wrong in content: refused with their name and a remedy."""

import gzip
import json
import shutil

import numpy as np
import pytest
import torch

from agehelpers import paths
from agehelpers.__main__ import main
from agehelpers.config import load_config
from agehelpers.data.decoder import PictureError, open_picture
from agehelpers.data.labels import cached_labels, usable
from agehelpers.data.pixels import load_pixels
from agehelpers.methods.model import build_model
from agehelpers.photos.estimator import Estimator
from agehelpers.photos.onnx import KEY, OnnxEstimator, export
from agehelpers.training.checkpoints import load_checkpoint, load_model, save_checkpoint
from agehelpers.training.records import check_record_name, read_record
from agehelpers.training.resume import restore_training
from agehelpers.training.trainer import Trainer


def only(folder, pattern):
    file, = (file for file in folder.glob(pattern) if not file.name.startswith("."))
    return file


@pytest.mark.fault("a damaged pixel or label cache", "an error that names the file to remove")
def test_damaged_caches_are_named(faces):
    labels = usable(cached_labels(faces))
    load_pixels(faces, labels, 20)
    file = only(paths.cache_folder(), "pixels_*.npy")
    good = file.read_bytes()
    for bad in (good[:-1], b"", b"no array at all", np.zeros((3, 20, 20, 3), np.uint8)):
        np.save(file, bad) if isinstance(bad, np.ndarray) else file.write_bytes(bad)
        with pytest.raises(ValueError, match=rf"{file.name}: cannot be used .*remove it, and it is made anew"):
            load_pixels(faces, labels, 20)
    file = only(paths.cache_folder(), "labels_*.csv.gz")
    packed = file.read_bytes()
    shorter = gzip.compress(b"\n".join(gzip.decompress(packed).splitlines()[:9]))
    for bad in (packed[:-9], packed[:200] + b"\0" + packed[201:], shorter[:-8] + packed[-8:]):
        file.write_bytes(bad)
        with pytest.raises(ValueError, match=rf"{file.name}: cannot be used .*remove it, and it is made anew"):
            cached_labels(faces)
    file.unlink()
    assert len(usable(cached_labels(faces))) == len(labels)


@pytest.mark.parametrize(("what", "change"), [
    ("not finite", lambda tensors, state: tensors["model.head.weight"].fill_(torch.nan)),
    ("image_size", lambda tensors, state: state["config"].update(image_size=30_000)),
    ("cache_size", lambda tensors, state: state["config"].update(cache_size=100_000)),
    ("the file 67", lambda tensors, state: state["config"].update(backbone="timm/eva_giant_patch14_224")),
    ("TypeError", lambda tensors, state: state.update(config=5)),
    ("AttributeError", lambda tensors, state: state.update(intervals=5)),
    ("KeyError", lambda tensors, state: state.update(intervals={"usual": {"age": [30]}, "normalised": True})),
    ("size mismatch", lambda tensors, state: tensors.update({"model.head.bias": torch.zeros(3)}))])
def test_a_checkpoint_that_says_impossible_things_is_refused(trained, tmp_path, what, change):
    file = tmp_path / "best.safetensors"
    tensors, state = load_checkpoint(trained / "best.safetensors")
    change(tensors, state)
    save_checkpoint(file, tensors, state)
    with pytest.raises(ValueError, match=rf"best.safetensors: cannot be used .*{what}.*train anew"):
        Estimator(file)


@pytest.mark.parametrize("change", [
    {"schedule": {}}, {"config": {}}, {"history": 5}, {"history": []}, {"epoch": "x"}, {"epoch": -1}, {"step": -1},
    {"schedule": None}, {"param_groups": []}, {"param_groups": 3}])
def test_a_training_that_says_impossible_things_is_not_resumed(trained, quick, tmp_path, change):
    tensors, state = load_checkpoint(trained / "last.safetensors")
    config, file = load_config("ci", {key: value for key, value in state["config"].items() if key != "profile"}
                               ), tmp_path / "last.safetensors"
    trainer = Trainer(build_model(config, np.float32([20, 30])), config, torch.device("cpu"), 3)
    restore_training(trainer, trained / "last.safetensors")
    assert trainer.epoch == config.epochs
    save_checkpoint(file, tensors, state | change)
    with pytest.raises(ValueError, match=r"last.safetensors.*train anew"):
        restore_training(trainer, file)


@pytest.mark.parametrize(("name", "content"), [
    ("config.json", b"5"), ("config.json", b"[" * 100_000), ("config.json", {"config": 5}), ("config.json", {"mae": 3}),
    ("config.json", {"config": {}}), ("config.json", {"split": None}), ("config.json", {"train_median": "x"}),
    ("predictions.csv.gz", b"\x1f\x8b\x08\x00"), ("predictions.csv", None), ("history.csv", b"epoch\n"),
    ("history.csv", b"epoch,train_mae\n1,5\n")])
def test_reports_of_damaged_records_name_them(trained, tmp_path, capsys, name, content):
    folder = tmp_path / "record"
    shutil.copytree(trained, folder)
    if content is None:  # one test picture is left
        lines = (folder / name).read_text().splitlines()
        tests = [line for line in lines if line.startswith("test,")]
        content = "\n".join(line for line in lines if line not in tests[1:]).encode()
    if isinstance(content, dict):
        content = json.dumps(json.loads((folder / name).read_text()) | content).encode()
    (folder / name).write_bytes(content)
    assert main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 1
    told = capsys.readouterr().err
    assert str(folder) in told and "Traceback" not in told and not (tmp_path / "page.html").exists()


def test_a_report_of_the_folder_one_stands_in_has_its_name(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    assert main(["report", "."]) == 0
    assert "<title>mine" in (tmp_path / "mine" / "mine.html").read_text()


@pytest.mark.parametrize("facts", ["5", "{}", "[" * 5000, '{"image_size": "24"}', '{"image_size": 25}',
                                   '{"pixels_size": 0}', '{"intervals": 5}', '{"intervals": {"usual": 3}}'])
def test_an_onnx_file_that_says_impossible_things_is_refused(exported, tmp_path, facts):
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(exported / "onnx" / "age.onnx")
    known = {entry.key: entry.value for entry in proto.metadata_props}
    if facts.startswith("{") and facts != "{}":
        facts = json.dumps(json.loads(known[KEY]) | json.loads(facts))
    onnx.helper.set_model_props(proto, {KEY: facts})
    (tmp_path / "age.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=r"age.onnx: cannot be used .*export it anew"):
        OnnxEstimator(tmp_path)


def test_an_onnx_file_that_predicts_no_number_is_refused(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(exported / "onnx" / "age.onnx")
    weights = max(proto.graph.initializer, key=lambda one: len(one.raw_data))
    weights.raw_data = b"\xff" * len(weights.raw_data)  # not a number, as float32
    (tmp_path / "age.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=r"age.onnx: cannot be used .*no number"):
        OnnxEstimator(tmp_path)


@pytest.mark.parametrize("name", ["", "a b", "../a", "<b>", "a\nb", "n" * 101, ".hidden"])
def test_names_of_records_are_plain(name):
    with pytest.raises(ValueError, match="use letters, digits, - and _ only"):
        check_record_name(name)


def test_a_file_of_the_system_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "endless").touch()  # such as /proc/kmsg: a regular file without a size, of which reading never ends
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: pytest.fail("it was read"))
    with pytest.raises(PictureError, match="empty file"):
        open_picture(tmp_path / "endless")


def test_a_good_record_and_checkpoint_are_read(trained):
    assert len(read_record(trained).predictions) and load_model(trained / "best.safetensors").config.image_size == 24


def test_what_is_no_fault_of_a_file_is_not_blamed_on_it(tmp_path):
    for error in (MemoryError("no room"), RuntimeError("CUDA out of memory"), ImportError("timm"), OSError(2, "gone")):
        with pytest.raises(type(error)), paths.reading(tmp_path / "best", "train anew"):
            raise error
    for error in (KeyError("best"), RuntimeError("the best"), EOFError()):
        with pytest.raises(ValueError, match=r"best: cannot be used .*; make it"), paths.reading("best", "make it"):
            raise error


def test_an_export_that_fixes_the_batch_is_refused(trained, tmp_path, monkeypatch):
    real = torch.onnx.export

    def fixed(*arguments, **settings):
        return real(*arguments, **settings | {"dynamic_shapes": None})

    monkeypatch.setattr(torch.onnx, "export", fixed)
    with pytest.raises(ValueError, match="age.onnx: not written; this network was fixed to batches of 2"):
        export(trained / "best.safetensors", tmp_path)
    assert not list(tmp_path.iterdir())
