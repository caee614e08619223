"""Estimator: photos in, a table with a row for each face out."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from agehelpers.config import config_from_dict
from agehelpers.data.augmentation import whole_pictures
from agehelpers.data.decoder import PictureError, check_not_blank, check_square, open_picture, upright_rgb
from agehelpers.devices import pick_device
from agehelpers.photos.align import Placement, align, cut, load_aligner
from agehelpers.photos.find import Finder, find_faces
from agehelpers.training.calibration import attach_known
from agehelpers.training.checkpoints import load_checkpoint, load_model
from agehelpers.training.loop import outputs_of, read_outputs

PACKAGED = Path(__file__).resolve().parent.parent / "weights" / "laptop.safetensors"
Source = Path | str | Image.Image | np.ndarray
SMALLEST = 40.0  # pixels; a face whose aligned crop is less wide is too small to tell an age


class Estimator:
    """Ages of the faces in photos.

    It finds faces, aligns them as the training pictures of its checkpoint are aligned, and predicts an age with
    intervals, in single precision, so that a prediction is the same on every machine. It does not recognise persons,
    and it cannot know an age: each prediction is a guess about a picture.
    Calls from several threads wait for each other.

    Parameters
    ----------
    checkpoint : Path, optional
        best.safetensors of a run, with aligner.safetensors beside it (crops need none); by default the weights of the
        package.
    find : callable, optional
        Another detector: from a photo, uint8 [H, W, 3], to a list of `Found`.

    Examples
    --------
    >>> from agehelpers import Estimator
    >>> Estimator()(np.zeros((64, 64, 3), np.uint8))["reason"].tolist()
    ['no face found']
    """

    def __init__(self, checkpoint: Path | str = PACKAGED, find: Finder = find_faces) -> None:
        self.checkpoint, self.find, self._lock = Path(checkpoint), find, threading.Lock()
        self.state = load_checkpoint(self.checkpoint)[1]
        self.config = config_from_dict(self.state["config"] | {"device": "auto", "precision": "fp32"})
        self.device = pick_device(self.config)
        self.model = load_model(self.checkpoint).to(self.device)
        self.aligner_file = self.checkpoint.with_name("aligner.safetensors")
        self.aligner = load_aligner(self.aligner_file) if self.aligner_file.exists() else None

    def __call__(self, photos: Source | Sequence[Source], cropped: bool = False) -> pd.DataFrame:
        """One row a face: photo, face (number in the photo), reason, x, y, side, turn, prediction, spread, intervals.

        x, y: centre of the aligned crop in pixels; side: its width; turn: degrees. What cannot be used is a row with a
        `reason` ("no face found", or what is wrong with the file) and no prediction; of others it is empty. Ages,
        spread and intervals in years. `cropped`: the pictures are crops already, as the training's.
        """
        several = photos if isinstance(photos, Sequence) and not isinstance(photos, str) else [photos]
        rows: list[dict[str, Any]] = []
        crops: list[np.ndarray] = []
        for number, source in enumerate(several):
            name = str(source) if isinstance(source, str | Path) else f"photo {number}"
            try:
                picture = self.read(source)
                places = [self.whole(picture, name)] if cropped else self.places(picture)
            except PictureError as error:
                rows.append({"photo": name, "reason": str(error)})
                continue
            for face, where in enumerate(places):
                side = 2 * abs(where.half)
                row = {"photo": name, "face": face, "x": where.centre.real, "y": where.centre.imag, "side": side,
                       "turn": float(np.angle(where.half, deg=True)), "reason": ""}
                if side < SMALLEST:
                    row["reason"] = f"a face of {side:.0f} pixels is too small"
                else:
                    row["crop"] = len(crops)
                    crops.append(picture if cropped else cut(picture, where))
                rows.append(row)
            if not places:
                rows.append({"photo": name, "reason": "no face found"})
        columns = ["photo", "face", "reason", "x", "y", "side", "turn"]
        table = pd.DataFrame(rows, columns=[*columns, "crop"]).round(1)
        found = self.ages(crops) if crops else pd.DataFrame({"prediction": pd.Series(dtype=float)})
        return table.join(found, on="crop").drop(columns="crop")

    def read(self, source: Source) -> np.ndarray:
        """A photo as uint8 [H, W, 3], upright; PictureError says what is wrong with it."""
        if isinstance(source, np.ndarray):
            if source.dtype != np.uint8 or source.ndim not in (2, 3) or (source.ndim == 3 and source.shape[2] != 3):
                raise PictureError("the array", "not uint8 [H, W, 3] or [H, W]", f"{source.dtype} {source.shape}",
                                   "convert it")
            return source if source.ndim == 3 else np.repeat(source[..., None], 3, 2)
        if not isinstance(source, Image.Image):
            return np.asarray(open_picture(Path(source)))
        try:
            return np.asarray(upright_rgb(source, "the picture"))
        except PictureError:
            raise
        except Exception as error:  # PIL's plugins raise almost anything for a broken file
            raise PictureError("the picture", "damaged: cannot be decoded", str(error)) from error

    def places(self, photo: np.ndarray) -> list[Placement]:
        """Where the aligned crops of the faces of a photo lie; FileNotFoundError where there is no aligner."""
        if self.aligner is None:
            raise FileNotFoundError(
                f"{self.aligner_file}: no aligner, without which whole photos cannot be read; the training's command "
                "with --aligner --resume makes it; faces cropped as its training pictures need none (--crops, "
                "cropped=True)")
        with self._lock:
            return align(self.aligner, photo, [face.where for face in self.find(photo)])

    @torch.inference_mode()
    def ages(self, crops: Sequence[np.ndarray], batch: int = 64) -> pd.DataFrame:
        """Columns prediction, spread, lower_80, ... of aligned crops, about square, uint8 [H, W, 3] each."""
        size, tables = self.config.pixels_size, []
        shrunk = np.stack([np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))
                           for crop in crops])
        with self._lock:
            for start in range(0, len(crops), batch):
                images = whole_pictures(shrunk[start:start + batch], self.config.image_size).to(self.device)
                outputs = outputs_of(self.model, images, self.config, self.device)
                tables.append(read_outputs(self.model.head, outputs))
        found = pd.concat(tables, ignore_index=True).drop(columns="plain", errors="ignore").round(1)
        intervals = self.state.get("intervals")
        return attach_known(found, intervals) if intervals else found

    @staticmethod
    def whole(picture: np.ndarray, name: str) -> Placement:
        """The placement of a picture that is a crop itself; PictureError where it is far from square or blank."""
        check_square(Image.fromarray(picture), name)
        check_not_blank(picture, name)
        height, width = picture.shape[:2]
        return Placement(complex(width, height) / 2, complex(max(height, width)) / 2)
