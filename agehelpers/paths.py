"""Where things are: folders, atomic writing, versions of what is installed.

In a checkout everything lies inside it. Installed from a wheel, runs lie where the user works, data and cache where the
system keeps them for its users (platformdirs). Environment variables override each folder.
"""

import errno
import importlib
import json
import os
import platform
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import platformdirs


def checkout() -> Path | None:
    """The repository: ``AGEHELPERS_HOME`` if set, else where this file lies, if that is a checkout; else None."""
    if named := os.environ.get("AGEHELPERS_HOME"):
        return Path(named)
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "pyproject.toml").is_file() else None


def _folder(variable: str, inside: str, otherwise: Path) -> Path:
    """The folder that an environment variable names, else `inside` the checkout, else `otherwise`."""
    if named := os.environ.get(variable):
        return Path(named)
    root = checkout()
    return otherwise if root is None else root / inside


def data_folder() -> Path:
    """Folder of the label table, the split lists and (ignored by git) the pictures; ``AGEHELPERS_DATA``."""
    return _folder("AGEHELPERS_DATA", "data", platformdirs.user_data_path("agehelpers"))


def records_folder() -> Path:
    """Folder of kept records; ``AGEHELPERS_RECORDS``."""
    return _folder("AGEHELPERS_RECORDS", "data/records", Path.cwd() / "records")


def runs_folder() -> Path:
    """Folder of runs in progress and their checkpoints, ignored by git; ``AGEHELPERS_RUNS``."""
    return _folder("AGEHELPERS_RUNS", "runs", Path.cwd() / "runs")


def cache_folder() -> Path:
    """Folder of decoded pixels, safe to delete; ``AGEHELPERS_CACHE``."""
    return _folder("AGEHELPERS_CACHE", "data/cache", platformdirs.user_cache_path("agehelpers"))


def relative(path: Path) -> str:
    """`path` as seen from the checkout or the working folder where it lies inside it, for messages and notebooks."""
    path = Path(path).resolve()
    for root in (checkout(), Path.cwd()):
        if root is not None and path.is_relative_to(root.resolve()):
            return path.relative_to(root.resolve()).as_posix()
    return path.name


def utkface_folder() -> Path | None:
    """Folder of UTKFace: ``AGEHELPERS_FACES`` if set, else data/UTKFace if it is there, else None."""
    if named := os.environ.get("AGEHELPERS_FACES"):
        if not Path(named).is_dir():
            raise NotADirectoryError(f"AGEHELPERS_FACES={named} is not a folder; unset it or name the folder of faces")
        return Path(named)
    folder = data_folder() / "UTKFace"
    return folder if folder.is_dir() and any(folder.iterdir()) else None


REMEDIES = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space", errno.EROFS: "name another folder",
            errno.EACCES: "ask for the right to write there, or name another folder"}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Where writing `path` fails for want of space or of a right, the OSError of the block names it and the remedy."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0)
        if remedy is None or remedy in str(error):
            raise
        text = f"{os.strerror(error.errno or 0)}; what was there is unchanged: {remedy}, then run it again"
        raise OSError(error.errno, text, str(path)) from error


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Whatever the block cannot make of the content of `path` is a ValueError that names it and the remedy."""
    try:
        yield
    except Exception as error:  # files from strangers, or half overwritten, raise almost anything
        missing = isinstance(error, OSError) and error.errno  # a file that is not to be read; a gzip's has no number
        said = isinstance(error, OSError | ValueError) and str(path) in str(error)
        if missing or said or isinstance(error, ImportError | MemoryError) or "out of memory" in str(error):
            raise
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"{path}: cannot be used ({told}); {remedy}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, whose folder is made; it replaces `path` atomically if the block succeeds."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch(exist_ok=False)
        try:
            yield part
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, for what is renamed to it when it is complete; removed at the end."""
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
            yield Path(place)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While the block runs no other process is in one for the file `path`; it waits, and says so.

    The lock of a process that died is free.
    """
    from filelock import FileLock, Timeout  # here: reading ONNX files needs none

    lock = FileLock(path.resolve().with_name(f".{path.name}.lock"))
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout:
        print(f"{path}: another process is at work there; waiting for it", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_atomically(path: Path, data: bytes | str) -> Path:
    """Write `data` to `path` in full or not at all: a reader never sees half a file."""
    path = Path(path)
    with replacing(path) as part, part.open("wb") as stream:
        stream.write(data.encode() if isinstance(data, str) else data)
        stream.flush()
        os.fsync(stream.fileno())
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as indented JSON, atomically."""
    return write_atomically(path, json.dumps(value, indent=2) + "\n")


def needed(module: str, what: str, package: str) -> Any:
    """`module`, imported where it is used; ImportError says what needs it, and which `package` to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise ImportError(f"{what} needs {package}, which is missing: pip install {package}") from None


PACKAGES = ("agehelpers", "torch", "torchvision", "torchmetrics", "numpy", "pandas", "pillow",
            "opencv-python-headless", "scikit-learn", "safetensors")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Version of Python and of each of `packages` that is installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
