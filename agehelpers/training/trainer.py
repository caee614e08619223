"""All that changes during a training: one step of it, and how it is stored for an exact resume.

Everything random depends on seed, epoch and step, so a run that is killed and resumed from its last checkpoint ends
with the same weights, bit for bit on CPU (with the same number of threads and versions).
"""

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import MeanMetric
from torchmetrics.regression import MeanAbsoluteError

from agehelpers.config import Config, config_from_dict, differing_settings
from agehelpers.data.augmentation import STREAM
from agehelpers.devices import autocast, keep_freed_memory, pick_precision
from agehelpers.methods.model import AgeEstimationModel
from agehelpers.training.checkpoints import load_checkpoint, save_checkpoint


def step_seed(seed: int, epoch: int, step: int) -> int:
    """One seed for one step, so that nothing random has to be stored for an exact resume."""
    return int(np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def build_optimizer(model: torch.nn.Module, config: Config, fused: bool) -> torch.optim.Optimizer:
    """SGD or AdamW over all weights of `model`."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), config.lr, config.momentum, nesterov=config.nesterov,
                               weight_decay=config.weight_decay, fused=fused)
    return torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay, fused=fused)


def build_schedule(optimizer: torch.optim.Optimizer, config: Config, steps: int
                   ) -> torch.optim.lr_scheduler.LRScheduler:
    """One cycle over all epochs of `steps` steps (Smith and Topin, 2019, arXiv 1708.07120), or a constant rate."""
    if config.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    total = max(3, config.epochs * steps)  # the rate has to rise for two steps at least, and then to fall
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total, cycle_momentum=False,
                                               pct_start=max(config.warmup, 2 / total))


@dataclass
class Trainer:
    """Model, optimiser, schedule, running metrics and history of one training; `steps` is the length of an epoch."""

    model: AgeEstimationModel
    config: Config
    device: torch.device
    steps: int

    def __post_init__(self) -> None:
        config = self.config
        if self.device.type == "cpu":
            keep_freed_memory()
        self.precision = pick_precision(config, self.device)
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema),
                                      use_buffers=True) if config.ema else None
        if config.ema and 1 / (1 - config.ema) > (steps := config.epochs * self.steps):
            warnings.warn(f"ema={config.ema:g} averages the weights of about {1 / (1 - config.ema):.0f} steps, and "
                          f"this training has {steps}: use more epochs, or --set ema=0.9 (or 0)", stacklevel=2)
        half = self.precision == torch.float16  # a fused step that the scaler skips leaves momentum uninitialised
        self.optimizer = build_optimizer(self.model, config, fused=not half)
        self.schedule = build_schedule(self.optimizer, config, self.steps)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.loss = MeanMetric(nan_strategy="disable").to(self.device)
        self.mae = MeanAbsoluteError().to(self.device)
        self.loss.persistent(True)
        self.mae.persistent(True)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.history: list[dict[str, float]] = []

    def evaluated(self) -> AgeEstimationModel:
        """The model that is evaluated and kept: the averaged one where there is one."""
        return self.model if self.averaged is None else cast(AgeEstimationModel, self.averaged.module)

    def train_mode(self) -> None:
        """Training mode; in fine-tuning batch normalisation keeps its statistics, which few pictures say badly."""
        self.model.train()
        for module in self.model.modules() if self.config.start_from else ():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()

    def learn(self, images: Tensor, ages: Tensor, attributes: Tensor | None = None) -> None:
        """One step: forward, backward, update; metrics, of the age alone, weighted by the batch's size."""
        torch.manual_seed(step_seed(self.config.seed, self.epoch, self.step))  # mixing; dropout, if any
        model, share, other = self.model, 1.0, torch.arange(len(ages))
        if self.config.mixup:  # Zhang et al., ICLR 2018, arXiv 1710.09412
            share = float(torch.distributions.Beta(self.config.mixup, self.config.mixup).sample())
            other = torch.randperm(len(ages))
            images = share * images + (1 - share) * images[other]

        def mixed(head: Any, outputs: Tensor, labels: Tensor) -> Tensor:
            loss = head.loss(outputs, labels)
            return loss if share == 1 else share * loss + (1 - share) * head.loss(outputs, labels[other])

        with autocast(self.device, self.precision):
            outputs, guesses = model.outputs(images.contiguous(memory_format=torch.channels_last))
        loss = total = mixed(model.head, outputs, ages)
        if guesses is not None and attributes is not None:
            total = loss + self.config.auxiliary * mixed(model.attributes, guesses, attributes)
        self.optimizer.zero_grad()
        self.scaler.scale(total.mean()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        self.loss.update(loss.detach(), torch.ones_like(loss))  # a plain 1.0 would be copied to the GPU each time
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
            "scaler": self.scaler.state_dict(), "precision": str(self.precision), "stream": STREAM})

    def restore(self, file: Path) -> None:
        """Continue from `file`; ValueError where it was made with other settings or in another precision."""
        tensors, state = load_checkpoint(file)
        self._check_same(file, state)

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

    def _check_same(self, file: Path, state: dict[str, Any]) -> None:
        if differing := differing_settings(self.config, config_from_dict(state["config"])):
            raise ValueError(f"{file} was trained with another {', '.join(differing)}; resume with the same settings, "
                             "or choose another name for this run")
        if state.get("stream", 1) != STREAM:
            raise ValueError(f"{file} was augmented by another stream of random numbers, that of an older version; go "
                             "on with that version, or remove the folder and train anew")
        if state.get("precision") not in (None, str(self.precision)):
            raise ValueError(f"{file} was computed in {state['precision']}, here it would go on in {self.precision}; "
                             "go on where it began, or choose another name for this run")
