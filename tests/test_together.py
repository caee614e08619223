"""Two and three processes that train one model: each picture once an epoch, metrics of all, one writer, one result."""

import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from striped import CONFIG, datasets, fresh

from agehelpers import paths
from agehelpers.config import load_config
from agehelpers.data import dataset as dataset_module
from agehelpers.data.dataset import FaceDataset
from agehelpers.training import loop, together
from agehelpers.training.checkpoints import load_checkpoint
from agehelpers.training.records import load_record

# Layer normalisation: nothing of a picture depends on the others of its share, so the results have to agree.
SETTINGS = {"backbone": "timm/vit_tiny_patch16_224", "image_size": 32, "epochs": 3, "batch_size": 7,
            "optimizer": "adamw", "lr": 0.002, "precision": "fp32", "checkpoint_steps": 2, "brightness": 0.3}


def command(number, faces, name, *more, **settings):
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(number), "--master-port",
            str(20_000 + os.getpid() % 20_000), "-m", "agehelpers", "train", "--profile", "ci", "--faces", str(faces),
            "--record", name, *more, "--set", *(f"{key}={value}" for key, value in {**SETTINGS, **settings}.items())]


def trained(number, faces, name, *more, **settings):
    done = subprocess.run(command(number, faces, name, *more, **settings), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[:3000]
    return done


def compare(name, other):
    """History and predictions agree within a thousandth of a year, the metrics of training within rounding."""
    one, two = load_record(name), load_record(other)
    columns = ["train_loss", "train_mae", "val_loss", "val_mae", "lr"]
    pd.testing.assert_frame_equal(one.history[columns], two.history[columns], rtol=3e-4, atol=1e-4)
    assert one.predictions["prediction"].std() > 0.5  # it has learned to tell some apart
    assert (one.predictions["prediction"] - two.predictions["prediction"]).abs().max() <= 0.002


def killed_after(steps, number, faces, *more):
    """Processes that are killed once a checkpoint holds so many steps; True if they had not ended before."""
    begun = subprocess.Popen(command(number, faces, "parts", *more), stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while time.monotonic() < until and begun.poll() is None:
        if files := list(paths.runs_folder().glob("*/last.safetensors")):
            state = load_checkpoint(files[0])[1]
            if 6 * state["epoch"] + state["step"] >= steps:
                break
        time.sleep(0.01)
    for process in [*psutil.Process(begun.pid).children(recursive=True), psutil.Process(begun.pid)]:
        process.kill()
    begun.wait()
    return not (paths.records_folder() / "parts").exists()


@pytest.mark.fault("training on two and three processes (torchrun, gloo)",
                   "the result of one process, within 0.002 years a prediction; the first one alone writes")
@pytest.mark.fault("killed with two processes, resumed with three, then with one", "the result of one, uninterrupted")
def test_several_processes_train_as_one_and_go_on_with_another_number(faces, monkeypatch):
    for number in (1, 2, 3):
        monkeypatch.setenv("AGEHELPERS_RUNS", str(paths.records_folder().parent / f"runs{number}"))
        done = trained(number, faces, f"by_{number}")
        assert done.stdout.count("epoch 3") == done.stdout.count("Run:") == done.stdout.count("test: MAE") == 1
        assert not list(paths.runs_folder().rglob("*.part"))
    compare("by_1", "by_2")
    compare("by_1", "by_3")
    monkeypatch.setenv("AGEHELPERS_RUNS", str(paths.records_folder().parent / "other"))
    assert killed_after(1, 2, faces) and killed_after(8, 3, faces, "--resume")
    trained(1, faces, "parts", "--resume")
    compare("by_1", "parts")
    again = trained(2, faces, "again", "--resume")  # finished: it is loaded
    assert "epoch 1" not in again.stdout and "test: MAE" in again.stdout


@pytest.mark.parametrize("pictures", [29, 30, 31, 64])
@pytest.mark.parametrize("size", [2, 3, 8])
def test_every_picture_is_in_one_share_of_one_batch(monkeypatch, pictures, size):
    config = load_config("ci", {"batch_size": 10})
    data = FaceDataset(np.zeros((pictures, 50, 50, 3), np.uint8), np.arange(pictures),
                       np.arange(pictures, dtype=np.float32), config, augment=True)
    sizes, seen = data.batch_sizes(1), []
    for rank in range(size):
        monkeypatch.setattr(dataset_module, "world", lambda rank=rank: (rank, size))
        shares = [ages.tolist() for _, ages in data.training_batches(1)]
        assert len(shares) == data.steps == len(sizes) and all(shares)
        seen += [age for share, whole in zip(shares, sizes, strict=True) if rank < whole for age in share]
        counted = [len(share) for share, whole in zip(shares, sizes, strict=True) if rank < whole]
        assert all(abs(count - whole / size) < 1 for count, whole in zip(counted, sizes, strict=False))
    assert sorted(seen) == list(range(pictures)) and sum(sizes) == pictures
    monkeypatch.setattr(dataset_module, "world", lambda: (0, 1))
    every = [age for share in (0, 1, 2) for _, ages in data.evaluation_batches(8, (share, 3)) for age in ages.tolist()]
    assert sorted(every) == list(range(pictures))


def test_alone_nothing_is_shared(monkeypatch):
    with together.processes():
        assert together.agreed(3) == 3 and together.first_alone(lambda: 4) == 4
        together.equalise(torch.nn.Linear(1, 1), None)


def test_all_weights_and_statistics_become_the_first_ones(monkeypatch):
    first, other = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    other(torch.rand(5, 2))
    theirs = iter(first.state_dict().values())
    monkeypatch.setattr(together, "world", lambda: (1, 2))
    monkeypatch.setattr(together.distributed, "broadcast", lambda own, source: own.copy_(next(theirs)))
    together.equalise(other, None)
    assert all(torch.equal(one, two) for one, two in zip(first.buffers(), other.buffers(), strict=True))


def test_statistics_are_equal_before_a_share_is_validated(monkeypatch, tmp_path):
    """Else each process would judge its share of the validation pictures with statistics of its own."""
    order, model = [], fresh()
    monkeypatch.setattr(loop, "equalise", lambda *models: order.append([type(one).__name__ for one in models]))
    monkeypatch.setattr(loop, "evaluate", lambda *_: order.append("evaluated") or (1.0, 1.0))
    loop.train(model, *datasets(), CONFIG, tmp_path)
    assert order[1::2] == ["evaluated"] * CONFIG.epochs
    assert all("AgeEstimationModel" in one for one in order[::2])


NORMED = """
import os, sys
import torch
from torch import nn
from agehelpers.training import together
from agehelpers.devices import world
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
                      nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
pictures, ages = torch.randn(5, 3, 8, 8), torch.randn(5, 1)
with together.processes():
    rank, number = world()
    shared = nn.parallel.DistributedDataParallel(model) if number > 1 else model
    ((shared(pictures[rank::number]) - ages[rank::number]) ** 2).sum().mul(number / 5).backward()
    if rank == 0:
        torch.save([*(one.grad for one in model.parameters()), *model.buffers(), model.eval()(pictures)], sys.argv[1])
"""


@pytest.mark.fault("batch normalisation in three processes, with shares of 2, 2 and 1 picture",
                   "gradients and statistics of one process")
def test_batch_normalisation_is_that_of_the_whole_batch(tmp_path):
    (tmp_path / "normed.py").write_text(NORMED)
    for number in (1, 3):
        subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(number), "--master-port",
                        str(20_000 + os.getpid() % 20_000), tmp_path / "normed.py", tmp_path / str(number)],
                       check=True, capture_output=True, timeout=120, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    alone, shared = (torch.load(tmp_path / str(number)) for number in (1, 3))
    assert all(torch.allclose(one, other, rtol=0, atol=1e-6) for one, other in zip(alone, shared, strict=True))
    assert alone[0].abs().max() > 1e-3


def test_batches_come_back_in_order(monkeypatch):
    parts = [[torch.tensor([float(number)]) for number in numbers] for numbers in ((0, 2, 4), (1, 3))]
    monkeypatch.setattr(together, "world", lambda: (0, 2))
    monkeypatch.setattr(together.distributed, "all_gather_object", lambda into, own: into.__setitem__(slice(2), parts))
    assert torch.cat(together.gathered(parts[0])).tolist() == [0, 1, 2, 3, 4]
