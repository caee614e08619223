"""Copies of one photo, how they are searched, and the clusters they form."""

import cv2
import numpy as np
import pandas as pd
import pytest
from scenes import photo

from agehelpers.data import duplicates
from agehelpers.data.duplicates import cluster_numbers, copy_pairs, leaves, near_pairs


def test_near_pairs_ignore_brightness_and_contrast_but_not_content():
    rng = np.random.default_rng(0)
    face = rng.integers(40, 200, 256).astype(np.uint8)
    other = rng.integers(40, 200, 256).astype(np.uint8)
    blank = np.full(256, 90, np.uint8)
    brighter, softer = face + 30, (face // 2 + 60).astype(np.uint8)
    pairs = near_pairs(np.stack([face, other, blank, brighter, softer, blank]))
    assert pairs.tolist() == [[0, 3], [0, 4], [3, 4]]


def test_near_pairs_by_leaves_are_those_of_the_full_matrix():
    rng = np.random.default_rng(1)
    base = rng.integers(0, 256, (3000, 256))
    base[2400:2900] = base[:500] + rng.integers(0, 12, (500, 256))
    base[2990:] = base[2980:2990] + rng.integers(0, 12, (10, 256))
    assert len(base) > 8 * duplicates.LEAF
    cosine = np.corrcoef(base)
    pairs = near_pairs(base)
    assert pairs.tolist() == np.argwhere(np.triu(cosine > 0.99, 1)).tolist()
    assert len(pairs) == 510


def test_ten_times_the_pictures_cost_little_more_than_ten_times_the_comparisons():
    rng = np.random.default_rng(2)
    compared = {}
    for count in (3000, 30_000):
        points = rng.integers(-127, 128, (count, 16)).astype(np.float32)
        found = list(leaves(points, 2))
        assert max(map(len, found)) <= duplicates.LEAF
        assert (np.bincount(np.concatenate(found)) == 2).all()  # each picture once a tree
        compared[count] = sum(len(rows) ** 2 for rows in found)
    assert compared[30_000] < 15 * compared[3000]


def test_similar_sketches_are_few_for_every_picture_and_the_copies_among_them():
    rng = np.random.default_rng(3)
    common = rng.normal(0, 32, (16, 16))  # so that all are similar
    small = np.clip(common + rng.normal(0, 16, (1000, 16, 16)), -127, 127).astype(np.int8)
    small[900:] = small[:100] + rng.integers(-3, 4, (100, 16, 16), dtype=np.int8)
    small[800:850] = small[100:150][:, :, ::-1]
    pairs, mirrored = duplicates._similar(small)
    assert len(pairs) < len(small) * duplicates.BEST * duplicates.TREES and (pairs[:, 0] < pairs[:, 1]).all()
    plain, turned = set(map(tuple, pairs[~mirrored])), set(map(tuple, pairs[mirrored]))
    assert {(row, row + 900) for row in range(100)} <= plain
    assert {(row + 100, row + 800) for row in range(50)} <= turned


def test_of_many_that_look_alike_the_best_of_each_picture_are_registered(monkeypatch):
    monkeypatch.setattr(duplicates, "MOST", 1)
    pairs = np.array([[0, 1], [0, 2], [1, 2], [2, 3], [3, 4]])
    alike = np.array([0.9, 0.8, 0.7, duplicates.ALIKE, 0.65], np.float32)  # of 2 the best is with 0, that of 3 with 4
    assert duplicates._most_alike(pairs, alike).tolist() == [0, 1, 4]
    assert len(duplicates._most_alike(pairs[:0], alike[:0])) == 0
    monkeypatch.undo()
    everyone = np.argwhere(np.triu(np.ones((100, 100), bool), 1))
    kept = duplicates._most_alike(everyone, np.random.default_rng(0).uniform(0.7, 1, len(everyone)))
    assert len(kept) <= duplicates.MOST * 100
    assert np.bincount(everyone[kept].ravel()).min() >= duplicates.MOST


def test_what_looks_alike_is_registered_for_the_best_only_and_not_where_it_is_known(monkeypatch):
    rng, tried = np.random.default_rng(4), []
    greys = np.clip(photo(0).astype(int) + rng.normal(0, 30, (40, 64, 64)), 0, 255).astype(np.uint8)
    monkeypatch.setattr(duplicates, "_correlations", lambda greys, pairs, mirrored: (
        tried.append(set(map(tuple, pairs))), np.zeros(len(pairs)))[1])
    monkeypatch.setattr(duplicates, "_threshold", lambda greys: 1.0)
    nothing = np.empty((0, 2), np.int64)
    duplicates._registered(greys, nothing)
    monkeypatch.setattr(duplicates, "MOST", 1)
    duplicates._registered(greys, nothing)
    duplicates._registered(greys, np.array(sorted(tried[1])))
    assert len(tried[0]) > 40 >= len(tried[1]) > 10 and tried[1] < tried[0]
    assert tried[2] and not tried[1] & tried[2]


def test_twenty_cuts_of_one_photo_are_one_cluster():
    cuts = [photo(0, 1 + zoom / 50, turn, zoom / 2) for zoom in range(5) for turn in (-2, 0, 1, 3)]
    greys = np.stack([*cuts, *map(photo, range(1, 81))])
    thumbnails = np.stack([cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA).ravel() for grey in greys])
    pairs = copy_pairs(pd.Series(map(str, range(100))), thumbnails, greys)
    assert cluster_numbers(100, pairs).tolist() == [0] * 20 + list(range(1, 81))
    assert set(pairs["kind"]) == {"near", "registered"}


