"""Drawn sample faces: cartoons whose shape follows an age, named as UTKFace names its pictures.

Age shows in shape alone (proportions of skull, eyes, nose and chin, hairline, wrinkles, ears). The colours of skin,
hair and background are random and have nothing to do with age, and nothing of how a face is drawn depends on its
ethnicity label: there are no caricatures here, and the mean colour of a picture says nothing about its age.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from agehelpers import paths

VERSION = 1  # of the drawing; each version has its own folder of sample faces
MARKER = ".drawn.json"
SIDE, SCALE = 200, 2  # pixels of a picture; it is drawn SCALE times as large and reduced

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]

# Names with the faults of the published set, and others that an index has to survive: (name, what the file holds).
FAULTS = (
    ("39_1_20170116174525125.jpg.chip.jpg", "face"),  # no ethnicity
    ("24_0_1_20170116220224657 .jpg.chip.jpg", "face"),  # a space before .jpg
    ("55_0_0_20170116232725357jpg.chip.jpg", "face"),  # no dot before jpg
    ("14_0_0_2017011022340900.jpg.chip.jpg", "face"),  # time stamps of 16 and of 18 digits
    ("28_1_2_201701161846515488.jpg.chip.jpg", "face"),
    ("face.jpg", "face"),  # no label in the name
    ("200_0_1_20170101000000001.jpg.chip.jpg", "face"),  # impossible age, then impossible ethnicity
    ("30_1_7_20170101000000002.jpg.chip.jpg", "face"),
    ("45_0_2_20170101000000003.jpg.chip.jpg", "truncated"),
    ("46_1_1_20170101000000004.jpg.chip.jpg", "empty"),
    ("47_0_3_20170101000000005.jpg.chip.jpg", "text"),
    ("62_1_0_20170101000000006.jpg.chip.jpg", "grey"),
    ("8_0_4_20170101000000007.jpg.chip.jpg", "CMYK"),
    ("33_1_1_20170101000000008.jpg.chip.jpg", "RGBA"),
)
# Byte-identical copies: what the copy's label adds to age, and whether it changes gender and ethnicity.
COPIES = ((0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), (1, 0, 0), (2, 0, 0), (4, 0, 1), (6, 0, 0), (9, 1, 0),
          (15, 0, 0), (0, 1, 1))
NEAR_COPIES = 8  # encoded again at another quality


def draw_face(age: float, gender: int, rng: np.random.Generator) -> Image.Image:
    """One face of `age` years (1 to about 100), RGB, SIDE x SIDE; everything else about it comes from `rng`."""
    side = SIDE * SCALE
    skin, hair, ground, shirt = _colours(rng)
    image = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(image)
    unit = side / 200 * rng.uniform(0.94, 1.06)
    turn, dx, dy = math.radians(rng.normal(0, 4)), rng.normal(0, 3), rng.normal(0, 3)

    def place(points: Sequence[tuple[float, float]]) -> Points:
        """Coordinates about the middle of the face, in 200ths of the picture, to pixels."""
        c, s = math.cos(turn), math.sin(turn)
        return [(side / 2 + unit * (x * c - y * s + dx), side / 2 + unit * (x * s + y * c + dy)) for x, y in points]

    def blob(x: float, y: float, rx: float, ry: float, fill: Colour, power: float = 2.0) -> None:
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        c, s = np.cos(angles), np.sin(angles)
        px, py = np.sign(c) * np.abs(c) ** (2 / power) * rx + x, np.sign(s) * np.abs(s) ** (2 / power) * ry + y
        pen.polygon(place(list(zip(px, py, strict=True))), fill=fill)

    def line(points: Points, fill: Colour, width: float) -> None:
        if width > 0.2 and len(points) > 1:
            pen.line(place(points), fill=fill, width=max(1, round(width * unit)), joint="curve")

    _person(age, gender, rng, (skin, hair, shirt), blob, line, lambda points, fill: pen.polygon(place(points), fill))
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _colours(rng: np.random.Generator) -> tuple[Colour, Colour, Colour, Colour]:
    """Skin, hair, background and shirt, independent of everything else."""
    light = rng.random()
    skin = (1 - light) * np.array([98, 62, 44]) + light * np.array([250, 214, 188]) + rng.normal(0, 5, 3)
    hair = np.array([[30, 25, 22], [70, 45, 25], [130, 85, 45], [205, 170, 100], [160, 70, 35], [185, 185, 185]])[
        rng.integers(6)] * rng.uniform(0.8, 1.15)
    ground, shirt = rng.uniform(70, 230) + rng.uniform(-38, 38, 3), rng.uniform(50, 210) + rng.uniform(-50, 50, 3)
    skin, hair, ground, shirt = (np.clip(colour, 0, 255).astype(int) for colour in (skin, hair, ground, shirt))
    return tuple(skin), tuple(hair), tuple(ground), tuple(shirt)


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, int(value * factor)) for value in colour)
    return red, green, blue


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> Points:
    """Part of an ellipse, from `start` to `stop` degrees (0 to the right, 90 down)."""
    angles = np.radians(np.linspace(start, stop, 14))
    return list(zip(x + rx * np.cos(angles), y + ry * np.sin(angles), strict=True))


def _person(age: float, gender: int, rng: np.random.Generator, colours: tuple[Colour, Colour, Colour],
            blob: Callable[..., None], line: Callable[..., None], fill: Callable[[Points, Colour], None]) -> None:
    """Head, hair, features and wrinkles in coordinates about the middle of the face (x to the right, y down)."""
    skin, hair, shirt = colours
    young, late = math.exp(-age / 11), min(1.2, max(0.0, (age - 22) / 65))  # 1 at birth; 0 until 22, 1 at 87
    vary = rng.normal(0, 1, 8)
    width = 50 + 9 * young + 1.5 * vary[0]
    top = -56 - 6 * young
    chin = 52 + 14 * (1 - young) + 2 * vary[1]
    eyes = 2 + 14 * young - 9 * late + 1.2 * vary[2]  # their height: low in a baby's face
    jaw = 0.62 + 0.1 * young + 0.2 * late
    dark, darker = _shade(skin, 0.82), _shade(skin, 0.62)
    grown = 1 - young

    if rng.random() < (0.6 if gender else 0.08) * grown:  # long hair, behind everything else
        blob(0, 14, width + 14, 62 + 14 * rng.random(), hair, 2.8)
    blob(0, 108, 34 + 46 * grown, 38, shirt, 2.6)
    blob(0, 72, 13 + 13 * grown, 34, dark)
    ear = 10 + 12 * grown + 9 * late
    for sign in (-1, 1):
        blob(sign * (width - 1), eyes + 8, 7, ear * 0.75, dark)
    volume = rng.uniform(2, 9)
    if rng.random() < grown + 0.25:
        blob(0, top + 34, width + volume, 38 + volume, hair, 2.3)
    outline = [(math.cos(a) * width * (1 if math.sin(a) < 0 else 1 - (1 - jaw) * math.sin(a) ** 2),
                math.sin(a) * (chin if math.sin(a) > 0 else -top)) for a in np.linspace(0, 2 * math.pi, 64)]
    fill(outline, skin)
    _hairline(age, young, late, width, top, hair, rng, fill, line)

    size, apart = 7 + 5 * young - 1.3 * late, 21 + 1.2 * vary[3]
    iris = [(60, 40, 25), (50, 90, 60), (60, 100, 150)][rng.integers(3)]
    for sign in (-1, 1):
        x = sign * apart
        blob(x, eyes, size * 1.45, size * (0.85 - 0.2 * late), (250, 250, 248))
        blob(x + 1.2 * vary[4], eyes, size * 0.7, size * 0.75, iris)
        blob(x + 1.2 * vary[4], eyes, size * 0.34, size * 0.38, (15, 12, 12))
        line(_arc(x, eyes, size * 1.55, size * (0.95 - 0.35 * late), 180, 360), darker, 1.6 + late)  # lid
        brow = eyes - size - 6 + 3 * late
        line([(x - 11, brow + 2 * late), (x, brow - 3), (x + 11, brow + 2 * late)], hair, 1 + 2.4 * grown + 0.8 * late)
        bag = min(1.0, max(0.0, (age - 35) / 40))
        line(_arc(x, eyes + size * 0.7, size * 1.3, 5 * bag + 1, 20, 160), dark, 2.2 * bag)
        for number in range(3):  # crow's feet
            long = 13 * min(1.0, max(0.0, (age - 30 - 8 * number) / 30))
            start, slope = sign * (apart + size * 1.6), (number - 1) * 0.55
            line([(start, eyes + slope * 4), (start + sign * long, eyes + slope * (4 + long))], dark, 1.8 * (long > 1))
    nose = eyes + 12 + 17 * grown + 7 * late
    wide = 4.5 + 4.5 * grown + 2.5 * late
    line([(-1, eyes + 6), (wide * 0.75, nose - 3), (0, nose)], darker, 1.4 + grown)
    line(_arc(0, nose - 2, wide, 4.5, 20, 160), darker, 1.6 + grown)
    mouth = nose + 9 + 8 * grown
    smile, broad = rng.uniform(0, 8), 11 + 9 * grown + vary[5]
    lips = (min(255, skin[0]), int(skin[1] * 0.62), int(skin[2] * 0.62))
    bend, thick = np.linspace(-1, 1, 13), 2.6 * (1 - 0.6 * late)
    seam = [(broad * x, mouth + smile * (0.45 - 0.9 * x * x)) for x in bend]  # the corners rise with the smile
    upper = [(x, y - thick * (1 - b * b) * (0.8 + 0.4 * abs(b))) for (x, y), b in zip(seam, bend, strict=True)]
    lower = [(x, y + 1.5 * thick * (1 - b * b)) for (x, y), b in zip(seam, bend, strict=True)]
    fill([*upper, *reversed(lower)], lips)
    line(seam, darker, 1.5)
    _wrinkles(age, late, eyes, nose, mouth, broad, wide, chin, top, dark, line)
    if rng.random() < 0.18 and age > 8:
        for sign in (-1, 1):
            line(_arc(sign * apart, eyes, 15, 12, 0, 360), (35, 35, 40), 1.8)
        line([(-apart + 15, eyes - 2), (apart - 15, eyes - 2)], (35, 35, 40), 1.8)


def _hairline(age: float, young: float, late: float, width: float, top: float, hair: Colour,
              rng: np.random.Generator, fill: Callable[[Points, Colour], None], line: Callable[..., None]) -> None:
    """A baby's tuft, or hair down to a line that climbs with age."""
    if young > 0.7:
        line([(-6, top + 2), (0, top - 7), (7, top + 1)], hair, 3)
        return
    depth = (20 + 4 * rng.normal()) * (1 - 0.85 * late) * min(1.0, 1.5 * (1 - young))
    if depth < 2:
        return
    angles = np.linspace(math.pi * (1.04 + 0.2 * late), math.pi * (1.96 - 0.2 * late), 24)
    rim = [(math.cos(a) * (width + 2), math.sin(a) * (3 - top)) for a in angles]
    part = rng.uniform(-0.5, 0.5)
    edge = [(x * 0.9, y + depth * (0.55 + 0.45 * math.cos(2.2 * (x / width - part)))) for x, y in reversed(rim)]
    fill([*rim, *edge], hair)


