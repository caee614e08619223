"""Figures draw the numbers of their table, with units and counts; what is read back from the Axes is compared."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from PIL import Image

from agehelpers import plots
from agehelpers.data.names import ETHNICITIES, GENDERS
from agehelpers.evaluation import errors, subgroups

HISTORY = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [4.0, 3.0, 2.0], "train_mae": [9.0, 7.0, 5.0],
                        "val_loss": [4.1, 3.5, 3.6], "val_mae": [9.5, 7.25, 7.5], "lr": [0.1, 0.2, 0.1]})
TEST = pd.DataFrame({"name": [f"{i}.jpg" for i in range(6)], "age": [1, 2, 25, 26, 40, 41],
                     "gender": ["male", "male", "male", "female", "female", "female"],
                     "ethnicity": pd.Series(["White", "White", "Black", "Black", None, None], dtype="str"),
                     "prediction": [2.0, 4.0, 25.0, 30.0, 35.0, 38.0]})


@pytest.fixture(autouse=True)
def close_figures():
    yield
    for number in plt.get_fignums():
        plt.figure(number).draw_without_rendering()  # a warning on drawing is an error too
    plt.close("all")


def line(ax, label):
    return next(line for line in ax.lines if line.get_label() == label)


def edges(band):
    """(x, lower, upper) at each x of what fill_between drew."""
    found = {}
    for x, y in band.get_paths()[0].vertices:
        found.setdefault(float(x), []).append(float(y))
    return [(x, min(ys), max(ys)) for x, ys in sorted(found.items())]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def ticks(ax):
    return [text.get_text() for text in ax.get_yticklabels()]


def test_palettes_name_every_group_once():
    assert tuple(plots.GENDER_COLOURS) == GENDERS and tuple(plots.ETHNICITY_COLOURS) == ETHNICITIES
    for palette in (plots.GENDER_COLOURS, plots.ETHNICITY_COLOURS):
        assert len(set(palette.values())) == len(palette)


def test_history_curve():
    ax = plots.history_curve(HISTORY, "mae", [(15.0, "median baseline"), (2.9, "label error")])
    assert line(ax, "training").get_ydata().tolist() == [9, 7, 5]
    assert line(ax, "validation").get_xdata().tolist() == [1, 2, 3]
    assert line(ax, "best validation: 7.25 years").get_xydata().tolist() == [[2, 7.25]]
    assert set(line(ax, "median baseline").get_ydata()) == {15} and ax.get_ylim()[1] > 15
    assert set(line(ax, "label error").get_ydata()) == {2.9}
    assert ax.get_ylabel() == "mean absolute error (years)" and ax.get_xlabel() == "epoch"
    assert line(plots.history_curve(HISTORY, "loss"), "validation").get_ydata().tolist() == [4.1, 3.5, 3.6]
    assert plots.history_curve(HISTORY, "lr").lines[0].get_ydata().tolist() == [0.1, 0.2, 0.1]


def test_learning_rate_range_marks_the_lowest_loss():
    ax = plots.learning_rate_range(pd.DataFrame({"lr": [1e-4, 1e-2, 1.0], "loss": [4.0, 2.0, 9.0]}))
    assert ax.get_xscale() == "log" and legend(ax) == ["lowest loss, at 0.01"]
    assert line(ax, "lowest loss, at 0.01").get_xydata().tolist() == [[0.01, 2.0]]


def test_grid_heat_map_frames_the_best_and_leaves_gaps():
    trials = pd.DataFrame({"lr": [0.1, 0.1, 0.01], "weight_decay": [0, 1e-4, 0], "val_mae": [6.0, 5.5, 7.0]})
    ax = plots.grid_heat_map(trials)
    cells = {(t.get_position()[0] - 0.5, t.get_position()[1] - 0.5): t.get_text() for t in ax.texts}
    assert cells == {(0, 0): "6.00", (1, 0): "5.50", (0, 1): "7.00"}  # rows: 0.1 above 0.01
    frame = next(patch for patch in ax.patches if isinstance(patch, Rectangle))
    assert frame.get_xy() == (1, 0)
    assert ticks(ax) == ["0.1", "0.01"] and [t.get_text() for t in ax.get_xticklabels()] == ["0", "0.0001"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("weight decay", "learning rate")
    assert ax.collections[0].colorbar.ax.get_ylabel() == "validation MAE (years)"


def test_predicted_against_true():
    running = pd.DataFrame({"age": [2, 25], "n": [2, 2], "low": [2.5, 26], "median": [3, 27.5], "high": [3.5, 29]})
    ax = plots.predicted_against_true(TEST, running)
    assert ax.collections[0].get_array().sum() == 6 and ax.get_title() == ""
    assert line(ax, "running median").get_xydata().tolist() == [[2, 3], [25, 27.5]]
    x, y = line(ax, "prediction = age").get_data()
    assert list(x) == list(y) and x[1] > 41
    assert ax.get_xlabel() == "true age (years), n = 6" and ax.get_ylabel() == "predicted age (years)"


@pytest.mark.parametrize("measure", ["mae", "bias"])
def test_error_by_subgroup_draws_intervals_and_counts(measure):
    table = subgroups.by_subgroup(TEST, "age_band", resamples=20)
    ax = plots.error_by_subgroup(table, measure, [(4.5, "all: 4.50 years")])
    dots = ax.lines[0]
    assert np.array_equal(dots.get_xdata(), table[measure], equal_nan=True)
    assert dots.get_ydata().tolist() == list(range(9))
    drawn = ax.collections[0].get_segments()
    assert drawn[0].tolist() == [[table[f"{measure}_low"][0], 0], [table[f"{measure}_high"][0], 0]]
    assert ticks(ax)[:2] == ["0-2  (n = 2)", "3-9  (n = 0)"] and ax.yaxis_inverted()
    assert "(years)" in ax.get_xlabel() and ax.get_ylabel() == "age band (years)"
    assert set(line(ax, "all: 4.50 years").get_xdata()) == {4.5}


def test_error_by_two_subgroups_colours_the_second():
    table = subgroups.by_subgroup(TEST, "ethnicity", "gender", resamples=20)
    ax = plots.error_by_subgroup(table)
    men, women = line(ax, "male"), line(ax, "female")
    assert np.array_equal(men.get_xdata(), table.query("gender == 'male'")["mae"], equal_nan=True)
    assert (men.get_ydata() < women.get_ydata()).all()  # side by side, not on top of each other
    for drawn, gender in ((men, "male"), (women, "female")):
        assert to_rgba(drawn.get_color()) == to_rgba(plots.GENDER_COLOURS[gender])
    assert ticks(ax)[0] == "White  (n = 2 / 0)" and ticks(ax)[-1] == "unknown  (n = 0 / 2)"
    assert ax.get_ylabel() == "ethnicity (n: male / female)" and legend(ax) == ["male", "female"]


def test_cs_curves():
    curve = errors.cs_curve(TEST)
    ax = plots.cs_curves({"model": curve, "median baseline": curve.assign(share=0.1, low=0.05, high=0.2)})
    assert line(ax, "model").get_ydata().tolist() == curve["share"].tolist()
    assert set(line(ax, "median baseline").get_ydata()) == {0.1}
    assert ax.get_xlabel() == "allowed absolute error (years)"
    first, second = ax.collections
    assert edges(first) == [(row.years, row.low, row.high) for row in curve.itertuples()]
    assert edges(second) == [(years, 0.05, 0.2) for years in curve["years"]]
    for band, name in ((first, "model"), (second, "median baseline")):
        assert tuple(band.get_facecolor()[0][:3]) == to_rgba(line(ax, name).get_color())[:3]
        assert 0 < band.get_facecolor()[0][3] < 1


def test_history_curve_passes_over_epochs_without_a_validation():
    gaps = HISTORY.assign(val_mae=[np.nan, np.nan, 7.5], val_loss=[np.nan, np.nan, 3.6])
    ax = plots.history_curve(gaps)
    assert line(ax, "validation").get_xydata().tolist() == [[3, 7.5]]
    assert line(ax, "best validation: 7.50 years").get_xydata().tolist() == [[3, 7.5]]


def test_effects_are_sorted_and_ties_are_grey():
    table = pd.DataFrame({"row": ["base", "worse", "tie", "better"], "val_mae": [7.0, 8.0, 7.1, 6.0],
                          "difference": [0, 1.0, 0.1, -1.0], "low": [0, 0.5, -0.1, -1.5], "high": [0, 1.5, 0.3, -0.5]})
    ax = plots.effects(table)
    assert ticks(ax) == ["better", "tie", "worse"] and "7.00 years" in ax.get_xlabel()
    assert line(ax, "interval without 0").get_xydata().tolist() == [[-1, 0], [1, 2]]
    assert line(ax, "a tie with the base, or no test").get_xydata().tolist() == [[0.1, 1]]
    assert ax.collections[0].get_segments()[0].tolist() == [[-1.5, 0], [-0.5, 0]]


def test_published_errors_stand_beside_ours_on_the_same_protocol_only():
    ours = pd.DataFrame({"family": ["a", "b"], "network": ["net", "net"], "protocol": ["holdout", "coral"],
                         "mae": [5.0, 5.2], "mae_low": [4.8, 5.1], "mae_high": [5.2, 5.3], "baseline": [15.0, 8.7]})
    published = pd.DataFrame({"protocol": ["holdout", "benchmark", "coral"],
                              "method": ["start, validation", "other", "third"],
                              "start": "ImageNet", "mae": [5.418, 5.33, 4.713], "sd": [np.nan, 0.16, 0.028],
                              "how_known": ["reported, split unpublished", "", "read in the source"]})
    figure = plots.published_comparison(ours, published, 2.9)
    holdout, coral = figure.axes
    assert ticks(holdout) == ["start, validation (ImageNet)\nreported, split unpublished", "a: net"]
    assert ticks(coral) == ["third (ImageNet)", "b: net"]
    assert [text.get_text() for text in holdout.texts[:-1]] == ["5.42", "5.00"]
    assert line(holdout, "measured here").get_xydata().tolist() == [[5.0, 1]]
    assert set(line(coral, "median baseline").get_xdata()) == {8.7} and coral.texts[-1].get_text().strip() == (
        "median baseline: 8.70")
    assert holdout.texts[-1].get_text() == "median baseline: 15.00 \u2192"  # beyond the axis
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"measured here", "label error, an estimate: 2.9", "published, read in the source"} < shown


def test_confusion_shows_shares_of_rows_and_their_sizes():
    table = pd.DataFrame({"age": [1] * 300 + [25, 25, 25], "prediction": [1] * 299 + [5, 25, 25, 31]})
    ax = plots.confusion(subgroups.confusion(table))
    cells = {tuple(text.get_position()): text.get_text() for text in ax.texts if text.get_text()}
    assert cells == {(0.5, 0.5): "100", (1.5, 0.5): "<1", (3.5, 3.5): "67", (4.5, 3.5): "33"}
    assert ticks(ax)[0] == "0-2  (n = 300)" and ticks(ax)[8] == "70+  (n = 0)"
    assert ax.get_xlabel() == "predicted age band (years)" and ax.get_ylabel() == "true age band (years)"


def test_face_grid_takes_arrays_and_files_of_any_mode(tmp_path):
    Image.new("L", (4, 4), 128).save(tmp_path / "grey.png")
    colour = np.zeros((4, 4, 3), np.uint8)
    figure = plots.face_grid([colour, tmp_path / "grey.png", colour], ["a", "b", "c"], columns=2)
    shown = [ax.images[0].get_array() for ax in figure.axes[:3]]
    assert shown[1].shape == (4, 4, 3) and (shown[1] == 128).all() and (shown[0] == 0).all()
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "c", ""]
    assert not figure.axes[3].images and not figure.axes[3].axison


def test_no_faces_are_an_empty_grid():
    assert len(plots.face_grid([], []).axes) == 6


def test_given_axes_are_used_and_no_figure_is_made():
    given = plt.subplots()[1]
    calls = [lambda ax: plots.history_curve(HISTORY, ax=ax),
             lambda ax: plots.cs_curves({"m": errors.cs_curve(TEST)}, ax=ax),
             lambda ax: plots.error_by_subgroup(subgroups.by_subgroup(TEST, "gender", resamples=20), ax=ax)]
    for call in calls:
        assert call(given) is given
    assert plt.get_fignums() == [given.figure.number]


LABELS = pd.DataFrame({"age": pd.array([1, 20, 25, 26, 26, 60], "Int64"), "gender": ["female"] * 2 + ["male"] * 4,
                      "ethnicity": ["Others", "White", "White", "White", "Others", None]})


def test_saliency_grid_lays_signed_maps_over_grey_faces_on_one_scale(tmp_path):
    face = np.full((20, 20, 3), (200, 10, 10), np.uint8)
    Image.fromarray(face).save(tmp_path / "face.png")
    maps = np.zeros((2, 5, 5), np.float32)
    maps[0, 0, 0], maps[1, 4, 4] = 0.5, -2.0
    figure = plots.saliency_grid([face, tmp_path / "face.png"], maps, ["a", "b"])
    *panels, bar = figure.axes
    assert [ax.get_title() for ax in panels] == ["a", "b", "", ""]
    assert all((ax.images[0].get_array() == face).all() for ax in panels[:2])
    for ax, values in zip(panels[2:], maps, strict=True):
        grey, overlay = ax.images
        assert grey.get_array().shape == (20, 20) and grey.get_extent() == overlay.get_extent()
        assert (overlay.get_array() == values).all() and overlay.get_clim() == (-2, 2)
        assert (np.asarray(overlay.get_alpha())[values == 0] == 0).all()
    red, blue = (overlay.cmap(overlay.norm(value)) for value in (2.0, -2.0))
    assert red[0] > red[2] and blue[2] > blue[0]
    assert "older (+) or younger" in bar.get_ylabel() and "years" in bar.get_ylabel()
    plots.saliency_grid([face], np.zeros((1, 5, 5)), ["nothing said"])
    with pytest.raises(ValueError):
        plots.saliency_grid([face], maps, ["a"])


def test_forest_draws_dots_intervals_and_counts_by_row_and_colour():
    table = pd.DataFrame({"group": ["a", "b", "a", "b"], "way": ["one", "one", "two", "two"], "n": [5, 1200, 5, 7],
                          "value": [1.0, 2.0, 3.0, np.nan], "low": [0.5, 1.5, 2.0, np.nan],
                          "high": [1.5, 2.5, 4.0, np.nan]})
    ax = plots.forest(table, "group", "value", "low", "high", "way", [(2.2, "nominal")])
    assert ticks(ax) == ["a  (n = 5 / 5)", "b  (n = 1,200 / 7)"] and legend(ax) == ["one", "two", "nominal"]
    one, two = line(ax, "one"), line(ax, "two")
    assert one.get_xdata().tolist() == [1, 2] and two.get_xdata()[0] == 3 and np.isnan(two.get_xdata()[1])
    assert one.get_color() == plots.MAIN and two.get_color() == plots.SECOND
    assert one.get_ydata()[0] < 0 < two.get_ydata()[0] < 0.5 and ax.get_ylim()[0] > ax.get_ylim()[1]  # first row on top
    ends = [[segment[:, 0].tolist() for segment in bars.get_segments() if len(segment)] for bars in ax.collections]
    assert ends == [[[0.5, 1.5], [1.5, 2.5]], [[2, 4]]]
    assert set(line(ax, "nominal").get_xdata()) == {2.2}
    plain = plots.forest(table[table["way"] == "one"].drop(columns="n"), "group", "value", "low", "high")
    assert ticks(plain) == ["a", "b"] and plain.get_legend() is None
    same = plots.forest(table.assign(n=[5, 9, 5, 9]), "group", "value", "low", "high", "way")
    assert ticks(same) == ["a  (n = 5)", "b  (n = 9)"]
    sexes = table.assign(way=["male", "male", "female", "female"])
    gender = plots.forest(sexes, "group", "value", "low", "high", "way")
    assert line(gender, "female").get_color() == plots.GENDER_COLOURS["female"]


def test_digits_stand_side_by_side():
    ax = plots.digits({"labels": pd.Series(np.arange(10) / 45), "predictions": pd.Series(0.1, range(10))})
    bars = [bar for bar in ax.patches if isinstance(bar, Rectangle)]
    assert [round(bar.get_height() * 45) for bar in bars[:10]] == list(range(10)) and len(bars) == 20
    assert bars[3].get_x() + bars[3].get_width() == pytest.approx(bars[13].get_x()) == pytest.approx(3)
    assert set(line(ax, "no heaps: a tenth each").get_ydata()) == {0.1}


def test_intervals_mark_the_labels_outside():
    table = pd.DataFrame({"name": list("abcd"), "age": [10, 20, 30, 41], "prediction": [12.0, 19.0, 45.0, 40.0],
                          "lower_90": [10.0, 15.0, 40.0, 30.0], "upper_90": [14.0, 19.99, 50.0, 50.0]})
    ax = plots.intervals(table)
    assert line(ax, "label inside").get_ydata().tolist() == [10, 41]  # by prediction; an end belongs to its interval
    assert line(ax, "label outside (2)").get_xydata().tolist() == [[1, 20], [3, 30]]
    assert [segment[:, 1].tolist() for segment in ax.collections[0].get_segments()] == [
        [10, 14], [15, 19.99], [30, 50], [40, 50]]
    few = plots.intervals(table, count=2, seed=1)
    assert len(few.collections[0].get_segments()) == 2 and few.get_xlabel().startswith("2 pictures")


def test_risk_coverage_against_no_order_and_the_best():
    curve = pd.DataFrame({"share": [0.5, 1.0], "n": [1, 2], "limit": [2.0, 3.0], "mae": [2.0, 4.0],
                          "low": [1.5, 3.25], "high": [2.25, 5.0], "best": [1.0, 4.0]})
    ax = plots.risk_coverage(curve)
    assert line(ax, "smallest spread first").get_xydata().tolist() == [[0.5, 2], [1, 4]]
    assert line(ax, "smallest error first (not possible)").get_ydata().tolist() == [1, 4]
    assert set(line(ax, "random order").get_ydata()) == {4}
    assert edges(ax.collections[0]) == [(0.5, 1.5, 2.25), (1, 3.25, 5)]
    one = plots.risk_coverage(curve.assign(low=[np.nan, 3.25], high=[np.nan, 5.0]))  # of one picture, no interval
    assert line(one, "smallest spread first").get_ydata().tolist() == [2, 4]


def test_precision_recall_against_guessing():
    curve = pd.DataFrame({"cutoff": [20, 30], "precision": [0.5, 1.0], "recall": [1.0, 0.25]})
    ax = plots.precision_recall({"under 18": curve}, {"under 18": 0.2})
    assert line(ax, "under 18").get_xydata().tolist() == [[1, 0.5], [0.25, 1]]
    assert set(line(ax, "under 18: guessing").get_ydata()) == {0.2}


def test_accepted_by_age_beside_the_step_that_is_asked():
    table = pd.DataFrame({"age": [16, 18, 20], "n": 30, "accepted": [0.4, 0.7, 0.9], "low": [0.3, 0.6, 0.8],
                          "high": [0.5, 0.8, 1.0]})
    ax = plots.accepted_by_age({"cutoff 18": table}, 18)
    assert line(ax, "cutoff 18").get_xydata().tolist() == [[16, 0.4], [18, 0.7], [20, 0.9]]
    assert line(ax, "what a limit of 18 asks").get_xydata().tolist() == [[0, 0], [18, 0], [18, 1], [20, 1]]
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 0.3 and band[:, 1].max() == 1.0


def test_age_pyramid_has_one_gender_on_each_side():
    ax = plots.age_pyramid(LABELS)
    for side, name, bars in zip((-1, 1), plots.GENDER_COLOURS, ax.containers, strict=True):
        ages = LABELS.loc[LABELS["gender"] == name, "age"].dropna()
        assert {bar.get_y() + bar.get_height() / 2: bar.get_width() * side for bar in bars} == dict(ages.value_counts())
        assert bars[0].get_facecolor() == to_rgba(plots.GENDER_COLOURS[name])
        assert bars.get_label() == f"{name} (n = {len(ages)})"
    assert ax.xaxis.get_major_formatter()(-1200, 0) == "1,200" and ax.get_ylabel() == "age (years)"


def test_ages_by_names_counts_and_keeps_the_palette():
    ax = plots.ages_by(LABELS, "ethnicity")
    assert ticks(ax) == ["White  (n = 3)", "Others  (n = 2)"]  # no empty groups; the unknown one is left out
    assert [tuple(np.ravel(body.get_facecolor())[:3]) for body in ax.collections[:2]] == [
        to_rgba(plots.ETHNICITY_COLOURS[group])[:3] for group in ("White", "Others")]
    assert ax.get_xlabel() == "age (years)"
    medians = [drawn for drawn in ax.lines if drawn.get_color() == "white"]
    assert {float(x) for drawn in medians for x in drawn.get_xdata()} == {25, 13.5}


def test_counts_heat_map_shows_every_count():
    counts = pd.DataFrame([[0, 5], [1200, 30]], index=["male", "female"], columns=["White", "Black"])
    ax = plots.counts_heat_map(counts)
    assert [text.get_text() for text in ax.texts] == ["0", "5", "1,200", "30"]
