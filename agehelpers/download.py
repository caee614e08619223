"""UTKFace through Kaggle's own client, or how to get it by hand."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from agehelpers import paths

DATASET = "jangedoo/utkface-new"  # also holds older parts of the set; the pictures we want are in its folder UTKFace
PUBLISHED = 23_708  # pictures
LICENCE = ("UTKFace is for non-commercial research only; the copyright of each picture stays with its owner. "
           "Do not publish or redistribute the pictures.")
BY_HAND = """UTKFace could not be fetched: {reason}
By hand: open https://www.kaggle.com/datasets/{dataset} in a browser, press Download, and unpack the folder UTKFace
of archive.zip (the one at its top, {published:,} files that end in .jpg.chip.jpg) to {target}"""


def download(target: Path | None = None) -> Path:
    """Fetch UTKFace's aligned and cropped faces (about 330 MB are transferred); Kaggle asks for no account for it.

    Parameters
    ----------
    target : Path, optional
        Folder to make, by default data/UTKFace of the repository. It appears only when it is complete.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    FileExistsError
        `target` already holds something.
    OSError
        There is no network, no client, or not all pictures came; the message explains the way by hand.
    """
    target = Path(target or paths.data_folder() / "UTKFace")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} already exists and is not empty; remove it to fetch UTKFace again")
    try:
        import kagglehub

        found = Path(kagglehub.dataset_download(DATASET)) / "UTKFace"
    except ImportError:
        raise OSError(_by_hand("Kaggle's client is missing (pip install kagglehub)", target)) from None
    except Exception as error:  # the client passes on whatever its transport raises
        raise OSError(_by_hand(f"{type(error).__name__}: {error}", target)) from error
    pictures = len(list(found.glob("*.jpg")))
    if pictures < 0.999 * PUBLISHED:
        reason = f"{found} holds {pictures:,} pictures, not {PUBLISHED:,}; remove it to try again"
        raise OSError(_by_hand(reason, target))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as part:
        shutil.copytree(found, Path(part) / "UTKFace")
        if target.exists():
            target.rmdir()
        os.replace(Path(part) / "UTKFace", target)
    print(f"{pictures:,} pictures. {LICENCE}")
    return target


def _by_hand(reason: str, target: Path) -> str:
    return BY_HAND.format(reason=reason, dataset=DATASET, published=PUBLISHED, target=target)
