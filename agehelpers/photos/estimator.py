"""Estimator: ages of the faces in photos, by PyTorch."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from agehelpers import paths
from agehelpers.config import config_from_dict
from agehelpers.devices import pick_device
from agehelpers.photos.align import load_aligner, look
from agehelpers.photos.find import Finder, find_faces
from agehelpers.photos.reader import PhotoReader
from agehelpers.training.checkpoints import PACKAGED, fused, load_checkpoint, model_of
from agehelpers.training.loop import outputs_of


class Estimator(PhotoReader):
    """Ages of the faces in photos.

    It finds faces, aligns them as the training pictures of its checkpoint are aligned, and predicts an age with
    intervals, in single precision, so that a prediction is the same on every machine. It does not recognise persons,
    and it cannot know an age: each prediction is a guess about a picture.
    Calls from several threads wait for each other.

    Parameters
    ----------
    checkpoint : Path, optional
        best.safetensors of a run, with aligner.safetensors beside it (crops need none); by default the weights of the
        package.
    find : callable, optional
        Another detector: from a photo, uint8 [H, W, 3], to a list of `Found`.

    Examples
    --------
    >>> from agehelpers import Estimator
    >>> Estimator()(np.zeros((64, 64, 3), np.uint8))["reason"].tolist()
    ['no face found']
    """

    def __init__(self, checkpoint: Path | str = PACKAGED, find: Finder = find_faces) -> None:
        super().__init__(find)
        self.checkpoint = Path(checkpoint)
        with paths.reading(self.checkpoint, "restore it, or train anew"):
            tensors, state = load_checkpoint(self.checkpoint)
            self.config = config_from_dict(state["config"] | {"device": "auto", "precision": "fp32"})
            self.pixels_size, self.image_size = self.config.pixels_size, self.config.image_size
            self.intervals = state.get("intervals")
            self.device = pick_device(self.config)
            self.model = fused(model_of(self.checkpoint, tensors, state)).to(self.device)
            self.try_out()
        file = self.checkpoint.with_name("aligner.safetensors")
        self.look = partial(look, load_aligner(file)) if file.exists() else None
        self.no_aligner = (
            f"{file}: no aligner, without which whole photos cannot be read; the training's command with --aligner "
            "--resume makes it; faces cropped as its training pictures need none (--crops, cropped=True)")

    @torch.inference_mode()
    def years(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """See `PhotoReader`."""
        seen = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)
        outputs, head = outputs_of(self.model, seen, self.config, self.device), self.model.head
        found = {"prediction": head.ages(outputs), "spread": head.spread(outputs)}
        return {name: years.double().cpu().numpy() for name, years in found.items() if years is not None}
