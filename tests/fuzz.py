"""Random changes of valid files: each is read, or refused by an error of ours that names it. Nothing else may happen.

    python tests/fuzz.py FOLDER [--cases N] [--seed S]

Every case has a time limit, the process a bound on its memory, and an audit hook that notes programs started, sockets,
and files written outside FOLDER. What goes wrong is a finding, whose file stays in FOLDER/found; of a crash of the
interpreter, too, since each case is on disk before it is read. Prints counts by kind of file as JSON.
"""

import argparse
import gzip
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from agehelpers import paths
from agehelpers.config import Config, config_from_dict
from agehelpers.data.decoder import open_picture
from agehelpers.data.labels import cached_labels, read_listed, usable
from agehelpers.data.pixels import load_pixels
from agehelpers.html_report import report
from agehelpers.photos.align import load_aligner
from agehelpers.photos.estimator import Estimator
from agehelpers.training import grid, records, workers
from agehelpers.training.checkpoints import load_model
from agehelpers.training.resume import restore_training
from agehelpers.training.trainer import Trainer

SECONDS, MEMORY = 20, 3 * 2**30  # of one case; bytes beyond those taken at the start
ODD = [b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f",
       b"\x00" * 8, b"-1", b"nan", b"1e400", b"99999999999999999999", b"\"", b",", b"\n", b"{", b"]",
       b"\xc3\xa9", b"../" * 9, b"null"]


def changed(rng: random.Random, data: bytes) -> bytes:
    """`data` after one to six changes: bits, odd values, pieces removed, repeated, moved, or the end cut off."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        if not made:
            break
        at, length = rng.randrange(len(made)), rng.choice([1, 2, 4, 16, 200])
        # headers decide more than the rest of a file
        at = at if rng.random() < 0.6 else rng.randrange(min(len(made), 120))
        kind = rng.randrange(7)
        if kind == 0:
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            odd = rng.choice(ODD)
            made[at:at + len(odd)] = odd
        elif kind == 2:
            made[at:at] = rng.choice(ODD)
        elif kind == 3:
            del made[at:at + length]
        elif kind == 4:
            made[at:at] = made[at:at + length] * rng.choice([1, 3])
        elif kind == 5:
            numbers = list(re.finditer(rb"\d+", bytes(made[:20_000])))
            if numbers:
                one = rng.choice(numbers)
                made[one.start():one.end()] = rng.choice(ODD[8:])
        else:
            del made[at if rng.random() < 0.3 else len(made) - 1:]
    return bytes(made)


def pictures(side: int = 24) -> dict[str, bytes]:
    """A small picture in each format, some of them odd ones."""
    rng = np.random.default_rng(0)
    face = Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8))
    made = {}
    for name, form, picture, more in (
            ("a.jpg", "JPEG", face, {"exif": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00"
                                     b"\x01\x00\x06\x00\x00\x00\x00\x00\x00"}),
            ("b.jpg", "JPEG", face.convert("CMYK"), {}), ("a.png", "PNG", face, {}),
            ("p.png", "PNG", face.quantize(), {}),
            ("d.png", "PNG", Image.fromarray(rng.integers(0, 60000, (side, side), dtype=np.uint16)), {}),
            ("t.png", "PNG", face.convert("RGBA"), {}), ("a.webp", "WEBP", face, {}), ("a.bmp", "BMP", face, {}),
            ("a.gif", "GIF", face, {"save_all": True, "append_images": [face.rotate(90)]}),
            ("a.tif", "TIFF", face, {"compression": "tiff_lzw"}), ("b.tif", "TIFF", face, {"compression": "raw"})):
        stream = io.BytesIO()
        picture.save(stream, form, **more)
        made[name] = stream.getvalue()
    return made


class Kinds:
    """Of each kind of file valid ones (name -> content) and how one is read; `run` is a finished run's folder."""

    def __init__(self, place: Path, run: Path, onnx: Path | None) -> None:
        self.place, self.run = place, run
        self.estimator, self.reports = Estimator(run / "best.safetensors"), 0
        self.trainer = Trainer(load_model(run / "best.safetensors"), self.config(run), torch.device("cpu"), 3)
        whole = {file.name: file.read_bytes() for file in sorted(run.iterdir()) if file.is_file()}
        listed = b"path,age,region\nface one.jpg,30,north\n\"a,b.jpg\",4,south\nc.jpg,,\n"
        self.valid: dict[str, dict[str, bytes]] = {
            "picture": pictures(), "photo": pictures(48), "table of pictures": {"listed.csv": listed},
            "record": {name: content for name, content in whole.items() if name.endswith((".csv", ".json"))} | {
                "predictions.csv.gz": gzip.compress(whole["predictions.csv"], mtime=0)},
            "checkpoint": {"best.safetensors": whole["best.safetensors"]},
            "training": {"last.safetensors": whole["last.safetensors"]}, "cache": self.caches(),
            "aligner": {"aligner.safetensors": whole["aligner.safetensors"]},
            "grid's journal": {workers.JOURNAL: (run / "grid" / workers.JOURNAL).read_bytes()}}
        self.read: dict[str, Callable[[Path], Any]] = {
            "picture": open_picture, "photo": self.photo, "table of pictures": read_listed, "record": self.record,
            "checkpoint": Estimator, "training": self.training, "cache": self.cache, "aligner": load_aligner,
            "grid's journal": self.journal}
        if onnx is not None:
            from agehelpers.photos.onnx import OnnxEstimator

            self.valid["ONNX file"] = {"age.onnx": (onnx / "age.onnx").read_bytes()}
            self.read["ONNX file"] = lambda file: OnnxEstimator(file.parent)

    @staticmethod
    def config(run: Path) -> Config:
        return config_from_dict(json.loads((run / "config.json").read_text())["config"])

    def photo(self, file: Path) -> bool:
        """A bad photo is a row with a reason, never an error; whether it was read."""
        table = self.estimator([file], cropped=True)
        assert len(table) == 1 and (table["reason"].astype(bool) ^ table["prediction"].notna()).all(), table
        return bool(table["prediction"].notna().all())

    def record(self, file: Path) -> None:
        folder = file.parent / "record"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.run, folder, ignore=shutil.ignore_patterns("*.safetensors", "grid"))
        shutil.copyfile(file, folder / file.name)
        found = records.read_record(folder)
        self.reports += 1
        if self.reports % 20 == 1:  # drawing takes seconds
            with paths.reading(folder, "restore it"):
                report(found)

    def training(self, file: Path) -> None:
        restore_training(self.trainer, file)

    def caches(self) -> dict[str, bytes]:
        """What the cache of three faces holds: their labels and their pixels."""
        self.faces, place = self.place / "faces", self.place / "whole cache"
        self.faces.mkdir()
        for name, picture in zip(("30_0_0_2017.jpg", "31_1_0_2017.jpg", "32_1_1_2017.jpg"), pictures().values(),
                                 strict=False):
            (self.faces / name).write_bytes(picture)
        self.cache(place / "none")
        return {file.name: file.read_bytes() for file in place.iterdir() if not file.name.startswith(".")}

    def cache(self, file: Path) -> None:
        os.environ["AGEHELPERS_CACHE"] = str(file.parent)
        load_pixels(self.faces, usable(cached_labels(self.faces)), 24)

    def journal(self, file: Path) -> None:
        grid.cells_table(workers.open_study(file.parent))


