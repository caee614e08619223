"""The decoder: listed formats only, upright, a correct picture or an error of ours, whatever the file holds."""

import io
import os
import pickle
import struct
import subprocess
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from agehelpers import paths
from agehelpers.data import decoder
from agehelpers.data.decoder import FORMATS, MAX_BYTES, PictureError, check_not_blank, decode, open_picture, read_file
from agehelpers.data.labels import build_labels
from agehelpers.data.pixels import load_pixels
from agehelpers.photos.estimator import Estimator

SIDE = 40
EPS = (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n"
       b"0 0 moveto 40 40 lineto stroke\nshowpage\n%%EOF\n")
OTHERS = {  # what PIL would hand to other programs or draw from text, and what is no picture at all
    "eps": EPS,
    "dos_eps": struct.pack("<4I", 0xC6D3D0C5, 32, len(EPS), 0) + bytes(16) + EPS,
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><rect width="9" height="9"/></svg>',
    "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n",
    "wmf": b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4h", 0, 0, 40, 40) + struct.pack("<H", 72) + bytes(60),
    "ppm": b"P6 2 2 255\n" + bytes(12),
    "ico": b"\0\0\1\0\1\0" + bytes(60),
    "text": b"This is no picture.\n" * 9,
    "zeros": bytes(500),
}


@pytest.fixture(autouse=True)
def no_other_program(monkeypatch):
    """Starting a program fails the test, even where the decoder would catch the exception."""
    started = []
    for place, call in ((subprocess, "Popen"), (os, "system"), (os, "posix_spawn"), (os, "execv"), (os, "popen")):
        monkeypatch.setattr(place, call, lambda *arguments, **_: started.append(arguments))
    yield
    assert not started


