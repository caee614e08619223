"""All committed records in one plan: what each is, how long it takes, and how to make those that are missing.

    python -m tools.plan [--list] [--all] [--only RECORD ...]
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from agehelpers import paths
from agehelpers.config import Config, config_from_dict, differing_settings, load_config
from agehelpers.data.faces import PARTS, prepare_faces
from agehelpers.photos.estimator import PACKAGED
from agehelpers.training import calibration, checkpoints, grid, records, runs
from tools import ablation, methods


@dataclass(frozen=True)
class Planned:
    """One record to be. Records of one `family` are the same recipe on other splits or seeds, quoted as a mean.

    `kind` is "train", "grid", "ablation" or "package". `minutes` is an estimate: for one core of a recent server
    (two for the ablation), or, not measured yet, for one H100 where the profile is "gpu" or "reference". `first` is
    False for further splits, which `make records` leaves out unless asked.
    """

    family: str
    kind: str
    profile: str
    minutes: int
    settings: dict[str, Any] = field(default_factory=dict)
    number: int | None = None
    first: bool = True
    grid: str | None = None  # record of a grid whose winner gives lr, weight_decay and momentum

    @property
    def name(self) -> str:
        """Folder of the record in data/records."""
        return self.family if self.number is None else f"{self.family}_{self.number}"

    def config(self) -> Config:
        """Its settings; FileNotFoundError where they come from a grid that has no record yet."""
        winner = grid.best_cell(records.load_record(self.grid).tables["grid"]) if self.grid else {}
        return load_config(self.profile, {**self.settings, **winner})

    def recorded(self) -> Config:
        """The settings that its record has to name."""
        config = self.config()
        if self.kind == "grid":
            return grid.budgeted(config)
        return table_of(self.name).budgeted(config) if self.kind == "ablation" else config


def _family(family: str, profile: str, minutes: int, settings: dict[str, Any], splits: int = 0,
            grid: str | None = None) -> Iterator[Planned]:
    """One recipe with two seeds, or on the benchmark's five splits, whose first `splits` belong to `make records`."""
    for number in range(5 if splits else 2):
        changed = {"protocol": "benchmark", "split_seed": number} if splits else {"seed": number}
        yield Planned(family, "train", profile, minutes, settings | changed, number, number < (splits or 2), grid)


_SCRATCH = {"weights": None, "epochs": 60, "grow_from": 128}
PLAN: tuple[Planned, ...] = (
    Planned("start_grid", "grid", "start", 60),
    *_family("start_printed", "start", 45, {}),
    *_family("start_tuned", "start", 45, {}, grid="start_grid"),
    Planned("laptop_ablation", "ablation", "laptop", 160),
    Planned("laptop_balance", "ablation", "laptop", 100),
    *_family("laptop_lite0", "laptop", 45, {"backbone": "timm/tf_efficientnet_lite0"}),
    *_family("laptop_holdout", "laptop", 60, {}),
    Planned("laptop_packaged", "package", "laptop", 1),
    *_family("laptop_benchmark", "laptop", 50, {}, 3),
    *_family("laptop_coral", "laptop", 40, {"protocol": "coral"}),
    Planned("scratch_grid", "grid", "scratch", 4),
    Planned("scratch_holdout", "train", "scratch", 33),
    *_family("scratch_benchmark", "scratch", 30, {}, 1),
    Planned("scratch_coral", "train", "scratch", 22, {"protocol": "coral"}, first=False),
    Planned("scratch_coral_published", "train", "scratch", 22, {"protocol": "coral_published"}, first=False),
    Planned("methods_rates", "ablation", "laptop", 200),
    Planned("methods_heads", "ablation", "laptop", 400),
    Planned("methods_networks", "ablation", "gpu", 10),
    Planned("reference_scratch", "train", "reference", 5, {"weights": None}),
    Planned("gpu_scratch", "train", "gpu", 4, {"weights": None, "grow_from": 128, "lr": 0.1, "weight_decay": 5e-4}),
    Planned("gpu_grid", "grid", "gpu", 15, {"weights": None}),
    *_family("gpu_benchmark", "gpu", 15, _SCRATCH, 5, "gpu_grid"),
    Planned("gpu_holdout", "train", "gpu", 15, _SCRATCH, grid="gpu_grid"),
    Planned("gpu_coral", "train", "gpu", 12, _SCRATCH | {"protocol": "coral"}, grid="gpu_grid"),
    *_family("gpu_imagenet_benchmark", "gpu", 15, {}, 5),
    Planned("gpu_imagenet_holdout", "train", "gpu", 15),
    Planned("gpu_imagenet_coral", "train", "gpu", 12, {"protocol": "coral"}),
    Planned("reference_holdout", "train", "reference", 15),
)


def table_of(name: str) -> ablation.Table:
    """The rows of a record of kind "ablation"; FileNotFoundError where they depend on a record that is not there."""
    return ablation.TABLES[name] if name in ablation.TABLES else methods.TABLES[name]()


def state(planned: Planned) -> str:
    """"made", "made with other settings", "to do", or what this machine lacks for it."""
    file = paths.records_folder() / planned.name / "config.json"
    if file.is_file():
        return "made" if _is_as_planned(planned, json.loads(file.read_text())) else "made with other settings"
    if paths.utkface_folder() is None:
        return "needs UTKFace"
    if planned.profile in ("gpu", "reference") and not torch.cuda.is_available():
        return "needs a CUDA GPU"
    if planned.profile in ("laptop", "scratch", "start") and torch.cuda.is_available():
        return "is of a CPU: hide the GPU with CUDA_VISIBLE_DEVICES="
    return "to do"


