"""Sensitivity of the error: the same test pictures moved, turned, darkened, blurred, compressed and covered.

    python benchmarks/sensitivity.py --record sensitivity     # needs UTKFace, scikit-image; half an hour on one core

And how often what is unlike the training pictures is flagged (`unlike`), changed faces and what is no face at all.
Pictures are taken as crops; beyond them their edge is repeated. Kept are predictions and flags, a column a change.
"""

import argparse
import cmath
import io
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from whole_photos import KINDS, background, made_by

from agehelpers import Estimator, PictureError, faces_folder, make_split, split_hash, utkface_labels
from agehelpers.config import load_config
from agehelpers.data.decoder import open_picture
from agehelpers.devices import hardware
from agehelpers.photos.placement import Placement, cut

HERE = Path(__file__).resolve().parent
SIDE, NO_FACES = 200, 300  # pixels of a crop; squares without a face
Change = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]  # crop, level, random numbers


def _placed(crop: np.ndarray, scale: float = 1.0, shift: complex = 0j, turn: float = 0.0) -> np.ndarray:
    centre = complex(SIDE, SIDE) / 2 + shift * SIDE / 2
    return cut(crop, Placement(centre, cmath.rect(scale * SIDE / 2, math.radians(turn))))


def _blurred(crop: np.ndarray, sigma: float, _: np.random.Generator) -> np.ndarray:
    import cv2

    return cv2.GaussianBlur(crop, (0, 0), sigma) if sigma else crop


def _compressed(crop: np.ndarray, quality: float, _: np.random.Generator) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(crop).save(stream, "JPEG", quality=int(quality))
    return np.asarray(Image.open(stream))


def _covered(crop: np.ndarray, share: float, below: bool) -> np.ndarray:
    changed, rows = crop.copy(), round(share * SIDE)
    changed[slice(SIDE - rows, SIDE) if below else slice(0, rows)] = 128
    return changed


# Name, unit and levels of a change; the one that changes nothing is the first.
CHANGES: dict[str, tuple[str, tuple[float, ...], Change]] = {
    "margin": ("side of the crop / its usual side", (1, 0.6, 0.75, 0.9, 1.1, 1.35, 1.7, 2.2),
               lambda crop, scale, _: _placed(crop, scale)),
    "shift": ("shift / half of the side, in any direction", (0, 0.05, 0.1, 0.2, 0.3, 0.45),
              lambda crop, far, rng: _placed(crop, shift=cmath.rect(far, rng.uniform(0, 2 * math.pi)))),
    "turn": ("degrees, either way", (0, 10, 20, 30, 45, 90, 180),
             lambda crop, turn, rng: _placed(crop, turn=turn * rng.choice([-1, 1]))),
    "brightness": ("times as bright", (1, 0.15, 0.3, 0.6, 1.5, 2.2, 3),
                   lambda crop, times, _: np.clip(crop * times, 0, 255).astype(np.uint8)),
    "blur": ("sigma in 1/200 of the side", (0, 0.7, 1.5, 3, 5, 8), _blurred),
    "compression": ("quality of the JPEG", (100, 60, 30, 15, 8, 4), _compressed),
    "covered from below": ("share of the height", (0, 0.15, 0.3, 0.45, 0.6),
                           lambda crop, share, _: _covered(crop, share, True)),
    "covered from above": ("share of the height", (0, 0.15, 0.3, 0.45, 0.6),
                           lambda crop, share, _: _covered(crop, share, False))}


def changed(crops: list[np.ndarray], change: str, level: float) -> list[np.ndarray]:
    """Crops, uint8 [200, 200, 3] each, with a change of `CHANGES` at a level; the same at every call."""
    rng = np.random.default_rng(7)
    return [CHANGES[change][2](crop, level, rng) for crop in crops]


def no_faces(count: int = NO_FACES) -> list[np.ndarray]:
    """Squares uint8 [200, 200, 3] of free photographs without a face, anywhere, of 100 to 400 pixels."""
    crops = []
    for number in range(count):
        rng = np.random.default_rng([8, number])
        picture, half = background(KINDS[1], rng), rng.uniform(50, 200)
        crops.append(cut(picture, Placement(complex(rng.uniform(half, 1000 - half), rng.uniform(half, 750 - half)),
                                            complex(half))))
    return crops


def measure(crops: list[np.ndarray], estimator: Estimator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions (years) and flags of the crops, a column "change level" each; those of no change are in each."""
    found = {f"{change} {level:g}": estimator.ages(changed(crops, change, level))
             for change, (_, levels, _) in CHANGES.items() for level in levels}
    return (pd.DataFrame({name: table["prediction"] for name, table in found.items()}),
            pd.DataFrame({name: table["unlike"].astype(int) for name, table in found.items()}))


def main() -> int:
    """Measure, and keep the record."""
    parser = argparse.ArgumentParser("sensitivity.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--record", default="sensitivity", help="its name in benchmarks/records")
    options = parser.parse_args()
    record = HERE / "records" / options.record
    if record.exists():
        print(f"sensitivity.py: {record} is there; records are never overwritten", file=sys.stderr)
        return 1
    split = make_split(utkface_labels(), "holdout")
    names = split[split["part"] == "test"].sort_values("name")["name"].sample(options.pictures, random_state=0)
    folder, estimator = faces_folder(load_config("laptop")), Estimator()
    crops = [np.asarray(open_picture(folder / name).resize((SIDE, SIDE))) for name in names]
    predictions, flags = measure(crops, estimator)
    unlike = float(estimator.ages(no_faces())["unlike"].mean())
    record.mkdir(parents=True)
    for name, table in (("predictions", predictions), ("flags", flags)):
        table.insert(0, "name", names.to_numpy())
        table.to_csv(record / f"{name}.csv", index=False)
    (record / "config.json").write_text(json.dumps({
        "pictures": options.pictures, "split": split_hash(split), "made_by": made_by(estimator),
        "no_faces": NO_FACES, "no_faces_flagged": round(unlike, 4), "hardware": hardware()}, indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, PictureError, ValueError) as error:
        sys.exit(f"sensitivity.py: {error}")
