"""How fast it is: the usual way and ours, side by side in one run, on the CPU and on a GPU if there is one.

``make benchmark`` runs the short parts; `--parts` names others. Leave the machine alone meanwhile. Results go to
runs/benchmark (results.csv, config.json); `--record NAME` keeps them in benchmarks/records, nothing is overwritten.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import growth
import pandas as pd
import short
import torch
import trials
from measuring import CORES, Bench, Row

from agehelpers import paths
from agehelpers.config import load_config
from agehelpers.devices import hardware, pick_precision

RECORDS = Path(__file__).resolve().parent / "records"
PARTS: dict[str, Callable[[Bench], None]] = {**short.PARTS, **trials.PARTS, **growth.PARTS}
PROFILES = {"cpu": "scratch", "cuda": "gpu"}
QUICK: dict[str, Any] = {"backbone": "tiny", "epochs": 1, "limit": 100, "batch_size": 8}


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(short.PARTS), metavar="PART",
                        help=f"{', '.join(PARTS)}; by default without the last {len(PARTS) - len(short.PARTS)}")
    parser.add_argument("--devices", nargs="+", choices=list(PROFILES), default=list(PROFILES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tiny network, few pictures: a trial, no measurement")
    parser.add_argument("--record", help="keep the results under this name in benchmarks/records")
    chosen = parser.parse_args(arguments)
    if chosen.record and (RECORDS / chosen.record).exists():
        parser.error(f"{RECORDS / chosen.record} exists; choose another name, or remove it")
    return chosen


def facts(chosen: argparse.Namespace, devices: list[str], minutes: float) -> dict[str, Any]:
    """What config.json says of a run: how it was measured, on what, at which commit, with which versions."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=RECORDS, capture_output=True,
                            text=True).stdout.strip() if shutil.which("git") else ""
    precisions = {name: pick_precision(load_config(PROFILES[name], {"device": name}), torch.device(name))
                  for name in devices}
    return {
        "parts": chosen.parts, "devices": devices, "repeats": chosen.repeats, "quick": chosen.quick,
        "faces": "named or in data/UTKFace" if paths.utkface_folder() else "drawn", "minutes": round(minutes, 1),
        "precision": {name: str(dtype).removeprefix("torch.") for name, dtype in precisions.items()},
        "commit": commit, "race_minutes": trials.RACE_MINUTES, "hardware": hardware(),
        "versions": paths.versions((*paths.PACKAGES, "opencv-python-headless"))}


def main(arguments: list[str] | None = None) -> None:
    """Measure the chosen parts on every device that is there."""
    chosen, rows, started = parsed(arguments), list[Row](), time.perf_counter()
    out = paths.runs_folder() / "benchmark"
    torch.set_num_threads(CORES)
    devices = [name for name in chosen.devices if name == "cpu" or torch.cuda.is_available()]
    for name in devices:
        for part in chosen.parts:
            print(f"{part} ({name})", flush=True)
            with tempfile.TemporaryDirectory() as place:
                bench = Bench(PROFILES[name], torch.device(name), chosen.repeats, Path(place), part=part, rows=rows)
                quick = dataclasses.replace(bench, repeats=2, share=0.02, settings=QUICK)
                PARTS[part](quick if chosen.quick else bench)
            table = pd.DataFrame(rows).to_csv(index=False, float_format="%.6g")
            paths.write_atomically(out / "results.csv", table)  # after each part: a later one may fail
    paths.write_json(out / "config.json", facts(chosen, devices, (time.perf_counter() - started) / 60))
    print(f"Results: {out}")
    if chosen.record:
        shutil.copytree(out, RECORDS / chosen.record)


if __name__ == "__main__":
    main()