def _is_as_planned(planned: Planned, facts: dict[str, Any]) -> bool:
    try:
        same = not differing_settings(planned.recorded(), config_from_dict(facts["config"]))
    except (FileNotFoundError, KeyError, ValueError):  # the settings' grid is gone; settings missing or unknown
        return False
    whole = planned.kind not in ("train", "package") or set(records.RUN_FACTS) <= set(facts)
    same_rows = planned.kind != "ablation" or facts.get("rows") == table_of(planned.name).rows
    same_budget = planned.kind != "grid" or facts.get("short") == grid.SHORT[planned.profile]
    return same and whole and same_rows and same_budget


def overview(everything: bool = False) -> pd.DataFrame:
    """Columns record, kind, profile, minutes (estimate), state; `everything`: the further splits too."""
    return pd.DataFrame([(p.name, p.kind, p.profile, p.minutes, state(p)) for p in PLAN if p.first or everything],
                        columns=["record", "kind", "profile", "minutes", "state"])


def make(planned: Planned, say: Callable[[str], None] = print) -> Path:
    """Make one record, going on where an interrupted run stopped; its folder."""
    records.check_record_name(planned.name)
    config = planned.config()
    if planned.kind == "grid":
        folder = grid.grid_folder(config)
        grid.search(config, folder)
    elif planned.kind == "ablation":
        folder = paths.runs_folder() / "ablation" / planned.name
        ablation.ablate(config, folder, table_of(planned.name))
    elif planned.kind == "package":
        folder = package(config, PACKAGED)
    else:
        folder = runs.run_folder(config)
        runs.run(config, folder, resume=True)
    say(f"{planned.name}: {paths.relative(folder)}")
    return records.save_record(folder, planned.name)


def make_all(everything: bool = False, only: Sequence[str] = (), say: Callable[[str], None] = print) -> list[str]:
    """Make all records of the plan (or `only` these) that can be made here; names of those that failed.

    One failure stops no other record. ValueError for a name that is not in the plan.
    """
    if unknown := sorted(set(only) - {planned.name for planned in PLAN}):
        raise ValueError(f"no record {', '.join(unknown)} is planned; see `python -m tools.plan --list --all`")
    table = overview(everything or len(only) > 0)
    table = table[table["record"].isin(only)] if only else table
    say(table.to_string(index=False))
    left = table[table["state"] == "to do"]
    say(f"{len(left)} to make, about {left['minutes'].sum()} minutes; interrupt at any time, the next call goes on.")
    failed = []
    for planned in (p for p in PLAN if p.name in set(left["record"])):
        try:
            make(planned, say)
        except (OSError, ValueError, FloatingPointError, RuntimeError) as error:  # a full GPU is a RuntimeError
            failed.append(planned.name)
            say(f"{planned.name}: not made. {error}")
    return failed


def package(config: Config, target: Path) -> Path:
    """Weights of the finished run of `config` in half precision at `target`, and a run folder with their own record.

    They are loaded back and predict calibration and test as `Estimator` computes: intervals and record are theirs,
    not those of the run. FileNotFoundError where the run is not finished, FileExistsError where `target` holds other
    weights.
    """
    source = runs.run_folder(config)
    if not (source / "config.json").is_file():
        raise FileNotFoundError(f"{source}: no finished run to package; `python -m agehelpers train --profile "
                                f"{config.profile} --resume` makes it")
    record = records.read_record(source)
    _, kept = checkpoints.load_checkpoint(source / "best.safetensors")
    halves = checkpoints.slim_tensors(checkpoints.load_model(source / "best.safetensors"))
    kept |= {"slim": True, "config": kept["config"] | {"auxiliary": 0.0}}
    if target.exists():
        there = checkpoints.load_checkpoint(target)[0]
        if there.keys() != halves.keys() or not all(torch.equal(there[key], halves[key]) for key in halves):
            raise FileExistsError(f"{target} holds other weights; remove it to package these")
    folder = source.with_name(f"{source.name}-packaged")
    checkpoints.save_checkpoint(folder / "halves.safetensors", halves, kept)
    faces = prepare_faces(replace(config, precision="fp32"))
    model = checkpoints.load_model(folder / "halves.safetensors")
    predictions = pd.concat([runs.predictions_of(model, faces, part) for part in PARTS[2:]], ignore_index=True)
    intervals = calibration.interval_facts(predictions)
    checkpoints.save_checkpoint(target, halves, kept | {"intervals": intervals})
    (folder / "halves.safetensors").unlink()
    errors = {key: record.facts.get(key, {}) | parts for key, parts in runs.errors_by_part(predictions).items()}
    return records.write_record(folder, record.facts | errors | {
        "config": asdict(config), "intervals": intervals,
        "weights": {"file": paths.relative(target), "bytes": target.stat().st_size, "precision": "float16",
                    "sha256": hashlib.sha256(target.read_bytes()).hexdigest(), "predicted_in": "float32"}},
        {"predictions": predictions, "history": record.history})


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the plan or make what is missing; 1 where a record could not be made."""
    parser = argparse.ArgumentParser("tools.plan", description="make the committed records that are missing")
    parser.add_argument("--list", action="store_true", help="only show the plan: what is made, what can be made here")
    parser.add_argument("--all", action="store_true", help="also further splits, which only narrow the intervals")
    parser.add_argument("--only", nargs="+", default=[], metavar="RECORD", help="only these")
    options = parser.parse_args(arguments)
    if options.list:
        print(overview(options.all).to_string(index=False))
        return 0
    try:
        return 1 if make_all(options.all, options.only) else 0
    except ValueError as error:
        print(f"tools.plan: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
