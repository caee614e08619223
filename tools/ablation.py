"""What each part of the recipe is worth: short trainings that differ from a base in one thing, judged on validation.

Test pictures are not read: only training and validation are prepared (unless a table asks for the test, as the
comparison of methods does, whose choices are made elsewhere).
"""

import dataclasses
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from agehelpers import paths
from agehelpers.config import Config
from agehelpers.data.bands import age_band
from agehelpers.data.faces import SELECTION, prepare_faces
from agehelpers.devices import hardware, pick_device
from agehelpers.evaluation.bootstrap import confidence_interval, seed_noise
from agehelpers.evaluation.tables import add_clusters
from agehelpers.training.checkpoints import load_model
from agehelpers.training.decoding import choose_decoding
from agehelpers.training.records import circumstances, write_record
from agehelpers.training.runs import predictions_of, settings_digest, train_faces

# The base: everything that a row changes has its value here, so that the tables do not move when the profile takes
# over what they show. Pictures come from `selection`: no test of the protocols' first splits is among them.
BASE: dict[str, Any] = {
    "protocol": "selection", "limit": 0, "image_size": 80, "grow_from": 56, "cache_size": 100, "epochs": 6,
    "evaluate_every": 100, "batch_size": 64, "flip": True, "rotation": 15.0, "scale": 0.15, "shift": 0.06,
    "brightness": 0.25, "contrast": 0.25, "erase": 0.35, "augment_from": 0.0, "auxiliary": 0.5, "mixup": 0.0,
    "conflicts": "keep", "backbone": "timm/tf_efficientnet_lite0", "weights": "imagenet-pip", "head": "distribution",
    "sigma": 2.0, "l1_weight": 0.1, "decode": "median", "reweight": 0.0, "balanced_softmax": 0.0, "flip_average": True,
    "optimizer": "adamw", "lr": 0.001, "momentum": 0.9, "weight_decay": 0.05, "schedule": "one_cycle", "warmup": 0.15,
    "ema": 0.995}


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of a record (name -> what it changes of the base), what the table changes of `BASE`, seeds, part judged."""

    rows: dict[str, dict[str, Any]]
    base: dict[str, Any] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1)
    part: str = "validation"

    def budgeted(self, config: Config) -> Config:
        """The base of the table: `config` with the settings of `BASE`."""
        return dataclasses.replace(config, **{**BASE, **self.base})


TABLES: dict[str, Table] = {
    "laptop_ablation": Table({
        "base": {},
        "from scratch": {"weights": None},
        "network: EfficientNet-Lite2": {"backbone": "timm/tf_efficientnet_lite2"},
        "growing from 72 to 112 pixels": {"image_size": 112, "grow_from": 72, "cache_size": 140},
        "loss: L1 of one output": {"head": "regression"},
        "augmentation: mirror image only": {"rotation": 0.0, "scale": 0.0, "shift": 0.0, "brightness": 0.0,
                                            "contrast": 0.0, "erase": 0.0},
        "no running mean of the weights": {"ema": 0.0},
        "conflicting copies: at their median age": {"conflicts": "median"},
    }),
    "laptop_balance": Table({
        "base": {},
        "without gender and ethnicity beside the age": {"auxiliary": 0.0},
        "loss weighed by 1 / share of the age band, root": {"reweight": 0.5},
        "loss weighed by 1 / share of the age band": {"reweight": 1.0},
        "balanced softmax, half": {"balanced_softmax": 0.5},
        "balanced softmax": {"balanced_softmax": 1.0},
        "mixing pictures (mixup 0.2)": {"mixup": 0.2},
    }),
}
# Ways to read the predictions of the base's trained networks.
DECODINGS: dict[str, dict[str, Any]] = {
    "decoding: mean": {"decode": "mean"}, "no averaging over the mirror image": {"flip_average": False}}
WITHIN = 0.05  # years of validation MAE that the decoding for rare ages may cost


def train_row(config: Config, folder: Path, name: str, threads: int = 0, part: str = "validation") -> dict[str, Any]:
    """Train one row, from its checkpoint if there is one; keep its predictions on `part` in `folder`; its result.

    A row whose loss diverges is kept as such ("state"), with no predictions; it stops no other row.
    """
    if threads:
        torch.set_num_threads(threads)
    faces = prepare_faces(config, SELECTION if part == "validation" else (*SELECTION, part))
    place = folder / settings_digest(config, faces.split)
    result = place.with_suffix(".json")
    if not result.exists():
        facts = {"row": name, "seed": config.seed, "epochs": config.epochs, "device": hardware()["card"] or "CPU"}
        try:
            history = train_faces(faces, place)
        except FloatingPointError:
            paths.write_json(result, facts | {"state": "diverged"})
            return facts | {"state": "diverged"}
        best = load_model(place / "best.safetensors")
        readings: dict[str, dict[str, Any]] = {name: {}} | (DECODINGS if name == "base" else {})
        tables = []
        for reading, change in readings.items():
            seen = dataclasses.replace(faces, config=dataclasses.replace(config, **change))
            best.head.decode = seen.config.decode
            choose_decoding(best, seen, WITHIN)
            table = predictions_of(best, seen, part).rename(columns={"prediction": "balanced"})
            plain = table["plain"] if "plain" in table else table["balanced"]  # tau 0, or no distribution
            tables.append(table[["name", "age", "balanced"]].assign(row=reading, plain=plain))
        paths.write_atomically(place.with_suffix(".csv"), pd.concat(tables).to_csv(index=False))
        seconds = round(float(history["seconds"].sum()), 1)
        paths.write_json(result, facts | {"state": "complete", "seconds": seconds})
        shutil.rmtree(place, ignore_errors=True)
    return json.loads(result.read_text()) | {"file": place.with_suffix(".csv")}


def ablate(config: Config, record: Path, table: Table, workers: int = 0) -> pd.DataFrame:
    """Train every row with every seed, skipping what is done, and compare them; leaves a record in the folder `record`.

    Parameters
    ----------
    config : Config
        The recipe; `Table.budgeted` makes the base of it.
    record : Path
        The folder above it keeps what is done: a second call, or another table, goes on where the first one stopped.
    table : Table
        "base" must be among its rows.
    workers : int
        Trainings at a time, one thread each; 0: as many as there are cores on a CPU, one on a GPU.

    Returns
    -------
    DataFrame
        The table `effects` of `compare`.
    """
    base, folder = table.budgeted(config), Path(record).parent
    folder.mkdir(parents=True, exist_ok=True)
    threads = 0 if pick_device(base).type == "cuda" else 1
    workers = workers or (os.cpu_count() or 1 if threads else 1)
    jobs = [(dataclasses.replace(base, seed=seed, **change), folder, name, threads, table.part)
            for seed in table.seeds for name, change in table.rows.items()]
    for setting in {setting.pixels_size: setting for setting, *_ in jobs}.values():
        prepare_faces(setting, SELECTION)  # decode once, before several processes ask for it
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            done = [future.result() for future in [pool.submit(train_row, *job) for job in jobs]]
        except BaseException:  # an interrupt too: what waits is not begun
            pool.shutdown(cancel_futures=True)
            raise
    faces = prepare_faces(base, (*SELECTION, table.part))
    measured = read_rows(done, faces.table)
    effects = compare(measured)
    seconds = sum(job.get("seconds", 0.0) for job in done)
    kept = {"tests": wide(done)} if table.part == "test" else {}
    write_record(record, circumstances(faces, seconds) | {
        "devices": sorted({job["device"] for job in done}),  # rows may come from several machines
        "rows": table.rows, "seeds": table.seeds, "workers": workers, "threads_each": threads or None,
        "diverged": [job["row"] for job in done if job["state"] == "diverged"],
    }, {"runs": measured.drop(columns="errors"), "effects": effects, **kept})
    return effects


def wide(done: list[dict[str, Any]]) -> pd.DataFrame:
    """Plain predictions (years, two decimals) of complete rows: name, age, and a column "row, seed" each."""
    tables = [pd.read_csv(job["file"]).query("row == @job['row']").set_index(["name", "age"])["plain"].rename(
        f"{job['row']}, {job['seed']}") for job in done if job["state"] == "complete"]
    return pd.concat(tables, axis=1).round(2).reset_index()


def read_rows(done: list[dict[str, Any]], labels: pd.DataFrame) -> pd.DataFrame:
    """One row a training and reading: row, seed, epochs, seconds, device, val_mae, val_cs5, balanced_mae, and errors.

    ``errors`` is a table: cluster, plain and balanced, in years, absolute; the latter times the picture's weight, by
    which its mean is that of the age bands' means.
    """
    rows = []
    for job in (job for job in done if job["state"] == "complete"):
        for name, table in add_clusters(pd.read_csv(job["file"]), labels).groupby("row", sort=False):
            plain, balanced = ((table[column] - table["age"]).abs() for column in ("plain", "balanced"))
            band = pd.Series(age_band(table["age"]).codes, table.index)
            weight = len(table) / band.nunique() / band.groupby(band).transform("size")
            rows.append({"row": name, **{key: job.get(key) for key in ("seed", "epochs", "seconds", "device")},
                         "val_mae": round(float(plain.mean()), 4), "val_cs5": round(float((plain <= 5).mean()), 4),
                         "balanced_mae": round(float((weight * balanced).mean()), 4),
                         "errors": pd.DataFrame({"cluster": table["cluster"], "plain": plain,
                                                 "balanced": weight * balanced}).reset_index(drop=True)})
    return pd.DataFrame(rows)


def compare(measured: pd.DataFrame) -> pd.DataFrame:
    """Each row against "base": means over seeds, differences of them and their 95 % confidence intervals.

    The interval adds two parts. That of the pictures comes from a paired bootstrap of the difference, copies together.
    That of the seeds is estimated over all trained rows, since two seeds say little about one row (`seed_noise`). Rows
    that read the base's own networks another way are paired by seed; their noise is that of the differences. All rows
    share the base's runs: if these were lucky or unlucky, all differences are shifted together.

    Returns
    -------
    DataFrame
        row, runs, epochs, seconds (of one training), val_cs5 (a share), and in years, of the plain decoding, val_mae,
        difference, low, high (negative: better than the base), seed_sd (the same in each trained row), and of the
        decoding that was chosen for rare ages (`training.decoding`) balanced_mae, balanced_difference, ...
    """
    by_row = {str(name): part.sort_values("seed") for name, part in measured.groupby("row", sort=False)}
    if "base" not in by_row:
        raise ValueError("the base of the ablation is missing or diverged; a lower lr in BASE usually helps")
    rows = []
    for name, part in by_row.items():
        row = {"row": name, "runs": len(part), "epochs": part["epochs"].iloc[0],
               "seconds": round(part["seconds"].mean(), 1), "val_cs5": part["val_cs5"].mean()}
        for column, measure, prefix in (("plain", "val_mae", ""), ("balanced", "balanced_mae", "balanced_")):
            found = _against_base(by_row, name, column)
            row |= {measure: found.pop("mean")} | {f"{prefix}{key}": value for key, value in found.items()}
        rows.append(row)
    return pd.DataFrame(rows).round(4)


def _against_base(by_row: dict[str, pd.DataFrame], name: str, column: str) -> dict[str, float]:
    """Mean of a row, its difference to the base with the ends of its interval, and the noise of seeds, in years."""
    errors = {row: np.stack([table[column] for table in part["errors"]]) for row, part in by_row.items()}
    base, own, reading = errors["base"], errors[name], name in DECODINGS
    difference = confidence_interval(own.mean(axis=0) - base.mean(axis=0),
                                     clusters=by_row["base"]["errors"].iloc[0]["cluster"])
    means = [error.mean(axis=1) - (base.mean(axis=1) if reading else 0)
             for row, error in errors.items() if (row in DECODINGS) == reading]
    noise, freedom = seed_noise(means)
    of_seeds = 0.0 if name == "base" else noise**2 * (1 / len(own) + (0 if reading else 1 / len(base)))
    half = (((difference.high - difference.low) / 2) ** 2 + stats.t.ppf(0.975, freedom) ** 2 * of_seeds) ** 0.5
    return {"mean": float(own.mean()), "difference": difference.value, "low": difference.value - half,
            "high": difference.value + half, "seed_sd": noise}
