"""Placements by hand, crops that land where they should, and an aligner that undoes what was done."""

import cmath
import math
from functools import partial

import numpy as np
import pytest
import torch

from agehelpers.photos.align import (
    POINTS,
    Aligner,
    distance,
    load_aligner,
    look,
    save_aligner,
    scatter,
    train_aligner,
)
from agehelpers.photos.placement import Placement, align, cut
from agehelpers.training.checkpoints import load_checkpoint, save_checkpoint


def picture(height=120, width=160) -> np.ndarray:
    """Smooth: red grows to the right, green downwards."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([255 * x / width, 255 * y / height, np.full_like(x, 90)], 2).astype(np.uint8)


def test_placements_follow_each_other():
    outer, inner = Placement(100 + 80j, cmath.rect(50, 0.3)), Placement(0.2 - 0.1j, cmath.rect(0.7, -0.5))
    for z in (0, 1, -1 - 1j, 0.3j):
        assert outer.then(inner).place(z) == pytest.approx(outer.place(inner.place(z)))
    assert abs(outer.then(inner).half) == pytest.approx(35)


def test_a_crop_shows_what_lies_at_its_place():
    where = Placement(80 + 60j, cmath.rect(30, math.radians(20)))
    crop = cut(picture(), where, 60)
    for column, row in ((0, 0), (59, 0), (30, 30), (10, 50)):
        z = complex((column + 0.5) / 30 - 1, (row + 0.5) / 30 - 1)
        place = where.place(z)
        assert crop[row, column, 0] == pytest.approx(255 * place.real / 160, abs=2)
        assert crop[row, column, 1] == pytest.approx(255 * place.imag / 120, abs=2)
    upright = Placement(60 + 60j, 60 + 0j)
    assert (cut(picture(), upright, 120) == picture()[:, :120]).all()  # pixel for pixel where nothing has to change


def test_a_large_face_is_shrunk_without_aliasing():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    small = cut(stripes, Placement(200 + 200j, 200 + 0j), 50)
    assert abs(small.astype(int) - 127).max() <= 2  # means of areas, not every eighth stripe
    beyond = cut(picture(), Placement(0j, 40 + 0j), 40)
    assert abs(beyond[:19, :19].astype(int) - picture()[0, 0]).max() <= 2  # its edge is repeated


def test_the_distance_by_hand():
    true = torch.tensor([[[0.0, 0], [0.5, 0]]])
    assert distance(true, true).item() == 0
    shifted = torch.tensor([[[0.3, 0.4], [0.5, 0]]])
    assert distance(shifted, true).item() == pytest.approx(0.5 / 0.5)
    turned = torch.tensor([[[0.0, 0], [0.0, 0.5]]])
    by_hand = sum(abs((0.5j - 0.5) * z) for z in POINTS) / 5 / 0.5
    assert distance(turned, true).item() == pytest.approx(by_hand)


def test_scattered_views_show_the_crop_where_they_say():
    crops = torch.from_numpy(picture(96, 96)).permute(2, 0, 1).float().expand(32, 3, 96, 96) / 255
    views, true = scatter(crops, torch.Generator().manual_seed(0))
    again, _ = scatter(crops, torch.Generator().manual_seed(0))
    assert views.shape == (32, 3, 56, 56) and torch.equal(views, again)
    halves = torch.view_as_complex(true)[:, 1]
    assert 1 / 1.71 < halves.abs().min() < 0.8 and 1.2 < halves.abs().max() < 1 / 0.619
    assert 30 < halves.angle().abs().max() * 180 / math.pi <= 40
    checked = 0
    for view, (centre, half) in zip(views, torch.view_as_complex(true).tolist(), strict=True):
        # pixels of the crop's middle part, brightness aside
        seen = cut((view.permute(1, 2, 0).numpy() * 255).astype(np.uint8),
                   Placement(28 + 28j, 28 + 0j).then(Placement(centre, half)), 40)[12:28, 12:28].astype(float)
        expected = picture(40, 40)[12:28, 12:28].astype(float)
        inside = all(abs(part) < 1 for z in (-0.4 - 0.4j, 0.4 - 0.4j, -0.4 + 0.4j, 0.4 + 0.4j)
                     for part in ((centre + half * z).real, (centre + half * z).imag))
        if inside:
            checked += 1
            ratio = seen[..., :2] / (seen[..., 2:] / 90)
            assert np.abs(ratio - expected[..., :2]).max() < 14
    assert checked > 16


def test_an_aligner_learns_to_undo_and_comes_back_from_its_file(tmp_path):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] / 32 - 1
    faces = np.stack([np.stack([200 * np.exp(-((x - 0.4) ** 2 + (y + 0.3) ** 2) * 30)
                                + 200 * np.exp(-((x + 0.4) ** 2 + (y + 0.3) ** 2) * 30),
                                180 * np.exp(-(x**2 * 4 + (y - 0.5) ** 2 * 40)), 60 + 0 * x], 2)
                      + rng.normal(0, 6, (64, 64, 3)) for _ in range(40)]).clip(0, 255).astype(np.uint8)
    model, error = train_aligner(faces, np.arange(40), steps=120, batch=32)
    start = np.mean([distance(torch.tensor([[[0.0, 0], [1, 0]]]), scatter(
        torch.from_numpy(faces[:32]).permute(0, 3, 1, 2).float() / 255, torch.Generator().manual_seed(n))[1]).mean()
        for n in range(3)])
    assert error < 0.5 * start
    save_aligner(tmp_path / "aligner.safetensors", model, {"error": error})
    kept = load_aligner(tmp_path / "aligner.safetensors")
    photo = np.full((200, 300, 3), 60, np.uint8)
    photo[60:160, 120:220] = np.asarray(cut(faces[0], Placement(32 + 32j, 32 + 0j), 100))
    box = Placement(176 + 104j, 56 + 0j)  # true: 170 + 110j, 50
    once, = align(partial(look, kept), photo, [box], rounds=1)
    twice, = align(partial(look, kept), photo, [box])
    assert abs(once.centre - (170 + 110j)) < 6 and abs(twice.centre - (170 + 110j)) < 5
    assert align(partial(look, kept), photo, []) == []
    torch.save({}, tmp_path / "other")
    with pytest.raises(ValueError, match="other"):
        load_aligner(tmp_path / "other")
    tensors, state = load_checkpoint(tmp_path / "aligner.safetensors")
    save_checkpoint(tmp_path / "lacking", {key: tensors[key] for key in tensors if key != "0.weight"}, state)
    with pytest.raises(ValueError, match="lacking: cannot be used"):
        load_aligner(tmp_path / "lacking")


def test_an_aligner_begins_with_the_whole_picture():
    assert Aligner().eval()(torch.rand(2, 3, 56, 56)).tolist() == [[[0, 0], [1, 0]]] * 2
    assert 4e5 < sum(p.numel() for p in Aligner().parameters()) < 4.5e5
