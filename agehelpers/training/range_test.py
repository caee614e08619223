"""Which learning rates a network can take."""

import dataclasses
import itertools
import math

import pandas as pd

from agehelpers.config import Config
from agehelpers.data.dataset import FaceDataset
from agehelpers.methods.model import AgeEstimationModel
from agehelpers.training.references import take_references
from agehelpers.training.trainer import Trainer


def learning_rate_range_test(model: AgeEstimationModel, training: FaceDataset, config: Config, low: float,
                             high: float, steps: int = 60) -> pd.DataFrame:
    """Loss while the learning rate grows exponentially from `low` to `high`, a step a batch; changes `model`.

    It stops early once the loss is four times its lowest, or not finite (Smith, WACV 2017, arXiv 1506.01186).
    Columns: lr, loss (of the batch), smooth (exponential mean of the losses, bias corrected).
    """
    trainer = Trainer(model, dataclasses.replace(config, schedule="constant", ema=0.0), training.device, steps)
    model.train()
    take_references(model, training, config)
    rows: list[dict[str, float]] = []
    mean = 0.0
    batches = (batch for epoch in itertools.count() for batch in training.training_batches(epoch))
    for step, batch in zip(range(steps), batches, strict=False):
        rate = low * (high / low) ** (step / max(1, steps - 1))
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate
        trainer.loss.reset()
        trainer.learn(*batch)
        loss = float(trainer.loss.compute())
        if not math.isfinite(loss):
            break
        mean = 0.8 * mean + 0.2 * loss
        rows.append({"lr": rate, "loss": loss, "smooth": mean / (1 - 0.8 ** (step + 1))})
        if rows[-1]["smooth"] > 4 * min(row["smooth"] for row in rows):
            break
    return pd.DataFrame(rows, columns=["lr", "loss", "smooth"])
