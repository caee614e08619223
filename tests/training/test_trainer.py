"""One step of a training, and how it is stored; where and how precisely it is computed."""

import dataclasses
import json
import platform
import subprocess
import sys
import warnings

import pytest
import torch
from striped import CONFIG, changed, datasets, fresh

from agehelpers.devices import hardware, pick_device, pick_precision
from agehelpers.training.checkpoints import load_checkpoint, save_checkpoint
from agehelpers.training.resume import restore_training, save_training
from agehelpers.training.trainer import Trainer, build_optimizer, build_schedule, step_seed

CPU = torch.device("cpu")


def begun(config=CONFIG, steps=1) -> Trainer:
    """A trainer that has made some steps."""
    training = datasets(config)[0]
    trainer = Trainer(fresh(config), config, CPU, training.steps)
    for (images, ages), _ in zip(training.training_batches(0), range(steps), strict=False):
        trainer.learn(images, ages)
    return trainer


def test_a_step_by_hand():
    config = changed(optimizer="sgd", schedule="constant", nesterov=False, momentum=0.0, weight_decay=0.0, ema=0.5)
    images, ages = next(iter(datasets(config)[0].training_batches(0)))
    expected = fresh(config).train()
    before = expected.head.weight.detach().clone()
    expected.head.loss(expected(images), ages).mean().backward()
    trainer = begun(config)
    after = before - config.lr * expected.head.weight.grad
    assert torch.allclose(trainer.model.head.weight, after, atol=1e-6) and trainer.step == 1
    assert torch.equal(trainer.evaluated().head.weight, trainer.model.head.weight)  # an average begins with the first
    trainer.learn(images, ages)
    average = 0.5 * after + 0.5 * trainer.model.head.weight
    assert torch.allclose(trainer.evaluated().head.weight, average, atol=1e-6)
    assert begun(changed(ema=0.0)).averaged is None


def test_a_running_mean_that_is_longer_than_the_training_is_said():
    with pytest.warns(UserWarning, match=r"ema=0\.99 averages .* than the 99 of this training: .*--set ema=0.9"):
        Trainer(fresh(), changed(ema=0.99, epochs=9), CPU, 11)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(fresh(), changed(ema=0.99, epochs=10), CPU, 11)
        Trainer(fresh(), changed(ema=0.0, epochs=1), CPU, 1)
    with pytest.warns(UserWarning, match="ema=1"):
        Trainer(fresh(), changed(ema=1.0), CPU, 1)


def test_the_optimizer_has_its_settings():
    config = changed(lr=0.2, momentum=0.7, nesterov=True, weight_decay=0.03)
    sgd, = build_optimizer(fresh(), config, fused=False).param_groups
    assert {key: sgd[key] for key in ("lr", "momentum", "nesterov", "weight_decay")} == {
        "lr": 0.2, "momentum": 0.7, "nesterov": True, "weight_decay": 0.03}
    adamw = build_optimizer(fresh(), changed(optimizer="adamw", lr=0.2, weight_decay=0.03), fused=False)
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.param_groups[0]["lr"], adamw.param_groups[0]["weight_decay"]) == (0.2, 0.03)
    assert len(sgd["params"]) == len(list(fresh().parameters()))


def test_seeds_of_steps_are_all_different():
    seeds = {step_seed(*place) for place in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1))}
    assert len(seeds) == 5 and all(0 <= seed < 2**63 for seed in seeds) and step_seed(3, 1, 2) == step_seed(3, 1, 2)


