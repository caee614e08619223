"""Where things are: folders of the repository, atomic writing, versions of what is installed."""

from __future__ import annotations

import json
import os
import platform
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("AGEHELPERS_HOME") or Path(__file__).resolve().parent.parent)


def data_folder() -> Path:
    """Folder of the label table, the records and (ignored by git) the pictures."""
    return ROOT / "data"


def records_folder() -> Path:
    """Folder of committed records; ``AGEHELPERS_RECORDS`` overrides it."""
    return Path(os.environ.get("AGEHELPERS_RECORDS") or data_folder() / "records")


def runs_folder() -> Path:
    """Folder of runs in progress and their checkpoints, ignored by git; ``AGEHELPERS_RUNS`` overrides it."""
    return Path(os.environ.get("AGEHELPERS_RUNS") or ROOT / "runs")


def cache_folder() -> Path:
    """Folder of decoded pixels, safe to delete; ``AGEHELPERS_CACHE`` overrides it."""
    return Path(os.environ.get("AGEHELPERS_CACHE") or data_folder() / "cache")


def relative(path: Path) -> str:
    """`path` as seen from the repository where it lies inside it, for messages and notebooks."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def temporary_beside(path: Path) -> Path:
    """An unused temporary name in the folder of `path`, so that `os.replace` onto it is atomic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    part.touch(exist_ok=False)
    return part


def write_atomically(path: Path, data: bytes | str) -> Path:
    """Write `data` to `path` in full or not at all: a reader never sees half a file."""
    path = Path(path)
    part = temporary_beside(path)
    try:
        with part.open("wb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as indented JSON, atomically."""
    return write_atomically(path, json.dumps(value, indent=2) + "\n")


PACKAGES = ("torch", "torchvision", "torchmetrics", "numpy", "pandas", "pillow", "scikit-learn", "safetensors")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Version of Python and of each of `packages` that is installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
