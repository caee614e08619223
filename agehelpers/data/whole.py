"""A whole picture as a network sees it, unchanged; needs no torch."""

import numpy as np

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's weights expect


def whole_arrays(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [B, S, S, 3] resampled and normalised, as `augmentation` does it: float32 [B, size, size, 3]."""
    import cv2

    step = pixels.shape[1] / size
    matrix = np.array([[step, 0, step / 2 - 0.5], [0, step, step / 2 - 0.5]])  # output pixel -> input pixel
    light = (np.linspace(0, 1, 256, dtype=np.float32) - 0.5) + 0.5  # rounded as `augmentation` rounds, bit for bit
    table = ((light[:, None] - np.array(MEAN)) / np.array(STD)).astype(np.float32)[None]  # [1, 256, 3]
    out = np.empty((len(pixels), size, size, 3), np.float32)
    for picture, target in zip(pixels, out, strict=True):
        cv2.LUT(cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                               borderMode=cv2.BORDER_REPLICATE), table, dst=target)
    return out
