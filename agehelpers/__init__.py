"""Age estimation from face pictures, from a folder of faces to a prediction with its error.

The way of the data, one room a step (each imports only from those above it):

    config      Config, PROFILES, load_config, choose_profile: every setting, and presets of them
    data        build_labels, prepare_faces, FaceDataset: folder -> label table -> split -> pixels -> batches
    methods     METHODS, build_model, AgeEstimationModel: backbone + head -> ages
    training    train, run, latest_run, load_record: loop, checkpoints, a run and its record, grid
    evaluation  errors, bootstrap, subgroups, intervals, age_limits, ...: predictions -> tables
    photos      Estimator: photos, or crops of faces -> ages
    plots       tables -> figures

The names below are the public interface, imported on first use: ``from agehelpers import load_config, prepare_faces``.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_WHERE = {
    "config": ("Config", "PROFILES", "choose_profile", "config_from_dict", "load_config"),
    "paths": ("data_folder", "records_folder", "versions"),
    "devices": ("pick_device", "pick_precision"),
    "data.names": ("ETHNICITIES", "GENDERS", "parse_name"),
    "data.decoder": ("PictureError", "decode", "open_picture"),
    "data.labels": ("build_labels", "conflicts", "identical_pairs", "label_error", "read_labels", "report",
                    "subgroup_columns", "usable", "utkface_labels", "write_labels"),
    "data.splits": ("PROTOCOLS", "leaks", "make_split", "naive_split", "split_hash"),
    "data.dataset": ("FaceDataset",),
    "data.faces": ("PARTS", "SELECTION", "Faces", "faces_folder", "faces_of", "prepare_faces"),
    "methods.heads": ("HEADS", "DistributionHead", "Head", "RegressionHead"),
    "methods.model": ("AgeEstimationModel", "build_model", "trace_shapes"),
    "methods.table": ("METHODS", "Method", "method_settings"),
    "training.loop": ("evaluate", "predict", "train"),
    "training.range_test": ("learning_rate_range_test",),
    "training.checkpoints": ("load_model",),
    "training.records": ("Record", "load_record", "read_record"),
    "training.runs": ("latest_run", "run", "run_folder", "train_faces"),
    "photos.estimator": ("PACKAGED", "Estimator"),
    "photos.onnx": ("OnnxEstimator",),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}
__all__ = ["__version__", *_MODULE]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'agehelpers' has no attribute {name!r}")
    return getattr(import_module(f"agehelpers.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
