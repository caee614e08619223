"""The reference faces of a head that compares (`CompareHead`): training faces, their features taken anew."""

import dataclasses

import numpy as np
import torch

from agehelpers.config import Config
from agehelpers.data.dataset import FaceDataset
from agehelpers.devices import autocast, pick_precision
from agehelpers.methods.model import AgeEstimationModel


@torch.no_grad()
def take_references(model: AgeEstimationModel, training: FaceDataset, config: Config) -> None:
    """Give the head of `model` its references where it wants some, without augmentation, at `config`'s image_size.

    They are spread evenly over the training ages in order, the same in every epoch. Statistics and mode of the model
    stay as they are.
    """
    if not model.head.references:
        return
    order = np.argsort(training.ages, kind="stable")
    places = order[np.linspace(0, len(order) - 1, model.head.references).round().astype(int)]
    faces, mode = dataclasses.replace(training, augment=False, config=config, attributes=None), model.training
    model.to(faces.device).eval()
    features, ages = [], []
    for start in range(0, len(places), 64):
        images, years = faces.__getitems__(places[start:start + 64]).tensors
        with autocast(faces.device, pick_precision(config, faces.device)):
            features.append(model.backbone(images.contiguous(memory_format=torch.channels_last)).float())
        ages.append(years)
    model.head.refer(torch.cat(features), torch.cat(ages))
    model.train(mode)
