"""The decoding of a run: how a predicted distribution of ages becomes one age, chosen on validation.

The median has the least expected absolute error over all pictures. It is drawn to common ages, so the rare ones, the
old above all, pay for it. The balanced MAE, the mean of the age bands' MAE, has its least expectation at the median of
p / prior, where the prior of an age is the share of its band among the training pictures; p / prior^tau lies between
(`Head.adjust`). A run takes the tau that has the lowest balanced MAE on validation among those that cost little plain
MAE there.
"""

from dataclasses import replace

import numpy as np

from agehelpers.data.bands import age_band, age_prior, balanced_mean
from agehelpers.data.faces import Faces
from agehelpers.methods.model import AgeEstimationModel
from agehelpers.training.loop import raw_outputs, read_outputs

TAUS = tuple(round(0.05 * step, 2) for step in range(31))


def choose_decoding(model: AgeEstimationModel, faces: Faces, within: float) -> dict[str, float]:
    """Adjust the head of `model` by the tau of `TAUS` that reads validation best; the facts of it for the record.

    The best has the lowest balanced MAE among those with an MAE of at most `within` years above the lowest. `faces`
    need no test: training gives its ages, validation its pictures. A head without distribution keeps tau 0.

    Returns
    -------
    dict
        tau, and on validation, in years, mae and balanced_mae with it, plain_mae and plain_balanced_mae without.
    """
    seen = replace(faces.config, image_size=model.config.image_size)
    outputs, prior = raw_outputs(model, faces.dataset("validation"), seen), age_prior(faces.part("train")["age"])
    ages = faces.part("validation")["age"].to_numpy(float)
    rows = []
    for tau in TAUS:
        model.head.adjust(tau, prior)
        error = np.abs(read_outputs(model.head, outputs)["prediction"].to_numpy() - ages)
        rows.append((float(error.mean()), balanced_mean(error, age_band(ages).codes), tau))
    limit = min(rows)[0] + within
    mae, balanced, tau = min((row for row in rows if row[0] <= limit), key=lambda row: row[1])
    model.head.adjust(tau, prior)
    found = {"mae": mae, "balanced_mae": balanced, "plain_mae": rows[0][0], "plain_balanced_mae": rows[0][1]}
    return {"tau": tau} | {key: round(years, 3) for key, years in found.items()}
