"""Pictures decoded once: a uint8 memory-mapped array, keyed by the pictures' content and the size."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from agehelpers import paths
from agehelpers.index import MAX_PIXELS


def decode(path: Path, size: int) -> np.ndarray:
    """One picture as RGB, resized to `size` x `size` with antialiasing: uint8 array [size, size, 3].

    Raises
    ------
    ValueError
        The file cannot be read as a picture; the message names it.
    """
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise OSError(f"{picture.width} x {picture.height} pixels are too many")
            rgb = picture.convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such picture; has the folder changed since it was indexed?") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); index the folder again, or remove the file") from error
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def content_key(hashes: Sequence[str], size: int) -> str:
    """Name of the cache for pictures with these content hashes, in this order, at this size."""
    digest = hashlib.sha256("\n".join(hashes).encode())
    return f"pixels_{size}_{len(hashes)}_{digest.hexdigest()[:16]}.npy"


def load_pixels(folder: Path, index: pd.DataFrame, size: int, cache: Path | None = None) -> np.ndarray:
    """All pictures of `index` (columns ``name``, ``sha256``), in its order, decoded once.

    Parameters
    ----------
    folder : Path
        Where the pictures are; read only if the cache does not hold them yet.
    index : DataFrame
        Usable rows of an index, each with ``name`` and content hash ``sha256``.
    size : int
        Side in pixels.
    cache : Path, optional
        Folder of the cache, by default `paths.cache_folder`.

    Returns
    -------
    ndarray
        Read-only uint8 memory map [N, size, size, 3], RGB. It takes no memory until it is read.
    """
    file = (cache or paths.cache_folder()) / content_key(index["sha256"].tolist(), size)
    if not file.exists():
        for half in file.parent.glob(f".{file.name}.*.part"):  # of a process that was killed while it decoded
            if time.time() - half.stat().st_mtime > 3600:
                half.unlink(missing_ok=True)
        part = paths.temporary_beside(file)
        try:
            shape = (len(index), size, size, 3)
            array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
            _fill(array, [Path(folder) / name for name in index["name"]], size)
            array.flush()
            del array
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)
    return np.load(file, mmap_mode="r")


def _fill(array: np.ndarray, files: list[Path], size: int) -> None:
    """Decode `files` into `array`; PIL releases the interpreter lock, so threads use all cores."""
    def one(row: int) -> None:
        array[row] = decode(files[row], size)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(one, range(len(files))):
            pass
