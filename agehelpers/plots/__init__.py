"""Figures from tables: each function draws one table on matplotlib's Axes and returns them.

`ax`: Axes to draw on; None makes a figure of a fitting size. Ages and errors are in years.
"""

from agehelpers.plots.data import age_pyramid, ages_by, counts_heat_map, digits, face_grid, saliency_grid
from agehelpers.plots.predictions import (
    accepted_by_age,
    confusion,
    cs_curves,
    error_by_subgroup,
    intervals,
    precision_recall,
    predicted_against_true,
    published_comparison,
    risk_coverage,
)
from agehelpers.plots.style import ETHNICITY_COLOURS, GENDER_COLOURS, MAIN, QUIET, SECOND, forest
from agehelpers.plots.training import effects, grid_heat_map, history_curve, learning_rate_range
