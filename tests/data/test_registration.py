"""Fine detail of two pictures compares equal for copies of one photo, whatever was done to them, and for no others."""

import cv2
import numpy as np
import pytest
from scenes import photo

from agehelpers.data.duplicates import ALIKE, SAME, SIMILAR
from agehelpers.data.registration import detail, detail_correlation, sketches

ALTERED = {
    "cut closer": lambda: photo(1, zoom=1.08),
    "cut wider, turned, moved": lambda: photo(1, zoom=0.94, turn=3, shift=1.5),
    "exposed": lambda: (255 * (photo(1) / 255) ** 0.6).astype(np.uint8),
    "low contrast": lambda: (photo(1) // 3 + 90).astype(np.uint8),
    "blurred": lambda: cv2.GaussianBlur(photo(1), (0, 0), 1.0),
    "black border": lambda: np.where(np.add.outer(np.arange(64) * 4, np.arange(64)) > 240, 0, photo(1)),
}


@pytest.mark.parametrize("change", ALTERED)
def test_what_is_done_to_a_photo_leaves_its_detail(change):
    correlation = detail_correlation(photo(1), ALTERED[change]())
    assert SAME + 0.05 < correlation <= 1 and correlation == round(correlation, 3)
    for one, two, bound in zip(sketches(photo(1)), sketches(ALTERED[change]()), (None, SIMILAR), strict=True):
        assert one.dtype == np.int8
        one, two = one.astype(float).ravel(), two.astype(float).ravel()
        assert bound is None or one @ two / np.linalg.norm(one) / np.linalg.norm(two) > bound


def test_other_photos_and_mirrored_ones_differ():
    assert all(detail_correlation(photo(1), photo(other)) < 0.5 < ALIKE for other in range(2, 12))
    turned = photo(1)[:, ::-1]
    assert detail_correlation(photo(1), turned) < 0.5 and detail_correlation(turned, turned) == 1


def test_nothing_to_see_is_no_copy():
    blank = np.full((64, 64), 90, np.uint8)
    assert detail_correlation(blank, blank) == detail_correlation(photo(1), blank) == -1
    strip = np.where(np.arange(64) < 12, photo(1), 0).astype(np.uint8)  # the same photo, but little of it
    assert detail_correlation(strip, strip) == -1
    assert not sketches(blank)[0].any() and not sketches(blank)[1].any()


def test_detail_has_even_contrast_and_no_brightness():
    grey = photo(3)
    assert np.allclose(detail(grey, 3), detail(grey.astype(np.float32) + 40, 3), atol=1e-3)
    assert abs(detail(grey, 3).mean()) < 0.1 and 0.3 < detail(grey, 3).std() < 2
