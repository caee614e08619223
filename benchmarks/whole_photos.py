"""Whole photos: made scenes in which it is known where each face lies, whose it is, and how old.

    python benchmarks/whole_photos.py --scenes 2000 --record scenes     # needs UTKFace, scikit-image and dlib-bin

Test pictures of `holdout` are pasted at a known size, turn and place into free backgrounds: plain, photographs that
scikit-image ships, and several faces in one. Nothing of a scene is kept but numbers. What is done stays in the cache,
a file a hundred scenes, so a second call goes on.
"""

import argparse
import cmath
import hashlib
import json
import math
import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from agehelpers import Estimator, PictureError, faces_folder, make_split, paths, split_hash, utkface_labels
from agehelpers.config import load_config
from agehelpers.data import whole
from agehelpers.data.decoder import open_picture
from agehelpers.devices import hardware
from agehelpers.photos import find
from agehelpers.photos.placement import Placement
from agehelpers.training import calibration, checkpoints

HERE = Path(__file__).resolve().parent
KINDS = ("plain", "photograph", "several faces")
FREE = ("coffee.png", "rocket.jpg", "chelsea.png", "brick.png", "grass.png", "gravel.png", "motorcycle_left.png",
        "motorcycle_right.png", "hubble_deep_field.jpg", "text.png", "page.png", "coins.png")
WIDTH, HEIGHT = 1000, 750
CHUNK = 100
SEEN = ["prediction", "unlike"]
FINE = 4  # a scene's pixel is the mean of so many squared


@dataclass(frozen=True)
class Pasted:
    """A test picture in a scene: its row in the table, its size in pixels, its turn in degrees, and its place."""

    row: int
    size: float
    turn: float
    centre: complex

    @property
    def where(self) -> Placement:
        """Its square."""
        return Placement(self.centre, cmath.rect(self.size / 2, math.radians(self.turn)))


def _reach(size: float) -> int:
    """Pixels from the middle of a pasted picture to the end of its margin's corners."""
    return math.ceil(1.2 * size / math.sqrt(2)) + 2


def layout(scene: int, count: int) -> tuple[str, list[Pasted], np.random.Generator]:
    """Kind of a scene, what is pasted from `count` pictures, and random numbers for the rest; the same at every call.

    One picture, or two to four in every third scene. Sizes from 40 to 400 px, even in their logarithm; turns up to 25
    degrees, in every eighth scene 25 to 45. Squares do not touch, nor their margins (see `paste`).
    """
    rng = np.random.default_rng([7, scene])
    kind = KINDS[scene % 3]
    pasted: list[Pasted] = []
    for number in range(1 if kind != "several faces" else int(rng.integers(2, 5))):
        row = (scene * 5 + number) % count if kind == "several faces" else (scene * 5 + 4) % count
        for _ in range(200):
            size = float(np.exp(rng.uniform(np.log(40), np.log(400 if kind != "several faces" else 250))))
            turn = rng.uniform(25, 45) * rng.choice([-1, 1]) if scene % 8 == 7 else rng.uniform(-25, 25)
            reach = _reach(size)
            if 2 * reach >= HEIGHT:
                continue
            centre = complex(rng.uniform(reach, WIDTH - reach), rng.uniform(reach, HEIGHT - reach))
            if all(abs(centre - other.centre) > reach + _reach(other.size) for other in pasted):
                pasted.append(Pasted(row, size, float(turn), centre))
                break
    return kind, pasted, rng


