"""Checkpoints: tensors and their settings in one file that is read without executing code."""

import copy
import itertools
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from agehelpers import paths
from agehelpers.config import config_from_dict
from agehelpers.methods.model import AgeEstimationModel

PACKAGED = Path(__file__).resolve().parent.parent / "weights" / "laptop.safetensors"


def save_checkpoint(file: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Tensors and a JSON state in one safetensors file, so that the two can never disagree; written atomically."""
    whole = {key: value.detach().contiguous() for key, value in tensors.items()}
    paths.write_atomically(file, save(whole, {"state": json.dumps(state)}))


def load_checkpoint(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_checkpoint` wrote; reading it executes no code.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, or not a checkpoint of ours; the message names it.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such checkpoint; train one with `python -m agehelpers train`")
    with paths.reading(file, "no checkpoint of agehelpers; restore it, or remove it and train anew"):
        data = Path(file).read_bytes()  # at once: a training may put a newer file in its place meanwhile
        tensors, length = dict(sorted(load(data).items())), int.from_bytes(data[:8], "little")
        state = json.loads(json.loads(data[8:8 + length])["__metadata__"]["state"])
        return tensors, dict(state)


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def slim_tensors(model: AgeEstimationModel) -> dict[str, Tensor]:
    """What predictions need of `model`, in half precision, for a checkpoint whose state says slim.

    The statistics of batch normalisation are multiplied into its weights, so that those of a fresh network, mean 0 and
    variance 1, take their place. The outputs for attributes, which only training needs, are left out.
    """
    tensors = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            mean, variance, _ = (tensors.pop(f"{name}.{key}") for key in STATISTICS)
            scale = tensors[f"{name}.weight"] / (variance + module.eps).sqrt()
            tensors[f"{name}.bias"] = tensors[f"{name}.bias"] - scale * mean
            tensors[f"{name}.weight"] = scale * (1 + module.eps) ** 0.5
    return {f"model.{key}": value.half() for key, value in tensors.items() if not key.startswith("attributes.")}


def load_model(file: Path) -> AgeEstimationModel:
    """The model of a checkpoint such as ``best.safetensors``, in evaluation mode, on the CPU.

    It predicts by the decoding that the checkpoint keeps beside its settings, by the plain one where it keeps none.
    ValueError names the file where it is none to predict with, or was made by another version.
    """
    return model_of(file, *load_checkpoint(file))


def model_of(file: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> AgeEstimationModel:
    """The same of what `load_checkpoint` gave."""
    if "param_groups" in state:
        raise ValueError(f"{file} is there to resume a training; predict with best.safetensors beside it")
    with paths.reading(file, "read it with the version that wrote it, or train anew"):
        config, left_out = config_from_dict(state["config"]), STATISTICS if state.get("slim") else ()
        found = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
        with suppress(NotImplementedError), torch.device("meta"):  # takes no memory; RegNets cannot be built like that
            needs = sum(value.numel() for value in AgeEstimationModel(config, load_weights=False).state_dict().values())
            if needs > 2 * (has := sum(value.numel() for value in found.values())):
                raise ValueError(f"its network has {needs:,} weights, the file {has:,}")
        model = AgeEstimationModel(config, load_weights=False)
        if odd := [key for key, value in found.items() if not value.isfinite().all()]:
            raise ValueError(f"{odd[0]} holds values that are not finite")
        fresh = {key: value for key, value in model.state_dict().items() if key.rpartition(".")[2] in left_out}
        model.load_state_dict(fresh | found)
        if decoding := state.get("decoding"):
            model.head.adjust(decoding["tau"], decoding["prior"])
    return model.eval()


@torch.no_grad()
def fused(model: AgeEstimationModel) -> AgeEstimationModel:
    """A copy of `model` for predictions, batch normalisation multiplied into the convolution before it: faster.

    A network that computes in another order than its modules are named would come out otherwise: it is returned as is.
    """
    faster, side = copy.deepcopy(model).eval(), model.config.image_size
    for module in list(faster.backbone.modules()):
        for (first, conv), (then, norm) in itertools.pairwise(module.named_children()):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
                setattr(module, first, fuse_conv_bn_eval(conv, norm))
                setattr(module, then, getattr(norm, "act", nn.Identity()))  # timm's has an activation inside
    seen = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return faster if torch.allclose(faster(seen), model.eval()(seen), atol=1e-3) else model


def start_from(model: AgeEstimationModel, checkpoint: str) -> None:
    """Give `model` the weights of a `checkpoint`: "packaged", or best.safetensors of a run; in place.

    ValueError where that is of another network or head, or of another split of the same faces; FileNotFoundError where
    it is not there.
    """
    file = PACKAGED if checkpoint == "packaged" else Path(checkpoint)
    other = load_model(file)
    for key in ("backbone", "head", "front"):
        if (theirs := getattr(other.config, key)) != getattr(model.config, key):
            raise ValueError(f"{file} has {key}={theirs}, this training {getattr(model.config, key)}: "
                             f"use --set {key}={theirs}")
    theirs, ours = ((one.protocol, one.split_seed) for one in (other.config, model.config))
    if other.config.faces == model.config.faces and theirs != ours:
        raise ValueError(f"{file} was trained on the same faces by another split ({theirs[0]}, {theirs[1]}): it knows "
                         "some of the test pictures; choose that split")
    shared = {key: value for key, value in other.state_dict().items() if not key.startswith("attributes.")}
    model.load_state_dict(model.state_dict() | shared)
