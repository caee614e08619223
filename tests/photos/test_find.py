"""Faces in photos: places that survive turning, copies that are merged; the detector itself on a free photograph."""

import sys

import numpy as np
import pytest

from agehelpers.photos import find
from agehelpers.photos.find import Found
from agehelpers.photos.placement import Placement


class Box:
    """A dlib rectangle."""

    def __init__(self, left, top, side):
        self._ends = left, top, left + side - 1, top + side - 1

    def left(self):
        return self._ends[0]

    def top(self):
        return self._ends[1]

    def right(self):
        return self._ends[2]

    def bottom(self):
        return self._ends[3]

    def width(self):
        return self._ends[2] - self._ends[0] + 1


@pytest.mark.parametrize("degrees", [0, 30, -30, 90])
def test_places_in_a_turned_copy_are_places_in_the_picture(degrees):
    picture = np.zeros((90, 140, 3), np.uint8)
    picture[20:24, 101:105] = 255  # centre (103, 22)
    turned, back = find._turn(picture, degrees)
    rows, columns = np.nonzero(turned[..., 0] > 127)
    seen = complex(columns.mean() + 0.5, rows.mean() + 0.5)
    assert abs(back.place(seen) - (103 + 22j)) < 0.6
    corners = [back.place(complex(x, y)) for x in (0, turned.shape[1]) for y in (0, turned.shape[0])]
    assert min(corner.real for corner in corners) <= 1e-6 and max(corner.imag for corner in corners) >= 90 - 1e-6


def test_boxes_of_the_enlarged_and_turned_copies_come_back_and_are_merged(monkeypatch):
    shapes = []

    class Detector:
        """Sees one face in each copy, best in the upright one, and a second one in one copy only."""

        def run(self, picture, upsample, threshold):
            shapes.append(picture.shape[:2])
            if len(shapes) > 3:
                return [], [], []
            at = {1: 0, 2: -30, 3: 30}[len(shapes)]
            back = find._turn(np.zeros((200, 300, 3), np.uint8), at)[1]
            place = (complex(120, 80) - back.centre) / back.half
            boxes = [Box(round(place.real) - 20, round(place.imag) - 20, 40)]
            if at == 30:
                boxes.append(Box(5, round(place.imag) + 60, 20))
            return boxes, [2.0 if at == 0 else 1.0, 0.4][:len(boxes)], [0] * len(boxes)

    fake = type(sys)("dlib")
    fake.get_frontal_face_detector = Detector
    monkeypatch.setitem(sys.modules, "dlib", fake)
    found = find.find_faces(np.zeros((100, 150, 3), np.uint8))
    assert shapes[0] == (200, 300) and len(found) == 2 and len(shapes) == 3
    face, = (one for one in found if one.score == 2.0)
    assert abs(face.where.centre - (60 + 40j)) < 0.5 and face.where.half == pytest.approx(find.AROUND * 10)
    other, = (one for one in found if one.score == 0.4)
    assert np.angle(other.where.half, deg=True) == pytest.approx(30)
    assert found == sorted(found, key=lambda one: one.where.centre.real)
    find.find_faces(np.zeros((300, 3000, 3), np.uint8))
    assert shapes[3] == (400, 4000) and max(shapes[4]) < 2000  # not twice as large, turned copies smaller


def test_of_overlapping_faces_the_surest_is_kept():
    near, sure, far = (Found(Placement(x + 0j, 20 + 0j), score) for x, score in ((0, 0.5), (9, 0.9), (25, 0.1)))
    assert find._surest([near, sure, far]) == [sure, far]


def test_without_dlib_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(ImportError, match="pip install dlib-bin"):
        find.find_faces(np.zeros((50, 50, 3), np.uint8))