def background(kind: str, rng: np.random.Generator) -> np.ndarray:
    """uint8 [750, 1000, 3]: a soft gradient of two colours, or a part of a free photograph."""
    import skimage

    if kind == "plain":
        ends, x = rng.integers(30, 226, (2, 3)), np.linspace(0, 1, WIDTH)[None, :, None]
        return np.broadcast_to(ends[0] * (1 - x) + ends[1] * x, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    photo = open_picture(Path(skimage.__file__).parent / "data" / str(rng.choice(FREE)))
    scale = max(WIDTH / photo.width, HEIGHT / photo.height) * rng.uniform(1, 1.5)
    photo = photo.resize((math.ceil(photo.width * scale), math.ceil(photo.height * scale)))
    left, top = rng.integers(0, photo.width - WIDTH + 1), rng.integers(0, photo.height - HEIGHT + 1)
    return np.asarray(photo)[top:top + HEIGHT, left:left + WIDTH].copy()


def paste(scene: np.ndarray, crop: np.ndarray, where: Placement) -> None:
    """Put a crop, uint8 [S, S, 3], into the scene at its place, as a camera would: pixels are means of areas.

    Its edge goes on for a tenth of its side and then fades, so that the crop's own frame shows nothing of the scene.
    """
    import cv2

    margin = crop.shape[0] // 10
    crop = cv2.copyMakeBorder(crop, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    reach, side = _reach(2 * abs(where.half)), crop.shape[0]
    half = where.half * side / (side - 2 * margin)
    left, top = int(where.centre.real) - reach, int(where.centre.imag) - reach
    step = half * 2 / side * FINE
    corner = (where.centre - half * (1 + 1j) - complex(left, top)) * FINE + (step - 1) * (0.5 + 0.5j)
    matrix = np.array([[step.real, -step.imag, corner.real], [step.imag, step.real, corner.imag]])
    edge = np.minimum(np.arange(side), np.arange(side)[::-1]) / max(1, margin / 2)
    mask = np.clip(np.minimum(edge[:, None], edge[None, :]), 0, 1).astype(np.float32)
    fine, coarse = (2 * reach * FINE,) * 2, (2 * reach,) * 2
    laid = cv2.warpAffine(crop, matrix, fine, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    laid = cv2.resize(laid, coarse, interpolation=cv2.INTER_AREA)
    share = cv2.resize(cv2.warpAffine(mask, matrix, fine), coarse, interpolation=cv2.INTER_AREA)[..., None]
    part = scene[top:top + 2 * reach, left:left + 2 * reach]
    part[:] = (share * laid + (1 - share) * part).round().astype(np.uint8)


def draw(number: int, folder: Path, test: pd.DataFrame) -> tuple[np.ndarray, str, list[Pasted], list[np.ndarray]]:
    """A scene, uint8 [750, 1000, 3], its kind, what is pasted, and the pasted crops, uint8 [200, 200, 3] each."""
    kind, pasted, rng = layout(number, len(test))
    scene, crops = background("plain" if kind == "plain" else "photograph", rng), []
    for face in pasted:
        crops.append(np.asarray(open_picture(folder / test["name"].iloc[face.row]).resize((200, 200))))
        paste(scene, crops[-1], face.where)
    return scene, kind, pasted, crops


def matched(pasted: list[Pasted], found: pd.DataFrame) -> tuple[list[int | None], list[int]]:
    """Place in `found` (columns x, y) of each pasted face, None where none is within half its width; and the others."""
    places, left, hits = found[["x", "y"]].to_numpy(float), list(range(len(found))), []
    for face in pasted:
        away = np.hypot(*(places[left] - (face.centre.real, face.centre.imag)).T)
        hit = left.pop(int(away.argmin())) if len(left) and away.min() < face.size / 2 else None
        hits.append(hit)
    return hits, left


def measure(scenes: range, folder: Path, test: pd.DataFrame, estimator: Estimator) -> pd.DataFrame:
    """One row a pasted face: scene, kind, name, size, turn, found, prediction, original, same_size (predictions of the
    crop itself, and of the crop reduced to the size in the scene), unlike; and one a false box (no name)."""
    rows = []
    for number in scenes:
        scene, kind, pasted, crops = draw(number, folder, test)
        found = estimator(scene).dropna(subset="side")
        reduced = [np.asarray(Image.fromarray(crop).resize((round(face.size),) * 2, Image.Resampling.BOX))
                   for crop, face in zip(crops, pasted, strict=True)]
        known = [estimator.ages([np.asarray(Image.fromarray(crop).resize((200, 200), Image.Resampling.BICUBIC))
                                 for crop in some])["prediction"] for some in (crops, reduced)]
        hits, left = matched(pasted, found)
        for place, (face, hit) in enumerate(zip(pasted, hits, strict=True)):
            rows.append({"scene": number, "kind": kind, "name": test["name"].iloc[face.row], "size": round(face.size),
                         "turn": round(face.turn), "found": hit is not None, "original": known[0][place],
                         "same_size": known[1][place], **({} if hit is None else dict(found[SEEN].iloc[hit]))})
        rows += [{"scene": number, "kind": kind, "found": False, "unlike": flag} for flag in found["unlike"].iloc[left]]
    return pd.DataFrame(rows)


def shuffled_test() -> tuple[pd.DataFrame, str]:
    """Test pictures of `holdout` in the order in which they are pasted, and the hash of the split."""
    split = make_split(utkface_labels(), "holdout")
    test = split[split["part"] == "test"].sort_values("name", ignore_index=True).sample(frac=1, random_state=0)
    return test, split_hash(split)


def made_by(estimator: Estimator) -> str:
    """Eight hex digits of what a prediction depends on: both files of weights, and the code that reads and pastes."""
    weights = [estimator.checkpoint, estimator.checkpoint.with_name("aligner.safetensors")]
    code = [Path(module.__file__ or "") for module in (calibration, checkpoints, whole)]
    files = [*weights, *sorted(Path(find.__file__).parent.glob("*.py")), *code, Path(__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


def _chunk(start: int, stop: int, folder: Path, test: pd.DataFrame, file: Path) -> Path:
    """Measure a chunk of scenes unless its file is there."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if not file.exists():
        paths.write_atomically(file, measure(range(start, stop), folder, test, Estimator()).to_csv(index=False))
    return file


def main() -> int:
    """Measure the scenes and keep their record."""
    parser = argparse.ArgumentParser("whole_photos.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--record", help="keep the rows under this name in benchmarks/records")
    options = parser.parse_args()
    record = HERE / "records" / options.record if options.record else None
    if record is not None and record.exists():
        print(f"whole_photos.py: {record} is there; records are never overwritten", file=sys.stderr)
        return 1
    test, split = shuffled_test()
    estimator = Estimator()
    digest = made_by(estimator)
    folder, cache = faces_folder(load_config("laptop")), paths.cache_folder() / f"scenes-{digest}"
    chunks = [(start, min(options.scenes, start + CHUNK)) for start in range(0, options.scenes, CHUNK)]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        files = pool.starmap(_chunk, [(start, stop, folder, test, cache / f"{start}-{stop}.csv")
                                      for start, stop in chunks])
    table = pd.concat([pd.read_csv(file) for file in files], ignore_index=True)
    faces = table.dropna(subset="name")
    print(faces.groupby("kind")["found"].mean().round(3).to_string())
    print(f"false boxes a scene: {table['name'].isna().sum() / options.scenes:.3f}")
    if record is not None:
        record.mkdir(parents=True)
        table.to_csv(record / "scenes.csv.gz", index=False, compression={"method": "gzip", "mtime": 0})
        (record / "config.json").write_text(json.dumps({
            "scenes": options.scenes, "split": split, "made_by": digest, "hardware": hardware()}, indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, PictureError, ValueError) as error:
        sys.exit(f"whole_photos.py: {error}")
