"""Drawn sample faces: cartoons whose shape follows an age, named as UTKFace names its pictures.

Age shows in shape alone (proportions of skull, eyes, nose and chin, hairline, wrinkles, ears). The colours of skin,
hair and background are random and have nothing to do with age, and nothing of how a face is drawn depends on its
ethnicity label: there are no caricatures here, and the mean colour of a picture says nothing about its age.
"""

import io
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from agehelpers import paths

VERSION = 1  # of the drawing; each version has its own folder of sample faces
MARKER = ".drawn.json"
HAIR = np.array([[30, 25, 22], [70, 45, 25], [130, 85, 45], [205, 170, 100], [160, 70, 35], [185, 185, 185]])
SIDE, SCALE = 200, 2  # pixels of a picture; it is drawn SCALE times as large and reduced

Colour = tuple[int, ...]
Points = Sequence[tuple[float, float]] | np.ndarray  # [N, 2]: x to the right, y down

# Names with the faults of the published set, and others that a label table has to survive: (name, what the file holds).
FAULTS = (
    # no ethnicity, a space before .jpg, no dot before jpg, time stamps of 16 and of 18 digits
    ("39_1_20170116174525125.jpg.chip.jpg", "face"), ("24_0_1_20170116220224657 .jpg.chip.jpg", "face"),
    ("55_0_0_20170116232725357jpg.chip.jpg", "face"), ("14_0_0_2017011022340900.jpg.chip.jpg", "face"),
    ("28_1_2_201701161846515488.jpg.chip.jpg", "face"),
    # no label in the name, impossible age, impossible ethnicity
    ("face.jpg", "face"), ("200_0_1_20170101000000001.jpg.chip.jpg", "face"),
    ("30_1_7_20170101000000002.jpg.chip.jpg", "face"),
    ("45_0_2_20170101000000003.jpg.chip.jpg", "truncated"), ("46_1_1_20170101000000004.jpg.chip.jpg", "empty"),
    ("47_0_3_20170101000000005.jpg.chip.jpg", "text"), ("62_1_0_20170101000000006.jpg.chip.jpg", "grey"),
    ("8_0_4_20170101000000007.jpg.chip.jpg", "CMYK"), ("33_1_1_20170101000000008.jpg.chip.jpg", "RGBA"),
)
# Byte-identical copies: what the copy's label adds to age, and whether it changes gender and ethnicity.
COPIES = ((0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), (1, 0, 0), (2, 0, 0), (4, 0, 1), (6, 0, 0), (9, 1, 0),
          (15, 0, 0), (0, 1, 1))
NEAR_COPIES = 8  # encoded again at another quality


def draw_face(age: float, gender: int, rng: np.random.Generator) -> Image.Image:
    """One face of `age` years (1 to about 100), RGB, SIDE x SIDE; everything else about it comes from `rng`."""
    face = _Face(age, gender, rng)
    for draw_part in (face.head, face.hairline, face.eyes, face.nose_and_mouth, face.wrinkles, face.glasses):
        draw_part()  # from the back to the front, and in this order by the numbers of `rng`
    return face.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _colour(values: np.ndarray) -> Colour:
    return tuple(np.clip(values, 0, 255).astype(int).tolist())


def _ramp(age: float, start: float, years: float, most: float = 1.0) -> float:
    """0 until the age `start`, then rising by 1 in so many `years`, up to `most`."""
    return min(most, max(0.0, (age - start) / years))


def _arc(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360, count: int = 14,
         power: float = 2) -> np.ndarray:
    """Points [count, 2] of an ellipse from `start` to `stop` degrees (0 right, 90 down); `power` fills the corners."""
    angles = np.radians(np.linspace(start, stop, count))
    c, s = np.cos(angles), np.sin(angles)
    return np.stack([x + rx * np.sign(c) * np.abs(c) ** (2 / power),
                     y + ry * np.sign(s) * np.abs(s) ** (2 / power)], axis=1)


class _Face:
    """A picture and the proportions of its face; each other method draws one part of it.

    In coordinates about the middle of the face, in 200ths of the picture: x to the right, y down.
    """

    def __init__(self, age: float, gender: int, rng: np.random.Generator) -> None:
        self.age, self.gender, self.rng = age, gender, rng
        light = rng.random()  # colours are independent of age, and of each other
        skin = (1 - light) * np.array([98, 62, 44]) + light * np.array([250, 214, 188]) + rng.normal(0, 5, 3)
        skin = np.clip(skin, 0, 255).astype(int)
        hair = HAIR[rng.integers(6)] * rng.uniform(0.8, 1.15)
        ground, shirt = rng.uniform(70, 230) + rng.uniform(-38, 38, 3), rng.uniform(50, 210) + rng.uniform(-50, 50, 3)
        self.skin, self.hair, self.shirt = _colour(skin), _colour(hair), _colour(shirt)
        self.dark, self.darker, self.lip = _colour(0.82 * skin), _colour(0.62 * skin), _colour(skin * [1, 0.62, 0.62])
        self.image = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), _colour(ground))
        self.pen = ImageDraw.Draw(self.image)
        self.unit = SIDE * SCALE / 200 * rng.uniform(0.94, 1.06)
        self.turn, self.dx, self.dy = math.radians(rng.normal(0, 4)), rng.normal(0, 3), rng.normal(0, 3)
        vary = rng.normal(0, 1, 8)
        self.young, self.late = math.exp(-age / 11), _ramp(age, 22, 65, 1.2)  # 1 at birth; 0 until 22, 1 at 87
        self.grown = 1 - self.young
        self.width = 50 + 9 * self.young + 1.5 * vary[0]
        self.top, self.chin = -56 - 6 * self.young, 52 + 14 * self.grown + 2 * vary[1]
        self.eye = 2 + 14 * self.young - 9 * self.late + 1.2 * vary[2]  # its height: low in a baby's face
        self.eye_size, self.apart, self.gaze = 7 + 5 * self.young - 1.3 * self.late, 21 + 1.2 * vary[3], 1.2 * vary[4]
        self.tip, self.wide = self.eye + 12 + 17 * self.grown + 7 * self.late, 4.5 + 4.5 * self.grown + 2.5 * self.late
        self.lips, self.broad = self.tip + 9 + 8 * self.grown, 11 + 9 * self.grown + vary[5]

    def _pixels(self, points: Points) -> list[float]:
        """Coordinates x, y, x, y, ... in the picture."""
        x, y = np.transpose(points)
        c, s, half = math.cos(self.turn), math.sin(self.turn), SIDE * SCALE / 2
        turned = np.stack([x * c - y * s + self.dx, x * s + y * c + self.dy], axis=1)
        return (half + self.unit * turned).ravel().tolist()

    def _fill(self, points: Points, colour: Colour) -> None:
        self.pen.polygon(self._pixels(points), fill=colour)

    def _blob(self, x: float, y: float, rx: float, ry: float, colour: Colour, power: float = 2) -> None:
        self._fill(_arc(x, y, rx, ry, count=49, power=power), colour)

    def _line(self, points: Points, colour: Colour, width: float) -> None:
        if width > 0.2:
            self.pen.line(self._pixels(points), fill=colour, width=max(1, round(width * self.unit)), joint="curve")

    def head(self) -> None:
        """Long hair, shoulders, neck, ears, hair, and the skin in front of them."""
        width, top, chin, rng = self.width, self.top, self.chin, self.rng
        if rng.random() < (0.6 if self.gender else 0.08) * self.grown:
            self._blob(0, 14, width + 14, 62 + 14 * rng.random(), self.hair, 2.8)
        self._blob(0, 108, 34 + 46 * self.grown, 38, self.shirt, 2.6)
        self._blob(0, 72, 13 + 13 * self.grown, 34, self.dark)
        for side in (-1, 1):
            self._blob(side * (width - 1), self.eye + 8, 7, (10 + 12 * self.grown + 9 * self.late) * 0.75, self.dark)
        volume = rng.uniform(2, 9)
        if rng.random() < self.grown + 0.25:
            self._blob(0, top + 34, width + volume, 38 + volume, self.hair, 2.3)
        narrower = 1 - (0.62 + 0.1 * self.young + 0.2 * self.late)  # towards the chin
        self._fill([(c * width * (1 if s < 0 else 1 - narrower * s**2), s * (chin if s > 0 else -top))
                    for c, s in _arc(0, 0, 1, 1, count=64)], self.skin)

    def hairline(self) -> None:
        """A baby's tuft, or hair down to a line that climbs with age."""
        width, top, late = self.width, self.top, self.late
        if self.young > 0.7:
            self._line([(-6, top + 2), (0, top - 7), (7, top + 1)], self.hair, 3)
            return
        depth = (20 + 4 * self.rng.normal()) * (1 - 0.85 * late) * min(1.0, 1.5 * self.grown)
        if depth >= 2:
            rim = _arc(0, 0, width + 2, 3 - top, 187.2 + 36 * late, 352.8 - 36 * late, count=24)
            part = self.rng.uniform(-0.5, 0.5)
            edge = [(x * 0.9, y + depth * (0.55 + 0.45 * math.cos(2.2 * (x / width - part)))) for x, y in rim[::-1]]
            self._fill([*rim, *edge], self.hair)

    def eyes(self) -> None:
        """Eyes with their lids, brows, bags and crow's feet."""
        iris = [(60, 40, 25), (50, 90, 60), (60, 100, 150)][self.rng.integers(3)]
        y, size, late, bag = self.eye, self.eye_size, self.late, _ramp(self.age, 35, 40)
        for side in (-1, 1):
            x = side * self.apart
            self._blob(x, y, size * 1.45, size * (0.85 - 0.2 * late), (250, 250, 248))
            self._blob(x + self.gaze, y, size * 0.7, size * 0.75, iris)
            self._blob(x + self.gaze, y, size * 0.34, size * 0.38, (15, 12, 12))
            self._line(_arc(x, y, size * 1.55, size * (0.95 - 0.35 * late), 180, 360), self.darker, 1.6 + late)
            brow = y - size - 6 + 3 * late
            self._line([(x - 11, brow + 2 * late), (x, brow - 3), (x + 11, brow + 2 * late)], self.hair,
                       1 + 2.4 * self.grown + 0.8 * late)
            self._line(_arc(x, y + size * 0.7, size * 1.3, 5 * bag + 1, 20, 160), self.dark, 2.2 * bag)
            start = side * (self.apart + size * 1.6)
            for number, slope in enumerate((-0.55, 0, 0.55)):
                if (long := 13 * _ramp(self.age, 30 + 8 * number, 30)) > 1:
                    self._line([(start, y + slope * 4), (start + side * long, y + slope * (4 + long))], self.dark, 1.8)

    def nose_and_mouth(self) -> None:
        self._line([(-1, self.eye + 6), (self.wide * 0.75, self.tip - 3), (0, self.tip)], self.darker, 1.4 + self.grown)
        self._line(_arc(0, self.tip - 2, self.wide, 4.5, 20, 160), self.darker, 1.6 + self.grown)
        smile, bend = self.rng.uniform(0, 8), np.linspace(-1, 1, 13)
        thick = 2.6 * (1 - 0.6 * self.late) * (1 - bend**2)
        x, y = self.broad * bend, self.lips + smile * (0.45 - 0.9 * bend**2)  # a smile lifts the corners
        upper, lower = np.stack([x, y - thick * (0.8 + 0.4 * np.abs(bend))], 1), np.stack([x, y + 1.5 * thick], 1)
        self._fill([*upper, *lower[::-1]], self.lip)
        self._line(np.stack([x, y], 1), self.darker, 1.5)

    def wrinkles(self) -> None:
        """Lines on the forehead, from nose to mouth, at its corners, on cheeks and chin; all grow with age."""
        age, nose, lips, broad = self.age, self.tip, self.lips, self.broad
        for number in range(4):
            half, y = 30 * _ramp(age, 28 + 9 * number, 30), self.eye - 25 - 7 * number
            if y > self.top + 8 and half > 2:
                self._line([(-half, y), (-half / 2, y - 2), (0, y), (half / 2, y - 2), (half, y)], self.dark, 2)
        fold, droop, cheek = _ramp(age, 18, 45), _ramp(age, 50, 35), _ramp(age, 60, 30)
        for side in (-1, 1):
            if fold > 0.05:
                x, y = side * (self.wide + 2), nose - 2
                end = side * (broad + 6 * fold), y + (lips + 6 - y) * fold
                self._line([(x, y), (x + side * 9 * fold, y + 9 * fold), end], self.dark, 2.4)
            corner = side * (broad + 1), lips + 2
            self._line([corner, (side * (broad + 4), lips + 2 + 16 * droop)], self.dark, 2.4 * droop)
            self._line([(side * 34, nose), (side * (36 - 6 * cheek), nose + 22 * cheek)], self.dark, 2.2 * cheek)
        if self.late > 0.4:
            self._line([(-8 * self.late, self.chin - 9), (8 * self.late, self.chin - 9)], self.dark, 2)

    def glasses(self) -> None:
        if self.rng.random() < 0.18 and self.age > 8:
            x, y = self.apart, self.eye
            for points in (_arc(-x, y, 15, 12), _arc(x, y, 15, 12), [(15 - x, y - 2), (x - 15, y - 2)]):
                self._line(points, (35, 35, 40), 1.8)


