"""The pixel cache: the same as PIL pixel by pixel, keyed by content, atomic."""

import hashlib
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from agehelpers import paths
from agehelpers.data.pixels import load_pixels


def files_in(folder):
    """Files but for locks, which stay."""
    return [file for file in folder.iterdir() if file.suffix != ".lock"]


def make(folder, modes=("RGB", "L", "CMYK", "RGBA")):
    rng = np.random.default_rng(0)
    rows = []
    for number, mode in enumerate(modes):
        array = rng.integers(0, 255, (30, 30, 3), dtype=np.uint8)
        name = f"{number}_0_0_20170101000000000.{'png' if mode == 'RGBA' else 'jpg'}"
        Image.fromarray(array).convert(mode).save(folder / name)
        rows.append((name, hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16]))
    return pd.DataFrame(rows, columns=["name", "sha256"])


@pytest.mark.parametrize("size", [30, 20])
def test_equal_to_pil_pixel_by_pixel(tmp_path, size):
    labels = make(tmp_path)
    pixels = load_pixels(tmp_path, labels, size, tmp_path / "cache")
    assert len(files_in(tmp_path / "cache")) == 1 and not paths.cache_folder().exists()
    assert pixels.shape == (4, size, size, 3) and pixels.dtype == np.uint8 and isinstance(pixels, np.memmap)
    for row, name in zip(pixels, labels["name"], strict=True):
        with Image.open(tmp_path / name) as picture:
            expected = picture.convert("RGB")
            if size != 30:
                expected = expected.resize((size, size), Image.Resampling.BICUBIC)
            assert np.array_equal(row, np.asarray(expected))


def test_decoded_once_and_keyed_by_content_order_and_size(tmp_path):
    labels, cache = make(tmp_path), paths.cache_folder()
    load_pixels(tmp_path, labels, 20)
    stamp = files_in(cache)[0].stat().st_mtime_ns
    for name in labels["name"]:
        (tmp_path / name).unlink()  # a second call does not read the pictures
    again = load_pixels(tmp_path, labels, 20)
    assert len(again) == 4 and files_in(cache)[0].stat().st_mtime_ns == stamp
    labels = make(tmp_path)
    load_pixels(tmp_path, labels, 16)
    reverse = load_pixels(tmp_path, labels.iloc[::-1], 20)
    assert np.array_equal(reverse[::-1], again)
    changed = labels.assign(sha256=["f" * 16, *labels["sha256"][1:]])
    load_pixels(tmp_path, changed, 20)
    assert len(files_in(cache)) == 4


def test_what_a_killed_process_left_is_removed_but_not_what_another_one_writes(tmp_path):
    labels = make(tmp_path)
    load_pixels(tmp_path, labels, 20)
    file, = files_in(paths.cache_folder())
    old, new = file.with_name(f".{file.name}.1.part"), file.with_name(f".{file.name}.2.part")
    file.unlink()
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    load_pixels(tmp_path, labels, 20)
    assert not old.exists() and new.exists()


def test_read_only(tmp_path):
    pixels = load_pixels(tmp_path, make(tmp_path), 20)
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 0


def test_a_bad_picture_is_named_and_leaves_no_cache(tmp_path):
    labels, cache = make(tmp_path), paths.cache_folder()
    (tmp_path / labels["name"][2]).write_bytes(b"\xff\xd8 not a picture")
    with pytest.raises(ValueError, match=r"2_0_0_\d+\.jpg: not a picture"):
        load_pixels(tmp_path, labels, 20)
    (tmp_path / labels["name"][2]).unlink()
    with pytest.raises(ValueError, match=r"2_0_0_\d+\.jpg: no such picture"):
        load_pixels(tmp_path, labels, 20)
    assert files_in(cache) == []


def test_pixels_of_another_decoder_are_not_taken(tmp_path, monkeypatch):
    table = make(tmp_path)
    load_pixels(tmp_path, table, 16)
    monkeypatch.setattr("agehelpers.data.pixels.VERSION", 99)
    load_pixels(tmp_path, table, 16)
    assert len(list(paths.cache_folder().glob("pixels_*.npy"))) == 2
