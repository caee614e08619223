"""Augmentation has random parameters for each picture, and is the same on both paths."""

import dataclasses

import numpy as np
import pytest
import torch

from agehelpers.config import load_config
from agehelpers.data.augmentation import (
    MEAN,
    NUMBERS,
    STD,
    Augmentation,
    augment_batched,
    augment_cpu,
    augmentation,
    no_augmentation,
    random_numbers,
    whole_pictures,
)

CONFIG = load_config("laptop", {"image_size": 32, "erase": 0.5, "rotation": 15, "scale": 0.15, "shift": 0.08,
                                "brightness": 0.2, "contrast": 0.2})
STILL = load_config("laptop", {"image_size": 32, "rotation": 0, "scale": 0, "shift": 0, "brightness": 0, "contrast": 0,
                               "erase": 0, "flip": False})


def smooth_pictures(count: int, side: int = 40) -> np.ndarray:
    """Random smooth pictures: noise at a tenth of the side, enlarged."""
    noise = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(1)) * 255
    large = torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic", align_corners=False)
    return large.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy().copy()


def seen(images: torch.Tensor) -> torch.Tensor:
    """Normalised images back on the scale 0 to 1."""
    return images * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)


def different(images: torch.Tensor) -> int:
    return len({image.numpy().tobytes() for image in images})


def test_numbers_of_a_picture_depend_on_seed_and_epoch_only():
    few, many = random_numbers(0, 3, 5), random_numbers(0, 3, 5000)
    assert few.shape == (5, NUMBERS) and few.dtype == np.float32 and (many[:5] == few).all()
    assert 0 <= many.min() and many.max() < 1 and len(np.unique(many, axis=0)) == 5000
    assert not (random_numbers(0, 4, 5) == few).any() and not (random_numbers(1, 3, 5) == few).any()


@pytest.mark.parametrize("change", [{"flip": True}, {"rotation": 20.0}, {"scale": 0.3}, {"shift": 0.2},
                                    {"brightness": 0.3}, {"contrast": 0.5}, {"erase": 1.0}])
def test_each_augmentation_alone_changes_pictures_one_by_one(change):
    pixels, numbers = np.repeat(smooth_pictures(1), 16, axis=0), random_numbers(0, 0, 16)
    changed = augment_cpu(pixels, augmentation(numbers, dataclasses.replace(STILL, **change)), 32)
    assert different(changed) == (2 if "flip" in change else 16)
    assert torch.equal(augment_cpu(pixels, augmentation(numbers, STILL), 32), whole_pictures(pixels, 32))


def test_both_resamplings_agree():
    pixels, change = smooth_pictures(16), augmentation(random_numbers(0, 0, 16), CONFIG)
    by_cv2 = augment_cpu(pixels, change, 32)
    by_torch = augment_batched(torch.from_numpy(pixels), change, 32)
    assert by_cv2.shape == by_torch.shape == (16, 3, 32, 32)
    assert by_cv2.is_contiguous(memory_format=torch.channels_last)
    difference = (by_cv2 - by_torch).abs() * torch.tensor(STD).view(1, 3, 1, 1)
    assert difference.max() < 3.6 / 255  # OpenCV rounds to 8 bits and to 1/32 of a pixel; contrast multiplies that
    assert (by_cv2 == 0).flatten(1).sum(1).gt(20).any()  # something was erased, in the same place


def test_identity_keeps_a_picture_of_the_same_size():
    pixels, identity = smooth_pictures(2, side=32), no_augmentation(2)
    for out in (augment_cpu(pixels, identity, 32), augment_batched(torch.from_numpy(pixels), identity, 32)):
        assert torch.allclose(seen(out).permute(0, 2, 3, 1) * 255, torch.from_numpy(pixels).float(), atol=0.51)


def test_a_flip_is_the_mirror_image_and_a_shift_moves_by_its_fraction():
    pixels, still = smooth_pictures(1, side=32), no_augmentation(1)
    plain = augment_cpu(pixels, still, 32)
    flip = dataclasses.replace(still, theta=torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]]))
    assert torch.allclose(augment_cpu(pixels, flip, 32), plain.flip(3), atol=1e-6)
    quarter = dataclasses.replace(still, theta=torch.tensor([[[1.0, 0, 2 * 0.25], [0, 1, 0]]]))  # 8 of 32 pixels
    assert torch.allclose(augment_cpu(pixels, quarter, 32)[..., :24], plain[..., 8:], atol=1e-6)


def test_random_parameters_stay_within_the_configured_ranges():
    config = load_config("laptop", {"rotation": 10, "scale": 0.2, "shift": 0.1, "erase": 0.5, "image_size": 50,
                                    "brightness": 0.3, "contrast": 0.4})
    change = augmentation(random_numbers(0, 0, 4000), config)
    zoom = 1 / torch.linalg.det(change.theta[:, :, :2]).abs().sqrt()
    angle = torch.rad2deg(torch.atan2(-change.theta[:, 0, 1], change.theta[:, 1, 1]))
    assert 1 / 1.2 - 1e-4 < zoom.min() < 0.84 and 1.19 < zoom.max() < 1.2 + 1e-4
    assert 9.9 < angle.abs().max() < 10.001
    assert 0.199 < change.theta[:, :, 2].abs().max() <= 0.2  # 0.1 of the side is 0.2 in coordinates from -1 to 1
    assert abs((torch.linalg.det(change.theta[:, :, :2]) < 0).float().mean() - 0.5) < 0.03  # mirrored
    assert 0.6 <= change.gain.min() < 0.61 and 1.39 < change.gain.max() <= 1.4
    assert -0.3 <= change.offset.min() < -0.29 and 0.29 < change.offset.max() <= 0.3
    top, bottom, left, right = change.box.T
    erased = top < bottom
    assert abs(erased.float().mean() - 0.5) < 0.03 and ((left < right) == erased).all()
    assert change.box.min() >= 0 and change.box.max() <= 50
    # independent of each other: no parameter says anything of another one
    parts = torch.stack([zoom, angle, *change.theta[:, :, 2].T, change.gain, change.offset, erased.float(),
                         (torch.linalg.det(change.theta[:, :, :2]) < 0).float()])
    assert (torch.corrcoef(parts) - torch.eye(8)).abs().max() < 0.06


def test_light_and_erasing_by_hand():
    pixels = np.full((1, 4, 4, 3), 102, np.uint8)  # 0.4
    pixels[:, 0, 0] = 178, 178, 255
    change = Augmentation(torch.eye(2, 3)[None], torch.tensor([0.5]), torch.tensor([0.3]), torch.tensor([[2, 4, 2, 4]]))
    for out in (augment_cpu(pixels, change, 4), augment_batched(torch.from_numpy(pixels), change, 4)):
        out = seen(out)
        assert out[0, 0, 0, 0].item() == pytest.approx(0.5 + 0.5 * (178 / 255 - 0.5) + 0.3, abs=1e-6)
        assert out[0, 2, 0, 0].item() == 1  # 0.5 + 0.25 + 0.3 is brighter than white
        assert out[0, 0, 1, 1].item() == pytest.approx(0.5 - 0.05 + 0.3, abs=1e-6)
        assert out[0, :, 3, 3].tolist() == pytest.approx(MEAN)  # erased to the mean colour


def test_what_is_erased_lies_in_the_small_picture_too():
    box = augmentation(random_numbers(0, 0, 500), dataclasses.replace(CONFIG, image_size=16)).box
    assert box.max() <= 16 and (box[:, 1] > box[:, 0]).any()