def _encode(image: Image.Image, kind: str = "JPEG", quality: int = 90) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=quality)
    return stream.getvalue()


def _faults(face: Image.Image) -> dict[str, bytes]:
    """Contents of the files of FAULTS."""
    whole = _encode(face)
    return {"face": whole, "truncated": whole[:2500], "empty": b"", "text": b"This is no picture.\n",
            "grey": _encode(face.convert("L")), "CMYK": _encode(face.convert("CMYK")),
            "RGBA": _encode(face.convert("RGBA"), "PNG")}


def _contents(count: int, seed: int) -> dict[str, bytes]:
    """Every file by its name."""
    rng = np.random.default_rng(seed)
    ages = rng.integers(1, 93, count)
    ages = np.where(rng.random(count) < 0.12, np.maximum(5, np.round(ages / 5) * 5), ages).astype(int)  # heaping
    genders, ethnicities = rng.integers(0, 2, count), rng.choice(5, count, p=(0.35, 0.2, 0.2, 0.15, 0.1))
    labels = list(zip(ages.tolist(), genders.tolist(), ethnicities.tolist(), strict=True))
    faces = [draw_face(*label[:2], np.random.default_rng([seed, 0, number])) for number, label in enumerate(labels)]

    def name(age: int, gender: int, ethnicity: int, number: int) -> str:
        return f"{age}_{gender}_{ethnicity}_20170105{number:09d}.jpg.chip.jpg"

    files = {name(*label, number): _encode(faces[number]) for number, label in enumerate(labels)}
    for number, (years, other, ethnicity) in enumerate(COPIES):
        source = (7 * number + 3) % count
        age, gender, same = labels[source]
        copy = name(age + years, (gender + other) % 2, (same + ethnicity) % 5, 10**6 + number)
        files[copy] = files[name(age, gender, same, source)]
    for number in range(NEAR_COPIES):
        source = (11 * number + 5) % count
        files[name(*labels[source], 2 * 10**6 + number)] = _encode(faces[source], quality=75)
    for number, (fault, kind) in enumerate(FAULTS):
        age = 40 if fault == "face.jpg" else min(95, int(fault.split("_")[0]))
        files[fault] = _faults(draw_face(age, number % 2, np.random.default_rng([seed, 1, number])))[kind]
    return files


