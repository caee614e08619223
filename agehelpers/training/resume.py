"""How a training is stored for an exact resume: killed and resumed, it ends with the same weights.

Bit for bit on CPU, with the same number of threads and versions.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agehelpers import paths
from agehelpers.config import config_from_dict, differing_settings
from agehelpers.data.augmentation import STREAM
from agehelpers.training.checkpoints import load_checkpoint, save_checkpoint
from agehelpers.training.trainer import Trainer


def save_training(trainer: Trainer, file: Path) -> None:
    """Everything an exact resume needs, also by another number of processes; the first one writes."""
    metrics = {"loss": trainer.loss, "mae": trainer.mae}
    for metric in metrics.values() if trainer.world > 1 else ():
        metric.sync()  # those of all processes
    if trainer.rank == 0:
        _write(trainer, file)
    for metric in metrics.values() if trainer.world > 1 else ():
        metric.unsync()


def _write(trainer: Trainer, file: Path) -> None:
    tensors = {f"model.{key}": value for key, value in trainer.model.state_dict().items()}
    if trainer.averaged is not None:
        tensors |= {f"averaged.{key}": value for key, value in trainer.averaged.state_dict().items()}
    inner = trainer.optimizer.state_dict()
    tensors |= {f"optimizer.{number}.{key}": value for number, values in inner["state"].items()
                for key, value in values.items() if isinstance(value, Tensor)}
    tensors |= {f"{name}.{key}": value for name, metric in (("loss", trainer.loss), ("mae", trainer.mae))
                for key, value in metric.state_dict().items()}
    save_checkpoint(file, tensors, {
        "config": asdict(trainer.config), "epoch": trainer.epoch, "step": trainer.step, "seconds": trainer.seconds,
        "history": trainer.history, "param_groups": inner["param_groups"], "schedule": trainer.schedule.state_dict(),
        "scaler": trainer.scaler.state_dict(), "precision": str(trainer.precision), "stream": STREAM})


def restore_training(trainer: Trainer, file: Path) -> None:
    """Continue from `file`; ValueError where it was made with other settings or in another precision."""
    with paths.reading(file, "remove it and its folder, and train anew"):
        _restore(trainer, file, *load_checkpoint(file))


def _restore(trainer: Trainer, file: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    _check_same(trainer, file, state)
    epoch, step, seconds, history = (state[key] for key in ("epoch", "step", "seconds", "history"))
    if not (0 <= epoch <= trainer.config.epochs and len(history) == epoch and step >= 0 and seconds >= 0):
        raise ValueError(f"epoch {epoch}, step {step}, a history of {len(history)} epochs")

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    trainer.model.load_state_dict(part("model."))
    if trainer.averaged is not None:
        trainer.averaged.load_state_dict(part("averaged."))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        number, _, name = key.partition(".")
        # a fused step walks memory as it lies: moments have to lie as their weights do
        layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
        slots.setdefault(int(number), {})[name] = value.contiguous(memory_format=layout)
    trainer.optimizer.load_state_dict({"state": slots, "param_groups": state["param_groups"]})
    trainer.schedule.load_state_dict({key: state["schedule"][key] for key in trainer.schedule.state_dict()})
    trainer.scaler.load_state_dict(state["scaler"])
    if state["step"] and trainer.rank == 0:  # within an epoch: its running metrics go on
        trainer.loss.load_state_dict(part("loss."))
        trainer.mae.load_state_dict(part("mae."))
        trainer.loss.to(trainer.device)  # torchmetrics replaces its state by the loaded one, which lies on the CPU
        trainer.mae.to(trainer.device)
    trainer.epoch, trainer.step, trainer.seconds, trainer.history = epoch, step, seconds, history


def _check_same(trainer: Trainer, file: Path, state: dict[str, Any]) -> None:
    if differing := differing_settings(trainer.config, config_from_dict(state["config"])):
        raise ValueError(f"{file} was trained with another {', '.join(differing)}; resume with the same settings, "
                         "or choose another name for this run")
    if state.get("stream", 1) != STREAM:
        raise ValueError(f"{file} was augmented by another stream of random numbers, that of an older version; go "
                         "on with that version, or remove the folder and train anew")
    if state.get("precision") not in (None, str(trainer.precision)):
        raise ValueError(f"{file} was computed in {state['precision']}, here it would go on in {trainer.precision}; "
                         "go on where it began, or choose another name for this run")
