"""What the notebooks say follows the table: a table the other way round says the other thing."""

import pandas as pd
import pytest

from agehelpers.evaluation import findings
from agehelpers.evaluation.bootstrap import ConfidenceInterval


def bands(*rows):
    return pd.DataFrame(rows, columns=["age_band", "n", "mae", "bias", "bias_low", "bias_high"])


def test_ends_by_hand_and_reversed():
    table = bands(("0-2", 50, 1.0, 0.6, 0.5, 0.8), ("20-29", 90, 3.0, 0.1, -0.1, 0.3),
                  ("70+", 40, 7.0, -4.7, -5.8, -3.5))
    assert findings.ends(table) == ("Faces of 0-2 are guessed 0.6 years too old; "
                                    "faces of 70+ are guessed 4.7 years too young")
    turned = table.assign(bias=-table["bias"], bias_low=-table["bias_high"], bias_high=-table["bias_low"])
    assert findings.ends(turned) == ("Faces of 0-2 are guessed 0.6 years too young; "
                                     "faces of 70+ are guessed 4.7 years too old")
    unsure = table.assign(bias_low=-9.0, bias_high=9.0)
    assert findings.ends(unsure) == "At 0-2 no bias is shown (+0.6 years); at 70+ no bias is shown (-4.7 years)"
    few = pd.concat([bands(("0-2", 0, None, None, None, None)), table.iloc[1:]], ignore_index=True)
    assert findings.ends(few).startswith("At 20-29 no bias is shown")


def test_largest_error_by_hand():
    table = bands(("0-2", 50, 1.0, 0, 0, 0), ("70+", 40, 7.04, 0, 0, 0))
    assert findings.largest_error(table) == "The error is largest at 70+ (7.0 years), smallest at 0-2 (1.0)"
    assert "largest at 0-2 (9.0" in findings.largest_error(table.assign(mae=[9.0, 2.0]))


def test_apart_by_hand_and_reversed():
    table = pd.DataFrame({"age_band": ["20-29", "20-29", "50-59", "50-59", "70+", "70+"], "n": [90, 90, 40, 30, 29, 90],
                          "gender": ["male", "female"] * 3, "mae": [3.0, 4.0, 5.8, 8.1, 1.0, 90.0]})
    assert findings.apart(table, "age_band", "gender") == (
        "At 50-59 female faces are off by 8.1 years, male ones by 5.8")  # of 29 faces nothing is said
    turned = table.assign(gender=["female", "male"] * 3)
    assert findings.apart(turned, "age_band", "gender") == (
        "At 50-59 male faces are off by 8.1 years, female ones by 5.8")


def test_at_equal_ages_by_hand_and_reversed():
    table = pd.DataFrame({"gap": [0.4, -1.4], "standardised_gap": [0.5, -0.3]})
    assert findings.at_equal_ages(table, "genders") == (
        "At equal ages the largest distance between genders shrinks from 1.80 to 0.80 years")
    turned = table.rename(columns={"gap": "standardised_gap", "standardised_gap": "gap"})
    assert "grows from 0.80 to 1.80 years" in findings.at_equal_ages(turned, "genders")


@pytest.mark.parametrize("ends, said", [((0.9, 0.95), "are pulled towards the middle"), ((0.98, 1.02), "show no pull"),
                                        ((1.1, 1.2), "are spread beyond the labels")])
def test_pull_by_hand(ends, said):
    assert said in findings.pull(ConfidenceInterval(sum(ends) / 2, *ends))


def test_straightened_by_hand_and_reversed():
    table = pd.DataFrame({"plain": [-3.5, 4.5], "corrected": [-0.7, 4.9], "low": [2.7, 0.3], "high": [2.9, 0.5]},
                         index=["bias from 60 on", "MAE"])
    assert findings.straightened(table) == ("Corrected, the bias from 60 years on shrinks from -3.5 to -0.7 years, and "
                                            "the error of all grows from 4.50 to 4.90")
    turned = table.assign(plain=table["corrected"], corrected=table["plain"], low=-0.5, high=-0.3)
    assert "grows from -0.7 to -3.5" in findings.straightened(turned)
    assert "all falls from 4.90 to 4.50" in findings.straightened(turned)


def test_promise_by_hand_and_reversed():
    overall = pd.Series({"level": 0.9, "coverage": 0.903})
    table = pd.DataFrame({"level": 0.9, "age_band": ["0-2", "70+"], "coverage": [0.99, 0.81], "low": [0.98, 0.76],
                          "high": [1.0, 0.86]})
    assert findings.promise(overall, table) == (
        "The 90% interval holds 90.3% of all labels; at 70+ it holds only 81% (76% to 86%)")
    assert findings.promise(overall, table.assign(high=1.0)).endswith("no age band is shown to get less")
    few = pd.concat([table, table.iloc[[1]].assign(age_band="100+", coverage=0.5, low=0.1, high=0.95)])
    assert "at 70+ it holds only" in findings.promise(overall, few)  # a lower share of few faces shows nothing
    assert "at 0-2 it holds only" in findings.promise(overall, table.assign(age_band=["70+", "0-2"]))


def test_accepted_by_hand():
    row = pd.Series({"younger": 26.0, "false_acceptance": 16 / 26, "fa_low": 0.38, "fa_high": 0.82})
    assert findings.accepted(row, "faces") == (
        "Of 26 faces 16 are let through, 62% (38% to 82%) (few faces: little evidence)")
