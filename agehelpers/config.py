"""One typed, frozen configuration, and the named profiles that are presets of it.

Types, ranges and messages are pydantic's: its dataclasses stay plain dataclasses (`dataclasses.replace`, `asdict`),
turn text from a command line into the type of a field, and refuse what does not fit. (A setting also comes from a
notebook, a record or a checkpoint.)
"""

import dataclasses
import difflib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from agehelpers import paths

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DataSettings:
    """Which pictures, in which parts, at which size (sides in pixels)."""

    faces: str | None = Field(
        default=None, description="folder of pictures or CSV of path and age; none: UTKFace if found, else drawn faces")
    protocol: str = Field(
        default="holdout", description="split protocol: holdout, benchmark, coral, coral_published, selection")
    split_seed: int = Field(
        default=0, ge=0, description="which of the protocol's lists: 0, of benchmark 0 to 4 (other seeds: by code)")
    limit: int = Field(default=0, ge=0, description="use this many pictures, spread evenly over the parts (0: all)")
    image_size: int = Field(default=64, gt=0, le=1024, description="side of what the network sees")
    grow_from: int | None = Field(
        default=None, ge=8, multiple_of=8, description="side in the first epoch, growing in three quarters of them")
    conflicts: Literal["keep", "median", "drop"] = Field(
        default="keep", description="training pictures whose copies carry other ages: keep, set to the median, drop")
    cache_size: int | None = Field(
        default=None, gt=0, le=2048, description="side of the decoded pixels; none: 1.25 * image_size, at most 200")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AugmentationSettings:
    """How much a training picture is changed, each by its own random parameters."""

    flip: bool = Field(default=True, description="mirror every other picture")
    rotation: float = Field(default=15.0, ge=0, le=180, description="degrees, uniform in [-rotation, rotation]")
    scale: float = Field(default=0.15, ge=0, description="zoom, uniform in log between 1 / (1 + scale) and 1 + scale")
    shift: float = Field(
        default=0.08, ge=0, le=1, description="fraction of the side, uniform in [-shift, shift] along each axis")
    brightness: float = Field(
        default=0.2, ge=0, le=1, description="added, uniform in [-brightness, brightness] of the full range")
    contrast: float = Field(
        default=0.2, ge=0, le=1, description="factor about mid-grey, uniform in [1 - contrast, 1 + contrast]")
    erase: float = Field(default=0.0, ge=0, le=1, description="probability of one erased rectangle")
    augment_from: float = Field(
        default=1.0, ge=0, le=1, description="share of these strengths in the first epoch, growing as the pictures do")
    mixup: float = Field(
        default=0.0, ge=0, description="parameter of the Beta distribution by which two pictures are mixed; 0: none")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MethodSettings:
    """Network and head. A head takes the options that its constructor names; those of a new head are fields here."""

    method: str | None = Field(default=None, description="row of METHODS it comes from; by --method, not by --set")
    backbone: str = Field(
        default="resnet18", description="our own, one of torchvision's classification networks, or timm/NAME")
    weights: str | None = Field(
        default=None, description="name of pretrained weights such as IMAGENET1K_V1; none: from scratch")
    start_from: str | None = Field(default=None, description="fine-tune 'packaged', or best.safetensors of a run")
    front: Literal["spatial_transformer", "parts", "nested"] | None = Field(
        default=None, description="before the backbone: a learned warp, or views that share it; none: the picture")
    head: str = Field(default="distribution", description="a head of agehelpers.methods.heads.HEADS")
    sigma: float = Field(default=2.0, gt=0, description="width of soft labels, years")
    label_shape: Literal["normal", "laplace"] = Field(default="normal", description="shape of soft labels")
    regression_loss: Literal["l1", "l2", "huber"] = Field(default="l1", description="loss of one linear output")
    l1_weight: float = Field(default=0.1, ge=0, description="weight of |expected age - age| beside the cross-entropy")
    decode: Literal["median", "mean"] = Field(
        default="median", description="age of a distribution: its median or its mean")
    balance_within: float = Field(
        default=0.0, ge=0, description="years of validation MAE that a balanced decoding may cost; 0: plain decoding")
    reweight: float = Field(default=0.0, ge=0, description="power of 1 / share of its age band in a picture's loss")
    balanced_softmax: float = Field(
        default=0.0, ge=0, description="times the log share of the age band that training adds to a logit")
    auxiliary: float = Field(
        default=0.0, ge=0, description="weight of the loss of gender and ethnicity, guessed in training only")
    start_at_median: bool = Field(default=True, description="the untrained model predicts the training median")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LoopSettings:
    """How it is trained and evaluated."""

    epochs: int = Field(default=10, gt=0, description="passes over the training pictures")
    batch_size: int = Field(default=64, gt=0, description="pictures a step")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="optimiser")
    lr: float = Field(default=0.15, gt=0, description="learning rate; the peak of one_cycle")
    momentum: float = Field(default=0.9, ge=0, description="of SGD")
    nesterov: bool = Field(default=True, description="Nesterov's form of the momentum")
    weight_decay: float = Field(default=5e-4, ge=0, description="L2 penalty (SGD) or decoupled decay (AdamW)")
    schedule: Literal["one_cycle", "constant"] = Field(default="one_cycle", description="course of the learning rate")
    warmup: float = Field(default=0.3, gt=0, lt=1, description="share of one_cycle's steps in which the rate rises")
    ema: float = Field(
        default=0.995, ge=0, le=1, description="decay a step of the moving average of the weights (EMA); 0: none")
    flip_average: bool = Field(default=True, description="evaluate the mean of a picture and its mirror image")
    seed: int = Field(default=0, ge=0, description="of weights, order and augmentation")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where to compute")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="auto: bf16 where the hardware has it, else fp16 on CUDA and fp32 on CPU")
    evaluate_every: int = Field(
        default=1, gt=0, description="epochs between validations; the last epoch always has one")
    checkpoint_steps: int = Field(default=200, gt=0, description="steps between checkpoints within an epoch")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Config(LoopSettings, MethodSettings, AugmentationSettings, DataSettings):
    """Every setting of a run, flat: a record holds all of them, a checkpoint carries them.

    Examples
    --------
    >>> Config(profile="mine", lr=0.01).at(0).image_size
    64
    """

    profile: str

    @model_validator(mode="after")
    def _momentum_for_nesterov(self) -> Self:
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True needs a momentum greater than 0; use nesterov=false")
        return self

    @property
    def pixels_size(self) -> int:
        """Side of the cached pixels: a margin over what the network sees, but no more than UTKFace's own 200."""
        return self.cache_size or min(200, round(1.25 * self.image_size))

    def at(self, epoch: int) -> Self:
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


