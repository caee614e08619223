"""Ages of faces that are already cropped as the training's are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from agehelpers.config import config_from_dict
from agehelpers.data.dataset import FaceDataset
from agehelpers.data.decoder import check_not_blank, decode
from agehelpers.devices import pick_device
from agehelpers.training.calibration import attach_known
from agehelpers.training.checkpoints import load_checkpoint, load_model
from agehelpers.training.loop import predict

PACKAGED = Path(__file__).resolve().parent.parent / "weights" / "laptop.safetensors"


def predict_crops(checkpoint: Path, crops: Sequence[Path]) -> pd.DataFrame:
    """Predicted age of face crops: columns file, prediction [, spread], lower_80, upper_80, .... All in years.

    Computed in single precision, so that a prediction is the same on every machine. It is one age, by the decoding that
    was chosen on the checkpoint's own validation pictures (`training.decoding`). `spread` is the standard deviation of
    the predicted distribution, where the head has one. The ends of prediction intervals are there where the checkpoint
    was calibrated; they hold for pictures like those of its calibration, and for no others.

    Parameters
    ----------
    checkpoint : Path
        best.safetensors of a run, or `PACKAGED`, the weights that come with the package.
    crops : sequence of Path
        Pictures of one face each, about square, cropped as UTKFace's.

    Raises
    ------
    PictureError
        A file is no readable picture, is far from square, or shows nothing; the message names it.
    """
    state = load_checkpoint(checkpoint)[1]
    config = config_from_dict(state["config"] | {"device": "auto", "precision": "fp32"})
    pixels = np.stack([decode(crop, config.pixels_size) for crop in crops])
    for crop, picture in zip(crops, pixels, strict=True):
        check_not_blank(picture, crop)
    faces = FaceDataset(pixels, np.arange(len(crops)), np.zeros(len(crops), np.float32), config, pick_device(config))
    found = predict(load_model(checkpoint), faces, config).drop(columns="plain", errors="ignore").round(1)
    if intervals := state.get("intervals"):
        found = attach_known(found, intervals)
    return pd.concat([pd.DataFrame({"file": [str(crop) for crop in crops]}), found], axis=1)
