"""Where faces lie in a photo, and the crops there; needs no torch.

Places are complex numbers: x + iy, in a crop from -1 - i (left, top) to 1 + i.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SIDE = 56  # pixels that an aligner sees
SEEN = 200  # pixels of a crop that is cut from a photo, as UTKFace's have
Look = Callable[[np.ndarray], np.ndarray]  # an aligner: views float32 [B, 3, 56, 56], 0 to 1, to placements [B, 2, 2]


@dataclass(frozen=True)
class Placement:
    """Where a crop lies in a picture: its place z is centre + half * z there, in pixels (or in places of another crop).

    |half| is half of the crop's side, its angle the crop's turn.

    Examples
    --------
    >>> outer = Placement(100 + 80j, 50 + 0j)
    >>> outer.then(Placement(0.5 + 0j, 0.5j)).place(1)  # a crop of half its size, right of the middle, turned
    (125+105j)
    """

    centre: complex
    half: complex

    def place(self, z: complex) -> complex:
        """The place z of the crop, in the picture."""
        return self.centre + self.half * z

    def then(self, inner: "Placement") -> "Placement":
        """The placement in the picture of a crop that lies at `inner` in this one."""
        return Placement(self.place(inner.centre), self.half * inner.half)


# Crops of one face, a little apart, whose mean is predicted: aligned crops are not quite where a data set's own lie.
VIEWS = tuple(Placement(shift, complex(scale)) for shift, scale in (
    (0j, 1), (0.04 + 0j, 0.95), (-0.04 + 0j, 0.95), (0.04j, 1.05), (-0.04j, 1.05)))


def cut(picture: np.ndarray, where: Placement, side: int = SEEN) -> np.ndarray:
    """The crop at `where` of a picture, uint8 [H, W, 3], as uint8 [side, side, 3]; beyond it the edge is repeated.

    A picture in which the crop is more than `side` pixels wide is shrunk first, by means of areas, against aliasing.
    Cubic interpolation, since a linear one blurs, and blurred faces look younger.
    """
    import cv2

    factor = min(1.0, side / (2 * abs(where.half)))
    if factor < 1:
        height, width = picture.shape[:2]
        size = max(1, round(width * factor)), max(1, round(height * factor))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        where = Placement(complex(where.centre.real * size[0] / width, where.centre.imag * size[1] / height),
                          where.half * factor)
    step, corner = where.half * 2 / side, where.place(-1 - 1j)
    first = corner + step * (0.5 + 0.5j) - (0.5 + 0.5j)  # centres of pixels lie at halves
    matrix = np.array([[step.real, -step.imag, first.real], [step.imag, step.real, first.imag]])
    return cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REPLICATE)


def unrest(before: Placement, after: Placement) -> float:
    """How far a further look of the aligner moves and resizes a crop, in half sides: small where it sees a face."""
    return abs(after.centre - before.centre) / abs(before.half) + abs(after.half / before.half - 1)


def align(look: Look, picture: np.ndarray, boxes: list[Placement], rounds: int = 2) -> list[Placement]:
    """Where in `picture`, uint8 [H, W, 3], the aligned crops of the faces in `boxes` lie; each is looked at twice."""
    for _ in range(rounds if boxes else 0):
        views = np.stack([cut(picture, box, SIDE) for box in boxes])
        placed = look(views.transpose(0, 3, 1, 2).astype(np.float32) / 255)
        boxes = [box.then(Placement(complex(*centre), complex(*half)))
                 for box, (centre, half) in zip(boxes, placed.astype(float), strict=True)]
    return boxes
