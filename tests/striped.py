"""Pictures that a tiny network learns from within seconds, for tests of the training: the wider a stripe, the older."""

import dataclasses

import numpy as np
import torch

from agehelpers.config import Config, load_config
from agehelpers.data.dataset import FaceDataset
from agehelpers.methods.model import AgeEstimationModel

CONFIG = load_config("ci", {"image_size": 16, "cache_size": 20, "epochs": 3, "batch_size": 8, "checkpoint_steps": 2})


def striped(count: int = 36) -> tuple[np.ndarray, np.ndarray]:
    """Pictures, uint8 [count, 20, 20, 3], and their ages, float32 [count]."""
    ages = np.linspace(5, 90, count).astype(np.float32)
    rows = np.arange(20)[None, :] * 6.28 / (2 + ages[:, None] / 8)
    return np.broadcast_to((127 + 120 * np.sin(rows))[:, :, None, None], (count, 20, 20, 3)).astype(np.uint8), ages


def datasets(config: Config = CONFIG) -> tuple[FaceDataset, FaceDataset]:
    """A training part of 27 pictures, augmented, and a validation part of 9."""
    pixels, ages = striped()
    rows = np.arange(len(ages))
    kept_out = rows % 4 == 0
    return (FaceDataset(pixels, rows[~kept_out], ages[~kept_out], config, augment=True),
            FaceDataset(pixels, rows[kept_out], ages[kept_out], config))


def fresh(config: Config = CONFIG, dropout: float = 0.0) -> AgeEstimationModel:
    """An untrained model; with `dropout` something random happens in each step."""
    torch.manual_seed(config.seed)
    model = AgeEstimationModel(config)
    if dropout:
        model.backbone.append(torch.nn.Dropout(dropout))  # type: ignore[operator]
    return model


def changed(**settings: object) -> Config:
    """`CONFIG` with other settings."""
    return dataclasses.replace(CONFIG, **settings)  # type: ignore[arg-type]


def train_a_step(network, width, size, device):
    """Forward and backward of two pictures in training mode; every parameter gets a gradient."""
    network.zero_grad(set_to_none=True)
    features = network.train()(torch.rand(2, 3, size, size, device=device))
    assert features.shape == (2, width)
    features.mean().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []
