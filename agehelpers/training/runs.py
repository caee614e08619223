"""A run from its configuration to its record: train, choose on validation, evaluate the test once."""

import hashlib
import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from agehelpers import paths
from agehelpers.config import Config, config_from_dict, differing_settings, settings_of
from agehelpers.data.bands import age_band, balanced_mean
from agehelpers.data.faces import PARTS, SELECTION, Faces, labels_and_split, prepare_faces
from agehelpers.data.splits import split_hash
from agehelpers.devices import world
from agehelpers.methods.heads import check_head
from agehelpers.methods.model import AgeEstimationModel, build_model
from agehelpers.training import together
from agehelpers.training.calibration import interval_facts
from agehelpers.training.checkpoints import load_checkpoint, load_model, save_checkpoint, start_from
from agehelpers.training.decoding import choose_decoding
from agehelpers.training.loop import OnEpoch, predict, train
from agehelpers.training.records import Record, circumstances, label_columns, read_facts, read_record, write_record


def train_faces(faces: Faces, folder: Path, resume: bool = True, on_epoch: OnEpoch | None = None) -> pd.DataFrame:
    """Train the model that `faces.config` describes on `faces`, from its checkpoint in `folder` if there is one.

    Runs, grids, ablations and benchmarks all train through it. Returns the history, see `loop.train`.
    """
    model = build_model(faces.config, faces.part("train")["age"].to_numpy(np.float32))
    if faces.config.start_from:
        start_from(model, faces.config.start_from)
    return train(model, faces.dataset("train"), faces.dataset("validation"), faces.config, folder, resume, on_epoch)


def predictions_of(model: AgeEstimationModel, faces: Faces, part: str) -> pd.DataFrame:
    """Labels and predictions (years, three decimals) of one part, seen at the size at which the model was kept."""
    seen = replace(faces.config, image_size=model.config.image_size)
    every = replace(faces, config=replace(faces.config, conflicts="keep"))  # training may have left out some
    found = predict(model, every.dataset(part), seen).round(3)
    rows = faces.part(part)[["part", "name", *label_columns(faces.table)]].reset_index(drop=True)
    return pd.concat([rows.astype({"age": "int64"}), found], axis=1)


def errors_by_part(predictions: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Of each part "mae" and "balanced_mae", the mean of the age bands' MAE: years, three decimals."""
    error, parts = (predictions["prediction"] - predictions["age"]).abs(), predictions.groupby("part", sort=False)
    means = error.groupby(predictions["part"], sort=False).mean().round(3)
    return {"mae": {str(part): float(value) for part, value in means.items()},
            "balanced_mae": {str(part): round(balanced_mean(error[rows.index], age_band(rows["age"]).codes), 3)
                             for part, rows in parts}}


def run(config: Config, folder: Path, resume: bool = False) -> Record:
    """Train on train, choose on validation, evaluate test once, leave a record in `folder`.

    A finished `folder` is loaded, not trained again; one with other settings or faces is a FileExistsError. Where
    another process trains in it, this one waits, and then loads what that left.
    """
    check_head(config)  # a wrong name is refused before pictures are read
    folder, faces = Path(folder), together.first_alone(lambda: prepare_faces(config, SELECTION))  # no test picture yet
    if found := together.agreed(_finished(faces, folder)):
        return found
    first = world()[0] == 0
    with paths.alone(folder / "config.json") if first else nullcontext():
        if found := together.agreed(_finished(faces, folder) if first else None):
            return found
        if not first:
            train_faces(faces, folder, resume)
        record = _run(faces, folder, resume) if first else None
    return cast(Record, together.agreed(record))


def _finished(faces: Faces, folder: Path) -> Record | None:
    """The record in `folder`, if there is one; FileExistsError where it is of other settings or faces."""
    if not (folder / "config.json").exists():
        return None
    facts = read_facts(folder)
    other = differing_settings(faces.config, config_from_dict(facts["config"]))
    if other or facts["split"] != faces.split:
        what = ", ".join(other) or "set of faces"
        raise FileExistsError(f"{folder} holds a finished run with another {what}; choose another name")
    return read_record(folder, labels_and_split(faces.config)[0])


def _run(faces: Faces, folder: Path, resume: bool) -> Record:
    config = faces.config
    if lost := [part for part in PARTS if part not in set(labels_and_split(config)[1]["part"])]:
        raise ValueError(f"no picture for {', '.join(lost)}: a run needs more pictures, or another protocol")
    history = train_faces(faces, folder, resume)
    best, within = load_model(folder / "best.safetensors"), config.balance_within
    chosen = {"decoding": choose_decoding(best, faces, within)} if within else {}
    faces = prepare_faces(config)  # all is chosen: now the test is read
    predictions = pd.concat([predictions_of(best, faces, part) for part in PARTS], ignore_index=True)
    intervals, seconds = interval_facts(predictions), float(history["seconds"].sum())
    facts = circumstances(faces, seconds) | {
        "train_median": float(faces.part("train")["age"].median()),
        **errors_by_part(predictions), "intervals": intervals,
        "parameters": sum(p.numel() for p in best.parameters()),
        "pictures_per_second": round(len(faces.part("train")) * len(history) / seconds, 1)} | chosen
    tensors, state = load_checkpoint(folder / "best.safetensors")
    state |= {"intervals": intervals}  # for predictions, as is the decoding
    if best.head.tau:
        state |= {"decoding": {"tau": best.head.tau, "prior": best.head.prior}}
    save_checkpoint(folder / "best.safetensors", tensors, state)
    write_record(folder, facts, {"predictions": predictions, "history": history.round(5)})
    return read_record(folder, faces.table)


def settings_digest(config: Config, split: str) -> str:
    """8 hex digits that stand for the split and all settings that are not at their default."""
    return hashlib.sha256(json.dumps([settings_of(config), split], sort_keys=True).encode()).hexdigest()[:8]


def run_folder(config: Config) -> Path:
    """Folder of the run with these settings on these faces: runs/<profile>-<digest of settings and split>."""
    split = split_hash(labels_and_split(config)[1])
    return paths.runs_folder() / f"{config.profile}-{settings_digest(config, split)}"


def latest_run(config: Config) -> Record:
    """The run with these settings: loaded if it is finished, resumed if it was interrupted, else trained now."""
    try:
        return run(config, run_folder(config), resume=True)
    except KeyboardInterrupt:
        print("Interrupted. Run this again, and it goes on from its last checkpoint.", file=sys.stderr)
        raise
