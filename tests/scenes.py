"""Made pictures that compare as photos do, for tests of copies."""

import cv2
import numpy as np


def photo(seed: int, zoom: float = 1.0, turn: float = 0.0, shift: float = 0.0) -> np.ndarray:
    """Blobs of all sizes, as in a photo, seen through a frame that is moved: uint8 [64, 64]."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.normal(0, 12 * 96 / side, (side, side)), (96, 96), interpolation=cv2.INTER_CUBIC)
              for side in (6, 12, 24, 48)]
    scene = np.clip(128 + sum(layers) / 2.5, 5, 255).astype(np.uint8)
    frame = cv2.getRotationMatrix2D((47.5, 47.5), turn, zoom)
    frame[:, 2] += shift
    return cv2.warpAffine(scene, frame, (96, 96))[16:80, 16:80]