def test_mixing_mixes_pictures_and_losses():
    config = changed(mixup=0.5)
    trainer = Trainer(fresh(config), config, CPU, steps=1)
    images, ages = next(iter(datasets(config)[0].training_batches(0)))
    torch.manual_seed(step_seed(config.seed, 0, 0))
    share = float(torch.distributions.Beta(0.5, 0.5).sample())
    other = torch.randperm(len(ages))
    outputs = fresh(config).train()(share * images + (1 - share) * images[other])
    head = trainer.model.head
    expected = share * head.loss(outputs, ages) + (1 - share) * head.loss(outputs, ages[other])
    trainer.learn(images, ages)
    assert 0 < share < 1 and float(trainer.loss.compute()) == pytest.approx(expected.mean().item(), rel=1e-4)


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_attributes_pull_at_the_features_and_not_at_the_metrics(mixup):
    config = changed(auxiliary=0.3, mixup=mixup, optimizer="sgd", schedule="constant", nesterov=False, momentum=0.0,
                     weight_decay=0.0)
    images, ages = next(iter(datasets(config)[0].training_batches(0)))
    codes = torch.stack([torch.arange(len(ages)) % 2, torch.arange(len(ages)) % 6 - 1], 1)
    expected = fresh(config).train()
    torch.manual_seed(step_seed(config.seed, 0, 0))
    share, other = 1.0, torch.arange(len(ages))
    if mixup:
        share = float(torch.distributions.Beta(mixup, mixup).sample())
        other = torch.randperm(len(ages))
    outputs, guesses = expected.outputs(share * images + (1 - share) * images[other])
    age, beside = ((share * head.loss(found, labels) + (1 - share) * head.loss(found, labels[other])).mean()
                   for head, found, labels in ((expected.head, outputs, ages), (expected.attributes, guesses, codes)))
    weight, first = expected.attributes.weight, expected.backbone[0].weight
    before = [part.detach().clone() for part in (weight, first)]
    (age + 0.3 * beside).backward()
    trainer = Trainer(fresh(config), config, CPU, steps=1)
    trainer.learn(images, ages, codes)
    after = [trainer.model.attributes.weight, trainer.model.backbone[0].weight]
    for old, new, part in zip(before, after, (weight, first), strict=True):
        assert torch.allclose(new, old - config.lr * part.grad, atol=1e-5) and not torch.equal(new, old)
    assert float(trainer.loss.compute()) == pytest.approx(age.item(), rel=1e-4)


def test_a_warm_up_of_less_than_two_steps_is_two_steps():
    config = changed(warmup=0.01, epochs=2)
    assert Trainer(fresh(config), config, CPU, steps=5).schedule.get_last_lr()[0] < config.lr


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
@pytest.mark.parametrize("warmup", [0.01, 0.3, 0.99])
def test_a_training_of_any_length_has_a_schedule(steps, warmup):
    config = changed(epochs=1, warmup=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], config.lr)
    schedule, rates = build_schedule(optimizer, config, steps), []
    for _ in range(steps):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert 0 < rates[0] < config.lr / 2 and max(rates) <= config.lr * 1.0001


@pytest.mark.parametrize("change", [{}, {"optimizer": "adamw", "lr": 0.003, "ema": 0.0}])
def test_a_checkpoint_holds_all_that_the_next_step_needs(tmp_path, change):
    config = changed(**change)
    trainer = begun(config, steps=3)
    trainer.epoch, trainer.seconds, trainer.history = 1, 1.5, [{"epoch": 1, "val_mae": float("nan")}]
    save_training(trainer, tmp_path / "last.safetensors")
    again = Trainer(fresh(changed(seed=5, **change)), config, CPU, trainer.steps)
    restore_training(again, tmp_path / "last.safetensors")
    assert (again.epoch, again.step, again.seconds) == (1, 3, 1.5)
    assert str(again.history) == str(trainer.history)
    batch = list(datasets(config)[0].training_batches(0))[3]
    for one in (trainer, again):
        one.learn(*batch)
    assert trainer.schedule.get_last_lr() == again.schedule.get_last_lr()
    assert trainer.loss.compute() == again.loss.compute() and trainer.mae.compute() == again.mae.compute()
    for one in (trainer, again):
        save_training(one, tmp_path / f"{id(one)}.safetensors")
    (tensors, state), (others, its_state) = (load_checkpoint(tmp_path / f"{id(one)}.safetensors")
                                             for one in (trainer, again))
    assert tensors.keys() == others.keys() and all(torch.equal(tensors[key], others[key]) for key in tensors)
    assert json.dumps(state) == json.dumps(its_state)


def test_running_metrics_go_back_to_the_device_on_a_resume(tmp_path, monkeypatch):
    save_training(begun(), tmp_path / "last.safetensors")
    again, moved = Trainer(fresh(), CONFIG, CPU, 4), []
    monkeypatch.setattr(type(again.mae), "to", lambda self, device: moved.append(device) or self)
    restore_training(again, tmp_path / "last.safetensors")
    assert moved == [CPU] and again.step == 1


def test_a_checkpoint_of_other_settings_is_refused_by_name(tmp_path):
    save_training(begun(), tmp_path / "last.safetensors")
    other = changed(lr=0.5, flip=False)
    with pytest.raises(ValueError, match="last.safetensors was trained with another flip, lr; resume with the same"):
        restore_training(Trainer(fresh(), other, CPU, 4), tmp_path / "last.safetensors")