def _wrinkles(age: float, late: float, eyes: float, nose: float, mouth: float, broad: float, wide: float, chin: float,
              top: float, colour: Colour, line: Callable[..., None]) -> None:
    """Forehead lines, folds from nose to mouth, lines at the mouth's corners and on the cheeks; all grow with age."""
    for number in range(4):
        half = 30 * min(1.0, max(0.0, (age - 28 - 9 * number) / 30))
        y = eyes - 25 - 7 * number
        if y > top + 8:
            line([(-half, y), (-half / 2, y - 2), (0, y), (half / 2, y - 2), (half, y)], colour, 2.0 * (half > 2))
    fold = min(1.0, max(0.0, (age - 18) / 45))
    for sign in (-1, 1):
        x, y = sign * (wide + 2), nose - 2
        line([(x, y), (x + sign * 9 * fold, y + 9 * fold),
              (sign * (broad + 6 * fold), y + (mouth + 6 - y) * fold)], colour, 2.4 * (fold > 0.05))
        droop = min(1.0, max(0.0, (age - 50) / 35))
        line([(sign * (broad + 1), mouth + 2), (sign * (broad + 4), mouth + 2 + 16 * droop)], colour, 2.4 * droop)
        cheek = min(1.0, max(0.0, (age - 60) / 30))
        line([(sign * 34, nose), (sign * (36 - 6 * cheek), nose + 22 * cheek)], colour, 2.2 * cheek)
    line([(-8 * late, chin - 9), (8 * late, chin - 9)], colour, 2 * (late > 0.4))


