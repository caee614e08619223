"""Which pictures calibrate the intervals of a run, and what a checkpoint keeps of it. By hand; evaluation's tests of
intervals compare them with a library and count how often they cover the age."""

import numpy as np
import pandas as pd
import pytest

from agehelpers.training.calibration import (
    LEVELS,
    attach_intervals,
    attach_known,
    ends,
    interval_facts,
    rank,
    reach,
    scale,
    scores,
)

ENDS = [end for level in LEVELS for end in ends(level)]


def predictions(spread: bool = True) -> pd.DataFrame:
    """Nine calibration pictures with errors of 1 to 9 years and a spread of 2, two test pictures, one of each other."""
    error = [5, -1, 4, -2, 3, 9, -7, 8, -6]
    table = pd.DataFrame({"part": ["train", "validation", *["calibration"] * 9, "test", "test"],
                          "age": [10, 10, *[50] * 9, 40, 60], "prediction": [99.0, 99, *np.add(50, error), 41, 62],
                          "spread": [9.0, 9, *[2] * 9, 1.5, 0.05]})
    return table if spread else table.drop(columns="spread")


@pytest.mark.parametrize(("n", "level", "expected"), [(9, 0.8, 8), (9, 0.95, 10), (19, 0.95, 19), (99, 0.55, 55)])
def test_the_rank_of_the_score_that_an_interval_reaches_to(n, level, expected):
    assert rank(n, level) == expected
    found = reach(np.random.default_rng(0).permutation(np.arange(1.0, n + 1)), level)
    assert found == (expected if expected <= n else np.inf)


def test_scores_are_errors_in_years_or_in_spreads():
    table = pd.DataFrame({"age": [50, 50], "prediction": [54.0, 49.0], "spread": [2.0, 1e-9]})
    assert scores(table, normalised=False).tolist() == [4, 1] and scores(table, normalised=True).tolist() == [2, 10]
    assert scale(table, True).tolist() == [2, 0.1] and scale(table, False).tolist() == [1, 1]
    with pytest.raises(ValueError, match="no column spread: this head gives none; use normalised=False"):
        scores(table.drop(columns="spread"), normalised=True)


def test_intervals_of_the_test_by_hand():
    found = attach_intervals(predictions())  # 8 / 2 = 4, 9 / 2 = 4.5 and infinity, in spreads
    assert list(found) == ["part", "age", "prediction", "spread", *ENDS]
    assert found.loc[found["part"] != "test", ENDS].isna().all(axis=None)
    test = found[found["part"] == "test"]
    assert test["lower_80"].tolist() == [35, 61.6] and test["upper_80"].tolist() == [47, 62.4]
    assert test["lower_90"].tolist() == [34.25, 61.55] and test["upper_90"].tolist() == [47.75, 62.45]
    assert test["lower_95"].tolist() == [0, 0] and test["upper_95"].tolist() == [120, 120]  # nine are too few
    plain = attach_intervals(predictions(spread=False))  # a head without spread: 8 and 9 years
    assert plain.loc[11:, "lower_80"].tolist() == [33, 54] and plain.loc[11:, "upper_90"].tolist() == [50, 71]


@pytest.mark.parametrize("spread", [True, False])
def test_only_calibration_pictures_calibrate(spread):
    table = predictions(spread)
    other = table["part"] != "calibration"
    spoilt = table.assign(age=table["age"].mask(other, 0))
    pd.testing.assert_frame_equal(attach_intervals(spoilt)[ENDS], attach_intervals(table)[ENDS])
    assert interval_facts(spoilt) == interval_facts(table)
    worse = table.assign(age=table["age"].mask(~other, 0))
    assert interval_facts(worse) != interval_facts(table)


def test_what_a_checkpoint_keeps_gives_the_same_intervals():
    table = predictions()
    facts = interval_facts(table)
    assert facts == {"normalised": True, "calibration": 9, "80": 4.0, "90": 4.5}  # nothing of 95 %: infinite
    new = table[table["part"] == "test"].drop(columns=["part", "age"])
    pd.testing.assert_frame_equal(attach_known(new, facts)[ENDS], attach_intervals(table).loc[11:, ENDS])
    assert interval_facts(predictions(spread=False)) == {"normalised": False, "calibration": 9, "80": 8.0, "90": 9.0}


def test_without_calibration_or_test_pictures():
    table = predictions()
    none = attach_intervals(table[table["part"] != "calibration"])
    assert (none.loc[11:, ["lower_80", "lower_90"]] == 0).all(axis=None) and (none.loc[11:, "upper_80"] == 120).all()
    assert interval_facts(table.head(2)) == {"normalised": True, "calibration": 0}
    assert attach_intervals(table.head(2))[ENDS].isna().all(axis=None)


def test_a_spread_is_usual_for_its_predicted_age():
    """40 calibration pictures predicted as 10 have spreads of 1 to 1.39, 40 predicted as 60 five times as much."""
    n = np.arange(40)
    table = pd.concat([pd.DataFrame({"part": "calibration", "age": age, "prediction": float(age),
                                     "spread": unit * (1 + n / 100)}) for age, unit in ((10, 1), (60, 5))])
    usual = interval_facts(table)["usual"]
    assert usual == {"age": [10.0, 60.0], "spread": [1.38, 6.9]}  # the 77th of 80 (of which two are equal each)
    new = pd.DataFrame({"prediction": [5.0, 10, 10, 35, 35, 60, 90], "spread": [1.39, 1.36, 3, 4.1, 4.2, 6.8, 6.95]})
    flagged = attach_known(new, {"normalised": True, "usual": usual})["unlike"]
    assert flagged.tolist() == [True, False, True, False, True, False, True]
    assert attach_known(table, interval_facts(table))["unlike"].mean() == 2 / 80
    assert "usual" not in interval_facts(table.groupby("age").head(9)), "too few for a median"
    assert "usual" not in interval_facts(table.groupby("age").head(18).query("age == 10")), "too few for 95 %"
    assert "unlike" not in attach_known(new, {"normalised": True})