# The starting point as far as it is stated: one output, L1, SGD 0.001 / 0.9 / 1e-4 at a constant rate. Its input size,
# batch size and epochs are not stated; those of the two profiles are ours.
STARTING_POINT: dict[str, Any] = {
    "head": "regression", "start_at_median": False, "optimizer": "sgd", "lr": 0.001, "momentum": 0.9, "nesterov": False,
    "weight_decay": 1e-4, "schedule": "constant", "ema": 0.0, "flip_average": False, "flip": False, "rotation": 0.0,
    "scale": 0.0, "shift": 0.0, "brightness": 0.0, "contrast": 0.0, "erase": 0.0}

PROFILES: dict[str, Config] = {
    "ci": Config(
        profile="ci", image_size=40, backbone="tiny", epochs=12, batch_size=32, lr=0.1, ema=0.9, sigma=3.0,
        device="cpu", precision="fp32", checkpoint_steps=20,
    ),
    "laptop": Config(
        profile="laptop", backbone="timm/tf_efficientnet_lite2", weights="imagenet-pip", image_size=112, grow_from=72,
        epochs=9, batch_size=64, optimizer="adamw", lr=0.001, weight_decay=0.05, warmup=0.15, rotation=15.0, scale=0.15,
        shift=0.06, brightness=0.25, contrast=0.25, erase=0.35, augment_from=0.0, auxiliary=0.5, balance_within=0.05,
    ),
    "scratch": Config(
        profile="scratch", image_size=72, grow_from=48, backbone="resnet14", epochs=26, batch_size=64, lr=0.05,
        weight_decay=5e-4, warmup=0.15, rotation=8.0, scale=0.08, shift=0.04, brightness=0.1, contrast=0.1,
        augment_from=0.0, evaluate_every=2, balance_within=0.05,
    ),
    "start": Config(profile="start", **STARTING_POINT, backbone="timm/tf_efficientnet_lite0", weights="imagenet-pip",
                    image_size=112, epochs=9),
    "gpu": Config(
        profile="gpu", image_size=224, backbone="resnet50", weights="IMAGENET1K_V2", epochs=30, batch_size=256,
        lr=0.02, weight_decay=1e-4, ema=0.99, erase=0.25, checkpoint_steps=500,
    ),
    "reference": Config(profile="reference", **STARTING_POINT, image_size=224, backbone="resnet50",
                        weights="IMAGENET1K_V2", epochs=30, batch_size=64, checkpoint_steps=500),
}


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that differ from their defaults; all that digests and comparisons of settings look at.

    So a setting that is added later, with a default by which nothing changes, makes no old run another one. Nor does
    the name of a method: what it changes is in the other settings.

    Examples
    --------
    >>> settings_of(Config(profile="mine", lr=0.01, epochs=10))
    {'lr': 0.01, 'profile': 'mine'}
    """
    fields = type(config).__pydantic_fields__  # type: ignore[attr-defined]
    return {key: value for key, value in dataclasses.asdict(config).items()
            if value != fields[key].default and key != "method"}


def differing_settings(config: Config, other: Config) -> list[str]:
    """Names of the settings in which the two differ, sorted."""
    some, others = settings_of(config).items(), settings_of(other).items()
    return sorted({key for key, _ in some ^ others})


def parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """``["lr=0.1", "epochs=2"]`` as a dict; ValueError where an entry is not KEY=VALUE."""
    pairs = {}
    for entry in settings:
        key, equals, value = entry.partition("=")
        if not equals or not key:
            raise ValueError(f"{entry!r} is not KEY=VALUE, for example lr=0.01")
        pairs[key.strip()] = value.strip()
    return pairs


def load_config(profile: str, overrides: Mapping[str, Any] | None = None,
                row: Mapping[str, Any] | None = None) -> Config:
    """The preset `profile`, changed by the `row` of a method (`methods.table.method_settings`), then by `overrides`.

    Text is turned into the type of its setting ("none" is None); unknown keys, wrong types and values out of range are
    a ValueError that names the setting.

    Examples
    --------
    >>> load_config("ci", {"lr": "0.01", "epochs": 2}).lr
    0.01
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; choose one of {', '.join(PROFILES)}")
    for key, instead in (("profile", "it is chosen by name"), ("method", "use --method, or method_settings(NAME)")):
        if (overrides or {}).get(key) is not None:
            raise ValueError(f"{key} cannot be overridden: {instead}")
    return _checked(dataclasses.asdict(PROFILES[profile]), {**(row or {}), **(overrides or {})})