def _encode(image: Image.Image, quality: int = 90, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=quality)
    return stream.getvalue()


def _fault(kind: str, age: int, seed: int, number: int) -> bytes:
    """Content of a file of FAULTS."""
    face = draw_face(min(age, 95), number % 2, np.random.default_rng([seed, 1, number]))
    if kind == "truncated":
        return _encode(face)[:2500]
    if kind in ("empty", "text"):
        return b"" if kind == "empty" else b"This is no picture.\n"
    if kind == "RGBA":
        return _encode(face.convert("RGBA"), kind="PNG")
    return _encode(face if kind == "face" else face.convert("L" if kind == "grey" else kind))


def _contents(count: int, seed: int) -> dict[str, bytes]:
    """Every file by its name."""
    rng = np.random.default_rng(seed)
    ages = rng.integers(1, 93, count)
    ages = np.where(rng.random(count) < 0.12, np.maximum(5, np.round(ages / 5) * 5), ages).astype(int)  # heaping
    genders, groups = rng.integers(0, 2, count), rng.choice(5, count, p=(0.35, 0.2, 0.2, 0.15, 0.1))

    def name(age: int, gender: int, group: int, number: int) -> str:
        return f"{age}_{gender}_{group}_20170105{number:09d}.jpg.chip.jpg"

    files, labels, faces = {}, [], []
    for number, label in enumerate(zip(ages.tolist(), genders.tolist(), groups.tolist(), strict=True)):
        faces.append(draw_face(label[0], label[1], np.random.default_rng([seed, 0, number])))
        labels.append(label)
        files[name(*label, number)] = _encode(faces[-1])
    for number, (years, other, group) in enumerate(COPIES):
        source = (7 * number + 3) % count
        age, gender, ethnicity = labels[source]
        copy = (age + years, (gender + other) % 2, (ethnicity + group) % 5, 10**6 + number)
        files[name(*copy)] = files[name(*labels[source], source)]
    for number in range(NEAR_COPIES):
        source = (11 * number + 5) % count
        files[name(*labels[source], 2 * 10**6 + number)] = _encode(faces[source], quality=75)
    for number, (fault, kind) in enumerate(FAULTS):
        age = fault.split("_")[0]
        files[fault] = _fault(kind, int(age) if age.isdigit() else 40, seed, number)
    return files


