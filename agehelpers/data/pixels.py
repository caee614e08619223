"""Pictures decoded once: a uint8 memory-mapped array, keyed by the pictures' content and the size."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from agehelpers import paths
from agehelpers.data.decoder import VERSION, decode


def load_pixels(folder: Path, labels: pd.DataFrame, size: int, cache: Path | None = None) -> np.ndarray:
    """All pictures of `labels` (columns ``name``, ``sha256``), in its order, decoded once.

    `folder` is read only where the cache (by default in `paths.cache_folder`) does not hold the pictures at this
    `size` (pixels) yet. Returns a read-only uint8 memory map [N, size, size, 3], RGB, which takes no memory until it is
    read. `decoder.PictureError`, a ValueError, names a picture that cannot be decoded.
    """
    digest = hashlib.sha256("\n".join([*labels["sha256"], f"decoder {VERSION}"]).encode())
    file = (cache or paths.cache_folder()) / f"pixels_{size}_{len(labels)}_{digest.hexdigest()[:16]}.npy"
    if not file.exists():
        with paths.alone(file):
            _decode_all(folder, labels, size, file)
    with paths.reading(file, "remove it, and it is made anew"):
        pixels = np.load(file, mmap_mode="r")
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), size, size, 3):
            raise ValueError(f"{pixels.dtype} {pixels.shape}")
    return pixels


def _decode_all(folder: Path, labels: pd.DataFrame, size: int, file: Path) -> None:
    if not file.exists():  # nor made while this process waited
        for half in file.parent.glob(f".{file.name}.*.part"):  # of a process that was killed while it decoded
            if time.time() - half.stat().st_mtime > 3600:
                half.unlink(missing_ok=True)
        with paths.replacing(file) as part:
            array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(labels), size, size, 3))
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, and no crash while it is filled
                with part.open("r+b") as stream:
                    os.posix_fallocate(stream.fileno(), 0, part.stat().st_size)
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL releases the interpreter lock
                list(pool.map(lambda row, name: np.copyto(row, decode(Path(folder) / name, size)),
                              array, labels["name"]))
            array.flush()
            del array
