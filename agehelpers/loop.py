"""The training loop: it knows batches, a model and a folder for checkpoints, and nothing of where faces come from.

Everything random depends on seed, epoch and step, so a run that is killed and resumed from its last checkpoint ends
with the same weights, bit for bit on CPU (with the same number of threads and versions).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import MeanMetric
from torchmetrics.regression import MeanAbsoluteError
from tqdm.auto import tqdm

from agehelpers.batches import Feeder, step_seed
from agehelpers.checkpoints import load_checkpoint, save_checkpoint
from agehelpers.config import Config
from agehelpers.model import AgeEstimationModel

HISTORY = ("epoch", "train_loss", "train_mae", "val_loss", "val_mae", "lr", "seconds")


def pick_device(config: Config) -> torch.device:
    """CUDA where there is a card and the configuration allows it."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda', but torch finds no CUDA card here; use device=auto or device=cpu")
    use_cuda = config.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_cuda else "cpu")


def pick_precision(config: Config, device: torch.device) -> torch.dtype:
    """bf16 where card or processor compute with it, else fp16 on CUDA and fp32 on CPU; an explicit precision wins."""
    if config.precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
    if device.type == "cpu":  # without such instructions bf16 is many times slower than fp32
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


@dataclass
class Trainer:
    """All that changes during a training, and how it is stored."""

    model: AgeEstimationModel
    config: Config
    device: torch.device
    steps: int  # of one epoch

    def __post_init__(self) -> None:
        config = self.config
        self.precision = pick_precision(config, self.device)
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema),
                                      use_buffers=True) if config.ema else None
        total = max(2, config.epochs * self.steps)  # one_cycle has to rise for two steps at least
        fused = self.precision != torch.float16  # a fused step that the scaler skips leaves momentum uninitialised
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(self.model.parameters(), config.lr, config.momentum, nesterov=config.nesterov,
                            weight_decay=config.weight_decay, fused=fused) if config.optimizer == "sgd"
            else torch.optim.AdamW(self.model.parameters(), config.lr, weight_decay=config.weight_decay, fused=fused))
        self.schedule: torch.optim.lr_scheduler.LRScheduler = (
            torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer, config.lr, total, cycle_momentum=False, pct_start=max(config.warmup, 2 / total))
            if config.schedule == "one_cycle" else torch.optim.lr_scheduler.ConstantLR(self.optimizer, 1.0))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.loss = MeanMetric(nan_strategy="disable").to(self.device)
        self.mae = MeanAbsoluteError().to(self.device)
        self.loss.persistent(True)
        self.mae.persistent(True)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.history: list[dict[str, float]] = []

    def evaluated(self) -> AgeEstimationModel:
        """The model that is evaluated and kept: the averaged one where there is one."""
        return self.model if self.averaged is None else cast(AgeEstimationModel, self.averaged.module)

    def learn(self, images: Tensor, ages: Tensor) -> None:
        """One step: forward, backward, update; metrics weighted by the batch's size."""
        torch.manual_seed(step_seed(self.config.seed, self.epoch, self.step))  # mixing; dropout, if any
        if self.config.mixup:  # Zhang et al., ICLR 2018, arXiv 1710.09412
            share = float(torch.distributions.Beta(self.config.mixup, self.config.mixup).sample())
            other = torch.randperm(len(ages))
            images = share * images + (1 - share) * images[other]
        with autocast(self.device, self.precision):
            outputs = self.model(images.contiguous(memory_format=torch.channels_last))
        loss = self.model.head.loss(outputs, ages)
        if self.config.mixup:
            loss = share * loss + (1 - share) * self.model.head.loss(outputs, ages[other])
        self.optimizer.zero_grad()
        self.scaler.scale(loss.mean()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        self.loss.update(loss.detach(), torch.ones_like(loss))  # a plain 1.0 would be copied to the card each time
        self.mae.update(self.model.head.ages(outputs.detach()), ages)
        self.step += 1

    def save(self, file: Path) -> None:
        """Everything an exact resume needs."""
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        if self.averaged is not None:
            tensors |= {f"averaged.{key}": value for key, value in self.averaged.state_dict().items()}
        inner = self.optimizer.state_dict()
        tensors |= {f"optimizer.{number}.{key}": value for number, values in inner["state"].items()
                    for key, value in values.items() if isinstance(value, Tensor)}
        tensors |= {f"{name}.{key}": value for name, metric in (("loss", self.loss), ("mae", self.mae))
                    for key, value in metric.state_dict().items()}
        save_checkpoint(file, tensors, {
            "config": asdict(self.config), "epoch": self.epoch, "step": self.step, "seconds": self.seconds,
            "history": self.history, "param_groups": inner["param_groups"], "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(), "precision": str(self.precision)})

    def restore(self, file: Path) -> None:
        """Continue from `file`; ValueError where it was made with other settings."""
        tensors, state = load_checkpoint(file)
        now = asdict(self.config)
        differing = [key for key in now if now[key] != state["config"].get(key)]
        if differing:
            raise ValueError(f"{file} was trained with another {', '.join(differing)}; resume with the same settings, "
                             "or choose another name for this run")

        if state.get("precision") not in (None, str(self.precision)):
            raise ValueError(f"{file} was computed in {state['precision']}, here it would go on in {self.precision}; "
                             "go on where it began, or choose another name for this run")

        def part(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        if self.averaged is not None:
            self.averaged.load_state_dict(part("averaged."))
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimizer.").items():
            number, _, name = key.partition(".")
            # a fused step walks memory as it lies: moments have to lie as their weights do
            layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
            slots.setdefault(int(number), {})[name] = value.contiguous(memory_format=layout)
        self.optimizer.load_state_dict({"state": slots, "param_groups": state["param_groups"]})
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if state["step"]:  # within an epoch: its running metrics go on
            self.loss.load_state_dict(part("loss."))
            self.mae.load_state_dict(part("mae."))
            self.loss.to(self.device)  # torchmetrics replaces its state by the loaded one, which lies on the CPU
            self.mae.to(self.device)
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.history = state["history"]


def autocast(device: torch.device, precision: torch.dtype) -> Any:
    """Mixed precision, or nothing for fp32."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def train(model: AgeEstimationModel, training: Feeder, validation: Feeder, config: Config, folder: Path,
          resume: bool = False) -> pd.DataFrame:
    """Train `model`, keep the epoch with the lowest validation MAE, leave two checkpoints in `folder`.

    ``best.safetensors`` holds the weights to use and their configuration, ``last.safetensors`` all that a resume
    needs. Test pictures are not among the arguments: no choice made here can depend on them.

    Returns
    -------
    DataFrame
        One row an epoch: epoch (from 1), train_loss, train_mae, val_loss, val_mae (years), lr, seconds. Validation
        is NaN in epochs after which it was not evaluated.

    Raises
    ------
    FileExistsError
        `folder` holds a training and `resume` is False.
    FloatingPointError
        The loss is no longer finite.
    """
    last, best = Path(folder) / "last.safetensors", Path(folder) / "best.safetensors"
    for half in Path(folder).glob(".*.part"):  # of a process that was killed while it wrote
        half.unlink()
    trainer = Trainer(model, config, training.device, training.steps())
    if last.exists():
        if not resume:
            raise FileExistsError(f"{folder} holds a training already: resume it, or choose another name")
        trainer.restore(last)
    with progress_bar(config.epochs * trainer.steps, trainer.epoch * trainer.steps + trainer.step) as bar:
        while trainer.epoch < config.epochs:
            model.train()
            before, started = trainer.seconds, time.perf_counter()
            for images, ages in training.training(trainer.epoch, trainer.step):
                trainer.learn(images, ages)
                bar.update()
                if trainer.step % config.checkpoint_steps == 0 and trainer.step < trainer.steps:
                    trainer.seconds = before + time.perf_counter() - started
                    trainer.save(last)
            _finish_epoch(trainer, validation, best, before + time.perf_counter() - started)
            trainer.save(last)
            row = trainer.history[-1]
            bar.set_postfix(epoch=row["epoch"], val_mae=f"{row['val_mae']:.2f}")
            if not in_notebook():
                bar.write(" ".join(f"{key} {value:.4g}" for key, value in row.items()))
    return pd.DataFrame(trainer.history, columns=list(HISTORY))


def _finish_epoch(trainer: Trainer, validation: Feeder, best: Path, seconds: float) -> None:
    """Evaluate on validation, add a row to the history, keep the weights if they are the best so far."""
    started = time.perf_counter()
    train_loss, train_mae = float(trainer.loss.compute()), float(trainer.mae.compute())
    done, now = trainer.epoch + 1, trainer.config.at(trainer.epoch)
    due = done % trainer.config.evaluate_every == 0 or done == trainer.config.epochs
    val_loss, val_mae = evaluate(trainer.evaluated(), validation, now) if due else (math.nan, math.nan)
    if not all(map(math.isfinite, (train_loss, train_mae, *((val_loss, val_mae) if due else ())))):
        raise FloatingPointError(f"the loss of epoch {trainer.epoch + 1} is {train_loss:g}, on validation "
                                 f"{val_loss:g}; a lower lr (now {trainer.config.lr:g}) usually helps")
    trainer.loss.reset()
    trainer.mae.reset()
    rate = trainer.optimizer.param_groups[0]["lr"]
    row = {"epoch": done, "train_loss": train_loss, "train_mae": train_mae, "val_loss": val_loss,
           "val_mae": val_mae, "lr": rate, "seconds": seconds + time.perf_counter() - started}
    if val_mae < min((old["val_mae"] for old in trainer.history if not math.isnan(old["val_mae"])), default=math.inf):
        weights = {f"model.{key}": value for key, value in trainer.evaluated().state_dict().items()}
        kept = trainer.config
        if now.image_size != kept.image_size:  # whoever predicts with it has to see as it was validated
            kept = dataclasses.replace(kept, image_size=now.image_size, cache_size=now.cache_size)
        save_checkpoint(best, weights, {"config": asdict(kept), "epoch": row["epoch"], "val_mae": val_mae})
    trainer.history.append(row)
    trainer.epoch, trainer.step, trainer.seconds = trainer.epoch + 1, 0, 0.0


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


def progress_bar(total: int, done: int = 0) -> tqdm:
    """A bar in a terminal and in a notebook; none where output is a file, or where TQDM_DISABLE is set."""
    quiet: bool | None = True if os.environ.get("TQDM_DISABLE") else (False if in_notebook() else None)
    return tqdm(total=total, initial=done, unit="step", disable=quiet, mininterval=0.5)


def outputs_of(model: AgeEstimationModel, images: Tensor, config: Config, device: torch.device) -> Tensor:
    """Raw outputs [B, K] in fp32, averaged with those of the mirror images where the configuration says so."""
    images = images.contiguous(memory_format=torch.channels_last)
    with autocast(device, pick_precision(config, device)):
        outputs = model(images)
        if config.flip_average:
            outputs = (outputs + model(images.flip(3))) / 2
    return outputs


def learning_rate_range_test(model: AgeEstimationModel, training: Feeder, config: Config, low: float, high: float,
                             steps: int = 60) -> pd.DataFrame:
    """Loss while the learning rate grows exponentially from `low` to `high`, a step a batch; changes `model`.

    It stops early once the loss is four times its lowest, or not finite (Smith, WACV 2017, arXiv 1506.01186).
    Columns: lr, loss (of the batch), smooth (exponential mean of the losses, bias corrected).
    """
    trainer = Trainer(model, dataclasses.replace(config, schedule="constant", ema=0.0), training.device, steps)
    model.train()
    rows: list[dict[str, float]] = []
    mean = 0.0
    batches = (batch for epoch in itertools.count() for batch in training.training(epoch))
    for step, (images, ages) in zip(range(steps), batches, strict=False):
        for group in trainer.optimizer.param_groups:
            group["lr"] = low * (high / low) ** (step / max(1, steps - 1))
        rate = trainer.optimizer.param_groups[0]["lr"]
        trainer.loss.reset()
        trainer.learn(images, ages)
        loss = float(trainer.loss.compute())
        if not math.isfinite(loss):
            break
        mean = 0.8 * mean + 0.2 * loss
        rows.append({"lr": rate, "loss": loss, "smooth": mean / (1 - 0.8 ** (step + 1))})
        if rows[-1]["smooth"] > 4 * min(row["smooth"] for row in rows):
            break
    return pd.DataFrame(rows, columns=["lr", "loss", "smooth"])


@torch.inference_mode()
def evaluate(model: AgeEstimationModel, feeder: Feeder, config: Config) -> tuple[float, float]:
    """Mean loss and MAE in years over all pictures of `feeder`, at the image_size of `config`."""
    model.eval()
    loss, mae = MeanMetric(nan_strategy="disable").to(feeder.device), MeanAbsoluteError().to(feeder.device)
    for images, ages in feeder.evaluation(config):
        outputs = outputs_of(model, images, config, feeder.device)
        loss.update(model.head.loss(outputs, ages), 1.0)
        mae.update(model.head.ages(outputs), ages)
    return float(loss.compute()), float(mae.compute())


@torch.inference_mode()
def predict(model: AgeEstimationModel, feeder: Feeder, config: Config) -> pd.DataFrame:
    """Column ``prediction`` (years), and ``spread`` (years) where the head gives one; one row a picture, in order."""
    model.to(feeder.device).eval()
    columns: dict[str, list[Tensor]] = {"prediction": [], "spread": []}
    for images, _ in feeder.evaluation(config):
        outputs = outputs_of(model, images, config, feeder.device)
        columns["prediction"].append(model.head.ages(outputs).cpu())
        if (spread := model.head.spread(outputs)) is not None:
            columns["spread"].append(spread.cpu())
    return pd.DataFrame({key: torch.cat(parts).double().numpy() for key, parts in columns.items() if parts})
