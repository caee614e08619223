"""The loop: learning, sample-weighted metrics, what is kept, and an exact resume."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from striped import CONFIG, changed, datasets, fresh

from agehelpers import paths
from agehelpers.data.dataset import FaceDataset
from agehelpers.training import loop
from agehelpers.training.checkpoints import load_checkpoint, load_model, save_checkpoint
from agehelpers.training.loop import evaluate, predict, train
from agehelpers.training.progress import progress_bar
from agehelpers.training.range_test import learning_rate_range_test
from agehelpers.training.trainer import Trainer


def test_history_and_checkpoints(tmp_path):
    training, validation = datasets()
    history = train(fresh(), training, validation, CONFIG, tmp_path)
    assert history["epoch"].tolist() == [1, 2, 3]
    assert list(history) == ["epoch", "train_loss", "train_mae", "val_loss", "val_mae", "lr", "seconds"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.safetensors", "last.safetensors"]
    best = load_model(tmp_path / "best.safetensors")
    assert evaluate(best, validation, CONFIG)[1] == pytest.approx(history["val_mae"].min(), abs=1e-5)
    found = predict(best, validation, CONFIG)
    assert (found["prediction"] - validation.ages).abs().mean() == pytest.approx(history["val_mae"].min(), abs=1e-4)
    assert list(found) == ["prediction", "spread"] and (found["spread"] > 0).all()


@pytest.mark.parametrize("change", [
    {"head": "regression", "lr": 0.3, "start_at_median": True},
    {"head": "distribution"},
    {"optimizer": "adamw", "lr": 0.003, "schedule": "constant", "ema": 0.0},
])
def test_it_learns_what_can_be_seen(tmp_path, change):
    config = changed(epochs=25, rotation=0.0, scale=0.0, checkpoint_steps=100, evaluate_every=5, **change)
    training, validation = datasets(config)
    model = fresh(config)
    model.head.start_at(torch.from_numpy(training.ages))
    history = train(model, training, validation, config, tmp_path)
    baseline = np.abs(validation.ages - np.median(training.ages)).mean()
    assert history["val_mae"].min() < 0.6 * baseline


def test_metrics_are_weighted_by_pictures_not_by_batches():
    config = changed(head="regression", flip_average=False)
    model = fresh(config)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.constant_(model.head.bias, 10.0)
    pixels = np.zeros((257, 20, 20, 3), np.uint8)
    ages = np.full(257, 10, np.float32)
    ages[256] = 110  # alone in the last batch of 256 + 1: a mean over batches would say 50
    loss, mae = evaluate(model, FaceDataset(pixels, np.arange(257), ages, config), config)
    assert mae == pytest.approx(100 / 257, abs=1e-4) and loss == pytest.approx(100 / 257, abs=1e-4)
    assert list(predict(model, FaceDataset(pixels[:3], np.arange(3), ages[:3], config), config)) == ["prediction"]


def test_evaluation_does_not_augment():
    training, _ = datasets()
    model = fresh()
    still = dataclasses.replace(training, augment=False)
    assert evaluate(model, training, CONFIG) == evaluate(model, still, CONFIG)
    assert predict(model, training, CONFIG).equals(predict(model, still, CONFIG))
    assert training.augment


def test_flip_average_makes_the_prediction_symmetric():
    config = changed(flip_average=True)
    pixels = np.random.default_rng(0).integers(0, 255, (4, 20, 20, 3), dtype=np.uint8)
    rows, ages = np.arange(4), np.zeros(4, np.float32)
    model = fresh(config)
    plain = predict(model, FaceDataset(pixels, rows, ages, config), config)
    mirrored = predict(model, FaceDataset(pixels[:, :, ::-1], rows, ages, config), config)
    assert np.allclose(plain, mirrored, atol=1e-3)
    alone = dataclasses.replace(config, flip_average=False)
    assert not np.allclose(predict(model, FaceDataset(pixels, rows, ages, alone), alone), plain, atol=1e-3)


@pytest.mark.parametrize("change", [{}, {"optimizer": "adamw", "lr": 0.003}, {"ema": 0.0, "schedule": "constant"},
                                    {"mixup": 0.4, "image_size": 24, "grow_from": 16, "evaluate_every": 2}])
def test_a_resume_from_any_checkpoint_is_exact(tmp_path, monkeypatch, change):
    config = changed(**change)
    training, validation = datasets(config)

    def model(config=config):  # what is dropped has to be the same after a resume, too
        return fresh(config, dropout=0.3)

    whole = train(model(), training, validation, config, tmp_path / "whole")
    saved = []

    def keep(file, tensors, state):
        save_checkpoint(file, tensors, state)
        if file.name == "last.safetensors":
            saved.append((state["epoch"], state["step"], file.read_bytes()))

    monkeypatch.setattr("agehelpers.training.resume.save_checkpoint", keep)
    train(model(), training, validation, config, tmp_path / "again")
    assert [(epoch, step) for epoch, step, _ in saved] == [(0, 2), (1, 0), (1, 2), (2, 0), (2, 2), (3, 0)]
    expected = load_checkpoint(tmp_path / "whole" / "last.safetensors")[0]
    for epoch, step, content in saved[:-1]:
        folder = tmp_path / f"from-{epoch}-{step}"
        folder.mkdir()
        (folder / "last.safetensors").write_bytes(content)
        other = model(dataclasses.replace(config, seed=99))  # what it starts from does not matter
        history = train(other, training, validation, config, folder, resume=True)
        found = load_checkpoint(folder / "last.safetensors")[0]
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        pd.testing.assert_frame_equal(history.drop(columns="seconds"), whole.drop(columns="seconds"))


class Killed(BaseException):
    """In place of a signal."""


def dying(monkeypatch, event: str, number: int) -> list[int]:
    """From now on the process dies at the event (a step, or writing a checkpoint) of this `number`; counts them."""
    count = [0]
    learn = Trainer.learn

    def check(file=None):
        count[0] += 1
        if count[0] == number:
            if file is not None:
                paths.write_atomically(file.with_name(f".{file.name}.0.part"), b"half")
            raise Killed

    if event == "step":
        monkeypatch.setattr(Trainer, "learn", lambda *given, **more: (check(), learn(*given, **more)))
    else:
        for module in ("resume", "loop"):
            monkeypatch.setattr(f"agehelpers.training.{module}.save_checkpoint",
                                lambda file, *given: (check(file), save_checkpoint(file, *given)))
    return count


@pytest.mark.parametrize("event", ["step", "write"])
def test_a_process_that_dies_at_any_step_or_write_goes_on_exactly(tmp_path, monkeypatch, event):
    """What is on the disk then is what was written before: within an epoch, between best and last, nothing, half."""
    with monkeypatch.context() as patch:
        count = dying(patch, event, 10**6)
        whole = train(fresh(), *datasets(), CONFIG, tmp_path / "whole")
    assert count[0] == (12 if event == "step" else 6 + sum(whole["val_mae"].cummin().diff().fillna(-1) < 0))
    for number in range(1, count[0] + 1):
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch:
            dying(patch, event, number)
            with pytest.raises(Killed):
                train(fresh(), *datasets(), CONFIG, folder)
        history = train(fresh(), *datasets(), CONFIG, folder, resume=True)
        pd.testing.assert_frame_equal(history.drop(columns="seconds"), whole.drop(columns="seconds"))
        for name in ("best.safetensors", "last.safetensors"):
            (expected, _), (found, _) = (load_checkpoint(place / name) for place in (tmp_path / "whole", folder))
            assert expected.keys() == found.keys() and all(torch.equal(expected[key], found[key]) for key in expected)
        assert sorted(file.name for file in folder.iterdir()) == ["best.safetensors", "last.safetensors"]


def test_what_is_called_after_an_epoch_sees_it_saved(tmp_path):
    seen = []

    def note(trainer):
        state = load_checkpoint(tmp_path / "last.safetensors")[1]
        assert (trainer.epoch, trainer.step) == (state["epoch"], state["step"])
        seen.append((state["epoch"], len(trainer.history), trainer.history[-1]["epoch"]))

    train(fresh(), *datasets(), CONFIG, tmp_path, on_epoch=note)
    assert seen == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]


def test_a_training_that_is_stopped_early_can_be_resumed(tmp_path):
    whole = train(fresh(), *datasets(), CONFIG, tmp_path / "whole")
    history = train(fresh(), *datasets(), CONFIG, tmp_path / "run", on_epoch=lambda trainer: trainer.epoch == 2)
    assert history["epoch"].tolist() == [1, 2]
    seen = []
    history = train(fresh(), *datasets(), CONFIG, tmp_path / "run", True, lambda trainer: seen.append(trainer.epoch))
    assert seen == [3]
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), whole.drop(columns="seconds"))


def test_nothing_is_overwritten_and_settings_must_agree(tmp_path):
    training, validation = datasets()
    config = changed(epochs=1)
    train(fresh(), training, validation, config, tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="resume it"):
        train(fresh(), training, validation, config, tmp_path)
    with pytest.raises(ValueError, match="another lr"):
        train(fresh(), training, validation, dataclasses.replace(config, lr=0.5), tmp_path, resume=True)
    assert (tmp_path / "last.safetensors").read_bytes() == before


@pytest.mark.fault("a loss or a gradient that is not finite", "stops; step, pictures and rate named; the last good "
                   "checkpoint is kept, and goes on")
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_stops_before_it_spoils_a_checkpoint(tmp_path, what):
    training, validation = datasets()
    names = np.array([f"face {row}.jpg" for row in training.rows])
    spoilt, calls, model = training._order(0)[2], [], fresh()  # the third batch, after the checkpoint of the second

    def spoil(value):
        calls.append(1)
        return value * float("nan") if len(calls) == 3 else value

    if what == "gradient":
        model.head.weight.register_hook(spoil)
    else:
        loss = model.head.loss
        model.head.loss = lambda outputs, ages: spoil(loss(outputs, ages))
    broken = dataclasses.replace(training, names=names)
    with pytest.raises(FloatingPointError, match=r"step 3 of epoch 1 is not finite \(lr 0.1; .*pictures: ") as told:
        train(model, broken, validation, CONFIG, tmp_path)
    assert str(told.value).split("pictures: ")[1].split(", ") == names[spoilt].tolist()
    tensors, state = load_checkpoint(tmp_path / "last.safetensors")
    assert state["step"] == 2 and all(torch.isfinite(value).all() for value in tensors.values())
    again = train(fresh(), training, validation, CONFIG, tmp_path, resume=True)  # with that mended
    whole = train(fresh(), training, validation, CONFIG, tmp_path / "whole")
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), whole.drop(columns="seconds"))


def test_the_first_broken_step_is_remembered_where_it_is_read_later():
    training = datasets()[0]
    trainer = Trainer(fresh(), CONFIG, torch.device("cpu"), training.steps)
    for number, (images, ages) in enumerate(training.training_batches(0)):
        trainer.learn(images * float("nan") if number == 1 else images, ages)
    first = training.rows[training._order(0)[1][0]]
    with pytest.raises(FloatingPointError, match=f"step 2 of epoch 1 .*pictures: {first},"):
        trainer.check(training)


def test_a_diverging_loss_is_an_error_that_helps(tmp_path, monkeypatch):
    config = changed(optimizer="sgd", lr=1e30, schedule="constant")
    with pytest.raises(FloatingPointError, match="a lower one usually helps"):
        train(fresh(config), *datasets(config), config, tmp_path / "training")
    monkeypatch.setattr(loop, "evaluate", lambda *arguments: (1.0, float("nan")))
    with pytest.raises(FloatingPointError, match="lower lr"):
        train(fresh(), *datasets(), CONFIG, tmp_path / "validation")


def test_mixed_precision_does_not_round_ages(tmp_path):
    config = changed(head="regression", precision="bf16", epochs=1)
    training, validation = datasets(config)
    model = fresh(config)
    train(model, training, validation, config, tmp_path)
    torch.nn.init.constant_(model.head.bias, 77.123)
    torch.nn.init.zeros_(model.head.weight)
    assert predict(model, validation, config)["prediction"].iloc[0] == pytest.approx(77.123, abs=1e-4)


def test_half_written_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".last.safetensors.1234.part").write_bytes(b"half")
    train(fresh(), *datasets(), changed(epochs=1), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.safetensors", "last.safetensors"]


def test_the_bar_is_quiet_where_output_is_a_file(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with progress_bar(3) as bar:  # pytest captures stderr: not a terminal
        bar.update()
    assert capsys.readouterr().err == ""


def test_a_run_goes_on_in_the_precision_it_began_in(tmp_path, monkeypatch):
    config = changed(precision="auto", epochs=1)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False)
    train(fresh(config), *datasets(config), config, tmp_path)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    with pytest.raises(ValueError, match="computed in torch.float32, here it would go on in torch.bfloat16"):
        train(fresh(config), *datasets(config), config, tmp_path, resume=True)


def test_validation_is_evaluated_every_so_often_and_after_the_last_epoch(tmp_path):
    config = changed(evaluate_every=2)
    history = train(fresh(config), *datasets(config), config, tmp_path)
    assert history["val_mae"].isna().tolist() == [True, False, False]
    kept = load_checkpoint(tmp_path / "best.safetensors")[1]
    assert kept["val_mae"] == history["val_mae"].min() and kept["epoch"] in (2, 3)


def test_weights_are_kept_with_the_size_at_which_they_were_validated(tmp_path, monkeypatch):
    config = changed(grow_from=16, image_size=32, epochs=3)
    sizes = []

    def worse_and_worse(model, faces, now):
        sizes.append(now.image_size)
        return 1.0, float(len(sizes))

    monkeypatch.setattr(loop, "evaluate", worse_and_worse)
    train(fresh(config), *datasets(config), config, tmp_path)
    assert sizes == [16, 24, 32]  # validated as it was trained
    kept = load_model(tmp_path / "best.safetensors").config
    assert kept.image_size == 16 and kept.pixels_size == config.pixels_size


def test_the_range_test_stops_where_the_loss_explodes():
    table = learning_rate_range_test(fresh(), datasets()[0], CONFIG, 1e-4, 10.0, steps=30)
    assert list(table) == ["lr", "loss", "smooth"] and table["lr"].iloc[0] == 1e-4
    ratios = table["lr"] / table["lr"].shift()
    assert ratios.dropna().to_numpy() == pytest.approx((10 / 1e-4) ** (1 / 29))
    assert table["smooth"].iloc[0] == pytest.approx(table["loss"].iloc[0])
    explodes = learning_rate_range_test(fresh(), datasets()[0], changed(head="regression"), 1e-4, 1e30, steps=30)
    assert len(explodes) < 30 and explodes["loss"].map(np.isfinite).all()
