"""The one door by which pictures enter: label table, pixel cache and prediction all decode here.

Only listed formats are tried, none of which starts another program; sizes are checked before pixels are decoded; what
comes out is upright RGB; and whatever is wrong with a file is a `PictureError` that names it.
"""

import io
import stat
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from agehelpers.data.duplicates import BLANK

VERSION = 2  # of the pixels that a file decodes to; caches are keyed by it
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 64_000_000  # beyond this a picture is a decompression bomb, not a face
MAX_BYTES = 100_000_000  # larger files are not read
BACKGROUND = (127, 127, 127, 255)  # behind what is transparent
_TOO_LARGE = f"oversized: a file of more than {MAX_BYTES // 10**6} MB"

# By EXIF orientation. Not ImageOps.exif_transpose, which writes the other EXIF fields anew and fails on odd ones.
_TURNS = {number: Image.Transpose[name] for number, name in enumerate(
    ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"], 2)}


class PictureError(ValueError):
    """A file that is no usable picture. `reason` is short, and the same for all files with this fault."""

    def __init__(self, name: str, reason: str, detail: str = "", advice: str = "remove it, or replace it") -> None:
        super().__init__(name, reason, detail, advice)  # all of them, so that it can be pickled
        self.reason = reason

    def __str__(self) -> str:
        name, reason, detail, advice = self.args
        return f"{name}: {reason} ({detail}); {advice}" if detail else f"{name}: {reason}; {advice}"


class _Quiet(threading.local):
    """A filter that ignores PIL's warnings in a thread that decodes, and in no other.

    `warnings.catch_warnings` would swap the filters of all threads.
    """

    decoding = False

    def __enter__(self) -> None:
        entry = ("ignore", None, Warning, self, 0)
        if warnings.filters[:1] != [entry]:
            warnings.filters.insert(0, entry)  # type: ignore[attr-defined]
        self.decoding = True

    def __exit__(self, *_: object) -> None:
        self.decoding = False

    def match(self, module: str) -> bool:
        """Called by `warnings`, as it would a compiled pattern's: whether a warning of `module` is ignored."""
        return self.decoding and module.startswith("PIL.")


_PIL_IS_QUIET = _Quiet()


def read_file(path: Path) -> bytes:
    """Content of a regular file of at most `MAX_BYTES`; PictureError for a folder, a pipe, a link to nothing, ...."""
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
            return path.read_bytes() if status.st_size else b""  # a system's file has no size, and may never end
    except FileNotFoundError:
        if path.is_symlink():
            raise PictureError(str(path), "a link to nothing", advice="remove it") from None
        raise PictureError(str(path), "no such picture", advice="check the name; has the folder changed?") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise PictureError(str(path), f"not readable: {getattr(error, 'strerror', error)}") from error
    if stat.S_ISDIR(status.st_mode):
        raise PictureError(str(path), "a folder, not a picture", advice="name the pictures in it")
    # A pipe would keep us waiting for ever.
    raise PictureError(str(path), _TOO_LARGE if stat.S_ISREG(status.st_mode) else "not a regular file")


def open_picture(source: Path | bytes) -> Image.Image:
    """A picture, a file or its content, as PIL's: RGB, upright by its EXIF orientation, loaded; the first frame.

    What is transparent shows `BACKGROUND`. Grey levels of 16 bits are taken from PNG, which says what white is; other
    deep or floating-point pictures are refused.
    PictureError for whatever is wrong: none of `FORMATS`, damaged, truncated, beyond `MAX_PIXELS` or `MAX_BYTES`, ....
    """
    name, data = ("the picture", source) if isinstance(source, bytes) else (str(source), read_file(source))
    if not data or len(data) > MAX_BYTES:
        raise PictureError(name, _TOO_LARGE if data else "empty file")
    try:
        with _PIL_IS_QUIET, Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{picture.width} x {picture.height}")
            return upright_rgb(picture, name)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(name, "not a picture", advice=f"use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from None
    except Image.DecompressionBombError as error:
        reason = f"oversized: more than {MAX_PIXELS // 10**6} million pixels"
        raise PictureError(name, reason, str(error), "make it smaller") from None
    except Exception as error:  # broken files make PIL's plugins raise almost anything
        truncated = "truncated" in str(error).lower()
        reason = "truncated: its data ends too early" if truncated else "damaged: cannot be decoded"
        raise PictureError(name, reason, str(error) or type(error).__name__) from error


def upright_rgb(picture: Image.Image, name: str) -> Image.Image:
    """Decode `picture` to eight bits a channel, without transparency, and turn it as its EXIF orientation says."""
    picture.load()
    rgb = picture
    if picture.mode.startswith(("I", "F")):
        if picture.format != "PNG" or "transparency" in picture.info:
            raise PictureError(name, "more than 8 bits a channel", f"mode {picture.mode}", "save it with 8 bits")
        rgb = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.has_transparency_data:
        rgb = Image.alpha_composite(Image.new("RGBA", picture.size, BACKGROUND), picture.convert("RGBA"))
    rgb = rgb.convert("RGB")
    rgb.info.clear()  # so that nobody turns it again
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a damaged EXIF block says nothing; the picture is there
        return rgb
    return rgb.transpose(_TURNS[orientation]) if orientation in _TURNS else rgb


def check_square(picture: Image.Image, name: str) -> None:
    """PictureError where one side is longer than the other by more than a quarter: it would be squashed."""
    if max(picture.size) > 1.25 * min(picture.size):
        raise PictureError(name, "not a square crop of a face", f"{picture.width} x {picture.height} pixels",
                           "cut the face out as a square first")


def check_not_blank(pixels: np.ndarray, name: Path | str) -> None:
    """PictureError where the picture, uint8 [H, W, 3], is of one colour and so shows nothing."""
    if pixels.std(axis=(0, 1)).max() < BLANK:
        raise PictureError(str(name), "blank: a picture of one colour", advice="name a picture that shows a face")


def decode(path: Path, size: int) -> np.ndarray:
    """A square crop as RGB, resized to `size` x `size` pixels with antialiasing: uint8 [size, size, 3].

    PictureError where `open_picture` raises it, and where the picture is not (nearly) square.
    """
    picture = open_picture(path)
    check_square(picture, str(path))
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
