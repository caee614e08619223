"""Many photos at once: which files are meant, the table of their faces, and pictures with the ages drawn in."""

import cmath
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from agehelpers import paths
from agehelpers.data.decoder import PictureError
from agehelpers.photos.placement import Placement
from agehelpers.photos.reader import AT_ONCE, PhotoReader

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
COLOUR = "#ffd400"


def photo_files(named: Sequence[Path]) -> list[Path]:
    """The files in `named`, folders replaced by the pictures in them and their sub-folders (hidden ones left out).

    FileNotFoundError for a folder without a picture.
    """
    files: list[Path] = []
    for path in map(Path, named):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
                            and not any(part.startswith(".") for part in file.relative_to(path).parts))
            if not inside:
                raise FileNotFoundError(f"{path}: no picture in this folder ({', '.join(sorted(SUFFIXES))})")
            files += inside
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def predict_photos(estimator: PhotoReader, files: Sequence[Path], cropped: bool = False, annotated: Path | None = None
                   ) -> Iterator[pd.DataFrame]:
    """The table of each file in turn, many crops at once; with `annotated`, photos with faces are drawn there."""
    at_once = AT_ONCE if cropped else 1
    for start in range(0, len(files), at_once):
        for name, table in estimator(files[start:start + at_once], cropped).groupby("photo", sort=False):
            if annotated is not None and table["prediction"].notna().any():
                file = Path(str(name))
                with suppress(PictureError):  # gone since it was read; its row stands
                    save_picture(annotate(Image.fromarray(estimator.read(file)), table), annotated, file.stem)
            yield table


def annotate(photo: Image.Image, table: pd.DataFrame) -> Image.Image:
    """`photo` with the square of each face, its age, its 90 % interval and "?" where it is unlike the training's."""
    drawn = photo.convert("RGB")
    draw = ImageDraw.Draw(drawn)
    for row in table.dropna(subset="side").to_dict("records"):
        where = Placement(complex(row["x"], row["y"]), cmath.rect(row["side"] / 2, math.radians(row["turn"])))
        corners = [where.place(z) for z in (-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j)]
        width = max(2, round(row["side"] / 60))
        draw.line([(corner.real, corner.imag) for corner in [*corners, corners[0]]], fill=COLOUR, width=width)
        text = row["reason"] or f"{row['prediction']:.0f}"
        if not row["reason"] and "lower_90" in row:
            text += f" ({row['lower_90']:.0f} to {row['upper_90']:.0f})" + " ?" * (row.get("unlike") is True)
        font = ImageFont.load_default(max(12, round(row["side"] / 7)))
        left, top = min(c.real for c in corners), min(c.imag for c in corners)
        box = draw.textbbox((0, 0), text, font=font)
        x = min(max(0.0, left), max(0.0, drawn.width - box[2] - 6))
        y = top - box[3] - 6 if top >= box[3] + 6 else min(max(c.imag for c in corners), drawn.height - box[3] - 6)
        draw.rectangle((x, y, x + box[2] + 6, y + box[3] + 6), fill="black")
        draw.text((x + 3, y + 3), text, fill=COLOUR, font=font)
    return drawn


def save_picture(picture: Image.Image, folder: Path, stem: str) -> Path:
    """`picture` as a new JPEG in `folder`: stem.jpg, or stem-2.jpg, ... where that is taken."""
    names = (f"{stem}.jpg" if number == 1 else f"{stem}-{number}.jpg" for number in range(1, 10**6))
    file = next(folder / name for name in names if not (folder / name).exists())
    with paths.replacing(file) as part:
        picture.save(part, format="JPEG", quality=92)
    return file


def write_table(table: pd.DataFrame, file: Path) -> None:
    """`table` as CSV, or as JSON (a list with an object a face), by the name of `file`; written whole or not at all."""
    text = table.to_csv(index=False) if file.suffix == ".csv" else table.to_json(orient="records", indent=1)
    paths.write_atomically(file, text)
