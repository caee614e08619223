"""All that changes during a training: one step of it; `resume` stores it.

Everything random depends on seed, epoch and step.
"""

import warnings
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import MeanMetric
from torchmetrics.regression import MeanAbsoluteError

from agehelpers.config import Config
from agehelpers.data.dataset import FaceDataset
from agehelpers.devices import autocast, keep_freed_memory, pick_precision, world
from agehelpers.methods.model import AgeEstimationModel
from agehelpers.training.together import shared


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
        self.rank, self.world = world()
        self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema),
                                      use_buffers=True) if config.ema else None
        if config.ema and 1 > (1 - config.ema) * (steps := config.epochs * self.steps):
            warnings.warn(f"ema={config.ema:g} averages the weights of more steps than the {steps} of this training: "
                          "use more epochs, or --set ema=0.9 (or 0)", stacklevel=2)
        self.outputs = shared(self.model)
        half = self.precision == torch.float16  # a fused step that the scaler skips leaves momentum uninitialised
        self.optimizer = build_optimizer(self.model, config, fused=not half)
        self.schedule = build_schedule(self.optimizer, config, self.steps)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.loss = MeanMetric(nan_strategy="disable").to(self.device)
        self.mae = MeanAbsoluteError().to(self.device)
        self.loss.persistent(True)
        self.mae.persistent(True)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.broken = torch.tensor(-1, device=self.device)  # the first step whose loss or gradient was not finite
        self.history: list[dict[str, float]] = []

    def evaluated(self) -> AgeEstimationModel:
        """The model that is evaluated and kept: the averaged one where there is one."""
        return self.model if self.averaged is None else cast(AgeEstimationModel, self.averaged.module)

    def train_mode(self) -> None:
        """Training mode; in fine-tuning batch normalisation keeps its statistics, which few pictures say badly."""
        self.model.train()
        for module in self.model.modules() if self.config.start_from else ():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):  # synchronised ones, too
                module.eval()

    def learn(self, images: Tensor, ages: Tensor, attributes: Tensor | None = None, *, pictures: int = 0) -> None:
        """One step: forward, backward, update; metrics of the age alone. `pictures`: of a batch that is shared."""
        torch.manual_seed(step_seed(self.config.seed, self.epoch, self.step) + self.rank)  # mixing; dropout, if any
        model, share, other = self.model, 1.0, torch.arange(len(ages))
        if self.config.mixup:  # Zhang et al., ICLR 2018, arXiv 1710.09412
            share = float(torch.distributions.Beta(self.config.mixup, self.config.mixup).sample())
            other = torch.randperm(len(ages))
            images = share * images + (1 - share) * images[other]

        def mixed(head: Any, outputs: Tensor, labels: Tensor) -> Tensor:
            loss = head.loss(outputs, labels)
            return loss if share == 1 else share * loss + (1 - share) * head.loss(outputs, labels[other])

        with autocast(self.device, self.precision):
            outputs, guesses = self.outputs(images.contiguous(memory_format=torch.channels_last))
        loss = total = mixed(model.head, outputs, ages)
        if guesses is not None and attributes is not None:
            total = loss + self.config.auxiliary * mixed(model.attributes, guesses, attributes)
        self.optimizer.zero_grad()
        counts = self.world == 1 or self.rank < pictures
        # averaged over the processes, that is the mean of the whole batch
        mean = total.mean() if self.world == 1 else total.sum() * (counts * self.world / pictures)
        self.scaler.scale(mean).backward()
        self._watch(total)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        if counts:
            self.loss.update(loss.detach(), torch.ones_like(loss))  # a plain 1.0 would be copied to the GPU each time
            self.mae.update(self.model.head.ages(outputs.detach()), ages)
        self.step += 1

    def _watch(self, loss: Tensor) -> None:
        """Note a step whose loss or gradient is not finite, without waiting for a GPU."""
        good = torch.isfinite(loss.detach()).all()
        if not self.scaler.is_enabled():  # which skips a step with too large gradients
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            good = good & torch.isfinite(torch.nn.utils.get_total_norm(gradients))
        self.broken = torch.where(good | (self.broken >= 0), self.broken, self.step)

    def check(self, training: FaceDataset) -> None:
        """FloatingPointError names the first step of this epoch that was not finite (of skipped ones: the last)."""
        skipped = self.scaler.is_enabled() and self.scaler.get_scale() < 2.0**-20  # halved at each step that is skipped
        if (step := max(int(self.broken), self.step - 1 if skipped else -1)) >= 0:
            raise FloatingPointError(
                f"loss or gradient of step {step + 1} of epoch {self.epoch + 1} is not finite (lr {self.config.lr:g}; "
                f"a lower one usually helps, in a new run); its pictures: {training.batch_text(self.epoch, step)}")
