"""UTKFace through Kaggle's own client, or how to get it by hand."""

import os
import shutil
from pathlib import Path

from agehelpers import paths

DATASET = "jangedoo/utkface-new"  # also holds older parts of the set; the pictures we want are in its folder UTKFace
PUBLISHED = 23_708  # pictures
LICENCE = ("UTKFace is for non-commercial research only; the copyright of each picture stays with its owner. "
           "Do not publish or redistribute the pictures.")


def download(target: Path | None = None) -> Path:
    """Fetch UTKFace's aligned and cropped faces (about 330 MB are transferred); Kaggle asks for no account for it.

    Into `target`, by default data/UTKFace of the repository, which is returned and appears only when it is complete.
    FileExistsError where it already holds something; OSError where there is no network, no client, or not all pictures
    came: its message explains the way by hand.
    """
    target = Path(target or paths.data_folder() / "UTKFace")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} already exists and is not empty; remove it to fetch UTKFace again")
    try:
        import kagglehub

        found = Path(kagglehub.dataset_download(DATASET)) / "UTKFace"
    except ImportError:
        raise _not_fetched("Kaggle's client is missing (pip install kagglehub)", target) from None
    except Exception as error:  # the client passes on whatever its transport raises
        raise _not_fetched(f"{type(error).__name__}: {error}", target) from error
    pictures = len(list(found.glob("*.jpg")))
    if pictures < 0.999 * PUBLISHED:
        raise _not_fetched(f"{found} holds {pictures:,} pictures, not {PUBLISHED:,}; remove it to try again", target)
    with paths.beside(target) as part:
        shutil.copytree(found, part / "UTKFace")
        if target.exists():
            target.rmdir()
        os.replace(part / "UTKFace", target)
    print(f"{pictures:,} pictures. {LICENCE}")
    return target


def _not_fetched(reason: str, target: Path) -> OSError:
    return OSError(f"""UTKFace could not be fetched: {reason}
By hand: open https://www.kaggle.com/datasets/{DATASET} in a browser, press Download, and unpack the folder UTKFace
of archive.zip (the one at its top, {PUBLISHED:,} files that end in .jpg.chip.jpg) to {target}""")
