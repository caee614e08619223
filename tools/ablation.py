"""What each part of the recipe is worth: short trainings that differ from a base in one thing, judged on validation.

Test pictures are not read: only training and validation are prepared.
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
from agehelpers.data.faces import SELECTION, prepare_faces
from agehelpers.devices import pick_device
from agehelpers.evaluation.bootstrap import confidence_interval
from agehelpers.evaluation.tables import add_clusters
from agehelpers.training.checkpoints import load_model
from agehelpers.training.records import circumstances, write_record
from agehelpers.training.runs import predictions_of, settings_digest, train_faces

# The base: everything that a row changes has its value here, so that the table does not move when the profile takes
# over what it shows. Pictures come from `selection`: no test of the protocols' first splits is among them.
BASE: dict[str, Any] = {
    "protocol": "selection", "limit": 0, "image_size": 40, "grow_from": None, "epochs": 3, "evaluate_every": 100,
    "batch_size": 64, "flip": True, "rotation": 8.0, "scale": 0.08, "shift": 0.04, "brightness": 0.1, "contrast": 0.1,
    "erase": 0.0, "augment_from": 1.0, "mixup": 0.0, "conflicts": "keep", "backbone": "resnet14",
    "head": "distribution", "sigma": 2.0, "l1_weight": 0.1, "decode": "median", "flip_average": True,
    "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "one_cycle", "warmup": 0.3,
    "ema": 0.99}
_MIRROR = {"rotation": 0.0, "scale": 0.0, "shift": 0.0, "brightness": 0.0, "contrast": 0.0}
_TWICE = {"rotation": 16.0, "scale": 0.16, "shift": 0.08, "brightness": 0.2, "contrast": 0.2}
_LONG = {"epochs": 9}
ROWS: dict[str, dict[str, Any]] = {  # name -> what it changes of the base
    "base": {},
    "three times the epochs": _LONG,
    "three times the epochs, mirror image only": _LONG | _MIRROR,
    "three times the epochs, twice the augmentation": _LONG | _TWICE,
    "augmentation: mirror image only": _MIRROR,
    "augmentation: twice as strong": _TWICE,
    "64 pixels": {"image_size": 64},
    "growing from 32 to 64 pixels": {"image_size": 64, "grow_from": 32},
    "optimiser: AdamW (lr 0.002, weight decay 0.05)": {"optimizer": "adamw", "lr": 0.002, "weight_decay": 0.05},
    "schedule: constant rate": {"schedule": "constant"},
    "schedule: warm-up of a tenth": {"warmup": 0.1},
    "no running mean of the weights": {"ema": 0.0},
    "loss: L1 of one output (lr 0.02)": {"head": "regression", "lr": 0.02},
    "soft labels: almost none (sigma 0.3)": {"sigma": 0.3},
    "conflicting copies: at their median age": {"conflicts": "median"},
    "conflicting copies: dropped": {"conflicts": "drop"},
    "network: resnet18": {"backbone": "resnet18"},
    "network: mobilenet_v3_small at 80 pixels": {"backbone": "mobilenet_v3_small", "image_size": 80},
}
# Ways to read the predictions of the base's trained networks.
DECODINGS: dict[str, dict[str, Any]] = {
    "decoding: mean": {"decode": "mean"}, "no averaging over the mirror image": {"flip_average": False}}
ENSEMBLE = "ensemble of the base's seeds"


def budgeted(config: Config) -> Config:
    """The base of the table: `config` with the settings of `BASE`."""
    return dataclasses.replace(config, **BASE)


def train_row(config: Config, folder: Path, name: str, threads: int = 0) -> dict[str, Any]:
    """Train one row, from its checkpoint if there is one; keep its predictions on validation in `folder`; its result.

    A row whose loss diverges is kept as such ("state"), with no predictions; it stops no other row.
    """
    if threads:
        torch.set_num_threads(threads)
    faces = prepare_faces(config, SELECTION)
    place = folder / settings_digest(config, faces.split)
    result = place.with_suffix(".json")
    if not result.exists():
        facts = {"row": name, "seed": config.seed, "epochs": config.epochs}
        try:
            history = train_faces(faces, place)
        except FloatingPointError:
            paths.write_json(result, facts | {"state": "diverged"})
            return facts | {"state": "diverged"}
        best = load_model(place / "best.safetensors")
        table = faces.part("validation")[["name", "age"]].reset_index(drop=True)
        readings: dict[str, dict[str, Any]] = {name: {}} | (DECODINGS if name == "base" else {})
        for reading, change in readings.items():
            seen = dataclasses.replace(config, **change)
            best.head.decode = seen.decode
            table[reading] = predictions_of(best, dataclasses.replace(faces, config=seen), "validation")["prediction"]
        paths.write_atomically(place.with_suffix(".csv"), table.to_csv(index=False))
        seconds = round(float(history["seconds"].sum()), 1)
        paths.write_json(result, facts | {"state": "complete", "seconds": seconds})
        shutil.rmtree(place, ignore_errors=True)
    return json.loads(result.read_text()) | {"file": place.with_suffix(".csv")}


def ablate(config: Config, folder: Path, rows: dict[str, dict[str, Any]] | None = None, seeds: tuple[int, ...] = (0, 1),
           workers: int = 0) -> pd.DataFrame:
    """Train every row with every seed in `folder`, skipping what is done, and compare them; leaves a record there.

    Parameters
    ----------
    config : Config
        The recipe; `budgeted` makes the base of it.
    folder : Path
        Keeps what is done, so that a second call goes on where the first one stopped; the record is its folder record.
    rows : dict
        Name of a row -> settings that it changes, by default `ROWS`; "base" must be among them.
    workers : int
        Trainings at a time, one thread each; 0: as many as there are cores on a CPU, one on a GPU.

    Returns
    -------
    DataFrame
        The table `effects` of `compare`.
    """
    rows, base, folder = rows or ROWS, budgeted(config), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    threads = 0 if pick_device(base).type == "cuda" else 1
    workers = workers or (os.cpu_count() or 1 if threads else 1)
    jobs = [(dataclasses.replace(base, seed=seed, **change), folder, name, threads)
            for seed in seeds for name, change in rows.items()]
    for setting in {setting.pixels_size: setting for setting, *_ in jobs}.values():
        prepare_faces(setting, SELECTION)  # decode once, before several processes ask for it
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            done = [future.result() for future in [pool.submit(train_row, *job) for job in jobs]]
        except BaseException:  # an interrupt too: what waits is not begun
            pool.shutdown(cancel_futures=True)
            raise
    faces = prepare_faces(base, SELECTION)
    measured = read_rows(done, faces.table)
    effects = compare(measured)
    seconds = sum(job.get("seconds", 0.0) for job in done)
    write_record(folder / "record", circumstances(faces, seconds) | {
        "rows": rows, "seeds": seeds, "workers": workers, "threads_each": threads or None,
        "diverged": [job["row"] for job in done if job["state"] == "diverged"],
    }, {"runs": measured.drop(columns="error"), "effects": effects})
    return effects


def read_rows(done: list[dict[str, Any]], labels: pd.DataFrame) -> pd.DataFrame:
    """One row a training and reading: row, seed, epochs, seconds, val_mae, val_cs5, error (a table: cluster, error)."""
    rows = []
    for job in (job for job in done if job["state"] == "complete"):
        table = add_clusters(pd.read_csv(job["file"]), labels)
        for name in table.columns.drop(["name", "age", "cluster"]):
            error = table[name] - table["age"]
            rows.append({"row": name, "seed": job["seed"], "epochs": job["epochs"], "seconds": job["seconds"],
                         "val_mae": round(float(error.abs().mean()), 4),
                         "val_cs5": round(float((error.abs() <= 5).mean()), 4),
                         "error": pd.DataFrame({"cluster": table["cluster"], "error": error})})
    return pd.DataFrame(rows)


def compare(measured: pd.DataFrame) -> pd.DataFrame:
    """Each row against "base": mean over seeds, difference of the MAE and its 95 % confidence interval.

    The interval adds two parts. That of the pictures comes from a paired bootstrap of the difference, copies together.
    That of the seeds is pooled over all trained rows, since two seeds say little about one row, and takes Student's
    quantile. Rows that read the base's own networks another way are paired by seed; their variance is that of the
    differences, pooled over such rows. `ENSEMBLE` is the mean prediction of the base's networks. Its error cannot be
    above their mean error, so its interval (of the pictures alone) is no test of whether it pays. All rows share the
    base's runs: if these were lucky or unlucky, all differences are shifted together.

    Returns
    -------
    DataFrame
        row, runs, epochs, seconds (of one training; of both for the ensemble), val_mae (mean over seeds, years),
        val_cs5 (a share), difference, low, high (years; negative: better than the base), seed_sd (years, pooled, the
        same in each row).
    """
    by_row = {str(name): part.sort_values("seed") for name, part in measured.groupby("row", sort=False)}
    if "base" not in by_row:
        raise ValueError("the base of the ablation is missing or diverged; a lower lr in BASE usually helps")
    base, pooled = by_row["base"], _seed_variance(by_row, paired=False)
    base_error = np.abs(_errors(base)).mean(axis=0)
    cluster = base["error"].iloc[0]["cluster"]
    rows = []
    for name, part in [*by_row.items(), (ENSEMBLE, base)]:
        ensemble = name == ENSEMBLE
        error = np.abs(_errors(part).mean(axis=0, keepdims=True) if ensemble else _errors(part))
        difference = confidence_interval(error.mean(axis=0) - base_error, clusters=cluster)
        variance, freedom = _seed_variance(by_row, paired=True) if name in DECODINGS else pooled
        of_seeds = variance / len(part) if name in DECODINGS else variance * (1 / len(part) + 1 / len(base))
        if name == "base" or ensemble:
            of_seeds = 0.0
        half = (((difference.high - difference.low) / 2) ** 2
                + stats.t.ppf(0.975, max(1, freedom)) ** 2 * of_seeds) ** 0.5
        rows.append({"row": name, "runs": len(part), "epochs": part["epochs"].iloc[0],
                     "seconds": round(part["seconds"].sum() if ensemble else part["seconds"].mean(), 1),
                     "val_mae": error.mean(), "val_cs5": (error <= 5).mean(),
                     "difference": difference.value, "low": difference.value - half, "high": difference.value + half,
                     "seed_sd": pooled[0] ** 0.5})
    return pd.DataFrame(rows).round(4)


def _errors(part: pd.DataFrame) -> np.ndarray:
    """Errors in years of a row's runs, [runs, pictures]."""
    return np.stack([table["error"] for table in part["error"]])


def _seed_variance(by_row: dict[str, pd.DataFrame], paired: bool) -> tuple[float, int]:
    """Variance of the MAE over seeds and its degrees of freedom, pooled over the trained rows (NaN for one seed).

    `paired`: of the difference to the base, pooled over the `DECODINGS`.
    """
    rows = [part for name, part in by_row.items() if (name in DECODINGS) == paired]
    base = by_row["base"]["val_mae"].to_numpy()
    variances = [(part["val_mae"].to_numpy() - base if paired else part["val_mae"].to_numpy()).var(ddof=1)
                 if len(part) > 1 else np.nan for part in rows]
    return float(np.mean(variances)) if rows else 0.0, sum(len(part) - 1 for part in rows)