def portrait(side: int = SIDE) -> Image.Image:
    """Smooth colours, unlike in every corner."""
    small = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BILINEAR)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def apart(picture: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference, grey levels."""
    assert picture.mode == other.mode == "RGB" and picture.size == other.size
    return np.abs(np.asarray(picture, float) - np.asarray(other, float)).mean()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that says it is `width` x `height` pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(99))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# What comes out is right


@pytest.mark.parametrize("kind", FORMATS)
def test_each_listed_format_is_read_from_file_and_bytes(tmp_path, kind):
    file = tmp_path / "face"  # the name does not matter
    file.write_bytes(encoded(portrait(), kind))
    picture = open_picture(file)
    assert apart(picture, portrait()) < 12  # GIF has a palette
    assert open_picture(file.read_bytes()).tobytes() == picture.tobytes()
    assert type(picture) is Image.Image and not picture.info  # no link to the file, no EXIF to turn it by again


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_refused_whatever_they_are_called(tmp_path, name):
    file = tmp_path / "face.jpg"
    file.write_bytes(OTHERS[name])
    with pytest.raises(PictureError, match=r"face\.jpg: not a picture; use JPEG, PNG, WEBP, BMP, GIF or TIFF"):
        decode(file, 20)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(kind, orientation):
    stored = portrait().crop((0, 0, SIDE, SIDE - 8))
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encoded(stored, kind, exif=exif.tobytes(), **({"quality": 95} if kind in ("JPEG", "WEBP") else {}))
    with Image.open(io.BytesIO(data)) as theirs:
        expected = ImageOps.exif_transpose(theirs.convert("RGB") if kind != "TIFF" else theirs).convert("RGB")
    picture = open_picture(data)
    assert picture.size == ((SIDE - 8, SIDE) if orientation > 4 else (SIDE, SIDE - 8))
    assert apart(picture, expected) == 0
    assert (apart(picture, stored) < 5) if orientation == 1 else picture.size != stored.size or apart(
        picture, stored) > 5


def test_a_damaged_exif_block_does_not_cost_the_picture():
    for exif in (b"nonsense", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\0\x09" + b"\xff" * 40):
        assert apart(open_picture(encoded(portrait(), "JPEG", exif=b"Exif\0\0" + exif)), portrait()) < 12


def test_the_first_frame_of_an_animation_counts():
    frames = [portrait(), portrait().rotate(90), portrait().rotate(180)]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert apart(open_picture(data), portrait()) < 12, kind


def test_cmyk_and_grey_are_turned_into_rgb():
    assert apart(open_picture(encoded(portrait().convert("CMYK"), "JPEG", quality=95)), portrait()) < 5
    grey = portrait().convert("L")
    for mode in ("L", "LA", "P"):
        assert apart(open_picture(encoded(grey.convert(mode), "PNG")), grey.convert("RGB")) < 1


def test_sixteen_bits_of_grey_are_not_a_white_square():
    levels = np.asarray(portrait().convert("L")).astype(np.uint16)
    picture = open_picture(encoded(Image.fromarray(levels * 257), "PNG"))
    assert np.array_equal(np.asarray(picture)[..., 0], levels)
    for deep in (Image.fromarray(levels * 257), Image.fromarray(levels.astype(np.int32)),
                 Image.fromarray(levels.astype(np.float32))):
        with pytest.raises(PictureError, match="more than 8 bits a channel .*; save it with 8 bits"):
            open_picture(encoded(deep, "TIFF"))


def test_what_is_transparent_shows_a_plain_background():
    cut = portrait().convert("RGBA")
    cut.putalpha(Image.new("L", cut.size, 255))
    assert apart(open_picture(encoded(cut, "PNG")), portrait()) == 0  # opaque: as it is
    cut.paste((255, 0, 0, 0), (0, 0, SIDE, 8))
    cut.paste((255, 255, 255, 128), (0, 8, SIDE, 16))
    for kind in ("PNG", "WEBP", "TIFF"):
        pixels = np.asarray(open_picture(encoded(cut, kind, **({"lossless": True} if kind == "WEBP" else {}))))
        assert (pixels[:8] == 127).all() and np.abs(pixels[8:16].astype(int) - 191).max() <= 1
        assert np.array_equal(pixels[16:], np.asarray(portrait())[16:])
    palette = portrait().quantize(16)
    first = np.asarray(palette) == 3
    for kind in ("PNG", "GIF"):
        pixels = np.asarray(open_picture(encoded(palette, kind, transparency=3)))
        assert (pixels[first] == 127).all() and not (pixels[~first] == 127).all()


def test_decode_resizes_as_pil_does(tmp_path):
    (tmp_path / "face.png").write_bytes(encoded(portrait(), "PNG"))
    assert np.array_equal(decode(tmp_path / "face.png", SIDE), np.asarray(portrait()))
    small = portrait().resize((18, 18), Image.Resampling.BICUBIC)
    assert np.array_equal(decode(tmp_path / "face.png", 18), np.asarray(small))


# What is refused


@pytest.mark.parametrize(("size", "refused"), [((4000, 3000), True), ((40, 51), True), ((51, 40), True),
                                               ((40, 50), False), ((50, 40), False), ((1, 2), True), ((1, 1), False)])
def test_only_square_crops_are_decoded_for_a_model(tmp_path, size, refused):
    file = tmp_path / "25_0_1_20170101000000000.jpg"
    file.write_bytes(encoded(portrait().resize(size), "JPEG"))
    assert open_picture(file).size == size
    said = build_labels(tmp_path).iloc[0]
    if refused:
        text = rf"{size[0]} x {size[1]} pixels\); cut the face out"
        with pytest.raises(PictureError, match=r"000\.jpg: not a square crop of a face \(" + text):
            decode(file, 20)
        assert (said["verdict"], said["reason"]) == ("rejected", "not a square crop of a face")
        assert said["sharpness"] >= 0
    else:
        assert decode(file, 20).shape == (20, 20, 3) and said["verdict"] == "ok"


def test_a_picture_of_one_colour_shows_nothing(tmp_path):
    for number, colour in enumerate(["black", "white", (200, 120, 90)]):
        file = tmp_path / f"{number}.jpg"
        file.write_bytes(encoded(Image.new("RGB", (200, 200), colour), "JPEG"))
        with pytest.raises(PictureError, match=rf"{number}\.jpg: blank: a picture of one colour; name"):
            check_not_blank(decode(file, 40), file)
    check_not_blank(np.asarray(portrait()), "face")
    red_only = np.zeros((8, 8, 3), np.uint8)
    red_only[:4, :, 0] = 9
    check_not_blank(red_only, "face")


@pytest.mark.parametrize("size", [(60_000, 60_000), (8_001, 8_001), (9_800, 9_800), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch, size):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(PictureError, match="oversized: more than 64 million pixels"):
        open_picture(png_claiming(*size))


def test_files_that_are_no_files(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round.jpg").symlink_to(tmp_path / "round.jpg")
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "huge.jpg").open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    faults = {"folder.jpg": "a folder, not a picture", "link.jpg": "a link to nothing", "round.jpg": "not readable: ",
              "empty.jpg": "empty file", "pipe.jpg": "not a regular file", "none.jpg": "no such picture",
              "huge.jpg": "oversized: a file of more than 100 MB", "n" * 300: "not readable: File name too long",
              "null\0.jpg": "not readable: "}
    for name, reason in faults.items():
        with pytest.raises(PictureError) as error:
            decode(tmp_path / name, 20)
        assert error.value.reason.startswith(reason) and str(error.value).startswith(f"{tmp_path / name}: {reason}")
    with pytest.raises(PictureError, match="the picture: oversized"):
        open_picture(bytes(MAX_BYTES + 1))
    assert read_file(tmp_path / "empty.jpg") == b""


@pytest.mark.parametrize("error", [OSError("broken"), SyntaxError("broken"), struct.error("unpack"), MemoryError(),
                                   OverflowError(), zlib.error("incorrect"), EOFError(), IndexError(), KeyError(1),
                                   RecursionError(), Image.DecompressionBombError("1 x 1"),
                                   Image.UnidentifiedImageError()])
def test_whatever_pil_raises_is_an_error_of_ours(monkeypatch, error):
    def broken(self):
        raise error

    data = encoded(portrait(), "PNG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", broken)
    with pytest.raises(PictureError, match="the picture: .+; .+"):
        open_picture(data)


def test_the_error_survives_a_process_and_is_a_value_error():
    error = pickle.loads(pickle.dumps(PictureError("face.jpg", "blank", "detail", "look")))
    assert isinstance(error, ValueError) and str(error) == "face.jpg: blank (detail); look" and error.reason == "blank"


def test_warnings_of_pil_are_silent_here_and_only_here(monkeypatch):
    inside, outside = threading.Event(), threading.Event()

    def warn():
        for module in ("PIL.Image", "mine"):
            warnings.warn_explicit("odd", UserWarning, "file.py", 1, module)

    def upright(*_):
        with pytest.raises(UserWarning):  # pytest makes warnings errors: PIL's is not one, another is
            warn()
        inside.set()
        assert outside.wait(10)
        return portrait()

    monkeypatch.setattr(decoder, "upright_rgb", upright)
    thread = threading.Thread(target=open_picture, args=(encoded(portrait(), "PNG"),))
    thread.start()
    assert inside.wait(10)
    with pytest.raises(UserWarning, match="odd"):  # another thread decodes, this one does not
        warnings.warn_explicit("odd", UserWarning, "file.py", 1, "PIL.Image")
    outside.set()
    thread.join()
    with pytest.raises(UserWarning, match="odd"):
        warnings.warn_explicit("odd", UserWarning, "file.py", 1, "PIL.Image")


# Any bytes


def fuzz() -> list[bytes]:
    """A few hundred files: whole ones, cut ones, ones with bytes changed. The same at every run."""
    rng, face = np.random.default_rng(0), portrait()
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "camera"
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a" * 200, zip=True)
    whole = [
        encoded(face, "JPEG", exif=exif.tobytes()), encoded(face, "JPEG", progressive=True),
        encoded(face.convert("CMYK"), "JPEG"), encoded(face, "MPO", save_all=True, append_images=[face]),
        encoded(face, "PNG", pnginfo=text, exif=exif.tobytes()), encoded(face.convert("RGBA"), "PNG"),
        encoded(face.quantize(9), "PNG", transparency=b"\0\1\2"), encoded(face.convert("L").convert("I;16"), "PNG"),
        encoded(face, "PNG", save_all=True, append_images=[face.rotate(90)]),
        encoded(face, "WEBP", exif=exif.tobytes()),
        encoded(face, "WEBP", save_all=True, append_images=[face.rotate(90)]),
        encoded(face, "GIF", save_all=True, append_images=[face.rotate(90)]), encoded(face.quantize(9), "GIF"),
        encoded(face, "TIFF", exif=exif), encoded(face, "TIFF", compression="tiff_lzw"),
        encoded(face, "TIFF", compression="jpeg"), encoded(face.convert("F"), "TIFF"),
        encoded(face, "BMP"), encoded(face.quantize(9), "BMP"), png_claiming(60_000, 60_000),
    ]
    files = [b"", *OTHERS.values(), *whole]
    for data in (*whole, EPS):
        files += [data[:length] for length in rng.integers(1, len(data), 6)]
        for reach in (32, 200, len(data)) * 4:  # headers are short, and matter most
            changed = np.frombuffer(data, np.uint8).copy()
            places = rng.integers(0, min(reach, len(data)), rng.integers(1, 12))
            changed[places] = rng.integers(0, 256, len(places))
            files.append(changed.tobytes())
    return files


def test_any_bytes_give_a_picture_or_an_error_of_ours_through_every_door(tmp_path, monkeypatch):
    monkeypatch.setattr(decoder, "MAX_PIXELS", 1_000_000)  # as strict with damaged headers, and quick
    folder, files = tmp_path / "faces", fuzz()
    folder.mkdir()
    for number, data in enumerate(files):
        (folder / f"{number % 99}_0_0_{number:017d}.jpg").write_bytes(data)
    table = build_labels(folder).set_index("name")
    assert len(table) == len(files) > 400
    for file in sorted(folder.iterdir()):
        reason = ""
        try:
            picture = open_picture(file)
            assert picture.mode == "RGB" and type(picture) is Image.Image
        except PictureError as error:
            reason = error.reason
            assert str(error).startswith(f"{file}: {reason}")
        try:
            assert decode(file, 20).shape == (20, 20, 3)
        except PictureError as error:
            reason = error.reason
        assert table.loc[file.name, "reason"] == reason
    reasons = table["reason"].value_counts()
    assert {"", "empty file", "not a picture", "truncated: its data ends too early", "damaged: cannot be decoded",
            "oversized: more than 1 million pixels", "more than 8 bits a channel"} <= set(reasons.index)
    assert reasons[""] > 50
    good = table[table["verdict"] == "ok"].reset_index()
    assert load_pixels(folder, good, 20).shape == (len(good), 20, 20, 3)
    for entry in table.index[table["verdict"] == "rejected"][::5]:
        one = pd.DataFrame({"name": [entry], "sha256": ["0" * 16]})
        with pytest.raises(PictureError, match=entry):
            load_pixels(folder, one, 20)
    assert len(list(paths.cache_folder().glob("*.npy"))) == 1
    blank = [name for name in good["name"] if decode(folder / name, 90).std(axis=(0, 1)).max() < 1]
    bad = [*blank, *table.index[table["verdict"] == "rejected"][::3]]
    found = Estimator()([folder / name for name in [*good["name"], *bad]], cropped=True).set_index("photo")
    assert found.index[found["reason"] != ""].tolist() == [str(folder / name) for name in good["name"] if name in blank
                                                           ] + [str(folder / name) for name in bad]
    assert found["prediction"].notna().sum() > 50 and found["prediction"].dropna().between(0, 120).all()
    assert all(name in reason for name, reason in found["reason"].items() if reason)


def test_the_label_table_and_the_pixel_cache_read_no_pipe_and_no_folder(tmp_path):
    folder = tmp_path / "faces"
    (folder / "folder.jpg").mkdir(parents=True)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "link.jpg").symlink_to("nowhere")
    assert (build_labels(folder)["verdict"] == "rejected").all()
    for name in ("folder.jpg", "pipe.jpg", "link.jpg"):
        with pytest.raises(PictureError, match=name):
            load_pixels(folder, pd.DataFrame({"name": [name], "sha256": ["0" * 16]}), 20)
    assert [file for file in paths.cache_folder().iterdir() if file.suffix != ".lock"] == []


def test_doors_agree_on_paths_given_as_text(tmp_path):
    (tmp_path / "face.png").write_bytes(encoded(portrait(), "PNG"))
    assert np.array_equal(decode(Path(tmp_path / "face.png"), 20), decode(str(tmp_path / "face.png"), 20))
