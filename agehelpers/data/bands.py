"""Age bands, and means in which each of them counts the same."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter1d

MAX_AGE = 100  # the last bin of a distribution of ages

# The age bands of FairFace (Karkkainen and Joo, WACV 2021), years.
AGE_BANDS = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+")
# Chosen on validation. Cutting the last band at 80 leaves the balanced MAE as it is and brings the old nearer to their
# age; no smoothing or one of 2 or 6 years reads the same within 0.01 years, but without any, predictions pile up at 19.
PRIOR_STARTS = (0, 3, *range(10, 90, 10))
SMOOTHING = 4.0  # years


def age_band(ages: Any) -> pd.Categorical:
    """The AGE_BANDS of `ages` [n]; predictions are first rounded to whole years, as labels are, and cut at 0.

    >>> age_band([0, 19.4, 19.5, 116]).tolist()
    ['0-2', '10-19', '20-29', '70+']
    """
    whole = np.floor(np.clip(np.asarray(ages, float), 0, None) + 0.5)
    return pd.cut(whole, [0, 3, *range(10, 80, 10), np.inf], right=False, labels=AGE_BANDS)


def balanced_mean(values: Any, bands: Any) -> float:
    """Mean over the age bands of the mean of `values` [n] in each; `bands` [n] are the codes of `age_band`.

    Of absolute errors it is the balanced MAE. A band with no picture is left out.

    >>> balanced_mean([1, 1, 1, 5], age_band([20, 22, 24, 75]).codes)
    3.0
    """
    sums, sizes = np.bincount(bands, values), np.bincount(bands)
    return float((sums[sizes > 0] / sizes[sizes > 0]).mean())


def age_prior(ages: Any) -> list[float]:
    """Of each age 0 to 100 the share of its band (`PRIOR_STARTS`) among training `ages` [n], smoothed.

    By a normal kernel of width `SMOOTHING`; an empty band counts as one picture. To sum to 1 makes no difference.
    """
    counts = np.histogram(ages, (*PRIOR_STARTS, np.inf))[0].clip(min=1)
    share = (counts / counts.sum())[np.searchsorted(PRIOR_STARTS, np.arange(MAX_AGE + 1), side="right") - 1]
    return gaussian_filter1d(share, SMOOTHING, mode="nearest").clip(min=1e-6).round(6).tolist()
