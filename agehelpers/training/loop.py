"""The training loop: it knows batches, a model and a folder for checkpoints, and nothing of where faces come from."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torchmetrics.functional.regression import mean_absolute_error
from tqdm.auto import tqdm

from agehelpers.config import Config
from agehelpers.data.dataset import FaceDataset
from agehelpers.devices import autocast, pick_precision, to_device, world
from agehelpers.methods.heads import Head
from agehelpers.methods.model import AgeEstimationModel
from agehelpers.training.checkpoints import save_checkpoint
from agehelpers.training.progress import in_notebook, progress_bar
from agehelpers.training.references import take_references
from agehelpers.training.resume import restore_training, save_training
from agehelpers.training.together import equalise, gathered
from agehelpers.training.trainer import Trainer

HISTORY = ("epoch", "train_loss", "train_mae", "val_loss", "val_mae", "lr", "seconds")
OnEpoch = Callable[[Trainer], bool | None]


def train(model: AgeEstimationModel, training: FaceDataset, validation: FaceDataset, config: Config, folder: Path,
          resume: bool = False, on_epoch: OnEpoch | None = None) -> pd.DataFrame:
    """Train `model`, keep the epoch with the lowest validation MAE, leave two checkpoints in `folder`.

    ``best.safetensors`` holds the weights to use and their configuration, ``last.safetensors`` all that a resume
    needs. Test pictures are not among the arguments: no choice made here can depend on them. `on_epoch` is called after
    each epoch, when it is saved; training stops early where it returns True.

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
        A loss or gradient is not finite; the checkpoints are those of before.
    """
    last = Path(folder) / "last.safetensors"
    if world()[0] == 0:
        for half in Path(folder).glob(".*.part"):  # of a process that was killed while it wrote
            half.unlink()
    trainer = Trainer(model, config, training.device, training.steps)
    if last.exists():
        if not resume:
            raise FileExistsError(f"{folder} holds a training already: resume it, or choose another name")
        restore_training(trainer, last)
    with progress_bar(config.epochs * trainer.steps, trainer.epoch * trainer.steps + trainer.step) as bar:
        while trainer.epoch < config.epochs:
            _epoch(trainer, training, validation, Path(folder), bar)
            if on_epoch is not None and on_epoch(trainer):
                break
    return pd.DataFrame(trainer.history, columns=list(HISTORY))


def _epoch(trainer: Trainer, training: FaceDataset, validation: FaceDataset, folder: Path, bar: tqdm) -> None:
    """The rest of the current epoch: its steps, its validation, its checkpoints."""
    trainer.train_mode()
    before, started = trainer.seconds, time.perf_counter()
    if trainer.step == 0:
        take_references(trainer.model, training, trainer.config.at(trainer.epoch))
    sizes = training.batch_sizes(trainer.epoch) if trainer.world > 1 else [0] * trainer.steps
    for batch in training.training_batches(trainer.epoch, trainer.step):
        trainer.learn(*batch, pictures=sizes[trainer.step])
        bar.update()
        due = trainer.step % trainer.config.checkpoint_steps == 0 and trainer.step < trainer.steps
        if due or trainer.device.type == "cpu":
            trainer.check(training)
        if due:
            trainer.seconds = before + time.perf_counter() - started
            save_training(trainer, folder / "last.safetensors")
    trainer.check(training)
    take_references(trainer.evaluated(), training, trainer.config.at(trainer.epoch))
    equalise(trainer.model, trainer.averaged)
    _finish_epoch(trainer, validation, folder / "best.safetensors", before + time.perf_counter() - started)
    save_training(trainer, folder / "last.safetensors")
    row = trainer.history[-1]
    bar.set_postfix(epoch=row["epoch"], val_mae=f"{row['val_mae']:.2f}")
    if not in_notebook() and trainer.rank == 0:
        bar.write(" ".join(f"{key} {value:.4g}" for key, value in row.items()))


def _finish_epoch(trainer: Trainer, validation: FaceDataset, best: Path, seconds: float) -> None:
    """Evaluate on validation, add a row to the history, keep the weights if they are the best so far."""
    started = time.perf_counter()
    train_loss, train_mae = float(trainer.loss.compute()), float(trainer.mae.compute())
    done, now = trainer.epoch + 1, trainer.config.at(trainer.epoch)
    due = done % trainer.config.evaluate_every == 0 or done == trainer.config.epochs
    val_loss, val_mae = evaluate(trainer.evaluated(), validation, now) if due else (math.nan, math.nan)
    if not all(map(math.isfinite, (train_loss, train_mae, *((val_loss, val_mae) if due else ())))):
        raise FloatingPointError(f"the loss of epoch {done} is {train_loss:g}, on validation {val_loss:g}; "
                                 f"a lower lr (now {trainer.config.lr:g}) usually helps")
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
        if trainer.rank == 0:
            save_checkpoint(best, weights, {"config": dataclasses.asdict(kept), "epoch": done, "val_mae": val_mae})
    trainer.history.append(row)
    trainer.epoch, trainer.step, trainer.seconds = trainer.epoch + 1, 0, 0.0


def outputs_of(model: AgeEstimationModel, images: Tensor, config: Config, device: torch.device) -> Tensor:
    """Raw outputs [B, K] in fp32, averaged with those of the mirror images where the configuration says so."""
    images = images.contiguous(memory_format=torch.channels_last)
    with autocast(device, pick_precision(config, device)):
        outputs = model(images)
        if config.flip_average:
            outputs = (outputs + model(images.flip(3))) / 2
    return outputs


@torch.inference_mode()
def raw_outputs(model: AgeEstimationModel, faces: FaceDataset, config: Config, share: tuple[int, int] = (0, 1)
                ) -> Tensor:
    """Raw outputs [N, K] of all `faces`, unaugmented, at `config`'s image_size; by processes that `share` the work."""
    model.to(faces.device).eval()
    batches = dataclasses.replace(faces, config=config).evaluation_batches(share=share)
    own = [outputs_of(model, images, config, faces.device) for images, _ in batches]
    return torch.cat(gathered(own) if share[1] > 1 else own).to(faces.device)


@torch.inference_mode()
def evaluate(model: AgeEstimationModel, faces: FaceDataset, config: Config) -> tuple[float, float]:
    """Mean loss and MAE in years over all of `faces`, unaugmented, at the image_size of `config`."""
    outputs, ages = raw_outputs(model, faces, config, world()), to_device(torch.from_numpy(faces.ages), faces.device)
    loss = model.head.loss(outputs, ages).double().mean()
    return float(loss), float(mean_absolute_error(model.head.ages(outputs), ages))


@torch.inference_mode()
def read_outputs(head: Head, outputs: Tensor) -> pd.DataFrame:
    """Columns ``prediction`` (years) of raw outputs [N, K], ``spread`` (years) where the head gives one, and ``plain``.

    The last is what the head predicts without its adjustment for rare ages, where it has one.
    """
    columns = {"prediction": head.ages(outputs), "spread": head.spread(outputs)}
    if head.tau and (p := head.distribution(outputs)) is not None:
        columns["plain"] = head.age_of(p)
    return pd.DataFrame({key: years.cpu().double().numpy() for key, years in columns.items() if years is not None})


def predict(model: AgeEstimationModel, faces: FaceDataset, config: Config) -> pd.DataFrame:
    """Columns of `read_outputs` for all of `faces`, one row a picture, in order."""
    return read_outputs(model.head, raw_outputs(model, faces, config))