def test_a_checkpoint_from_before_a_setting_came_goes_on(tmp_path, newer):
    """`CONFIG` is of today, `config` of a version that has one more setting."""
    before = begun()
    save_training(before, tmp_path / "last.safetensors")
    assert "label_noise" not in load_checkpoint(tmp_path / "last.safetensors")[1]["config"]
    config = newer(**dataclasses.asdict(CONFIG))
    trainer = Trainer(fresh(config), config, CPU, 4)
    restore_training(trainer, tmp_path / "last.safetensors")
    assert trainer.step == 1 and torch.equal(trainer.model.head.weight, before.model.head.weight)
    other = dataclasses.replace(config, label_noise=2.0)
    with pytest.raises(ValueError, match="was trained with another label_noise; resume"):
        restore_training(Trainer(fresh(other), other, CPU, 4), tmp_path / "last.safetensors")


@pytest.mark.parametrize(("missing", "value"), [("checkpoint_steps", 200), ("mixup", 0.0)])
def test_a_checkpoint_that_lacks_a_setting_was_trained_with_its_default(tmp_path, missing, value):
    save_training(begun(changed(**{missing: value})), tmp_path / "last.safetensors")
    tensors, state = load_checkpoint(tmp_path / "last.safetensors")
    del state["config"][missing]
    save_checkpoint(tmp_path / "last.safetensors", tensors, state)
    restore_training(Trainer(fresh(), changed(**{missing: value}), CPU, 4), tmp_path / "last.safetensors")
    other = changed(**{missing: 3})
    with pytest.raises(ValueError, match=f"another {missing};"):
        restore_training(Trainer(fresh(other), other, CPU, 4), tmp_path / "last.safetensors")


def test_precision_follows_the_hardware(monkeypatch):
    cuda, auto = torch.device("cuda"), changed(precision="auto")
    assert pick_precision(changed(precision="bf16"), CPU) is torch.bfloat16
    for has_bf16, expected in ((True, torch.bfloat16), (False, torch.float16)):  # emulated bf16 does not count
        monkeypatch.setattr(torch.cuda, "is_bf16_supported",
                            lambda including_emulation=True, has_bf16=has_bf16: has_bf16 or including_emulation)
        assert pick_precision(auto, cuda) is expected
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has_bf16=has_bf16: {"avx512_bf16": has_bf16},
                            raising=False)
        assert pick_precision(auto, CPU) is (torch.bfloat16 if has_bf16 else torch.float32)


def test_the_device_is_what_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(changed(device="auto")) == CPU
    with pytest.raises(ValueError, match="no CUDA GPU here; use device=auto"):
        pick_device(changed(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device(changed(device="auto")).type == "cuda" and pick_device(changed(device="cpu")) == CPU


def test_hardware_has_the_keys_of_earlier_records(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(hardware()) == ["system", "processor", "cores", "threads", "card"] and hardware()["card"] is None


def test_a_checkpoint_of_another_random_stream_is_refused(tmp_path):
    save_training(begun(), tmp_path / "last.safetensors")
    tensors, state = load_checkpoint(tmp_path / "last.safetensors")
    del state["stream"]  # as older versions wrote it
    save_checkpoint(tmp_path / "last.safetensors", tensors, state)
    with pytest.raises(ValueError, match="last.safetensors was augmented by another stream of random numbers"):
        restore_training(begun(), tmp_path / "last.safetensors")


def test_gradients_that_overflow_for_ever_stop_the_training():
    trainer, (training, _) = Trainer(fresh(), CONFIG, torch.device("cpu"), 4), datasets()
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-18, enabled=True)
    for parameter in trainer.model.parameters():
        parameter.register_hook(lambda gradient: gradient * torch.inf)
    batch = next(iter(training.training_batches(0)))
    for _ in range(2):  # each is skipped, and halves the scale
        trainer.learn(*batch)
        trainer.check(training)
    trainer.learn(*batch)
    with pytest.raises(FloatingPointError, match="step 3 of epoch 1 is not finite"):
        trainer.check(training)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_that_a_step_frees_is_kept_for_the_next():
    code = """if True:
        import resource, torch
        from agehelpers.devices import keep_freed_memory
        def pages():  # that the system had to hand out
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(20):
                torch.ones(16_000_000)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        usual = pages()
        keep_freed_memory()
        pages()
        print(pages() / usual)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.1


def test_a_trainer_on_a_cpu_asks_for_it(monkeypatch):
    asked = []
    monkeypatch.setattr("agehelpers.training.trainer.keep_freed_memory", lambda: asked.append(True))
    begun(steps=0)
    assert asked == [True]
