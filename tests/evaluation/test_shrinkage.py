"""The pull to the mean: lines by hand, what straightening gives and costs, copies counted once."""

import numpy as np
import pandas as pd
import pytest

from agehelpers.evaluation import bootstrap, errors, shrinkage


def table(ages, predictions, part="test", gender="male", ethnicity="White", **more):
    names = [f"face{i:03}.jpg" for i in range(len(ages))]
    return pd.DataFrame({"part": part, "name": names, "age": ages, "gender": gender, "ethnicity": ethnicity,
                         "prediction": np.asarray(predictions, float), **more})


AGES = np.arange(5, 85, 5)
PULLED = table(AGES, 0.5 * AGES + 20)


def test_line_by_hand():
    # ages -10, 0, 10 about their mean, predictions -9, 3, 6 about 21: slope (90 + 60) / 200, intercept 21 - 20 * 0.75
    assert shrinkage.fit_line(table([10, 20, 30], [12, 24, 27])) == pytest.approx((6, 0.75))
    rng = np.random.default_rng(0)
    ages = rng.uniform(0, 90, 50)
    rows = table(ages, 3 + 0.6 * ages + rng.normal(0, 5, 50))
    slope, intercept = np.polyfit(ages, rows["prediction"], 1)
    assert shrinkage.fit_line(rows) == pytest.approx((intercept, slope))
    assert shrinkage.fit_line(rows)[1] == pytest.approx(errors.slope(rows).value)


@pytest.mark.parametrize(("rows", "message"), [
    (table([30, 30, 30], [20, 30, 40]), "all pictures are of one age"),
    (table([30], [20]), "all pictures are of one age"),
    (table([10, 20, 30], [40, 30, 20]), r"do not grow with the age \(slope -1.00\).*has not learned"),
    (table([10, 20, 30], [33, 33, 33]), r"slope 0.00"),
    (PULLED.head(0), "empty"),
    (pd.concat([PULLED, PULLED.assign(part="train")]), "mix the parts"),
])
def test_lines_that_cannot_be_fitted(rows, message):
    with pytest.raises(ValueError, match=message):
        shrinkage.fit_line(rows)


def test_no_age_is_corrected_to_less_than_zero():
    validation = table([0, 20], [4, 14], part="validation")  # the line is 4 + age / 2
    found = shrinkage.correction(validation, table([10, 20, 5] * 9, [9, 14, 3] * 9)).set_index("measure")
    assert found.loc["bias", "corrected"] == pytest.approx(-5 / 3)  # 10, 20, and 0, as (3 - 4) / 0.5 is below 0 years


def test_predictions_on_a_line_are_straightened_perfectly():
    found = shrinkage.correction(PULLED, PULLED).set_index("measure")
    assert [*found] == ["plain", "corrected", "change", "low", "high"]
    assert found.index.tolist() == ["slope", "bias below 20", "bias from 60 on", "bias", "MAE", "RMSE",
                                    "median absolute error"]
    assert found["corrected"].to_numpy() == pytest.approx([1, 0, 0, 0, 0, 0, 0])
    error = 20 - 0.5 * AGES  # 17.5 at 5 years, 0 at 40, -20 at 80
    assert found["plain"].to_numpy() == pytest.approx([
        0.5, (17.5 + 15 + 12.5) / 3, -(10 + 12.5 + 15 + 17.5 + 20) / 5, error.mean(), np.abs(error).mean(),
        np.sqrt((error**2).mean()), np.median(np.abs(error))])
    assert found["change"].to_numpy() == pytest.approx((found["corrected"] - found["plain"]).to_numpy())
    assert found.loc["slope", "change":].tolist() == pytest.approx([0.5] * 3)  # a line in every resample
    # of three faces, the mean change is between those of the outer two, as it is also where all three are one of them
    assert found.loc["bias below 20", "change":].tolist() == pytest.approx([-15, -17.5, -12.5])
    assert found.loc["bias from 60 on", "low"] > 10 and found.loc["bias from 60 on", "high"] < 20


