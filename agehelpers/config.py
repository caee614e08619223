"""One typed, frozen configuration, and the named profiles that are presets of it."""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agehelpers import paths


@dataclass(frozen=True)
class Config:
    """Every setting of a run. A record holds all of them; a checkpoint carries them.

    Sizes are pixels, ages years, angles degrees, shifts and scales fractions of the picture's side.
    """

    profile: str
    # data
    faces: str | None = None  # folder of pictures; None: UTKFace where it lies in data/, else drawn faces
    protocol: str = "holdout"
    split_seed: int = 0  # with protocol=benchmark: which of the five splits
    limit: int = 0  # use this many pictures, spread evenly over the split (0: all of them)
    image_size: int = 64  # side of what the network sees
    grow_from: int | None = None  # side in the first epoch, growing to image_size over three quarters of the epochs
    conflicts: str = "keep"  # training pictures that repeat with other ages: "keep", "median" (of the ages), "drop"
    cache_size: int | None = None  # side of the decoded pixels; None: 1.25 * image_size, at most 200
    # augmentation, drawn for each picture on its own
    flip: bool = True
    rotation: float = 15.0  # uniform in [-rotation, rotation]
    scale: float = 0.15  # zoom uniform in log, between 1 / (1 + scale) and 1 + scale
    shift: float = 0.08  # uniform in [-shift, shift] along each axis
    brightness: float = 0.2  # added, uniform in [-brightness, brightness] of the full range
    contrast: float = 0.2  # factor about the picture's mid-grey, uniform in [1 - contrast, 1 + contrast]
    erase: float = 0.0  # probability of one erased rectangle
    augment_from: float = 1.0  # share of the strengths above in the first epoch, growing as the pictures do
    mixup: float = 0.0  # parameter of the Beta distribution by which two pictures and their losses are mixed; 0: none
    # model
    backbone: str = "resnet18"
    weights: str | None = None  # a torchvision weights name such as IMAGENET1K_V2, or None: from scratch
    head: str = "distribution"  # "regression" or "distribution"
    sigma: float = 2.0  # width of the soft labels, years
    l1_weight: float = 0.1  # weight of |expected age - age| beside the distribution's cross-entropy
    decode: str = "median"  # of the distribution: "median" or "mean"
    start_at_median: bool = True  # the untrained model answers the training median
    # loop
    epochs: int = 10
    batch_size: int = 64
    optimizer: str = "sgd"  # "sgd" or "adamw"
    lr: float = 0.15
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"  # "one_cycle" (lr is the peak) or "constant"
    warmup: float = 0.3  # share of the steps of one_cycle in which the rate rises
    ema: float = 0.995  # decay of the running mean of the weights, per step; 0: none
    flip_average: bool = True  # at evaluation, average over the picture and its mirror image
    seed: int = 0
    device: str = "auto"  # "auto", "cpu" or "cuda"
    precision: str = "auto"  # "auto" (bf16 where the hardware has it, else fp16 on CUDA, fp32 on CPU), or one of these
    evaluate_every: int = 1  # evaluate validation after every so many epochs, and always after the last
    checkpoint_steps: int = 200  # write the last checkpoint after this many steps, and after each epoch

    def __post_init__(self) -> None:
        choices = {"head": ("regression", "distribution"), "decode": ("median", "mean"),
                   "optimizer": ("sgd", "adamw"), "schedule": ("one_cycle", "constant"),
                   "device": ("auto", "cpu", "cuda"), "conflicts": ("keep", "median", "drop"),
                   "precision": ("auto", "fp32", "bf16", "fp16")}
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key}={getattr(self, key)!r}: choose one of {', '.join(allowed)}")
        for key in ("image_size", "epochs", "batch_size", "checkpoint_steps", "evaluate_every", "lr", "sigma",
                    "warmup"):
            if not getattr(self, key) > 0:
                raise ValueError(f"{key}={getattr(self, key)!r}: must be greater than 0")
        for key in ("limit", "rotation", "scale", "shift", "brightness", "contrast", "erase", "ema",
                    "momentum", "weight_decay", "l1_weight", "mixup", "augment_from"):
            if not getattr(self, key) >= 0:
                raise ValueError(f"{key}={getattr(self, key)!r}: must not be negative")
        for key in ("erase", "ema", "warmup", "augment_from"):
            if not getattr(self, key) <= 1:
                raise ValueError(f"{key}={getattr(self, key)!r}: must be between 0 and 1")
        if self.cache_size is not None and self.cache_size < 1:
            raise ValueError(f"cache_size={self.cache_size!r}: must be greater than 0, or none")
        if self.grow_from is not None and (self.grow_from % 8 or self.grow_from < 8):
            raise ValueError(f"grow_from={self.grow_from!r}: must be a multiple of 8, or none")
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True needs a momentum greater than 0; use nesterov=false")

    @property
    def pixels_size(self) -> int:
        """Side of the cached pixels: a margin over what the network sees, but no more than UTKFace's own 200."""
        return self.cache_size or min(200, round(1.25 * self.image_size))

    def at(self, epoch: int) -> Config:
        """Settings of `epoch` (from 0) with the image_size and the strength of augmentation that it has.

        Both grow over the first three quarters of the epochs, sizes by multiples of 8: small pictures teach what is
        coarse at a fraction of the time, and need less protection (EfficientNetV2, Tan and Le, ICML 2021).
        """
        share = 1.0 if epoch >= self.epochs - 1 else min(1.0, epoch / (0.75 * self.epochs))
        size = self.image_size
        if self.grow_from is not None and self.grow_from < size and share < 1:
            size = min(size, round((self.grow_from + share * (size - self.grow_from)) / 8) * 8)
        strength = self.augment_from + share * (1 - self.augment_from)
        weaker = {key: strength * getattr(self, key) for key in
                  ("rotation", "scale", "shift", "brightness", "contrast", "erase")}
        return dataclasses.replace(self, image_size=size, cache_size=self.pixels_size, **weaker)

    def faces_folder(self) -> Path:
        """Folder of the pictures; the drawn faces are made on first use."""
        if self.faces is not None:
            return Path(self.faces)
        if self.profile != "ci" and (found := utkface_folder()) is not None:
            return found
        from agehelpers.draw import sample_faces

        return sample_faces()


