"""Command line: index, download, train, grid, methods, predict. The notebooks call the same functions."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agehelpers import config as settings
from agehelpers import paths


def settings_help() -> str:
    """Every setting that --set takes, with its default and its meaning, by group."""
    lines = ["settings for --set KEY=VALUE, with their defaults (a profile has its own values for some):"]
    groups: tuple[Any, ...] = (settings.DataSettings, settings.AugmentationSettings, settings.MethodSettings,
                               settings.LoopSettings)
    for group in groups:
        lines += ["", f"{group.__name__}: {group.__doc__.strip()}"]
        for name, field in group.__pydantic_fields__.items():
            lines.append(f"  {name + '=' + str(field.default).lower():<26}{field.description}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The arguments of every command."""
    main = argparse.ArgumentParser("agehelpers", description=__doc__)
    commands = main.add_subparsers(dest="command", required=True)

    index = commands.add_parser("index", help="label table of a folder of pictures, and what is wrong with it")
    index.add_argument("folder", type=Path, help="or a CSV with columns path, age and, if you like, subgroups")
    index.add_argument("--out", type=Path, required=True, help="CSV to write")

    download = commands.add_parser("download", help="fetch UTKFace from Kaggle")
    download.add_argument("--to", type=Path, default=paths.data_folder() / "UTKFace")

    for name, text in (("train", "train a profile and leave a record"), ("grid", "search a profile's grid")):
        command = commands.add_parser(name, help=text, epilog=settings_help(),
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
        command.add_argument("--profile", help=f"{', '.join(settings.PROFILES)}; by default what fits this machine")
        command.add_argument("--method", help="a row of METHODS: its backbone, head and settings")
        command.add_argument("--faces", help="folder of pictures named as UTKFace's, or a CSV with columns path, age")
        command.add_argument("--record", help="keep the result under this name in the folder of records")
        command.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings")
        command.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
        if name == "train":
            command.add_argument("--aligner", action="store_true", help="also learn the crop of the training pictures, "
                                 "by which `predict` aligns whole photos (some minutes)")
        if name == "grid":
            command.add_argument("--cells", type=int, default=0, help="stop after this many cells (0: all)")
            command.add_argument("--storage", metavar="URL", help="a database by which workers share the cells")

    methods = commands.add_parser("methods", help="every method: its source, network, head and cost")
    methods.add_argument("--size", type=int, default=64, help="side of the pictures that the cost is counted for")

    predict = commands.add_parser("predict", help="ages of the faces in photos")
    predict.add_argument("photos", nargs="+", type=Path, metavar="PHOTO_OR_FOLDER")
    predict.add_argument("--crops", action="store_true", help="the pictures are faces cropped as UTKFace's already")
    predict.add_argument("--out", type=Path, help="write the table to this .csv or .json, too")
    predict.add_argument("--annotate", type=Path, metavar="FOLDER", help="draw squares and ages into copies there")
    predict.add_argument("--checkpoint", type=Path,
                         help="best.safetensors of a run, or a folder of `export`; default: the packaged weights")
    report = commands.add_parser("report", help="one HTML page of a run or record: errors, subgroups, intervals")
    report.add_argument("run", help="folder of a finished run, or the name of a record")
    report.add_argument("--out", type=Path, help="file to write; by default RUN.html here")
    export = commands.add_parser("export", help="the networks as ONNX files, which are read without PyTorch")
    export.add_argument("--checkpoint", type=Path, help="best.safetensors of a run; default: the packaged weights")
    export.add_argument("--out", type=Path, required=True, help="folder for age.onnx and aligner.onnx")
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if all went well, 1 after an error that the user can mend (said in one line)."""
    options = parser().parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except (OSError, ValueError, FloatingPointError, ImportError) as error:
        print(f"agehelpers {options.command}: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        print(f"agehelpers {options.command}: the GPU is out of memory; use a smaller batch_size", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = " What a checkpoint holds is kept: the same command goes on with --resume."
        print("\nInterrupted." + (kept if options.command in ("train", "grid") else ""), file=sys.stderr)
        return 130


def _index(options: argparse.Namespace) -> int:
    from agehelpers.data.labels import build_labels, report, write_labels

    if options.out.resolve() == options.folder.resolve():
        raise ValueError(f"--out {options.out} would replace the table that is read; choose another name")
    table = build_labels(options.folder)
    write_labels(table, options.out)
    print(report(table).to_string(index=False))
    print(f"{len(table)} rows written to {options.out}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from agehelpers.html_report import report
    from agehelpers.training.records import load_record, read_record

    folder = Path(options.run).resolve() if Path(options.run).is_dir() else paths.records_folder() / options.run
    record = read_record(folder) if folder.is_dir() else load_record(options.run)
    out = options.out or Path(f"{record.name}.html")
    with paths.reading(folder, "restore this record, or make it anew"):
        page = report(record)
    print(f"written: {paths.write_atomically(out, page)}")
    return 0


def _download(options: argparse.Namespace) -> int:
    from agehelpers.data.download import download

    print(f"UTKFace is in {download(options.to)}")
    return 0


def _configured(options: argparse.Namespace) -> settings.Config:
    """The configuration that train and grid share; says which and why. The record's name is checked first."""
    from agehelpers.methods.backbones import package_file
    from agehelpers.methods.table import method_settings
    from agehelpers.training.records import check_record_name

    overrides = settings.parse_settings(options.settings) | ({"faces": options.faces} if options.faces else {})
    method = method_settings(options.method) if options.method else None
    config, why = settings.choose_profile(options.profile, method, **overrides)
    if config.weights == "imagenet-pip":
        package_file(config.backbone)  # said now, not after the pictures are indexed
    if options.record:
        check_record_name(options.record)
    print(why)
    return config


def _refuse_unasked_resume(folder: Path, file: str, options: argparse.Namespace) -> None:
    if options.resume and not (folder / file).exists():
        print("There is nothing to resume; it starts.")
    if (folder / file).exists() and not options.resume:
        raise FileExistsError(f"{folder} holds a {options.command} with these settings: add --resume to go on, or "
                              "remove the folder")


def _train(options: argparse.Namespace) -> int:
    from agehelpers.training.together import processes

    with processes():
        return _train_here(options)


def _train_here(options: argparse.Namespace) -> int:
    from agehelpers.devices import world
    from agehelpers.training import records, runs, together

    config = _configured(options)
    folder = together.first_alone(lambda: runs.run_folder(config))
    print(f"Run: {paths.relative(folder)}")
    _refuse_unasked_resume(folder, "last.safetensors", options)
    done = runs.run(config, folder, options.resume)
    if world()[0]:  # the first of several processes does the rest
        return 0
    if options.aligner:
        from agehelpers.photos.align import make_aligner

        print(f"Aligner: {paths.relative(make_aligner(config, folder))}")
    for part, rows in done.predictions.groupby("part", sort=False):
        print(f"{part:>11}: MAE {(rows['prediction'] - rows['age']).abs().mean():.3f} years on {len(rows)} pictures")
    if options.record:
        print(f"Record: {paths.relative(records.save_record(folder, options.record))}")
    return 0


def _grid(options: argparse.Namespace) -> int:
    from agehelpers.training import grid, records

    config = _configured(options)
    folder = grid.grid_folder(config)
    print(f"Grid: {paths.relative(folder)}")
    _refuse_unasked_resume(folder, grid.JOURNAL, options)
    table = grid.search(config, folder, options.cells, storage=options.storage)
    print(table.to_string(index=False))
    if options.record and grid.to_do(grid.grid_of(config), table):
        print("The grid is not complete: no record was kept. Go on with --resume.")
    elif options.record:
        print(f"Record: {paths.relative(records.save_record(folder, options.record))}")
    return 0


def _methods(options: argparse.Namespace) -> int:
    from agehelpers.methods.cost import overview

    table = overview(options.size)
    for name, source, cited in table[["method", "source", "cited"]].itertuples(index=False):
        print(f"{name}: {source}" + (f" [cited as {cited}]" if cited else ""))
    print(f"\nParameters and multiply-adds in millions, of one picture of {options.size} px:")
    print((table[["method", "network", "head"]].assign(
        parameters=(table["parameters"] / 1e6).round(2), multiply_adds=(table["multiply_adds"] / 1e6).round(0)))
        .to_string(index=False))
    return 0


def _predict(options: argparse.Namespace) -> int:
    import pandas as pd

    from agehelpers.photos import batch
    from agehelpers.photos.onnx import OnnxEstimator
    from agehelpers.photos.reader import PhotoReader
    from agehelpers.training.progress import progress_bar

    if options.out and options.out.suffix not in (".csv", ".json"):
        raise ValueError(f"--out {options.out}: name a file that ends in .csv or .json")
    files = batch.photo_files(options.photos)
    if options.checkpoint and options.checkpoint.is_dir():
        estimator: PhotoReader = OnnxEstimator(options.checkpoint)
    else:
        from agehelpers.photos.estimator import PACKAGED, Estimator

        estimator = Estimator(options.checkpoint or PACKAGED)
    tables: list[pd.DataFrame] = []
    try:
        with progress_bar(len(files)) as bar:
            for table in batch.predict_photos(estimator, files, options.crops, options.annotate):
                tables.append(table)
                bar.update()
    finally:  # what there is stays, whatever stopped the rest
        if tables and options.out:
            batch.write_table(pd.concat(tables, ignore_index=True), options.out)
        if len(tables) < len(files):
            print(f"agehelpers predict: stopped after {len(tables)} of {len(files)} files", file=sys.stderr)
    found = pd.concat(tables, ignore_index=True)
    hidden = (["face", "x", "y", "side", "turn"] if options.crops else []) + ["reason"] * (not found["reason"].any())
    shown = found.assign(photo=["".join(one if one.isprintable() else "?" for one in name) for name in found["photo"]])
    print(shown.drop(columns=hidden).to_string(index=False, na_rep=""))
    return int((found["face"].isna() & (found["reason"] != "no face found")).any())  # 1: a file could not be read


def _export(options: argparse.Namespace) -> int:
    from agehelpers.photos.estimator import PACKAGED
    from agehelpers.photos.onnx import export

    for file in export(options.checkpoint or PACKAGED, options.out):
        print(f"{paths.relative(file)}: {file.stat().st_size / 1e6:.1f} MB")
    return 0


COMMANDS = {"index": _index, "download": _download, "train": _train, "grid": _grid, "methods": _methods,
            "predict": _predict, "export": _export, "report": _report}

if __name__ == "__main__":
    sys.exit(main())
