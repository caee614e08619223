"""Full disks, folders that are read-only or vanish: an error that names the file, and earlier files whole.

Where this machine lets a tiny file system be mounted, disks are full for real; otherwise that is skipped.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import pytest
import torch

from agehelpers import paths
from agehelpers.__main__ import main
from agehelpers.config import load_config
from agehelpers.data.decoder import PictureError
from agehelpers.data.drawn import draw_faces
from agehelpers.data.faces import labels_and_split, prepare_faces
from agehelpers.data.labels import cached_labels, usable
from agehelpers.data.pixels import load_pixels
from agehelpers.training import grid, records, runs
from agehelpers.training.checkpoints import load_checkpoint


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 2 MB in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def in_child(work, nobody: bool = False) -> str:
    """What `work` ended with, done in a forked process that may crash: the text of its error, or ""."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            signal.alarm(120)
            if nobody and os.getuid() == 0:
                os.setuid(65534)
            try:
                work()
            except (OSError, ValueError) as error:
                os.write(writing, str(error).encode())
            except BaseException:
                os.write(writing, f"failed: {traceback.format_exc()[-3000:]}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    code = os.waitpid(child, 0)[1]
    assert code == 0, f"the interpreter crashed: signal {code}"
    return text


def small(faces, **more):
    return load_config("ci", {"faces": str(faces), "epochs": 2, "image_size": 24, "batch_size": 12,
                              "checkpoint_steps": 1, **more})


def train(place, faces, trained):
    runs.run(small(faces), place / "run", resume=True)


def train_large(place, faces, trained):
    runs.run(small(faces, backbone="resnet14"), place / "run", resume=True)


def cache(place, faces, trained):
    load_pixels(faces, usable(cached_labels(faces)), 120, place)


def record(place, faces, trained):
    records.save_record(trained, "mine")


def search(place, faces, trained):
    grid.search(small(faces), place / "grid", cells=3)


def draw(place, faces, trained):
    draw_faces(place / "drawn", count=200)


def said(arguments):
    """The command's own line of error, as an error: `main` has to say it, and not to fail."""
    import io

    with contextlib.redirect_stderr(io.StringIO()) as text:
        code = main(arguments)
    if code:
        raise ValueError(text.getvalue())


def predict(place, faces, trained):
    some = sorted(map(str, faces.glob("*.jpg")))[:20]
    said(["predict", *some, "--crops", "--checkpoint", str(trained / "best.safetensors"), "--out",
          str(place / "ages.csv"), "--annotate", str(place / "drawn")])


def report(place, faces, trained):
    said(["report", str(trained), "--out", str(place / "page.html")])


WORKS = {"training": train, "large training": train_large, "cache": cache, "record": record, "grid": search,
         "drawn faces": draw, "predict": predict, "report": report}


ROOM = {"training": 40, "large training": 450, "cache": 450, "drawn faces": 30, "grid": 60}  # pages of 4 kB


def whole(place: Path) -> dict[str, bytes]:
    """Content of all files but hidden ones; each can be read."""
    files = {file: file.read_bytes() for file in sorted(place.rglob("*"))
             if file.is_file() and not any(part.startswith(".") for part in file.relative_to(place).parts)}
    for file in files:
        if file.suffix == ".safetensors":
            load_checkpoint(file)
    return {file.relative_to(place).as_posix(): content for file, content in files.items()}


@pytest.mark.fault("disk full", "an error that names file and remedy; what was there is whole; it goes on with space")
@pytest.mark.parametrize("name", list(WORKS))
def test_a_full_disk(name, tiny_disk, faces, trained, monkeypatch):
    cached_labels(faces)  # on another disk
    monkeypatch.setenv("AGEHELPERS_RECORDS", str(tiny_disk / "records"))
    work, filling = WORKS[name], tiny_disk / ".filling"
    with contextlib.suppress(OSError), filling.open("wb", buffering=0) as stream:
        for _ in range(2 * 2**20 // 4096 - ROOM.get(name, 0)):
            stream.write(bytes(4096))
    text = in_child(lambda: work(tiny_disk, faces, trained))
    assert "No space left on device" in text and str(tiny_disk) in text and not text.startswith("failed"), text
    assert "free some space" in text
    before = whole(tiny_disk)
    filling.unlink()
    if name not in ("large training", "cache"):  # which need more than the disk has
        assert in_child(lambda: work(tiny_disk, faces, trained)) == ""
        if name == "training":
            other = Path(tempfile.mkdtemp(dir=paths.runs_folder().parent))
            train(other, faces, trained)
            ours, theirs = (load_checkpoint(folder / "run" / "best.safetensors")[0] for folder in (tiny_disk, other))
            assert all(ours[key].equal(theirs[key]) for key in theirs) and set(ours) == set(theirs)
    assert set(before) <= set(whole(tiny_disk)) | {one for one in before if "cell-" in one}


@pytest.mark.fault("read-only file system", "an error that names file and remedy; what was there is whole")
@pytest.mark.parametrize("name", list(WORKS))
def test_a_read_only_file_system(name, tiny_disk, faces, trained, monkeypatch):
    cached_labels(faces)
    monkeypatch.setenv("AGEHELPERS_RECORDS", str(tiny_disk / "records"))
    (tiny_disk / "kept.txt").write_text("kept")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    text = in_child(lambda: WORKS[name](tiny_disk, faces, trained))
    assert "Read-only file system" in text and str(tiny_disk) in text and not text.startswith("failed"), text
    assert whole(tiny_disk) == {"kept.txt": b"kept"}


@pytest.fixture
def open_place():
    """A folder that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        yield Path(place)


@pytest.mark.fault("read-only folder, as another user than root", "an error that names file and remedy")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", ["training", "cache", "record", "grid", "predict", "report"])
def test_a_read_only_folder(name, open_place, trained, monkeypatch):
    faces = draw_faces(open_place / "faces", count=60)
    shutil.copytree(trained, run := open_place / "trained")
    (locked := open_place / "locked").mkdir()
    for folder in (open_place, run, faces):
        os.chmod(folder, 0o755)
    (free := open_place / "cache").mkdir()
    os.chmod(free, 0o777)
    monkeypatch.setenv("AGEHELPERS_CACHE", str(free))
    monkeypatch.setenv("AGEHELPERS_RECORDS", str(locked / "records"))
    prepare_faces(small(faces))
    WORKS["predict"](open_place, faces, run)  # everything is imported: another user may not read where Python lies
    grid.search(small(faces), open_place / "grid", cells=1)
    os.chmod(locked, 0o555)
    text = in_child(lambda: WORKS[name](locked, faces, run), nobody=True)
    assert "Permission denied" in text and str(locked) in text and not text.startswith("failed"), text
    assert "ask for the right" in text and list(locked.iterdir()) == []


@pytest.mark.fault("folder of a run removed while it trains", "it trains on, or an error names the file that is gone")
def test_a_run_folder_that_vanishes(faces, tmp_path):
    folder = tmp_path / "run"

    def gone(trainer):
        if trainer.epoch == 1:
            shutil.rmtree(folder)

    assert len(runs.train_faces(prepare_faces(small(faces)), folder, on_epoch=gone)) == 2
    assert load_checkpoint(folder / "last.safetensors")[1]["epoch"] == 2
    if not (folder / "best.safetensors").exists():  # the first epoch was the best, and is gone
        with pytest.raises(FileNotFoundError, match=r"run/best\.safetensors: no such checkpoint"):
            runs.run(small(faces), folder, resume=True)


@pytest.mark.fault("pictures removed between index and decoding", "an error that names the picture")
def test_pictures_that_vanish(faces, tmp_path):
    shutil.copytree(faces, tmp_path / "faces")
    config = small(tmp_path / "faces")
    labels = labels_and_split(config)[0]
    (tmp_path / "faces" / labels["name"].iloc[3]).unlink()
    with pytest.raises(PictureError, match=r"no such picture.*has the folder changed\?") as caught:
        load_pixels(tmp_path / "faces", labels, 33)
    assert labels["name"].iloc[3] in str(caught.value) and not list(paths.cache_folder().glob("*33_*.npy"))


def test_what_is_added_to_an_error_is_added_once(tmp_path):
    with pytest.raises(OSError, match="free some space") as caught, paths.naming(tmp_path / "outer"):
        with paths.naming(tmp_path / "inner"):
            raise OSError(28, "No space left on device")
    assert str(caught.value).count("free some space") == 1 and caught.value.filename == str(tmp_path / "inner")
    with pytest.raises(FileNotFoundError, match="^no such checkpoint$"), paths.naming(tmp_path):
        raise FileNotFoundError("no such checkpoint")


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, marks=pytest.mark.fault(
    "Ctrl-C while it trains", "says how to go on; the last checkpoint is whole")), signal.SIGTERM])
def test_an_interrupt_says_how_to_go_on(how, faces, tmp_path):
    command = [sys.executable, "-m", "agehelpers", "train", "--profile", "ci", "--faces", str(faces), "--set",
               "epochs=200", "image_size=24", "batch_size=12", "checkpoint_steps=2"]
    begun = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a job may ignore it
    assert begun.stdout is not None and begun.stderr is not None
    for _ in range(2000):
        if list(paths.runs_folder().glob("*/last.safetensors")):
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            begun.wait(0.05)
    begun.send_signal(how)
    told = begun.communicate(timeout=60)[1]
    if how == signal.SIGINT:
        assert begun.returncode == 130 and "the same command goes on with --resume" in told
    last = next(iter(paths.runs_folder().glob("*/last.safetensors")))
    assert load_checkpoint(last)[1]["epoch"] < 200
    assert how == signal.SIGTERM or not list(last.parent.glob("*.part"))  # that leaves no time to tidy up


@pytest.mark.fault("no network: sockets forbidden", "index, training, grid, prediction, report and export need none")
def test_nothing_opens_a_connection(faces, trained, tmp_path, monkeypatch):
    def forbidden(*arguments, **more):
        raise AssertionError("a connection was opened")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    config = small(faces, epochs=1)
    runs.run(config, tmp_path / "run")
    grid.search(config, tmp_path / "grid", cells=1)
    crop = next(iter(faces.glob("2*.jpg")))
    for arguments in (["index", str(faces), "--out", str(tmp_path / "labels.csv")], ["methods"],
                      ["predict", str(crop), "--crops"], ["predict", str(crop)],
                      ["export", "--checkpoint", str(trained / "best.safetensors"), "--out", str(tmp_path / "onnx")],
                      ["report", str(trained), "--out", str(tmp_path / "page.html")]):
        assert main(arguments) == 0, arguments
    with pytest.raises(AssertionError, match="a connection was opened"):
        socket.create_connection(("127.0.0.1", 9))


@pytest.mark.fault("the same training again, with two threads, in bfloat16 (drawn faces, 12 epochs)",
                   "again: equal, bit for bit; else: the mean error is alike; the largest change of a prediction:")
def test_what_may_differ_between_machines(faces, record_property, tmp_path):
    def predicted(name, threads=1, **more):
        torch.set_num_threads(threads)
        try:
            return runs.run(small(faces, epochs=12, **more), tmp_path / name).part("test")
        finally:
            torch.set_num_threads(1)

    one, again = predicted("one"), predicted("again")
    assert one["prediction"].tolist() == again["prediction"].tolist()
    others = {"two threads": predicted("two", threads=2), "bfloat16": predicted("half", precision="bf16")}
    apart = {name: (other["prediction"] - one["prediction"]).abs().max() for name, other in others.items()}
    for other in others.values():
        errors = [(table["prediction"] - table["age"]).abs().mean() for table in (one, other)]
        assert abs(errors[0] - errors[1]) < 1
    record_property("measured", ", ".join(f"{name} {years:.2g} years" for name, years in apart.items()))