PROFILES: dict[str, Config] = {
    "ci": Config(
        profile="ci", image_size=40, backbone="tiny", epochs=12, batch_size=32, lr=0.1, ema=0.9, sigma=3.0,
        device="cpu", precision="fp32", checkpoint_steps=20,
    ),
    "laptop": Config(
        profile="laptop", image_size=72, grow_from=48, backbone="resnet14", epochs=26, batch_size=64, lr=0.05,
        weight_decay=5e-4, warmup=0.15, rotation=8.0, scale=0.08, shift=0.04, brightness=0.1, contrast=0.1,
        augment_from=0.0, evaluate_every=2,
    ),
    "gpu": Config(
        profile="gpu", image_size=224, backbone="resnet50", weights="IMAGENET1K_V2", epochs=30, batch_size=256,
        lr=0.02, weight_decay=1e-4, ema=0.99, erase=0.25, checkpoint_steps=500,
    ),
    # The starting point as far as it is stated: ResNet-50, ImageNet weights, one output, L1, SGD 0.001 / 0.9 / 1e-4.
    # Input size, batch size, epochs and augmentation are not stated there; those here are ours.
    "reference": Config(
        profile="reference", image_size=224, backbone="resnet50", weights="IMAGENET1K_V2", head="regression",
        start_at_median=False, epochs=30, batch_size=64, lr=0.001, momentum=0.9, nesterov=False, weight_decay=1e-4,
        schedule="constant", ema=0.0, flip_average=False, rotation=0.0, scale=0.0, shift=0.0, brightness=0.0,
        contrast=0.0, checkpoint_steps=500,
    ),
}

