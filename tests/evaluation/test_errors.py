"""Tables of error: values derived by hand, copies counted once, tables that cannot be analysed refused."""

import numpy as np
import pandas as pd
import pytest

from agehelpers.data.labels import label_error
from agehelpers.evaluation import errors, subgroups, tables
from agehelpers.evaluation.bootstrap import confidence_interval


def table(ages, predictions, part="test", gender="male", ethnicity="White", **more):
    names = [f"face{i}.jpg" for i in range(len(ages))]
    return pd.DataFrame({"part": part, "name": names, "age": ages, "gender": gender, "ethnicity": ethnicity,
                         "prediction": np.asarray(predictions, float), **more})


SMALL = table([10, 20, 30, 40], [12, 19, 36, 36])  # errors 2, -1, 6, -4


def test_overall_by_hand():
    found = errors.overall(SMALL).set_index("metric")
    expected = {"MAE": 13 / 4, "RMSE": np.sqrt((4 + 1 + 36 + 16) / 4), "median absolute error": 3.0, "bias": 0.75,
                "CS@5": 3 / 4, "age band right": 2 / 4, "age band right or next to it": 1.0, "n": 4}
    assert found["value"].to_dict() == pytest.approx(expected)
    assert found.loc["MAE", "unit"] == "years" and found.loc["CS@5", "unit"] == "share"
    ends = found.drop(index="n")
    assert (ends["low"] <= ends["value"]).all() and (ends["value"] <= ends["high"]).all()


def test_single_measures_agree_with_overall():
    assert errors.mae(SMALL) == 3.25
    assert errors.bias(SMALL) == 0.75
    assert errors.bias(table([30], [20])) == -10  # predicted too young is negative
    assert errors.cs(SMALL, 1) == 0.25


def test_the_balanced_mae_counts_each_band_once():
    rows = table([1, 20, 22, 24, 90], [2, 20, 23, 29, 80], plain=[1, 20, 22, 24, 70])
    assert errors.balanced_mae(rows).value == (1 + (0 + 1 + 5) / 3 + 10) / 3  # six bands are empty
    assert errors.balanced_mae(rows, "plain").value == 20 / 3
    found = errors.balanced_mae(rows)
    assert found.low < found.value < found.high
    assert errors.balanced_mae(rows.assign(prediction=rows["age"] + 2)) == (2, 2, 2)
    with pytest.raises(ValueError, match="lack the column.s. plain"):
        errors.balanced_mae(SMALL, "plain")


def test_the_interval_of_the_balanced_mae_takes_copies_for_one():
    rng = np.random.default_rng(3)
    ages = rng.integers(1, 90, 60)
    rows = table(ages, ages + rng.normal(0, 5, 60), cluster=np.arange(60))
    once, copied = errors.balanced_mae(rows), errors.balanced_mae(pd.concat([rows] * 4))
    assert copied == pytest.approx(once)
    naive = errors.balanced_mae(pd.concat([rows] * 4).drop(columns="cluster"))
    assert once.high - once.low > 1.5 * (naive.high - naive.low)


def test_cumulative_score_counts_the_limit_itself():
    five_off = table([20, 20, 20], [25, 15, 25.01])
    assert errors.cs(five_off) == pytest.approx(2 / 3)
    curve = errors.cs_curve(five_off, [4, 5, 6])
    assert curve.columns.tolist() == ["years", "share", "low", "high"]
    assert curve["years"].tolist() == [4, 5, 6]
    assert curve["share"].tolist() == pytest.approx([0, 2 / 3, 1])
    # the chance of none, or all, of three is 0.025 at a share of 1 - 0.025 ** (1 / 3), or 0.025 ** (1 / 3)
    assert curve.loc[[0, 2], "low"].tolist() == pytest.approx([0, 0.025 ** (1 / 3)])
    assert curve.loc[[0, 2], "high"].tolist() == pytest.approx([1 - 0.025 ** (1 / 3), 1])
    assert len(errors.cs_curve(SMALL)) == 21
    copies = errors.cs_curve(five_off.assign(cluster=1), [6])
    assert copies["low"].item() == pytest.approx(0.025)  # three copies are one face


@pytest.mark.parametrize(("predictions", "message"), [
    (SMALL.drop(columns=["age", "prediction"]), "lack the column.s. age, prediction"),
    (pd.concat([SMALL, SMALL.assign(part="train")]), "mix the parts test, train"),
    (SMALL.assign(prediction=[1, 2, np.nan, 4]), "without an age or a prediction"),
    (SMALL.head(0), "empty"),
])
def test_tables_that_cannot_be_analysed_are_refused(predictions, message):
    for function in (errors.mae, errors.overall, subgroups.confusion, errors.running_median):
        with pytest.raises(ValueError, match=message):
            function(predictions)


def test_by_subgroup_and_overall_resample_clusters_together():
    rng = np.random.default_rng(3)
    ages, off = rng.integers(1, 90, 40), rng.normal(0, 5, 40)
    copied = table(np.tile(ages, 4), np.tile(ages + off, 4), cluster=np.tile(np.arange(40), 4))
    grouped, naive = errors.overall(copied), errors.overall(copied.drop(columns="cluster"))
    wider = (grouped["high"] - grouped["low"]) / (naive["high"] - naive["low"])
    assert wider[[0, 1, 3]].gt(1.5).all()
    grouped, naive = (subgroups.by_subgroup(rows, "gender") for rows in (copied, copied.drop(columns="cluster")))
    assert grouped["mae_high"][0] - grouped["mae_low"][0] > 1.5 * (naive["mae_high"][0] - naive["mae_low"][0])


