"""Faces in a photo: where they are, by dlib's detector, whose model is inside its package."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from agehelpers import paths
from agehelpers.photos.placement import Placement

LONGEST, LONGEST_TURNED = 4000, 2000  # pixels; larger copies of a photo are searched smaller
TURNS = (0, -30, 30)  # degrees by which copies of the photo are turned; the detector finds faces up to about 20 off
LEAST = -0.3  # score from which a box may be a face; what the aligner finds no rest in is left out (`reader`)
AROUND = 1.55  # half of an aligned crop's side over half of the side of dlib's box, about; the aligner finds the rest


@dataclass(frozen=True)
class Found:
    """A face: a square around it that is about an aligned crop, and the detector's score (over 0; larger is surer)."""

    where: Placement
    score: float


Finder = Callable[[np.ndarray], list[Found]]  # of a photo uint8 [H, W, 3]


def find_faces(photo: np.ndarray) -> list[Found]:
    """Faces of a photo, uint8 [H, W, 3], from left to right.

    The detector (histograms of oriented gradients, Dalal and Triggs, CVPR 2005; King, arXiv 1502.00046) sees faces from
    about 80 px between brows and chin on. It looks at the photo at twice its size, so that they may be half as large,
    but at no more than 4000 px: in larger photos the least face grows with them. Copies turned by 30 degrees either way
    are searched at 2000 px. Of squares whose centres lie within each other's half the surest is kept. ImportError where
    dlib is not installed.
    """
    dlib = paths.needed("dlib", "finding faces, unless by Estimator(find=...),", "dlib-bin")
    height, width = photo.shape[:2]
    detector, found = dlib.get_frontal_face_detector(), []
    for degrees in TURNS:
        scale = min(2.0, (LONGEST_TURNED if degrees else LONGEST) / max(height, width))
        copy = cv2.resize(photo, (max(1, round(width * scale)), max(1, round(height * scale))),
                          interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        turned, back = _turn(copy, degrees)
        boxes, scores, _ = detector.run(turned, 0, LEAST)
        for box, score in zip(boxes, scores, strict=True):
            centre = back.place(complex(box.left() + box.right() + 1, box.top() + box.bottom() + 1) / 2)
            half = back.half * AROUND * box.width() / 2
            found.append(Found(Placement(centre / scale, half / scale), float(score)))
    return sorted(_surest(found), key=lambda face: face.where.centre.real)


def _turn(picture: np.ndarray, degrees: float) -> tuple[np.ndarray, Placement]:
    """`picture` turned about its centre, whole, and where the places of the result lie in `picture`."""
    height, width = picture.shape[:2]
    turn = complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    size = (math.ceil(width * abs(turn.real) + height * abs(turn.imag)),
            math.ceil(width * abs(turn.imag) + height * abs(turn.real)))
    centre = complex(width, height) / 2 - turn * complex(*size) / 2
    first = centre + turn * (0.5 + 0.5j) - (0.5 + 0.5j)  # centres of pixels lie at halves
    matrix = np.array([[turn.real, -turn.imag, first.real], [turn.imag, turn.real, first.imag]])
    turned = cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return (picture, Placement(0j, 1 + 0j)) if degrees == 0 else (turned, Placement(centre, turn))


def _surest(found: list[Found]) -> list[Found]:
    """Without faces whose centre lies within half of a surer one's square, or the other way round."""
    kept: list[Found] = []
    for face in sorted(found, key=lambda face: -face.score):
        if all(abs(face.where.centre - other.where.centre) > 0.5 * max(abs(face.where.half), abs(other.where.half))
               for other in kept):
            kept.append(face)
    return kept