def watch(place: Path, noted: list[str]) -> None:
    """Note what reading a file must never do; imports that a first case causes are nothing of this."""
    inside = (str(place), "/dev/null")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect",
                     "socket.bind", "pickle.find_class", "ctypes.dlopen"):
            noted.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], str | bytes) and arguments[1] is not None:
            writes = set(arguments[1]) & set("wax+") or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
            if writes and not os.fsdecode(arguments[0]).startswith(inside):
                noted.append(f"wrote {arguments[0]!r}")
        elif event in ("os.remove", "os.rename", "os.mkdir") and not str(arguments[0]).startswith(inside):
            noted.append(f"{event} {arguments!r:.200}")

    sys.addaudithook(hook)


def bound_memory() -> None:
    if sys.platform == "linux":
        import resource

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))


def too_long(*_: Any) -> None:
    raise TimeoutError("took too long")


def case(kinds: Kinds, kind: str, rng: random.Random, noted: list[str]) -> tuple[str, str]:
    """("read" or "refused" or a finding, what is wrong) of one changed file of this kind."""
    name = rng.choice(sorted(kinds.valid[kind]))
    folder = kinds.place / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    file = folder / name
    file.write_bytes(changed(rng, kinds.valid[kind][name]))
    noted.clear()
    signal.alarm(SECONDS)
    try:
        outcome, wrong = "refused" if kinds.read[kind](file) is False else "read", ""
    except (ValueError, OSError) as error:
        named = str(folder) in str(error) and not isinstance(error, TimeoutError)
        outcome, wrong = "refused", "" if named else f"names no file: {error!r}"
    except BaseException:
        outcome, wrong = "failed", traceback.format_exc()
    finally:
        signal.alarm(0)
    return outcome, wrong or "; ".join(noted)


def fuzz(kinds: Kinds, cases: int, seed: int) -> dict[str, dict[str, int]]:
    """Counts (cases, read, refused, findings) by kind; findings are kept in place/found and said."""
    counts = {kind: dict.fromkeys(("cases", "read", "refused", "findings"), 0) for kind in kinds.valid}
    noted: list[str] = []
    for kind, files in kinds.valid.items():  # whatever is imported on first use is imported now
        for name, content in files.items():
            (folder := kinds.place / "case").mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
            kinds.read[kind](folder / name)
    signal.signal(signal.SIGALRM, too_long)
    bound_memory()
    watch(kinds.place, noted)
    for number in range(cases):
        kind = list(kinds.valid)[number % len(kinds.valid)]
        outcome, wrong = case(kinds, kind, random.Random(f"{seed} {number}"), noted)
        counts[kind]["cases"] += 1
        counts[kind]["read" if outcome == "read" else "refused"] += 1
        if wrong:
            counts[kind]["findings"] += 1
            shutil.copytree(kinds.place / "case", kinds.place / "found" / f"{kind.split()[0]}-{number}",
                            dirs_exist_ok=True)
            print(f"{kind}, case {number} of seed {seed}: {outcome}, {wrong}", file=sys.stderr)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser("fuzz", description=__doc__)
    parser.add_argument("folder", type=Path, help="with run/ (a run, its aligner, its grid/) and perhaps onnx/")
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    place = options.folder / "work"
    place.mkdir(exist_ok=True)
    kinds = Kinds(place, options.folder / "run", onnx if (onnx := options.folder / "onnx").is_dir() else None)
    print(json.dumps(fuzz(kinds, options.cases, options.seed)))


if __name__ == "__main__":
    main()