def test_the_line_is_that_of_the_validation_pictures():
    validation = table([20, 40], [30, 40], part="validation")
    test = table([20, 30, 60] * 9, [20, 35, 60] * 9)  # nine copies, so that no resample is of one age
    # the line is 20 + age / 2: 20, 35 and 60 become 0, 30 and 80
    found = shrinkage.correction(validation, test, young=21, old=60).set_index("measure")
    assert found.loc["bias below 21"].tolist() == [0, *[-20] * 4] and found.loc["bias from 60 on"].tolist() == [
        0, *[20] * 4]
    assert found.loc["MAE", :"change"].tolist() == pytest.approx([5 / 3, 40 / 3, 35 / 3])
    assert found.loc["MAE", "low"] < 35 / 3 < found.loc["MAE", "high"]
    nobody = shrinkage.correction(validation, test, young=20, old=61).set_index("measure")
    assert nobody.loc[["bias below 20", "bias from 61 on"]].isna().all(axis=None)
    assert nobody.loc["MAE"].equals(found.loc["MAE"])


def test_what_correction_changes_is_paired_face_by_face_and_copies_are_one():
    rng = np.random.default_rng(8)
    ages = rng.uniform(0, 90, 60)
    test = table(ages, ages + rng.normal(5, 20, 60))
    later = table([0, 50], [5, 55], part="validation")  # all are guessed five years too old: a slope of 1
    found = shrinkage.correction(later, test.assign(prediction=test["prediction"] + 100)).set_index("measure")
    for name in ("bias", "bias below 20", "bias from 60 on"):  # the errors scatter, the change does not
        assert found.loc[name, "change":].tolist() == pytest.approx([-5] * 3)
    assert found.loc["slope", "change":].tolist() == pytest.approx([0] * 3)
    pulled = table([0, 50], [20, 45], part="validation")
    once = shrinkage.correction(pulled, test, resamples=300)
    straight = test.assign(prediction=((test["prediction"] - 20) / 0.5).clip(lower=0))
    paired = bootstrap.confidence_interval(np.abs(errors.errors(straight)) - np.abs(errors.errors(test)), resamples=300)
    assert once.set_index("measure").loc["MAE", "change":].tolist() == pytest.approx(paired)
    copied = pd.concat([test.assign(cluster=range(60))] * 3, ignore_index=True)
    grouped, naive = (shrinkage.correction(pulled, part, resamples=300)
                      for part in (copied, copied.drop(columns="cluster")))
    assert grouped[["change", "low", "high"]].iloc[1:].to_numpy() == pytest.approx(
        once[["change", "low", "high"]].iloc[1:].to_numpy())
    assert ((naive["high"] - naive["low"]) < 0.75 * (once["high"] - once["low"])).all()
    pd.testing.assert_frame_equal(shrinkage.correction(pulled, test, resamples=300), once)


def test_few_old_faces_have_an_interval_and_one_has_none():
    test = table([*range(20, 60), 70, 80], [*range(20, 60), 66, 70])
    # the line is 10 + age / 2: 66 and 70 become 112 and 120
    found = shrinkage.correction(table([20, 40], [20, 30]), test).set_index("measure")
    assert found.loc["bias from 60 on"].tolist() == [-7, 41, 48, 46, 50]
    assert found.loc["bias below 20"].isna().all()
    alone = shrinkage.correction(table([20, 40], [20, 30]), test.head(41)).set_index("measure")
    assert alone.loc["bias from 60 on", :"change"].tolist() == [-4, 42, 46]
    assert alone.loc["bias from 60 on", ["low", "high"]].isna().all() and alone.loc["MAE"].notna().all()


def test_correction_costs_where_it_gives():
    rng, parts = np.random.default_rng(1), []
    for part in ("validation", "test"):
        ages = rng.uniform(0, 90, 2000)
        parts.append(table(ages, 15 + 0.6 * ages + rng.normal(0, 6, 2000), part=part))
    found = shrinkage.correction(*parts).set_index("measure")
    assert found.loc["slope", :"corrected"].tolist() == pytest.approx([0.6, 1], abs=0.03)
    assert found.loc["bias from 60 on", "low"] > 8 and found.loc["bias below 20", "high"] < -5
    assert found.loc["RMSE", "low"] < found.loc["RMSE", "change"] < found.loc["RMSE", "high"] < 0
    assert found.loc["bias below 20", "plain"] > 8 and abs(found.loc["bias below 20", "corrected"]) < 3
    assert found.loc["bias from 60 on", "plain"] < -10 and abs(found.loc["bias from 60 on", "corrected"]) < 1.5
    assert found.loc["RMSE", "corrected"] == pytest.approx(6 / 0.6, rel=0.1)  # all scatter is stretched with the line