def draw_faces(folder: Path, count: int = 600, seed: int = 0) -> Path:
    """Draw `count` faces, and some three dozen faulty files and copies beside them, into `folder`; returns it.

    The same arguments give the same pictures. The folder is complete or not there: it is drawn beside its place and
    renamed. One that was drawn before with the same arguments, and holds just that, is left as it is. FileExistsError
    where `folder` holds other files, or lacks some that were drawn: nothing is ever deleted.
    """
    folder, wanted = Path(folder), {"version": VERSION, "count": count, "seed": seed}
    if count < 1:
        raise ValueError(f"count={count}: draw at least one face")
    if _is_drawn(folder, wanted):
        return folder
    with paths.beside(folder) as place:
        part = place / folder.name
        part.mkdir()
        contents = _contents(count, seed)
        for name, content in contents.items():
            (part / name).write_bytes(content)
        paths.write_json(part / MARKER, {**wanted, "names": sorted(contents)})
        try:
            part.replace(folder)
        except OSError:  # somebody else drew the same faces in the meantime
            if not _is_drawn(folder, wanted):
                raise
    return folder


def _is_drawn(folder: Path, wanted: dict[str, int]) -> bool:
    """True: drawn as `wanted` and complete; False: not there, or empty; FileExistsError: anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    with suppress(OSError, ValueError):  # a file, no marker, or a damaged one
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if json.loads((folder / MARKER).read_text()) == {**wanted, "names": names}:
            return True
    raise FileExistsError(f"{folder} holds something else than the drawn faces, or lacks some of them; "
                          "move it away, and they are drawn again")


def sample_faces() -> Path:
    """data/sample_faces/v<version of the drawing>, drawn on first use."""
    return draw_faces(paths.data_folder() / "sample_faces" / f"v{VERSION}")