def draw_faces(folder: Path, count: int = 600, seed: int = 0) -> Path:
    """Draw `count` faces, and some three dozen faulty files and copies beside them, into `folder`; returns it.

    The same arguments give the same pictures. The folder is complete or not there: it is drawn beside its place and
    renamed. One that was drawn before with the same arguments, and holds just that, is left as it is.

    Raises
    ------
    FileExistsError
        `folder` holds other files, or lacks some that were drawn. Nothing is ever deleted.
    ValueError
        `count` is less than 1.
    """
    folder, wanted = Path(folder), {"version": VERSION, "count": count, "seed": seed}
    if count < 1:
        raise ValueError(f"count={count}: draw at least one face")
    if _is_drawn(folder, wanted):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        contents = _contents(count, seed)
        for name, content in contents.items():
            (part / name).write_bytes(content)
        paths.write_json(part / MARKER, {**wanted, "names": sorted(contents)})
        part.chmod(0o755)
        try:
            os.replace(part, folder)
        except OSError:  # somebody else drew the same faces in the meantime
            if not _is_drawn(folder, wanted):
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _is_drawn(folder: Path, wanted: dict[str, int]) -> bool:
    """True: drawn as `wanted` and complete; False: not there, or empty; FileExistsError: anything else."""
    if not folder.is_file() and not (folder.is_dir() and any(folder.iterdir())):
        return False
    names = {name for name in os.listdir(folder) if not name.startswith(".")} if folder.is_dir() else set()
    try:
        if json.loads((folder / MARKER).read_text()) == {**wanted, "names": sorted(names)}:
            return True
    except (OSError, ValueError):  # no marker, or a damaged one
        pass
    raise FileExistsError(f"{folder} holds something else than the drawn faces, or lacks some of them; "
                          "move it away, and they are drawn again")


def sample_faces() -> Path:
    """data/sample_faces/v<version of the drawing>, drawn on first use."""
    return draw_faces(paths.data_folder() / "sample_faces" / f"v{VERSION}")
