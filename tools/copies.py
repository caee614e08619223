"""Copies of one photo in UTKFace: the committed table of pairs and the label table, made from the pictures.

    python -m tools.copies [--sheet [FOLDER]]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageOps

from agehelpers import paths
from agehelpers.data import decoder
from agehelpers.data.labels import committed, index_folder, write_labels

_SIDE, _ACROSS, _DOWN = 160, 4, 10  # pixels of a picture; pairs across and down a sheet


def write_sheets(copies: pd.DataFrame, faces: Path, target: Path) -> list[Path]:
    """Contact sheets (PNG) of `copies`, less the identical ones, in folder `target`, from low correlation to high.

    A pair lies side by side, the first turned about where the pair is mirrored, its correlation, kind and ages above.
    """
    shown = copies[copies["kind"] != "identical"].sort_values(["correlation", "name_a", "name_b"])
    target.mkdir(parents=True, exist_ok=True)
    sheets: list[Path] = []
    for start in range(0, len(shown), _ACROSS * _DOWN):
        sheet = Image.new("RGB", (_ACROSS * (2 * _SIDE + 10), _DOWN * (_SIDE + 20)), "white")
        for place, pair in enumerate(shown[start:start + _ACROSS * _DOWN].to_numpy().tolist()):
            x, y = place % _ACROSS * (2 * _SIDE + 10), place // _ACROSS * (_SIDE + 20)
            one, two = (decoder.open_picture(faces / name).resize((_SIDE, _SIDE)) for name in pair[:2])
            sheet.paste(ImageOps.mirror(one) if pair[2] == "mirrored" else one, (x, y + 15))
            sheet.paste(two, (x + _SIDE, y + 15))
            text = f"{start + place}: {pair[3]:.3f} {pair[2]}, {pair[4]} and {pair[5]} years"
            ImageDraw.Draw(sheet).text((x, y + 2), text, "black")
        sheets.append(target / f"copies_{len(sheets):02d}.png")
        sheet.save(sheets[-1])
    return sheets


def main(arguments: Sequence[str] | None = None) -> int:
    """Write data/copies.csv, data/utkface_labels.csv and, if asked, the sheets; 1 where UTKFace is not here."""
    parser = argparse.ArgumentParser("tools.copies", description="find the copies in UTKFace anew")
    parser.add_argument("--sheet", nargs="?", type=Path, const=Path("build/copies"), metavar="FOLDER",
                        help="also contact sheets of the pairs (default build/copies); never commit them")
    options = parser.parse_args(arguments)
    faces = paths.utkface_folder()
    if faces is None:
        print("tools.copies: UTKFace is not here; `python -m agehelpers download` fetches it", file=sys.stderr)
        return 1
    labels, copies = index_folder(faces)
    data = committed("utkface_labels.csv").parent
    write_labels(labels, data / "utkface_labels.csv")
    paths.write_atomically(data / "copies.csv", copies.to_csv(index=False, lineterminator="\n"))
    print(copies["kind"].value_counts().to_string())
    if options.sheet:
        print(f"{len(write_sheets(copies, faces, options.sheet))} sheets in {options.sheet}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
