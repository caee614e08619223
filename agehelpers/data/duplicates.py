"""Copies of one photo, which share the number of a cluster: identical, near-identical, cut anew, toned or mirrored."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from agehelpers.data import registration

BLANK = 1.0  # grey levels; a picture whose standard deviation is smaller shows nothing to compare
NEAR = 0.99  # cosine of two thumbnails above which they show the same
# Of UTKFace's 182 pairs from 0.85 on, each looked at, one shows another moment; of nine from 0.83 to 0.85 three do, of
# those from 0.80 to 0.83 half.
SAME = 0.85  # correlation of fine detail from which two pictures are one photo
# In a set of drawings unrelated pictures correlate up to 0.93, since lines are all their detail. So a copy also has to
# lie so many robust standard deviations above unrelated pairs (in UTKFace that is 0.7, and SAME decides).
APART = 8.0
UNRELATED = 400  # pairs drawn at random, by which the set's unrelated pairs are known
# Of 184 copies in UTKFace that looser bounds and larger leaves find, 182 pass both; zoomed ones are lost first.
SIMILAR = 0.65  # cosine of two sketches from which they are compared further
ALIKE = 0.64  # correlation of two larger sketches, at the best shift, from which they may be registered
SHIFT = 3  # pixels of the larger sketch: largest shift tried, a tenth of the picture
LEAF = 256  # pictures that are compared all with all
TREES = 24  # of the search; 16 find as many copies in UTKFace, 8 lose 2 of 100
BEST = 3  # most similar pictures in a leaf that are compared further, and as many mirrored ones
# Pairs of a picture that are registered, the most alike ones. More copies of one photo usually join through each other.
MOST = 8  # in UTKFace the same copies are found without such a bound


def leaves(points: np.ndarray, trees: int) -> Iterator[np.ndarray]:
    """Groups of at most `LEAF` neighbouring rows of `points`, whole numbers up to 127 as float32 [N, D].

    Each of `trees` random trees halves the rows again and again, along the line between two of them (as Annoy does;
    Dasgupta and Freund, STOC 2008). N log N steps, and whole numbers: the same groups on every machine.
    """
    rng = np.random.default_rng(0)
    for _ in range(trees):
        groups = [np.arange(len(points))]
        while groups:
            rows = groups.pop()
            if len(rows) <= LEAF:
                yield rows
                continue
            one, two = points[rng.choice(rows, 2, replace=False)]
            order = rows[np.argsort(points[rows] @ (one - two), kind="stable")]
            groups += [order[:len(rows) // 2], order[len(rows) // 2:]]


def near_pairs(thumbnails: np.ndarray) -> np.ndarray:
    """Pairs of pictures that look the same: cosine of their thumbnails, mean removed, above `NEAR`.

    From grey values [N, pixels], of which blank rows match nothing, to row numbers i < j, int64 [pairs, 2], sorted.
    """
    centred = thumbnails.astype(np.float64)  # not float32: a pair of UTKFace is 3e-6 from the threshold
    centred -= centred.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    shown = np.flatnonzero(norm[:, 0] >= BLANK * np.sqrt(thumbnails.shape[1]))
    unit = centred[shown] / norm[shown]
    points = np.clip(np.rint(unit * 32 * np.sqrt(thumbnails.shape[1])), -127, 127).astype(np.float32)
    pairs = [np.empty((0, 2), np.int64)]
    for rows in leaves(points, TREES // 2):
        i, j = np.nonzero(np.triu(unit[rows] @ unit[rows].T > NEAR, 1))
        pairs.append(np.sort(shown[rows[np.stack([i, j], axis=1)]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def _similar(small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs i < j of similar sketches, int8 [N, 16, 16], mirrored ones too: int64 [pairs, 2], bool [pairs]."""
    count = len(small)
    points = np.concatenate([small, small[:, :, ::-1]]).reshape(2 * count, -1).astype(np.float32)
    length = np.maximum(np.linalg.norm(points, axis=1), 1)
    keys = [np.empty(0, np.int64)]
    for rows in leaves(points, TREES):
        plain = rows[rows < count]
        for mirrored, others in enumerate((plain, rows[rows >= count])):
            cosine = points[plain] @ points[others].T / np.outer(length[plain], length[others])
            cosine[plain[:, None] == others % count] = -1  # itself
            if len(others) > BEST:
                cosine[cosine < np.partition(cosine, -BEST, axis=1)[:, -BEST, None]] = -1
            i, j = np.nonzero(cosine > SIMILAR)
            i, j = plain[i], others[j] % count
            keys.append((np.minimum(i, j) * count + np.maximum(i, j)) * 2 + mirrored)
    key = np.unique(np.concatenate(keys))
    return np.stack(np.divmod(key // 2, max(count, 1)), axis=1), key % 2 == 1


def _alike(half: np.ndarray, pairs: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Largest correlation of sketches, int8 [N, 32, 32], at shifts of up to `SHIFT` pixels: float32 [pairs]."""
    length = np.maximum(np.linalg.norm(half.reshape(len(half), -1).astype(np.float32), axis=1), 1)
    near_zero = np.arange(-SHIFT, SHIFT + 1)
    alike = np.zeros(len(pairs), np.float32)
    for start in range(0, len(pairs), 2**11):
        part = slice(start, start + 2**11)
        one, two = (half[pairs[part, side]] / length[pairs[part, side], None, None] for side in (0, 1))
        one[mirrored[part]] = one[mirrored[part]][:, :, ::-1]
        product = np.fft.rfft2(one) * np.fft.rfft2(two).conj()
        shifted = np.fft.irfft2(product, s=one.shape[1:])[:, near_zero][:, :, near_zero]
        alike[part] = shifted.max(axis=(1, 2))
    return alike


def _most_alike(pairs: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """Pairs above `ALIKE` that are among the `MOST` best of either picture: row numbers, sorted, at most `MOST` N."""
    rows = np.flatnonzero(alike > ALIKE)
    both = pd.DataFrame({"picture": pairs[rows].T.ravel(), "pair": np.tile(rows, 2)})
    both = both.iloc[np.argsort(-alike[both["pair"].to_numpy()].round(4), kind="stable")]
    return np.sort(both.groupby("picture").head(MOST)["pair"].unique())


def _correlations(greys: np.ndarray, pairs: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Correlation of fine detail of each pair, see `registration.detail_correlation`: float64 [pairs]."""
    def correlation(pair: np.ndarray, mirror: bool) -> float:
        one, two = greys[pair]
        return registration.detail_correlation(one[:, ::-1] if mirror else one, two)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.fromiter(pool.map(correlation, pairs, mirrored), float, len(pairs))


def _threshold(greys: np.ndarray) -> float:
    """Correlation from which pictures of this set are one photo: `SAME`, or more where unrelated ones look alike.

    Fisher's z of unrelated pairs is nearly normal; its median and median absolute deviation bear copies among them.
    """
    if len(greys) < 10:  # too few unrelated pairs
        return SAME
    pairs = np.random.default_rng(0).integers(0, len(greys), (UNRELATED, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    found = _correlations(greys, pairs, np.zeros(len(pairs), bool))
    z = np.arctanh(np.clip(found[found > -1], None, 0.999))
    spread = 1.4826 * np.median(np.abs(z - np.median(z))) if len(z) else 0.0
    return max(SAME, float(np.tanh(np.median(z) + APART * spread)) if len(z) else SAME)


def _registered(greys: np.ndarray, known: np.ndarray) -> pd.DataFrame:
    """Pairs of grey pictures, uint8 [N, 64, 64], beside the `known` ones, that registration shows to be one photo."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        half, small = zip(*pool.map(registration.sketches, greys), strict=True)
    pairs, mirrored = _similar(np.stack(small))
    new = ~np.isin(pairs @ [len(greys), 1], known @ [len(greys), 1])
    pairs, mirrored = pairs[new], mirrored[new]
    alike = _most_alike(pairs, _alike(np.stack(half), pairs, mirrored))
    found = pd.DataFrame(pairs[alike], columns=["a", "b"])
    found["kind"] = np.where(mirrored[alike], "mirrored", "registered")
    found["correlation"] = _correlations(greys, pairs[alike], mirrored[alike])
    return found[found["correlation"] >= _threshold(greys)]


def copy_pairs(hashes: pd.Series, thumbnails: np.ndarray, greys: np.ndarray) -> pd.DataFrame:
    """Pairs of pictures that are copies of one photo, sorted: row numbers ``a`` < ``b``, ``kind``, ``correlation``.

    From hashes of their content, thumbnails uint8 [N, 256] and grey pictures uint8 [N, 64, 64]. ``kind`` is "identical"
    (each with the next of the same content), "near" (see `near_pairs`), "registered" or, of a picture and the mirror
    image of the other, "mirrored". ``correlation`` is that of fine detail after registration, at least `SAME` for the
    last two, NaN for identical ones. Of identical pictures only the first is compared with others, and of those that
    look alike the `MOST` most alike are registered.
    """
    codes = pd.factorize(hashes)[0]
    order = np.argsort(codes, kind="stable")
    again = np.flatnonzero(np.diff(codes[order]) == 0)
    tables = [pd.DataFrame({"a": order[again], "b": order[again + 1], "kind": "identical", "correlation": np.nan})]
    first = np.unique(codes, return_index=True)[1]
    if len(first) > 1:
        near = near_pairs(thumbnails[first])
        looks = pd.DataFrame(near, columns=["a", "b"]).assign(
            kind="near", correlation=_correlations(greys[first], near, np.zeros(len(near), bool)))
        found = _registered(greys[first], near).sort_values("correlation", ascending=False, kind="stable")
        # A symmetric face is found plain and mirrored: the better one counts.
        found = pd.concat([looks, found]).drop_duplicates(["a", "b"])
        tables.append(found.assign(a=first[found["a"]], b=first[found["b"]]))
    return pd.concat(tables).sort_values(["a", "b"], ignore_index=True)


def cluster_numbers(count: int, pairs: pd.DataFrame) -> np.ndarray:
    """Cluster of each of `count` pictures, int64 from 0 by first appearance: joined by the pairs ``a``, ``b``.

    Examples
    --------
    >>> cluster_numbers(3, pd.DataFrame({"a": [0], "b": [2]})).tolist()
    [0, 1, 0]
    """
    graph = coo_array((np.ones(len(pairs), bool), (pairs["a"], pairs["b"])), shape=(count, count))
    return pd.factorize(connected_components(graph, directed=False)[1])[0]
