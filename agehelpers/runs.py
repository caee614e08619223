"""A run from its configuration to its record: config.json, history.csv and predictions.csv."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from agehelpers import conformal, paths
from agehelpers import index as index_module
from agehelpers.analysis import mae
from agehelpers.batches import Feeder, on_device
from agehelpers.checkpoints import load_checkpoint, load_model, save_checkpoint
from agehelpers.config import Config, config_from_dict
from agehelpers.index import build_index, read_index, usable, write_index
from agehelpers.loop import pick_device, pick_precision, predict, train
from agehelpers.model import AgeEstimationModel
from agehelpers.pixels import decode, load_pixels
from agehelpers.split import make_split, split_hash

PARTS = ("train", "validation", "calibration", "test")
SELECTION = ("train", "validation")  # all that a search for settings is given
FILES = ("config.json", "history.csv", "predictions.csv")
FACTS = ("config", "split", "counts", "train_median", "mae", "intervals")  # what every reader of config.json counts on
LABELS = ["part", "name", "age", "gender", "ethnicity"]


@dataclass(frozen=True)
class Record:
    """What a run left: settings and circumstances, history, predictions (the tables of the design)."""

    name: str
    config: dict[str, Any]
    history: pd.DataFrame
    predictions: pd.DataFrame


@dataclass(frozen=True)
class Data:
    """Pictures of a configuration, ready to be fed: `table` has a row (name, part, labels, row of pixels) a picture."""

    config: Config
    device: torch.device
    table: pd.DataFrame
    pixels: np.ndarray | torch.Tensor
    split: str

    def part(self, name: str) -> pd.DataFrame:
        """Rows of one of `PARTS`."""
        return self.table[self.table["part"] == name]

    def feeder(self, name: str) -> Feeder:
        """Batches of one part."""
        rows = self.part(name)
        if name == "train":
            rows = settle_conflicts(rows, self.config.conflicts)
        return Feeder(self.pixels, rows["row"].to_numpy(), rows["age"].to_numpy(np.float32), self.config, self.device)


def settle_conflicts(rows: pd.DataFrame, how: str) -> pd.DataFrame:
    """Training rows whose identical or near-identical pictures carry other ages: kept, all at their median, dropped."""
    ages = rows.groupby("group")["age"]
    if how == "median":
        return rows.assign(age=ages.transform("median"))
    return rows[ages.transform("nunique") == 1] if how == "drop" else rows


def cached_index(folder: Path) -> pd.DataFrame:
    """The index of `folder`, kept in the cache until a name, a size or a time of change in the folder differs."""
    if not folder.is_dir():
        return build_index(folder)  # says what is wrong
    entries = sorted((entry.name, entry.lstat().st_size, entry.lstat().st_mtime_ns) for entry in folder.iterdir())
    key = hashlib.sha256(repr(entries).encode() + Path(index_module.__file__).read_bytes()).hexdigest()[:16]
    file = paths.cache_folder() / f"index_{key}.csv"
    if not file.exists():
        write_index(build_index(folder), file)
    return read_index(file)


def index_and_split(config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Usable rows of the index of the faces of `config`, and their split."""
    index = usable(cached_index(config.faces_folder()))
    return index, make_split(index, config.protocol, config.split_seed)


def prepare(config: Config, parts: tuple[str, ...] = PARTS, pixels: np.ndarray | torch.Tensor | None = None) -> Data:
    """Index, split and decode the faces of `config`; the pixels move to the card where it has room.

    `parts`: what the table may hold. A search for settings asks for `SELECTION`: its test rows are gone before anything
    is trained, so no choice can depend on them. `pixels`: those of the same faces and size, where they are there.
    """
    folder, device = config.faces_folder(), pick_device(config)
    index, split = index_and_split(config)
    pixels = on_device(load_pixels(folder, index, config.pixels_size), device) if pixels is None else pixels
    table = index.assign(row=np.arange(len(index))).merge(split, on="name", validate="one_to_one")
    every, table = len(table), table[table["part"].isin(parts)]
    if config.limit:
        share = min(1.0, config.limit / every)
        table = pd.concat([rows.sample(min(len(rows), max(2, round(share * len(rows)))), random_state=config.split_seed)
                           for _, rows in table.groupby("part", sort=True)]).sort_index()
    return Data(config, device, table, pixels, split_hash(split))


