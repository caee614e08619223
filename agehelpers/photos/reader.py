"""Photos in, a table with a row for each face out: what every way of running the networks shares; needs no torch."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from agehelpers.data.decoder import PictureError, check_not_blank, check_square, open_picture, upright_rgb
from agehelpers.data.whole import whole_arrays
from agehelpers.photos.find import Finder, find_faces
from agehelpers.photos.placement import VIEWS, Look, Placement, align, cut, unrest
from agehelpers.training.calibration import attach_known

Source = Path | str | Image.Image | np.ndarray
SMALLEST = 40.0  # pixels; a face whose aligned crop is less wide is too small to tell an age
AT_ONCE = 32  # crops in a batch; larger ones are slower on a CPU
# For dlib's scores, chosen on scenes made of validation pictures (as in benchmarks/whole_photos.py): nearly all faces
# stay, few other squares. Another detector's squares below SURE are checked alike.
SURE, RESTLESS = 0.5, 0.08


class PhotoReader:
    """What `Estimator` and `OnnxEstimator` share: reading, finding, aligning, and the table.

    Attributes
    ----------
    look : callable or None
        The aligner, see `placement.Look`; None where there is none, and only crops can be read.
    no_aligner : str
        What to do then.
    pixels_size, image_size : int
        Sides in pixels to which a crop is shrunk first, and that the network sees.
    intervals : dict or None
        `calibration.interval_facts` of the network.
    """

    look: Look | None
    no_aligner: str
    pixels_size: int
    image_size: int
    intervals: Mapping[str, Any] | None

    def __init__(self, find: Finder = find_faces) -> None:
        self.find, self._lock = find, threading.Lock()

    def years(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """prediction [, spread] in years, [B] each, of float32 [B, H, W, 3] as `whole_arrays` gives them."""
        raise NotImplementedError

    def __call__(self, photos: Source | Sequence[Source], cropped: bool = False) -> pd.DataFrame:
        """One row a face: photo, face (its number), reason, x, y, side, turn, prediction, spread, intervals, unlike.

        x, y: centre of the aligned crop in pixels; side: its width; turn: degrees. What cannot be used is a row with a
        `reason` ("no face found", or what is wrong with the file) and no prediction; of others it is empty. Ages,
        spread and intervals in years. `unlike`: the spread is larger than usual for that age (of the calibration
        pictures 5 % exceed it), so this may be no face, or none as in training (`calibration.usual_spread`). `cropped`:
        the pictures are crops already, as the training's.
        """
        several = photos if isinstance(photos, Sequence) and not isinstance(photos, str) else [photos]
        views = 1 if cropped else len(VIEWS)
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
                    row["crop"] = len(crops) // views
                    crops += [picture] if cropped else [cut(picture, where.then(view)) for view in VIEWS]
                rows.append(row)
            if not places:
                rows.append({"photo": name, "reason": "no face found"})
        columns = ["photo", "face", "reason", "x", "y", "side", "turn"]
        table = pd.DataFrame(rows, columns=[*columns, "crop"]).round(1)
        none = pd.DataFrame({"prediction": [], "spread": []}, dtype=float)
        found = self.ages(crops, views) if crops else self._known(none)
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
        """Where the aligned crops of the faces of a photo lie; FileNotFoundError where there is no aligner.

        Squares of which the detector is not `SURE` count if a third look of the aligner moves them by less than
        `RESTLESS` and they are no larger than the detector's: it comes to rest on faces, seldom on anything else.
        """
        if self.look is None:
            raise FileNotFoundError(self.no_aligner)
        with self._lock:
            found = self.find(photo)
            placed = align(self.look, photo, [face.where for face in found])
            again = align(self.look, photo, placed, rounds=1)
        return [where for face, where, third in zip(found, placed, again, strict=True)
                if face.score >= SURE or (unrest(where, third) < RESTLESS and abs(where.half) <= abs(face.where.half))]

    def ages(self, crops: Sequence[np.ndarray], views: int = 1) -> pd.DataFrame:
        """Columns prediction, spread, lower_80, ..., unlike of aligned crops, about square, uint8 [H, W, 3] each.

        Means over every `views` crops in turn, a row each.
        """
        size, tables = self.pixels_size, []
        shrunk = np.stack([np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))
                           for crop in crops])
        with self._lock:
            for start in range(0, len(crops), AT_ONCE):
                images = whole_arrays(shrunk[start:start + AT_ONCE], self.image_size)
                tables.append(pd.DataFrame(self.years(images), dtype=float))
        found = pd.concat(tables).groupby(np.arange(len(crops)) // views).mean().round(1)
        return self._known(found)

    def try_out(self) -> None:
        """One blank crop goes through all of it: raises whatever is wrong with what the file of the network says."""
        if not all(type(size) is int and 0 < size <= 2048 for size in (self.pixels_size, self.image_size)):
            raise ValueError(f"sizes {self.pixels_size!r:.20}, {self.image_size!r:.20}")
        if self.ages([np.zeros((8, 8, 3), np.uint8)], 1).isna().any(axis=None):
            raise ValueError("it predicts no number")

    def _known(self, found: pd.DataFrame) -> pd.DataFrame:
        return attach_known(found, self.intervals) if self.intervals else found

    @staticmethod
    def whole(picture: np.ndarray, name: str) -> Placement:
        """The placement of a picture that is a crop itself; PictureError where it is far from square or blank."""
        check_square(Image.fromarray(picture), name)
        check_not_blank(picture, name)
        height, width = picture.shape[:2]
        return Placement(complex(width, height) / 2, complex(max(height, width)) / 2)
