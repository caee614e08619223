"""Command line: index, download, train, grid, records, predict, results. The notebooks call the same functions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from agehelpers import paths


def parser() -> argparse.ArgumentParser:
    """The arguments of every command."""
    main = argparse.ArgumentParser("agehelpers", description=__doc__)
    commands = main.add_subparsers(dest="command", required=True)

    index = commands.add_parser("index", help="table of what is in a folder of pictures, and what is wrong with it")
    index.add_argument("folder", type=Path)
    index.add_argument("--out", type=Path, required=True, help="CSV to write")

    download = commands.add_parser("download", help="fetch UTKFace from Kaggle")
    download.add_argument("--to", type=Path, default=paths.data_folder() / "UTKFace")

    for name, text in (("train", "train a profile and leave a record"), ("grid", "search a profile's grid")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--profile", help="ci, laptop, gpu or reference; by default what fits this machine")
        command.add_argument("--faces", help="folder of pictures named as UTKFace's")
        command.add_argument("--record", help="keep the result as data/records/RECORD")
        command.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings")
        command.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
        if name == "grid":
            command.add_argument("--cells", type=int, default=0, help="stop after this many cells (0: all)")

    predict = commands.add_parser("predict", help="age of faces already cropped as UTKFace's")
    predict.add_argument("crops", nargs="+", type=Path, metavar="CROP")
    predict.add_argument("--checkpoint", type=Path, help="best.safetensors of a run; default: the packaged weights")

    records = commands.add_parser("records", help="make the committed records that are missing; they stand in a plan")
    records.add_argument("--list", action="store_true", help="only show the plan: what stands, what can be made here")
    records.add_argument("--all", action="store_true", help="also further splits, which only narrow the intervals")
    records.add_argument("--only", nargs="+", default=[], metavar="RECORD", help="only these")

    results = commands.add_parser("results", help="write the README's results block and figure from the records")
    results.add_argument("--figure", default="laptop_holdout", help="record that the figure shows")
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if all went well, 1 after an error that the user can mend (said in one line)."""
    options = parser().parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"agehelpers {options.command}: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        print(f"agehelpers {options.command}: the card is out of memory; use a smaller batch_size", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The last checkpoint is kept: the same command goes on (train and grid with --resume).",
              file=sys.stderr)
        return 130


def _index(options: argparse.Namespace) -> int:
    from agehelpers.index import build_index, report, write_index

    table = build_index(options.folder)
    write_index(table, options.out)
    print(report(table).to_string(index=False))
    print(f"{len(table)} rows written to {options.out}")
    return 0


def _download(options: argparse.Namespace) -> int:
    from agehelpers.download import download

    print(f"UTKFace is in {download(options.to)}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from agehelpers import runs
    from agehelpers.config import choose_profile

    config, why = choose_profile(options.profile, **_overrides(options))
    if options.record:
        runs.check_record_name(options.record)
    folder = runs.run_folder(config)
    print(why, f"Run: {paths.relative(folder)}", sep="\n")
    if (folder / "last.safetensors").exists() and not options.resume:
        raise FileExistsError(f"{folder} holds a run with these settings: add --resume to go on, or remove the folder")
    done = runs.run(config, folder, options.resume)
    for part, rows in done.predictions.groupby("part", sort=False):
        print(f"{part:>10}: MAE {(rows['prediction'] - rows['age']).abs().mean():.3f} years on {len(rows)} pictures")
    if options.record:
        print(f"Record: {paths.relative(runs.save_record(folder, options.record))}")
    return 0


def _grid(options: argparse.Namespace) -> int:
    from agehelpers import grid, runs
    from agehelpers.config import choose_profile

    config, why = choose_profile(options.profile, **_overrides(options))
    if options.record:
        runs.check_record_name(options.record)
    folder = grid.grid_folder(config)
    print(why, f"Grid: {paths.relative(folder)}", sep="\n")
    if grid.journal(folder).exists() and not options.resume:
        raise FileExistsError(f"{folder} holds a grid with these settings: add --resume to go on, or remove the folder")
    table = grid.search(config, folder, options.cells)
    print(table.to_string(index=False))
    if options.record and not grid.is_complete(config, table):
        print("The grid is not complete: no record was kept. Go on with --resume.")
    elif options.record:
        print(f"Record: {paths.relative(runs.save_record(folder, options.record, grid.FILES))}")
    return 0


def _overrides(options: argparse.Namespace) -> dict[str, str]:
    from agehelpers.config import parse_settings

    settings = parse_settings(options.settings)
    return settings | ({"faces": options.faces} if options.faces else {})


def _predict(options: argparse.Namespace) -> int:
    from agehelpers.records import PACKAGED
    from agehelpers.runs import predict_crops

    print(predict_crops(options.checkpoint or PACKAGED, options.crops).to_string(index=False))
    return 0


def _records(options: argparse.Namespace) -> int:
    from agehelpers.records import make_all, overview

    if options.list:
        print(overview(options.all).to_string(index=False))
        return 0
    return 1 if make_all(options.all, options.only) else 0


def _results(options: argparse.Namespace) -> int:
    from agehelpers.results import update

    update(paths.ROOT / "README.md", options.figure)
    print("README.md, docs/ (figures, error_by_group.md), data/suspected_labels.csv and the model card written")
    return 0


COMMANDS = {"index": _index, "download": _download, "train": _train, "grid": _grid, "records": _records,
            "predict": _predict, "results": _results}

if __name__ == "__main__":
    sys.exit(main())