def test_median_baseline_predicts_the_training_median():
    predictions = pd.concat([table([10, 20, 90], [0, 0, 0], part="validation"), table([25, 5], [1, 1])])
    baseline = errors.median_baseline(predictions, 20)
    assert baseline["prediction"].tolist() == [20, 20] and baseline["part"].unique().tolist() == ["test"]
    assert baseline["prediction"].dtype == float
    assert errors.mae(baseline) == 10 and errors.cs(baseline) == 0.5
    assert errors.mae(errors.median_baseline(predictions, 30, "validation")) == (20 + 10 + 60) / 3
    assert predictions["prediction"].tolist() == [0, 0, 0, 1, 1]  # the table itself is left as it was


def test_yardsticks_by_hand():
    labels = pd.DataFrame({"name": list("abcdefg"), "age": [20, 26, 30, 30, 33, 50, 70], "sha256": list("xxyyyzw"),
                           "copies": [2, 2, 3, 3, 3, 1, 1]})  # pairs 6; 0, 3, 3: a mean of 3, over the root of two
    found = errors.yardsticks(SMALL, 20, labels, [("theirs", 4.5)]).set_index("what")
    assert found.index.tolist() == ["these predictions", "median baseline", "label error, an estimate", "theirs"]
    assert found["mae"].tolist() == pytest.approx([3.25, (10 + 0 + 10 + 20) / 4, label_error(labels), 4.5])
    assert found["mae"].iloc[2] == pytest.approx(3 / 2**0.5)
    # picture by picture 2 - 10, 1 - 0, 6 - 10, 4 - 20
    difference = found.loc["median baseline", ["difference", "difference_low", "difference_high"]].tolist()
    assert difference == pytest.approx(confidence_interval([-8.0, 1, -4, -16])) and difference[0] == -6.75
    own = found.loc["these predictions", ["mae", "low", "high"]]
    assert own.tolist() == pytest.approx(confidence_interval([2.0, 1, 6, 4]))
    assert found.loc["theirs", ["difference", "difference_low", "difference_high"]].tolist() == pytest.approx(
        (own - 4.5).tolist())
    assert found.loc["theirs", ["low", "high"]].isna().all()
    assert found.loc["label error, an estimate", ["low", "high"]].tolist() == pytest.approx(
        [2 / 2**0.5, 6 / 2**0.5])  # two sets of copies, either of which may be drawn twice
    assert found.loc[["these predictions", "label error, an estimate"], "difference"].isna().all()


def test_yardsticks_take_copies_for_one_and_need_no_pairs():
    rng = np.random.default_rng(3)
    ages, labels = rng.integers(1, 90, 40), pd.DataFrame({"name": ["a"], "age": [1], "copies": [1], "sha256": ["x"]})
    once = table(ages, ages + rng.normal(0, 5, 40))
    copied = pd.concat([once.assign(cluster=range(40))] * 3, ignore_index=True)
    found, grouped = (errors.yardsticks(rows, 30, labels, [("theirs", 4)]) for rows in (once, copied))
    pd.testing.assert_frame_equal(grouped, found)
    assert found.loc[2, "mae":].isna().all()


def test_slope_of_lines():
    ages = np.arange(5, 80, 3)
    for factor in (0, 0.5, 1, 1.2):
        assert errors.slope(table(ages, factor * ages + 7)) == pytest.approx((factor,) * 3)


def test_running_median_by_hand():
    predictions = table([10, 12, 13, 40], [11, 13, 15, 50])
    found = errors.running_median(predictions, width=5, least=2)
    assert found["age"].tolist() == [10, 12, 13] and found["n"].tolist() == [2, 3, 2]
    assert found["median"].tolist() == [12, 13, 14]
    assert found["low"].tolist() == [11.5, 12, 13.5] and found["high"].tolist() == [12.5, 14, 14.5]


def test_best_and_worst():
    predictions = table([20] * 5, [20, 27, 19, 10, 21])  # errors 0, 7, -1, -10, 1
    found = errors.best_and_worst(predictions, 2)
    assert found["which"].tolist() == ["best", "best", "worst", "worst"]
    assert found["error"].tolist() == [0, -1, -10, 7]  # of the two that are off by one, the first by name
    assert len(errors.best_and_worst(predictions, 9)) == 4  # nobody is both best and worst


def test_clusters_come_from_the_label_table_by_name():
    labels = pd.DataFrame({"name": SMALL["name"][::-1], "cluster": pd.array([4, 3, 3, 1], dtype="Int64"), "copies": 1})
    found = tables.add_clusters(SMALL, labels)
    assert found["name"].equals(SMALL["name"]) and found["cluster"].tolist() == [1, 3, 3, 4]
    assert [*found] == [*SMALL, "cluster"]
    more = tables.add_clusters(SMALL, labels.assign(sharpness=[4.5, 3, 2, 1], verdict="ok"), "sharpness", "copies")
    assert [*more] == [*SMALL, "cluster", "sharpness", "copies"] and more["sharpness"].tolist() == [1, 2, 3, 4.5]
    with pytest.raises(ValueError, match="1 pictures are not in the label table, such as face0.jpg"):
        tables.add_clusters(SMALL, labels[labels["name"] != "face0.jpg"])
