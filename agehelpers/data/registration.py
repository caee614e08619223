"""Whether two pictures are one photo: they are registered, and their fine detail is compared.

A copy may be cut anew, exposed or toned otherwise, or mirrored. Brightness and contrast leave no trace in `detail`;
what is cut anew is registered by an affine map that raises the enhanced correlation coefficient (ECC; Evangelidis and
Psarakis, PAMI 2008). Two photos of one person, or of two that look alike, differ in fine detail.
"""

import cv2
import numpy as np

SIDE = 64  # pixels; grey pictures are registered and compared at this size
SKETCH = 16  # pixels; side of the sketch by which neighbours are sought
_FINE = 0.7  # pixels of SIDE; detail finer than this is the JPEG's and the scanner's, not the photo's
_NOISE = 1.5  # grey levels; contrast below it is not raised
_BLACK = 4  # grey level below which a pixel may belong to the border that aligning a face leaves
_OVERLAP = 0.3  # of the picture that has to be seen in both, else their correlation says nothing
_ROOT_MEAN_SQUARE = 32  # of a sketch, in whole numbers up to 127: comparing them is exact on every machine
_TERMINATION = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-4)


def _blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), sigma)


def detail(grey: np.ndarray, coarse: float) -> np.ndarray:
    """Structure between `_FINE` and `coarse` pixels in size, its contrast made even: float32 [H, W] from [H, W]."""
    smooth = _blur(grey.astype(np.float32), _FINE)
    band = smooth - _blur(smooth, coarse)
    return band / (np.sqrt(_blur(band * band, 2 * coarse)) + _NOISE)


def _bordering(grey: np.ndarray) -> np.ndarray:
    """Where a picture is black, and two pixels around: bool [H, W]. The edge of a border is no detail of the photo."""
    return cv2.dilate((grey < _BLACK).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0


def _whole_numbers(picture: np.ndarray) -> np.ndarray:
    scale = _ROOT_MEAN_SQUARE / max(float(np.sqrt(np.mean(picture * picture))), 0.01)  # a blank one stays blank
    return np.clip(np.rint(picture * scale), -127, 127).astype(np.int8)


def sketches(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Detail of a grey picture, uint8 [64, 64], in few pixels: int8 [32, 32], and blurred int8 [16, 16].

    The smaller bears the shifts (up to two pixels), zooms (a tenth) and turns (four degrees) of UTKFace's copies.
    """
    picture = detail(grey, coarse=3)
    picture[_bordering(grey)] = 0
    half = cv2.resize(picture, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
    small = cv2.resize(_blur(picture, 1.5), (SKETCH, SKETCH), interpolation=cv2.INTER_AREA)
    return _whole_numbers(half), _whole_numbers(small)


def detail_correlation(grey: np.ndarray, other: np.ndarray) -> float:
    """Correlation of fine detail of two grey pictures, uint8 [64, 64], after registration, where both show the photo.

    Rounded to 3 decimals; -1 where they cannot be registered or overlap too little.
    """
    try:
        warp = cv2.findTransformECC(detail(grey, coarse=3), detail(other, coarse=3), np.eye(2, 3, dtype=np.float32),
                                    cv2.MOTION_AFFINE, _TERMINATION, np.ones_like(other), 5)[1]
    except cv2.error:  # it does not converge
        return -1.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(other, warp, (SIDE, SIDE), flags=flags)
    seen = cv2.warpAffine(np.full_like(other, 255), warp, (SIDE, SIDE), flags=flags) == 255
    seen &= ~(_bordering(grey) | _bordering(warped))
    if seen.mean() < _OVERLAP:
        return -1.0
    one, two = detail(grey, coarse=2)[seen], detail(warped, coarse=2)[seen]
    if min(one.std(), two.std()) < 1e-3:  # nothing to see
        return -1.0
    return round(float(np.corrcoef(one, two)[0, 1]), 3)
