"""Train the `laptop` profile until its validation MAE reaches a target; print what it took as JSON.

Run with PYTHONPATH naming the tree to measure: it uses only what every version of the package has. Each epoch is
validated twice: as that version does, and at the size of the epoch's own training pictures. The time is that of
training and of the version's own validation, as its history counts it.
"""

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agehelpers import loop, runs
from agehelpers.config import load_config

target, seed, threads, device, most = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
os.environ["TQDM_DISABLE"] = "1"
torch.set_num_threads(threads)
config = load_config("laptop", {"evaluate_every": 1, "seed": seed, "device": device})
data = runs.prepare(config, runs.SELECTION)
np.asarray(data.pixels).sum()  # the pixels are in memory
model = runs.build_model(config, data.part("train")["age"].to_numpy(np.float32))
validation = data.feeder("validation")
finish = loop._finish_epoch
epochs: list[dict[str, float]] = []


class Reached(Exception):
    pass


def trained_size(epoch: int) -> int:
    """Side of the training pictures in `epoch`, in every version."""
    return config.at(epoch).image_size if hasattr(config, "at") else config.size_at(epoch)  # type: ignore[attr-defined]


def watched(trainer: loop.Trainer, *arguments: Any) -> None:
    """`_finish_epoch`, then the second validation."""
    epoch = trainer.epoch
    finish(trainer, *arguments)
    row = trainer.history[-1]
    seen = dataclasses.replace(config, image_size=trained_size(epoch), cache_size=config.pixels_size)
    trained = loop.evaluate(trainer.evaluated(), dataclasses.replace(validation, config=seen), seen)[1]
    epochs.append({"epoch": row["epoch"], "own": row["val_mae"], "trained": trained, "size": seen.image_size,
                   "seconds": sum(one["seconds"] for one in trainer.history)})
    print(epochs[-1], file=sys.stderr, flush=True)
    if max(min(row["own"] for row in epochs), min(row["trained"] for row in epochs)) <= target or (
            len(epochs) >= int(most)):
        raise Reached


loop._finish_epoch = watched  # type: ignore[assignment]
with tempfile.TemporaryDirectory() as folder:
    try:
        loop.train(model, data.feeder("train"), validation, config, Path(folder))
    except Reached:
        pass
print(json.dumps({"package": str(Path(loop.__file__).parent), "epochs": epochs}))
