"""Augmentation is drawn for each picture, the same on both paths, and depends on the seed alone."""

import dataclasses

import numpy as np
import pytest
import torch

from agehelpers.batches import (
    MEAN,
    STD,
    Draw,
    Feeder,
    augment_batched,
    augment_cpu,
    draw_augmentation,
)
from agehelpers.config import load_config

CONFIG = load_config("laptop", {"image_size": 32, "batch_size": 8, "erase": 0.5, "augment_from": 1.0})
STILL = load_config("laptop", {"image_size": 32, "batch_size": 8, "rotation": 0, "scale": 0, "shift": 0,
                               "brightness": 0, "contrast": 0, "erase": 0, "flip": False, "augment_from": 1.0})


def smooth_pictures(count: int, side: int = 40) -> np.ndarray:
    """Random smooth pictures: noise at a tenth of the side, enlarged."""
    noise = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(1)) * 255
    large = torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic", align_corners=False)
    return large.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy().copy()


def seen(images: torch.Tensor) -> torch.Tensor:
    """Normalised images back on the scale 0 to 1."""
    return images * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)


def feeder(pixels: np.ndarray, config=CONFIG) -> Feeder:
    count = len(pixels)
    return Feeder(pixels, np.arange(count), np.arange(count, dtype=np.float32), config)


def test_a_batch_of_one_repeated_picture_comes_out_all_different():
    pixels = np.repeat(smooth_pictures(1), 8, axis=0)
    images, _ = next(feeder(pixels).training(epoch=0))
    for one in range(8):
        for other in range(one):
            assert (images[one] - images[other]).abs().max() > 0.05


@pytest.mark.parametrize("change", [{"flip": True}, {"rotation": 20.0}, {"scale": 0.3}, {"shift": 0.2},
                                    {"brightness": 0.3}, {"contrast": 0.5}, {"erase": 1.0}])
def test_each_augmentation_alone_changes_pictures_one_by_one(change):
    config = dataclasses.replace(STILL, batch_size=16, **change)
    pixels = np.repeat(smooth_pictures(1), 16, axis=0)
    images, _ = next(feeder(pixels, config).training(epoch=0))
    assert len({image.numpy().tobytes() for image in images}) > 1
    still, _ = next(feeder(pixels, dataclasses.replace(STILL, batch_size=16)).training(epoch=0))
    assert len({image.numpy().tobytes() for image in still}) == 1


def test_both_resamplings_agree():
    pixels = smooth_pictures(16)
    config = dataclasses.replace(CONFIG, erase=0.5, brightness=0.2, contrast=0.2)
    draw = draw_augmentation(16, config, torch.Generator().manual_seed(0))
    by_cv2 = augment_cpu(pixels, draw, 32)
    by_torch = augment_batched(torch.from_numpy(pixels), draw, 32)
    assert by_cv2.shape == by_torch.shape == (16, 3, 32, 32)
    assert by_cv2.is_contiguous(memory_format=torch.channels_last)
    difference = (by_cv2 - by_torch).abs() * torch.tensor(STD).view(1, 3, 1, 1)
    assert difference.max() < 3.6 / 255  # OpenCV rounds to 8 bits and to 1/32 of a pixel; contrast multiplies that
    assert (by_cv2 == 0).flatten(1).sum(1).gt(20).any()  # something was erased, in the same place


def test_identity_keeps_a_picture_of_the_same_size():
    pixels = smooth_pictures(2, side=32)
    identity = draw_augmentation(2, CONFIG, None)
    for out in (augment_cpu(pixels, identity, 32), augment_batched(torch.from_numpy(pixels), identity, 32)):
        assert torch.allclose(seen(out).permute(0, 2, 3, 1) * 255, torch.from_numpy(pixels).float(), atol=0.51)


def test_a_flip_is_the_mirror_image_and_a_shift_moves_by_its_fraction():
    pixels = smooth_pictures(1, side=32)
    still = draw_augmentation(1, CONFIG, None)
    plain = augment_cpu(pixels, still, 32)
    flip = dataclasses.replace(still, theta=torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]]))
    assert torch.allclose(augment_cpu(pixels, flip, 32), plain.flip(3), atol=1e-6)
    quarter = dataclasses.replace(still, theta=torch.tensor([[[1.0, 0, 2 * 0.25], [0, 1, 0]]]))  # 8 of 32 pixels
    assert torch.allclose(augment_cpu(pixels, quarter, 32)[..., :24], plain[..., 8:], atol=1e-6)


