"""Made pictures, some that compare as photos do, and names for them, for tests of the index."""

import io
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from agehelpers.data.labels import build_labels

STAMP = "20170109142408075"


def photo(seed: int, zoom: float = 1.0, turn: float = 0.0, shift: float = 0.0) -> np.ndarray:
    """Blobs of all sizes, as in a photo, seen through a frame that is moved: uint8 [64, 64]."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.normal(0, 12 * 96 / side, (side, side)), (96, 96), interpolation=cv2.INTER_CUBIC)
              for side in (6, 12, 24, 48)]
    scene = np.clip(128 + sum(layers) / 2.5, 5, 255).astype(np.uint8)
    frame = cv2.getRotationMatrix2D((47.5, 47.5), turn, zoom)
    frame[:, 2] += shift
    return cv2.warpAffine(scene, frame, (96, 96))[16:80, 16:80]


def picture(seed: int, side: int = 24, mode: str = "RGB") -> Image.Image:
    """Smooth random blobs, unlike those of another seed."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BILINEAR).convert(mode)


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """The bytes of its file."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def name(age: int, gender: int = 0, ethnicity: int = 0, number: int = 0) -> str:
    """A name as UTKFace's."""
    return f"{age}_{gender}_{ethnicity}_{int(STAMP) + number}.jpg.chip.jpg"


def repeated(folder: Path) -> pd.DataFrame:
    """The label table of one picture in three identical copies, one also saved again, and two blank ones."""
    first, second = jpeg(picture(1)), picture(2)
    files = {name(30, 0, 0): first, name(42, 1, 0): first, name(30, 0, 4): first,
             name(50): jpeg(second), name(51): jpeg(second, quality=70),
             name(60): jpeg(Image.new("RGB", (24, 24), "white")), name(61): jpeg(Image.new("RGB", (24, 24), "grey"))}
    for entry, data in files.items():
        (folder / entry).write_bytes(data)
    return build_labels(folder)
