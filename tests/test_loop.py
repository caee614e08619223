"""The loop: learning, sample-weighted metrics, checkpoints, and an exact resume."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from agehelpers import loop
from agehelpers.batches import Feeder, step_seed
from agehelpers.checkpoints import load_checkpoint, load_model, save_checkpoint
from agehelpers.config import load_config
from agehelpers.loop import (
    Trainer,
    evaluate,
    pick_precision,
    predict,
    progress_bar,
    train,
)
from agehelpers.model import AgeEstimationModel

CONFIG = load_config("ci", {"image_size": 16, "cache_size": 20, "epochs": 3, "batch_size": 8, "checkpoint_steps": 2})


def striped(count: int = 36) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [count, 20, 20, 3] whose stripes are the wider the older, and their ages."""
    ages = np.linspace(5, 90, count).astype(np.float32)
    rows = np.arange(20)[None, :] * 6.28 / (2 + ages[:, None] / 8)
    return np.broadcast_to((127 + 120 * np.sin(rows))[:, :, None, None], (count, 20, 20, 3)).astype(np.uint8), ages


def feeders(config=CONFIG) -> tuple[Feeder, Feeder]:
    pixels, ages = striped()
    rows = np.arange(len(ages))
    held = rows % 4 == 0
    return (Feeder(pixels, rows[~held], ages[~held], config), Feeder(pixels, rows[held], ages[held], config))


def fresh_model(config=CONFIG) -> AgeEstimationModel:
    torch.manual_seed(config.seed)
    return AgeEstimationModel(config)


fresh = fresh_model