def _checked(base: dict[str, Any], changes: Mapping[str, Any]) -> Config:
    """A Config of `base` with `changes`; ValueError for unknown keys and what does not fit."""
    known = {field.name: field.type for field in dataclasses.fields(Config)}
    for key, value in changes.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            suggestion = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"unknown setting {key!r}{suggestion} Known: {', '.join(known)}")
        if isinstance(value, bool) and known[key] is not bool:
            raise ValueError(f"{key}={value!r}: a truth value, where none is expected")
    given = {key: None if isinstance(value, str) and value.lower() == "none" else value
             for key, value in changes.items()}
    try:
        return Config(**{**base, **given})
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        where = f"{first['loc'][0]}={first['input']!r}: " if first["loc"] else ""
        raise ValueError(f"{where}{reason}") from None


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """A Config from a record's or a checkpoint's own values, checked like overrides.

    A setting that came after it was written has the value by which nothing changes, `Config`'s own default.
    """
    if "profile" not in values:
        raise ValueError("settings without a profile: not those of a record or checkpoint")
    base = dataclasses.asdict(Config(profile=values["profile"]))
    return _checked(base, {key: value for key, value in values.items() if key != "profile"})


def choose_profile(profile: str | None = None, row: Mapping[str, Any] | None = None,
                   **overrides: Any) -> tuple[Config, str]:
    """The configuration that holds here, and a sentence that says why.

    An explicit `profile` wins, then the environment variable ``AGEHELPERS_PROFILE``, then what is found: no UTKFace
    means ``ci``, UTKFace (or `faces`) with a CUDA GPU ``gpu``, without one ``laptop``. `overrides` win over settings in
    ``AGEHELPERS_SET`` ("KEY=VALUE KEY=VALUE"), and both over those of a method's `row` and the profile.
    """
    named = os.environ.get("AGEHELPERS_PROFILE")
    settings = {**parse_settings(os.environ.get("AGEHELPERS_SET", "").split()), **overrides}
    if profile is not None:
        why = "asked for"
    elif named:
        profile, why = named, "AGEHELPERS_PROFILE says so"
    elif not settings.get("faces") and paths.utkface_folder() is None:
        profile, why = "ci", "no UTKFace was found, so faces are drawn"
    else:
        import torch

        gpu = torch.cuda.is_available()
        found = "a folder of faces was named" if settings.get("faces") else "UTKFace was found"
        profile, why = "gpu" if gpu else "laptop", f"{found}, a CUDA GPU was {'found too' if gpu else 'not'}"
    shown = ({"method": row["method"]} if row and "method" in row else {}) | settings
    changed = f", with {', '.join(f'{key}={value}' for key, value in shown.items())}" if shown else ""
    config = load_config(profile, settings, row)
    drawn = profile != "ci" and config.faces is None and paths.utkface_folder() is None
    note = " No UTKFace was found: its faces are drawn." if drawn else ""
    return config, f"Profile {profile!r}: {why}{changed}.{note}"
