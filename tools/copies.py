"""Copies of one photo in UTKFace: the committed table of pairs and the label table, made from the pictures.

    python -m tools.copies
"""

import argparse
import sys
from collections.abc import Sequence

from agehelpers import paths
from agehelpers.data.labels import committed, index_folder, write_labels


def main(arguments: Sequence[str] | None = None) -> int:
    """Write data/copies.csv and data/utkface_labels.csv; 1 where UTKFace is not here."""
    argparse.ArgumentParser("tools.copies", description="find the copies in UTKFace anew").parse_args(arguments)
    faces = paths.utkface_folder()
    if faces is None:
        print("tools.copies: UTKFace is not here; `python -m agehelpers download` fetches it", file=sys.stderr)
        return 1
    labels, copies = index_folder(faces)
    data = committed("utkface_labels.csv").parent
    write_labels(labels, data / "utkface_labels.csv")
    paths.write_atomically(data / "copies.csv", copies.to_csv(index=False, lineterminator="\n"))
    print(copies["kind"].value_counts().to_string())
    return 0


if __name__ == "__main__":
    sys.exit(main())