def test_history_and_checkpoints(tmp_path):
    training, validation = feeders()
    model = fresh()
    history = train(model, training, validation, CONFIG, tmp_path)
    assert history["epoch"].tolist() == [1, 2, 3]
    assert list(history) == ["epoch", "train_loss", "train_mae", "val_loss", "val_mae", "lr", "seconds"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.safetensors", "last.safetensors"]
    best = load_model(tmp_path / "best.safetensors")
    assert evaluate(best, validation, CONFIG)[1] == pytest.approx(history["val_mae"].min(), abs=1e-5)
    found = predict(best, validation, CONFIG)
    assert (found["prediction"] - validation.ages).abs().mean() == pytest.approx(history["val_mae"].min(), abs=1e-4)
    assert (found["spread"] > 0).all()


@pytest.mark.parametrize("change", [
    {"head": "regression", "lr": 0.3, "start_at_median": True},
    {"head": "distribution"},
    {"optimizer": "adamw", "lr": 0.003, "schedule": "constant", "ema": 0.0},
])
def test_it_learns_what_can_be_seen(tmp_path, change):
    config = dataclasses.replace(CONFIG, epochs=25, rotation=0.0, scale=0.0, **change)
    training, validation = feeders(config)
    model = fresh(config)
    model.head.start_at(torch.from_numpy(training.ages))
    history = train(model, training, validation, config, tmp_path)
    baseline = np.abs(validation.ages - np.median(training.ages)).mean()
    assert history["val_mae"].min() < 0.6 * baseline


def test_metrics_are_weighted_by_pictures_not_by_batches():
    config = dataclasses.replace(CONFIG, head="regression", flip_average=False)
    model = fresh(config)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.constant_(model.head.bias, 10.0)
    pixels = np.zeros((257, 20, 20, 3), np.uint8)
    ages = np.full(257, 10, np.float32)
    ages[256] = 110  # alone in the last batch of 256 + 1: a mean over batches would say 50
    loss, mae = evaluate(model, Feeder(pixels, np.arange(257), ages, config), config)
    assert mae == pytest.approx(100 / 257, abs=1e-4) and loss == pytest.approx(100 / 257, abs=1e-4)


def test_flip_average_makes_the_answer_symmetric():
    config = dataclasses.replace(CONFIG, flip_average=True)
    pixels = np.random.default_rng(0).integers(0, 255, (4, 20, 20, 3), dtype=np.uint8)
    rows, ages = np.arange(4), np.zeros(4, np.float32)
    model = fresh(config)
    plain = predict(model, Feeder(pixels, rows, ages, config), config)
    mirrored = predict(model, Feeder(pixels[:, :, ::-1], rows, ages, config), config)
    assert np.allclose(plain, mirrored, atol=1e-3)
    alone = dataclasses.replace(config, flip_average=False)
    assert not np.allclose(predict(model, Feeder(pixels, rows, ages, alone), alone), plain, atol=1e-3)


@pytest.mark.parametrize("change", [{}, {"optimizer": "adamw", "lr": 0.003}, {"ema": 0.0, "schedule": "constant"},
                                    {"mixup": 0.4, "image_size": 24, "grow_from": 16, "evaluate_every": 2}])
def test_a_resume_from_any_checkpoint_is_exact(tmp_path, monkeypatch, change):
    config = dataclasses.replace(CONFIG, **change)

    def fresh(config):
        model = fresh_model(config)
        model.backbone.append(torch.nn.Dropout(0.3))  # what is dropped has to be the same after a resume, too
        return model

    training, validation = feeders(config)
    whole = train(fresh(config), training, validation, config, tmp_path / "whole")
    saved = []
    real = save_checkpoint

    def keep(file, tensors, state):
        real(file, tensors, state)
        if file.name == "last.safetensors":
            saved.append((state["epoch"], state["step"], file.read_bytes()))

    monkeypatch.setattr("agehelpers.loop.save_checkpoint", keep)
    train(fresh(config), training, validation, config, tmp_path / "again")
    assert [(epoch, step) for epoch, step, _ in saved] == [(0, 2), (1, 0), (1, 2), (2, 0), (2, 2), (3, 0)]
    expected = load_checkpoint(tmp_path / "whole" / "last.safetensors")[0]
    for epoch, step, content in saved[:-1]:
        folder = tmp_path / f"from-{epoch}-{step}"
        folder.mkdir()
        (folder / "last.safetensors").write_bytes(content)
        other = fresh(dataclasses.replace(config, seed=99))  # what it starts from does not matter
        history = train(other, training, validation, config, folder, resume=True)
        found = load_checkpoint(folder / "last.safetensors")[0]
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        pd.testing.assert_frame_equal(history.drop(columns="seconds"), whole.drop(columns="seconds"))


def test_nothing_is_overwritten_and_settings_must_agree(tmp_path):
    training, validation = feeders()
    config = dataclasses.replace(CONFIG, epochs=1)
    train(fresh(), training, validation, config, tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="resume it"):
        train(fresh(), training, validation, config, tmp_path)
    with pytest.raises(ValueError, match="another lr"):
        train(fresh(), training, validation, dataclasses.replace(config, lr=0.5), tmp_path, resume=True)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_a_diverging_loss_is_an_error_that_helps(tmp_path):
    config = dataclasses.replace(CONFIG, optimizer="sgd", lr=1e30, schedule="constant")
    with pytest.raises(FloatingPointError, match="lower lr"):
        train(fresh(config), *feeders(config), config, tmp_path)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    file = tmp_path / "last.safetensors"
    save_checkpoint(file, {"a": torch.ones(2)}, {"epoch": 1})

    def full_disk(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr("agehelpers.checkpoints.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(file, {"a": torch.zeros(2)}, {"epoch": 2})
    assert load_checkpoint(file)[1] == {"epoch": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.safetensors"]


def test_damaged_and_missing_checkpoints_are_named(tmp_path):
    file = tmp_path / "best.safetensors"
    with pytest.raises(FileNotFoundError, match="best.safetensors: no such checkpoint"):
        load_model(file)
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="best.safetensors: not a checkpoint"):
        load_model(file)


def test_precision_follows_the_card(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    auto = dataclasses.replace(CONFIG, precision="auto")
    assert pick_precision(dataclasses.replace(CONFIG, precision="bf16"), cpu) is torch.bfloat16
    for has_bf16, expected in ((True, torch.bfloat16), (False, torch.float16)):  # emulated bf16 does not count
        monkeypatch.setattr(torch.cuda, "is_bf16_supported",
                            lambda including_emulation=True, has_bf16=has_bf16: has_bf16 or including_emulation)
        assert pick_precision(auto, cuda) is expected
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has_bf16=has_bf16: {"avx512_bf16": has_bf16},
                            raising=False)
        assert pick_precision(auto, cpu) is (torch.bfloat16 if has_bf16 else torch.float32)


def test_mixed_precision_does_not_round_ages(tmp_path):
    config = dataclasses.replace(CONFIG, head="regression", precision="bf16", epochs=1)
    training, validation = feeders(config)
    model = fresh(config)
    train(model, training, validation, config, tmp_path)
    torch.nn.init.constant_(model.head.bias, 77.123)
    torch.nn.init.zeros_(model.head.weight)
    assert predict(model, validation, config)["prediction"].iloc[0] == pytest.approx(77.123, abs=1e-4)


def test_running_metrics_go_back_to_the_device_on_a_resume(tmp_path, monkeypatch):
    training, validation = feeders()
    trainer = Trainer(fresh(), CONFIG, torch.device("cpu"), training.steps())
    trainer.learn(*next(training.training(0)))
    trainer.save(tmp_path / "last.safetensors")
    again, moved = Trainer(fresh(), CONFIG, torch.device("cpu"), training.steps()), []
    monkeypatch.setattr(type(again.mae), "to", lambda self, device: moved.append(device) or self)
    again.restore(tmp_path / "last.safetensors")
    assert moved == [torch.device("cpu")] and again.step == 1


def test_a_validation_that_is_not_finite_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("agehelpers.loop.evaluate", lambda *arguments: (1.0, float("nan")))
    with pytest.raises(FloatingPointError, match="lower lr"):
        train(fresh(), *feeders(), CONFIG, tmp_path)


def test_half_written_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".last.safetensors.1234.part").write_bytes(b"half")
    train(fresh(), *feeders(), dataclasses.replace(CONFIG, epochs=1), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.safetensors", "last.safetensors"]


def test_the_bar_is_quiet_where_output_is_a_file(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with progress_bar(3) as bar:  # pytest captures stderr: not a terminal
        bar.update()
    assert capsys.readouterr().err == ""


def test_a_run_goes_on_in_the_precision_it_began_in(tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, precision="auto", epochs=1)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False)
    train(fresh(config), *feeders(config), config, tmp_path)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    with pytest.raises(ValueError, match="computed in torch.float32, here it would go on in torch.bfloat16"):
        train(fresh(config), *feeders(config), config, tmp_path, resume=True)


def test_a_warm_up_of_less_than_two_steps_is_two_steps():
    config = dataclasses.replace(CONFIG, warmup=0.01, epochs=2)
    trainer = Trainer(fresh(config), config, torch.device("cpu"), steps=5)
    assert trainer.schedule.get_last_lr()[0] < config.lr
    once = dataclasses.replace(CONFIG, epochs=1)  # nor does a training of a single step fail
    assert Trainer(fresh(once), once, torch.device("cpu"), steps=1).schedule.get_last_lr()[0] < once.lr


def test_validation_is_evaluated_every_so_often_and_after_the_last_epoch(tmp_path):
    config = dataclasses.replace(CONFIG, evaluate_every=2)
    history = train(fresh(config), *feeders(config), config, tmp_path)
    assert history["val_mae"].isna().tolist() == [True, False, False]
    kept = load_checkpoint(tmp_path / "best.safetensors")[1]
    assert kept["val_mae"] == history["val_mae"].min() and kept["epoch"] in (2, 3)


def test_weights_are_kept_with_the_size_at_which_they_were_validated(tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, grow_from=16, image_size=32, epochs=3)
    sizes = []

    def worse_and_worse(model, feeder, now):
        sizes.append(now.image_size)
        return 1.0, float(len(sizes))

    monkeypatch.setattr(loop, "evaluate", worse_and_worse)
    train(fresh(config), *feeders(config), config, tmp_path)
    assert sizes == [16, 24, 32]  # validated as it was trained
    kept = load_model(tmp_path / "best.safetensors").config
    assert kept.image_size == 16 and kept.pixels_size == config.pixels_size


def test_mixing_mixes_pictures_and_losses():
    config = dataclasses.replace(CONFIG, mixup=0.5)
    trainer = Trainer(fresh(config), config, torch.device("cpu"), steps=1)
    images, ages = next(feeders(config)[0].training(0))
    torch.manual_seed(step_seed(config.seed, 0, 0))
    share = float(torch.distributions.Beta(0.5, 0.5).sample())
    other = torch.randperm(len(ages))
    outputs = fresh(config).train()(share * images + (1 - share) * images[other])
    head = trainer.model.head
    expected = share * head.loss(outputs, ages) + (1 - share) * head.loss(outputs, ages[other])
    trainer.learn(images, ages)
    assert 0 < share < 1 and float(trainer.loss.compute()) == pytest.approx(expected.mean().item(), rel=1e-4)