def test_draws_stay_within_the_configured_ranges():
    config = load_config("laptop", {"rotation": 10, "scale": 0.2, "shift": 0.1, "erase": 0.5, "image_size": 50})
    draw = draw_augmentation(4000, config, torch.Generator().manual_seed(0))
    zoom = 1 / torch.linalg.det(draw.theta[:, :, :2]).abs().sqrt()
    angle = torch.rad2deg(torch.atan2(-draw.theta[:, 0, 1], draw.theta[:, 1, 1]))
    assert 1 / 1.2 - 1e-4 < zoom.min() < 0.84 and 1.19 < zoom.max() < 1.2 + 1e-4
    assert angle.abs().max() < 10.001 and angle.abs().max() > 9.9
    assert draw.theta[:, :, 2].abs().max() <= 0.2  # 0.1 of the side is 0.2 in coordinates from -1 to 1
    assert abs((torch.linalg.det(draw.theta[:, :, :2]) < 0).float().mean() - 0.5) < 0.03  # flipped
    assert abs((draw.box[:, 0] < draw.box[:, 1]).float().mean() - 0.5) < 0.03
    assert draw.box.min() >= 0 and draw.box.max() <= 50


def test_light_and_erasing_by_hand():
    pixels = np.full((1, 4, 4, 3), 102, np.uint8)  # 0.4
    pixels[:, 0, 0] = 178, 178, 255
    draw = Draw(torch.eye(2, 3)[None], torch.tensor([0.5]), torch.tensor([0.3]), torch.tensor([[2, 4, 2, 4]]))
    for out in (augment_cpu(pixels, draw, 4), augment_batched(torch.from_numpy(pixels), draw, 4)):
        out = seen(out)
        assert out[0, 0, 0, 0].item() == pytest.approx(0.5 + 0.5 * (178 / 255 - 0.5) + 0.3, abs=1e-6)
        assert out[0, 2, 0, 0].item() == 1  # 0.5 + 0.25 + 0.3 is brighter than white
        assert out[0, 0, 1, 1].item() == pytest.approx(0.5 - 0.05 + 0.3, abs=1e-6)
        assert out[0, :, 3, 3].tolist() == pytest.approx(MEAN)  # erased to the mean colour


def test_deterministic_under_a_seed_and_resumable_within_an_epoch():
    source = feeder(smooth_pictures(20))
    first, again = list(source.training(3)), list(source.training(3))
    assert [len(ages) for _, ages in first] == [8, 8, 4]  # a ragged last batch
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    later = list(source.training(3, first=1))
    assert torch.equal(later[0][0], first[1][0]) and len(later) == 2
    assert not torch.equal(next(source.training(4))[0], first[0][0])
    other = Feeder(source.pixels, source.rows, source.ages, dataclasses.replace(CONFIG, seed=1))
    assert not torch.equal(next(other.training(3))[1], first[0][1])
    assert sorted(torch.cat([ages for _, ages in first]).tolist()) == list(range(20))


def test_evaluation_is_in_order_whole_and_not_random():
    pixels = smooth_pictures(5)
    source = feeder(pixels)
    (images, ages), = source.evaluation()
    assert ages.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(images, next(iter(source.evaluation()))[0])
    split = torch.cat([images for images, _ in source.evaluation(batch_size=2)])
    assert torch.equal(split, images)


def test_training_pictures_grow_while_evaluation_sees_the_full_size():
    config = dataclasses.replace(CONFIG, grow_from=16, epochs=4)
    growing = feeder(smooth_pictures(8), config)
    assert [next(growing.training(epoch))[0].shape[2] for epoch in range(4)] == [16, 24, 24, 32]
    assert next(growing.evaluation())[0].shape[2:] == (32, 32)
    assert next(growing.evaluation(config.at(0)))[0].shape[2:] == (16, 16)
    box = draw_augmentation(500, dataclasses.replace(config, image_size=16, erase=0.5),
                            torch.Generator().manual_seed(0)).box
    assert box.max() <= 16 and (box[:, 1] > box[:, 0]).any()  # what is erased lies in the small picture, too