def album() -> list[np.ndarray]:
    """Grey pictures: 0 to 4 unlike; 5, 6, 7 copies of 0, 1, 2; 8 equals 3; 9 blank."""
    unlike = [photo(seed) for seed in range(5)]
    brighter = np.clip(unlike[0].astype(int) + 12, 0, 255).astype(np.uint8)
    return [*unlike, brighter, photo(1, zoom=1.07, shift=1), photo(2, zoom=1.05, turn=-2)[:, ::-1], unlike[3],
            np.full((64, 64), 50, np.uint8)]


def pairs_of(greys: list[np.ndarray]) -> pd.DataFrame:
    stack = np.stack(greys)
    thumbnails = stack.reshape(-1, 16, 4, 16, 4).mean(axis=(2, 4)).astype(np.uint8).reshape(len(stack), 256)
    return copy_pairs(pd.Series([grey.tobytes().hex() for grey in greys]), thumbnails, stack)


def test_every_kind_of_copy_is_found_with_its_kind():
    pairs = pairs_of(album())
    assert pairs[["a", "b", "kind"]].to_numpy().tolist() == [
        [0, 5, "near"], [1, 6, "registered"], [2, 7, "mirrored"], [3, 8, "identical"]]
    assert pairs["correlation"].isna().tolist() == [False, False, False, True]
    assert (pairs["correlation"].dropna() >= duplicates.SAME).all()
    assert cluster_numbers(10, pairs).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 5]


def test_identical_pictures_are_a_chain_and_only_the_first_meets_others():
    first, anew = photo(1), photo(1, zoom=1.07, shift=1)
    pairs = pairs_of([photo(2), first, anew, first, first])
    assert pairs[["a", "b", "kind"]].to_numpy().tolist() == [
        [1, 2, "registered"], [1, 3, "identical"], [3, 4, "identical"]]


@pytest.mark.parametrize("count", range(3))
def test_a_few_pictures_or_none(count):
    assert len(pairs_of([photo(1), photo(2)][:count])) == 0 if count else cluster_numbers(0, copy_pairs(
        pd.Series([], dtype="str"), np.empty((0, 256), np.uint8), np.empty((0, 64, 64), np.uint8))).tolist() == []


def test_where_all_pictures_look_alike_a_copy_has_to_stand_out(monkeypatch):
    rng = np.random.default_rng(4)
    kinds = [photo(seed) for seed in range(30, 33)]  # one drawing in three poses, hardly changed
    greys = np.stack([np.clip(kinds[number % 3] + rng.normal(0, 9, (64, 64)), 5, 255) for number in range(40)])
    assert duplicates._threshold(np.stack([photo(seed) for seed in range(40)])) == duplicates.SAME
    assert duplicates._threshold(greys.astype(np.uint8)) > duplicates.SAME + 0.05
    monkeypatch.setattr(duplicates, "_correlations", None)  # calling it would fail
    assert duplicates._threshold(greys[:9]) == duplicates.SAME


def test_clusters_are_numbered_by_first_appearance_and_join_through_a_third_picture():
    pairs = pd.DataFrame({"a": [0, 1, 2], "b": [4, 3, 3]})
    assert cluster_numbers(6, pairs).tolist() == [0, 1, 1, 1, 0, 2]
