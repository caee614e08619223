"""Near-identical pictures and the clusters they form."""

import numpy as np
import pandas as pd

from agehelpers.data.duplicates import cluster_numbers, near_pairs


def test_near_pairs_ignore_brightness_and_contrast_but_not_content():
    rng = np.random.default_rng(0)
    face = rng.integers(40, 200, 256).astype(np.uint8)
    other = rng.integers(40, 200, 256).astype(np.uint8)
    blank = np.full(256, 90, np.uint8)
    brighter, softer = face + 30, (face // 2 + 60).astype(np.uint8)
    pairs = near_pairs(np.stack([face, other, blank, brighter, softer, blank]))
    assert pairs.tolist() == [[0, 3], [0, 4], [3, 4]]


def test_near_pairs_by_blocks_are_those_of_the_full_matrix():
    rng = np.random.default_rng(1)
    base = rng.integers(0, 256, (3000, 256))
    base[2400:2900] = base[:500] + rng.integers(0, 12, (500, 256))  # some across blocks
    base[2990:] = base[2980:2990] + rng.integers(0, 12, (10, 256))  # within the last block
    pairs = near_pairs(base)
    assert len(base) ** 2 > 2**23  # more than one block
    cosine = np.corrcoef(base)
    assert sorted(map(tuple, pairs)) == sorted(map(tuple, np.argwhere(np.triu(cosine > 0.99, 1))))
    assert len(pairs) == 510


def test_clusters_are_numbered_by_first_appearance_and_join_through_a_third_picture():
    rng = np.random.default_rng(2)
    first, other, change = rng.normal(0, 40, (3, 256))
    between, last = first + 0.12 * change, first + 0.24 * change  # first and last are alike only through the second
    thumbnails = np.stack([other, first, last, between, other])
    assert near_pairs(thumbnails).tolist() == [[0, 4], [1, 3], [2, 3]]
    assert cluster_numbers(pd.Series(list("abcde")), thumbnails).tolist() == [0, 1, 1, 1, 0]
    unlike = rng.normal(0, 40, (3, 256))
    assert cluster_numbers(pd.Series(["x", "y", "x"]), unlike).tolist() == [0, 1, 0]  # by content alone
    assert cluster_numbers(pd.Series([], dtype="str"), np.empty((0, 256))).tolist() == []
