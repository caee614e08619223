"""Copies of one photo, byte-identical or near-identical, which share the number of a cluster."""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BLANK = 1.0  # grey levels; a picture whose standard deviation is smaller shows nothing to compare
NEAR = 0.99  # cosine of two thumbnails above which they show the same


def near_pairs(thumbnails: np.ndarray) -> np.ndarray:
    """Pairs of pictures that look the same: cosine of their thumbnails, mean removed, above `NEAR`.

    From grey values [N, pixels], of which blank rows match nothing, to row numbers i < j, int64 [pairs, 2]. Computed
    by blocks, so that memory grows with N and not with its square.
    """
    centred = thumbnails.astype(np.float64)  # not float32: a pair of UTKFace is 3e-6 from the threshold
    centred -= centred.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.where(norm < BLANK * np.sqrt(thumbnails.shape[1]), np.inf, norm)
    step = max(1, 2**23 // max(1, len(unit)))
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(unit), step):
        i, j = np.nonzero(unit[start:start + step] @ unit[start:].T > NEAR)
        pairs.append(np.stack([i, j], axis=1)[i < j] + start)
    return np.concatenate(pairs)


def cluster_numbers(hashes: pd.Series, thumbnails: np.ndarray) -> np.ndarray:
    """Cluster of each picture, int64 [N] from 0 by first appearance: joined by equal content or near-equal looks.

    Examples
    --------
    >>> cluster_numbers(pd.Series(["a", "b", "a"]), np.array([[0, 9], [9, 0], [0, 9]])).tolist()
    [0, 1, 0]
    """
    codes = pd.factorize(hashes)[0]
    first = np.unique(codes, return_index=True)[1]
    same = np.stack([first[codes], np.arange(len(codes))], axis=1)
    pairs = np.concatenate([same, first[near_pairs(thumbnails[first])]])  # of copies, comparing one is enough
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(codes), len(codes)))
    return pd.factorize(connected_components(graph, directed=False)[1])[0]
