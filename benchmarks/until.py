"""Train the `laptop` profile until its validation MAE reaches a target; print what it took as JSON.

Run with PYTHONPATH naming the tree to measure: it uses only what every version of the package has.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agehelpers import loop, runs
from agehelpers.config import load_config

target, seed, threads, most = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
os.environ["TQDM_DISABLE"] = "1"
torch.set_num_threads(threads)
config = load_config("laptop", {"evaluate_every": 1, "seed": seed})
data = runs.prepare(config, runs.SELECTION)
model = runs.build_model(config, data.part("train")["age"].to_numpy(np.float32))
finish = loop._finish_epoch
started = time.perf_counter()
epochs: list[dict[str, float]] = []


class Reached(Exception):
    pass


def watched(trainer: loop.Trainer, *arguments: Any) -> None:
    finish(trainer, *arguments)
    row = trainer.history[-1]
    epochs.append({"epoch": row["epoch"], "val_mae": row["val_mae"], "wall": time.perf_counter() - started})
    print(epochs[-1], file=sys.stderr, flush=True)
    if row["val_mae"] <= target or len(epochs) >= most:
        raise Reached


loop._finish_epoch = watched  # type: ignore[assignment]
with tempfile.TemporaryDirectory() as folder:
    try:
        loop.train(model, data.feeder("train"), data.feeder("validation"), config, Path(folder))
    except Reached:
        pass
print(json.dumps({"package": str(Path(loop.__file__).parent), "epochs": epochs}))