def build_model(config: Config, training_ages: np.ndarray) -> AgeEstimationModel:
    """The untrained model, seeded, its head's biases set from the training ages where the configuration says so."""
    torch.manual_seed(config.seed)
    model = AgeEstimationModel(config)
    if config.start_at_median:
        model.head.start_at(torch.as_tensor(training_ages, dtype=torch.float32))
    return model


def predictions_of(model: AgeEstimationModel, data: Data, part: str) -> pd.DataFrame:
    """Labels and predictions (years, three decimals) of one part, seen at the size at which the model was kept."""
    seen = replace(data.config, image_size=model.config.image_size)
    found = predict(model, data.feeder(part), seen).round(3)
    return pd.concat([data.part(part)[LABELS].reset_index(drop=True), found], axis=1)


def add_intervals(predictions: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """All parts with lower_80, upper_80, ... in the test rows, and how far intervals reach, for config.json.

    They are normalised by the spread where the head gives one; calibrated on the part calibration, which chose nothing.
    Other parts have NaN: an interval says nothing of the pictures that made the model or the interval.
    """
    test, calibration = (predictions[predictions["part"] == part] for part in ("test", "calibration"))
    normalised = "spread" in predictions
    told: dict[str, Any] = {"normalised": normalised, "calibration": len(calibration)}
    for row in conformal.reaches(calibration, normalised).to_dict("records"):
        told |= {f"{100 * level:g}": round(row[level], 4) for level in conformal.LEVELS if np.isfinite(row[level])}
    columns = [end for level in conformal.LEVELS for end in conformal.ends(level)]
    return predictions.join(conformal.with_intervals(test, calibration, normalised)[columns]), told


def hardware() -> dict[str, Any]:
    """Processor, cores, threads and card."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"system": platform.platform(terse=True), "processor": model or platform.processor(),
            "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def run(config: Config, folder: Path, resume: bool = False) -> Record:
    """Train on train, choose on validation, evaluate test once, leave the three files of a record in `folder`.

    A finished `folder` is loaded, not trained again; one with other settings or faces is a FileExistsError.
    """
    folder, started, data = Path(folder), time.perf_counter(), prepare(config, SELECTION)  # no test picture so far
    if (folder / "config.json").exists():
        done = read_record(folder)
        if (done.config["config"], done.config["split"]) != (asdict(config), data.split):
            raise FileExistsError(f"{folder} holds a finished run with other settings or faces; choose another name")
        return done
    model = build_model(config, data.part("train")["age"].to_numpy(np.float32))
    history = train(model, data.feeder("train"), data.feeder("validation"), config, folder, resume)
    best, data = load_model(folder / "best.safetensors"), prepare(config)  # all is chosen: now the test is read
    predictions = pd.concat([predictions_of(best, data, part) for part in PARTS], ignore_index=True)
    predictions, reaches = add_intervals(predictions)
    counts = {part: len(data.part(part)) for part in PARTS}
    seconds = float(history["seconds"].sum())
    facts = {
        "config": asdict(config), "split": data.split, "counts": counts,
        "train_median": float(data.part("train")["age"].median()),
        "mae": {part: round(mae(predictions[predictions["part"] == part]), 3) for part in PARTS if counts[part]},
        "intervals": reaches,
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": str(pick_precision(config, data.device)).removeprefix("torch."), "device": data.device.type,
        "training_seconds": round(seconds, 1), "wall_seconds": round(time.perf_counter() - started, 1),
        "pictures_per_second": round(counts["train"] * len(history) / seconds, 1),
        "hardware": hardware(), "versions": paths.versions(),
    }
    tensors, state = load_checkpoint(folder / "best.safetensors")
    save_checkpoint(folder / "best.safetensors", tensors, state | {"intervals": reaches})  # for predict_crops
    paths.write_atomically(folder / "predictions.csv", predictions.to_csv(index=False))
    paths.write_atomically(folder / "history.csv", history.round(5).to_csv(index=False))
    paths.write_json(folder / "config.json", facts)  # last: its presence says that the run is complete
    return read_record(folder)


def read_record(folder: Path) -> Record:
    """The record in `folder`; FileNotFoundError names what is missing, ValueError a record of an older version."""
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: no {', '.join(missing)}; is the run finished?")
    predictions = pd.read_csv(folder / "predictions.csv", dtype={"gender": "str", "ethnicity": "str"})
    config = json.loads((folder / "config.json").read_text())
    if lacking := [key for key in FACTS if key not in config]:
        raise ValueError(f"{folder} was made by an older version: its config.json has no {', '.join(lacking)}; remove "
                         "the folder and make it anew")
    return Record(folder.name, config, pd.read_csv(folder / "history.csv"), predictions)


def load_record(name: str) -> Record:
    """A committed record by its name; FileNotFoundError lists those there are."""
    folder = paths.records_folder() / name
    if not folder.is_dir():
        known = sorted(entry.name for entry in paths.records_folder().glob("*/"))
        raise FileNotFoundError(f"no record {name!r}; there are: {', '.join(known) or 'none'}")
    return read_record(folder)


def save_record(run_folder: Path, name: str, files: tuple[str, ...] = FILES) -> Path:
    """Copy a finished run's small files to the records, all or none; an existing record is never overwritten.

    Training rows of predictions.csv stay behind, to keep the repository small; config.json has their MAE and median.
    """
    target = check_record_name(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}."))
    try:
        for file in files:
            shutil.copyfile(run_folder / file, part / file)
        if (table := part / "predictions.csv").exists():
            lines = table.read_text().splitlines(keepends=True)
            table.write_text("".join(line for line in lines if not line.startswith("train,")))
        part.chmod(0o755)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def check_record_name(name: str) -> Path:
    """Folder of a record to be; raises before anything is trained if the name is taken or no plain name."""
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"record name {name!r}: use letters, digits, - and _ only")
    target = paths.records_folder() / name
    if target.exists():
        raise FileExistsError(f"{target} exists; records are never overwritten: choose another name, or remove it")
    return target


def run_folder(config: Config) -> Path:
    """Folder of the run with these settings on these faces: runs/<profile>-<digest of settings and split>."""
    split = split_hash(index_and_split(config)[1])
    return paths.runs_folder() / f"{config.profile}-{settings_digest(config, split)}"


def settings_digest(config: Config, split: str) -> str:
    """8 hex digits that stand for all settings and the split."""
    return hashlib.sha256(json.dumps([asdict(config), split], sort_keys=True).encode()).hexdigest()[:8]


def latest_run(config: Config) -> Record:
    """The run with these settings: loaded if it is finished, resumed if it was interrupted, else trained now."""
    return run(config, run_folder(config), resume=True)


def predict_crops(checkpoint: Path, crops: list[Path]) -> pd.DataFrame:
    """Predicted age of faces already cropped as the training's: columns file, prediction [, spread], lower_80, ....

    `checkpoint`: best.safetensors of a run, or the weights that come with the package (`records.PACKAGED`).
    All in years. Computed in single precision, so that the answer is the same on every machine. `spread` is the
    standard deviation of the answer's distribution, where the head has one. The ends of conformal intervals are there
    where the checkpoint was calibrated; they hold for pictures like those of its calibration, and for no others.
    """
    state = load_checkpoint(checkpoint)[1]
    config = config_from_dict(state["config"] | {"device": "auto", "precision": "fp32"})
    pixels = np.stack([decode(crop, config.pixels_size) for crop in crops])
    rows = np.arange(len(crops))
    feeder = Feeder(pixels, rows, np.zeros(len(crops), np.float32), config, pick_device(config))
    found = predict(load_model(checkpoint), feeder, config).round(1)
    if told := state.get("intervals"):
        reached = {level: told.get(f"{100 * level:g}", np.inf) for level in conformal.LEVELS}
        found = conformal.attach(found, reached, told["normalised"])
    return pd.concat([pd.DataFrame({"file": [str(crop) for crop in crops]}), found], axis=1)