_TYPES: dict[str, Any] = typing.get_type_hints(Config)


def _typed(key: str, value: Any) -> Any:
    """`value` (often text from the command line) as the type of the setting `key`; ValueError otherwise."""
    if key not in _TYPES:
        near = difflib.get_close_matches(key, _TYPES, n=1)
        raise ValueError(f"unknown setting {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
                         + f" Known: {', '.join(_TYPES)}")
    wanted = _TYPES[key]
    kinds = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if type(None) in kinds and (value is None or (isinstance(value, str) and value.lower() == "none")):
        return None
    kind = kinds[0]
    if isinstance(value, str) and kind is not str:
        try:
            value = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
        except (ValueError, KeyError):
            raise ValueError(f"{key}={value!r}: expected {kind.__name__}") from None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{key}={value!r}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """``["lr=0.1", "epochs=2"]`` as a dict; ValueError where an entry is not KEY=VALUE."""
    pairs = {}
    for entry in settings:
        key, equals, value = entry.partition("=")
        if not equals or not key:
            raise ValueError(f"{entry!r} is not KEY=VALUE, for example lr=0.01")
        pairs[key.strip()] = value.strip()
    return pairs


def load_config(profile: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """The preset `profile` with `overrides`; unknown keys and wrong types are a ValueError.

    Examples
    --------
    >>> load_config("ci", {"lr": "0.01", "epochs": 2}).lr
    0.01
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; choose one of {', '.join(PROFILES)}")
    typed = {key: _typed(key, value) for key, value in (overrides or {}).items()}
    if "profile" in typed:
        raise ValueError("profile is chosen by name, it cannot be overridden")
    return dataclasses.replace(PROFILES[profile], **typed)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """A Config from a record's or a checkpoint's own values, checked like overrides.

    A setting that came after it was written has the value by which nothing changes, `Config`'s own default.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Config) if field.name != "profile"}
    return load_config(values["profile"], defaults | {k: value for k, value in values.items() if k != "profile"})


def utkface_folder() -> Path | None:
    """Folder of UTKFace: ``AGEHELPERS_FACES`` if set, else data/UTKFace if it is there, else None."""
    named = os.environ.get("AGEHELPERS_FACES")
    if named:
        if not Path(named).is_dir():
            raise NotADirectoryError(f"AGEHELPERS_FACES={named} is not a folder; unset it or name the folder of faces")
        return Path(named)
    folder = paths.data_folder() / "UTKFace"
    return folder if folder.is_dir() and any(folder.iterdir()) else None


def choose_profile(profile: str | None = None, **overrides: Any) -> tuple[Config, str]:
    """The configuration that holds here, and a sentence that says why.

    An explicit `profile` wins, then the environment variable ``AGEHELPERS_PROFILE``, then what is found: no UTKFace
    means ``ci``, UTKFace with a CUDA card ``gpu``, without one ``laptop``. `overrides` win over settings in
    ``AGEHELPERS_SET`` ("KEY=VALUE KEY=VALUE"), and both over the profile's own.
    """
    named = os.environ.get("AGEHELPERS_PROFILE")
    if profile is not None:
        why = "asked for"
    elif named:
        profile, why = named, "AGEHELPERS_PROFILE says so"
    elif utkface_folder() is None:
        profile, why = "ci", "no UTKFace was found, so faces are drawn"
    else:
        import torch

        profile, why = ("gpu", "UTKFace and a CUDA card were found") if torch.cuda.is_available() else (
            "laptop", "UTKFace was found, a CUDA card was not")
    settings = {**parse_settings(os.environ.get("AGEHELPERS_SET", "").split()), **overrides}
    changed = f", with {', '.join(f'{k}={v}' for k, v in settings.items())}" if settings else ""
    config = load_config(profile, settings)
    drawn = profile != "ci" and config.faces is None and utkface_folder() is None
    return config, f"Profile {profile!r}: {why}{changed}." + (" No UTKFace was found: its faces are drawn." * drawn)
