"""Label quality: heaps counted, ranks compared within ages, planted wrong labels found."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from agehelpers.evaluation import label_quality, subgroups
from agehelpers.evaluation.label_quality import FIFTHS
from agehelpers.evaluation.tables import age_band


def table(ages, predictions, part="test", gender="male", ethnicity="White", **more):
    names = [f"face{i:03}.jpg" for i in range(len(ages))]
    return pd.DataFrame({"part": part, "name": names, "age": ages, "gender": gender, "ethnicity": ethnicity,
                         "prediction": np.asarray(predictions, float), **more})


PULLED = table(range(5, 85, 5), range(5, 85, 5))


def test_terminal_digits_by_hand():
    found = label_quality.terminal_digits([22, 22.49, 22.5, 30, 40, 45.4, 61.5, 62.49, 62.5, 63, 5])
    # 22.5 is 23; 30 and 40; 45; 61.5 and 62.49 are 62: six of them from 23 to 62
    assert found.index.tolist() == list(range(10)) and (found.name, found.index.name) == ("share", "digit")
    assert found.tolist() == pytest.approx([2 / 6, 0, 2 / 6, 1 / 6, 0, 1 / 6, 0, 0, 0, 0])
    assert label_quality.terminal_digits(range(100)).tolist() == pytest.approx([0.1] * 10)
    assert label_quality.terminal_digits([1, 99]).isna().all()


def test_whipple_between_no_heaps_and_nothing_else():
    assert label_quality.whipple(range(120)) == pytest.approx(100)
    assert label_quality.whipple([25, 30, 60, 60]) == pytest.approx(500)
    assert label_quality.whipple([31, 32, 48]) == 0
    assert label_quality.whipple([25, 30, 31, 32, 33, 34, 20, 65, 80]) == pytest.approx(500 * 2 / 6)  # but 20, 65, 80
    assert np.isnan(label_quality.whipple([3, 80])) and np.isnan(label_quality.whipple([]))
    ages = pd.Series(np.random.default_rng(2).integers(0, 100, 4000))
    assert label_quality.whipple(ages) == pytest.approx(100, abs=10)
    assert label_quality.whipple(ages.where(ages.index % 2 == 0, (ages / 5).round() * 5)) > 250  # half are rounded


def test_fifths_by_hand():
    values = pd.Series([50, 10, 40, 20, 30, 51, 11, 41, 21, 31], index=range(10, 20))
    found = label_quality.fifths(values)
    assert found.tolist() == [FIFTHS[code] for code in (4, 0, 3, 1, 2, 4, 0, 3, 1, 2)]
    assert found.index.equals(values.index) and tuple(found.cat.categories) == FIFTHS and found.cat.ordered
    thousand = pd.Series(np.random.default_rng(3).permutation(1000))
    assert label_quality.fifths(thousand).value_counts().tolist() == [200] * 5
    sizes = label_quality.fifths(pd.Series(range(7))).value_counts(sort=False)
    assert sizes.tolist() == [1, 1, 2, 1, 2]  # ranks up to 1.4, 2.8, 4.2, 5.6 and 7


def test_ties_stay_in_one_fifth():
    assert label_quality.fifths(pd.Series([3.0] * 12)).unique().tolist() == ["third"]
    # mean ranks of ten: the six zeros 3.5, in the second fifth (up to 4); 7, 8, 9 and 10
    assert label_quality.fifths(pd.Series([0] * 6 + [1, 2, 3, 4])).tolist() == [
        *["second"] * 6, "fourth", "fourth", "highest fifth", "highest fifth"]
    assert label_quality.fifths(pd.Series([5])).tolist() == ["highest fifth"]
    assert label_quality.fifths(pd.Series([], dtype=float)).empty
    rows = table([20] * 5, range(5)).assign(dark=label_quality.fifths(pd.Series(range(5))))
    assert subgroups.by_subgroup(rows, "dark", resamples=5)["dark"].tolist() == [*FIFTHS]


def test_missing_values_are_refused():
    with pytest.raises(ValueError, match="blur: 2 values are missing; leave those rows out"):
        label_quality.fifths(pd.Series([1.0, np.nan, 3, np.nan], name="blur"))
    with pytest.raises(ValueError, match="1 values are missing"):
        label_quality.fifths(pd.Series(pd.array([1, None], dtype="Int64")))
    rows = table([20] * 30, np.arange(30), good=np.abs(np.arange(30) - 20), size=pd.array([None, *[3] * 29], "Int64"),
                 blur=[1, np.nan] * 15)
    with pytest.raises(ValueError, match="^size, blur: values are missing; leave those rows out"):
        label_quality.associations(rows, ["good", "size", "blur"], resamples=5)
    assert label_quality.associations(rows, ["good"], resamples=5)["rho"].tolist() == pytest.approx([1])


def test_associations_by_hand():
    rows = table([20] * 5, [21, 22, 23, 24, 25], up=[1, 10, 100, 1000, 10000], down=[5, 4, 3, 2, 1],
                 other=[1, 3, 2, 5, 4])
    found = label_quality.associations(rows, ["up", "down", "other"], resamples=200)
    assert [*found] == ["column", "rho", "low", "high", "rho_within", "within_low", "within_high"]
    assert found["column"].tolist() == ["up", "down", "other"]
    # ranks 1 to 5 and 1, 3, 2, 5, 4: 1 - 6 * (0 + 1 + 1 + 1 + 1) / (5 * (25 - 1)) = 0.8
    assert found["rho"].tolist() == pytest.approx([1, -1, 0.8])
    assert found["rho_within"].tolist() == pytest.approx([1, -1, 0.8])  # all of one age group
    assert found.loc[0, ["low", "high"]].tolist() == pytest.approx([1, 1])


def test_associations_agree_with_scipy():
    rng = np.random.default_rng(4)
    rows = table(rng.integers(1, 90, 120), rng.uniform(0, 90, 120), blur=rng.integers(0, 8, 120),
                 size=pd.array(rng.integers(100, 900, 120), dtype="Int64"))  # ties among them; as the index has them
    found = label_quality.associations(rows, ["blur", "size"], resamples=100)
    error = (rows["prediction"] - rows["age"]).abs()
    assert found["rho"].tolist() == pytest.approx([stats.spearmanr(rows[key], error).statistic
                                                   for key in ("blur", "size")])
    assert (found["low"] < found["rho"]).all() and (found["rho"] < found["high"]).all()
    grouped = label_quality.associations(pd.concat([rows.assign(cluster=range(120))] * 3), ["blur"], resamples=100)
    once = label_quality.associations(rows, ["blur"], resamples=100)
    assert grouped.loc[0, "rho":"high"].tolist() == pytest.approx(once.loc[0, "rho":"high"].tolist())
    with pytest.raises(ValueError, match="lack the column.s. sharpness"):
        label_quality.associations(rows, ["sharpness"])


def test_what_only_follows_age_is_gone_within_ages():
    rng = np.random.default_rng(5)
    ages = rng.integers(1, 90, 4000)
    band = age_band(ages).codes
    rows = table(ages, ages + rng.normal(0, 1 + band), follows=band + rng.normal(0, 2, 4000))
    rows["matters"] = rng.normal(0, 1, 4000) - (rows["prediction"] - ages).abs() / (1 + band)
    found = label_quality.associations(rows, ["follows", "matters"], resamples=100).set_index("column")
    assert found.loc["follows", "low"] > 0.25
    assert found.loc["follows", "within_low"] < 0 < found.loc["follows", "within_high"]
    assert abs(found.loc["follows", "rho_within"]) < 0.04  # the standard error of a correlation of 4000 is 1.6 %
    assert found.loc["matters", "within_high"] < -0.4


def test_levels_of_few_pictures_do_not_correlate_by_their_size():
    rng = np.random.default_rng(6)
    # many cameras with one to three pictures each: the larger the level, the lower the mean of ranks as shares
    rows = table([20] * 1500, rng.uniform(20, 40, 1500), camera=rng.integers(0, 900, 1500).astype(str),
                 blur=rng.normal(size=1500))
    found = label_quality.associations(rows, ["blur"], within="camera", resamples=100)
    assert abs(found["rho_within"].item()) < 0.1


def test_out_of_fold_by_hand():
    first = pd.DataFrame({"part": ["train", "validation", "test", "calibration"], "name": list("dcba"),
                          "age": [40, 30, 20, 10], "prediction": [41.0, 33, 25, 12], "spread": [1.0, 2, 3, 4]})
    second = first.assign(part=["train", "test", "train", "test"], prediction=[0.0, 37, 0, 18], spread=[9.0, 4, 9, 6])
    found = label_quality.out_of_fold([first, second])
    assert [*found] == ["name", "age", "prediction", "spread", "splits"]
    assert found["name"].tolist() == ["a", "b", "c"]  # nobody knows d but from training
    assert found["prediction"].tolist() == [(12 + 18) / 2, 25, (33 + 37) / 2]
    assert found["spread"].tolist() == [5, 3, 3] and found["splits"].tolist() == [2, 1, 2]
    assert found["age"].tolist() == [10, 20, 30]
    pd.testing.assert_frame_equal(label_quality.out_of_fold([first.assign(gender=None), second]), found)


@pytest.mark.parametrize("tables", [[], [PULLED], [PULLED.assign(spread=1.0), PULLED]])
def test_out_of_fold_says_what_makes_the_predictions_it_needs(tables):
    with pytest.raises(ValueError, match="with a column spread, are needed; `python -m tools.plan "):
        label_quality.out_of_fold(tables)


def test_suspects_by_hand():
    rows = table([20, 30, 40, 50, 60, 70], [24, 30.5, 40, 20, 61, 75], spread=[2, 1, 1, 10, 0, 1])
    # errors in spreads: 2, 0.5, 0, 3, 1 / 0.1 (the least spread), 5
    labels = pd.DataFrame({"name": [*rows["name"], *"xyzuv"], "age": [20, 30, 40, 50, 60, 70, 45, 49, 50, 61, 70],
                          "cluster": pd.array([1, 2, 3, 4, 5, 6, 3, 2, 3, 5, 6], dtype="Int64")})
    # labels of copies: face1 30 and 49, face2 40, 45 and 50, face4 60 and 61; both of face5 are 70
    found = label_quality.suspects(rows, labels, k=2)
    assert [*found] == ["name", "age", "prediction", "spread", "score", "copies", "reason"]
    assert found["name"].tolist() == ["face004.jpg", "face005.jpg", "face001.jpg", "face002.jpg", *"xyz"]
    assert found["score"].tolist()[:4] == [10, 5, 0.5, 0]
    assert found["copies"].tolist() == ["60 61", "", "30 49", "40 45 50", "40 45 50", "30 49", "40 45 50"]
    assert found["reason"].tolist() == ["prediction", "prediction", *["copies"] * 5]
    assert found["age"].tolist() == [60, 70, 30, 40, 45, 49, 50]
    # those that no model of the splits left out have no prediction
    assert found[["prediction", "spread", "score"]].isna().all(axis=1).tolist() == [False] * 4 + [True] * 3
    further = label_quality.suspects(rows, labels, k=2, apart=11)["name"].tolist()
    assert further == ["face004.jpg", "face005.jpg", "face001.jpg", "y"]
    more = label_quality.suspects(rows, labels, k=9, apart=1).set_index("name")
    assert more.index.tolist()[-4:] == [*"uxyz"] and more["reason"].tolist() == [
        "both", "prediction", "prediction", "prediction", "both", "both", *["copies"] * 4]
    assert label_quality.suspects(rows, labels, k=0)["reason"].unique().tolist() == ["copies"]
    alone = label_quality.suspects(rows, labels.assign(cluster=pd.array(range(11), dtype="Int64")), k=1)
    assert alone[["name", "copies", "reason"]].to_numpy().tolist() == [["face004.jpg", "", "prediction"]]


def test_copies_that_disagree_are_listed_without_any_prediction():
    rows = table([20], [22], spread=1.0)
    labels = pd.DataFrame({"name": ["face000.jpg", *"edcba"], "age": pd.array([20, 50, 30, 40, None, 7], dtype="Int64"),
                          "cluster": pd.array([1, 2, 2, 3, 3, None], dtype="Int64")})
    found = label_quality.suspects(rows, labels)
    assert found["name"].tolist() == ["face000.jpg", "d", "e"]  # c has one label, as b has none
    assert found["reason"].tolist() == ["prediction", "copies", "copies"]
    assert found["copies"].tolist() == ["", "30 50", "30 50"] and found["score"].isna().tolist() == [False, True, True]


def test_suspects_of_equal_scores_are_chosen_by_name_in_any_order_of_rows():
    rows = table([20] * 6, [22] * 6, spread=1.0)
    labels = rows[["name", "age"]].assign(cluster=pd.array([pd.NA, 1, 2, 3, 4, 5], dtype="Int64"))
    found = label_quality.suspects(rows, labels, k=3)
    assert found["name"].tolist() == ["face000.jpg", "face001.jpg", "face002.jpg"]  # one without a group among them
    pd.testing.assert_frame_equal(label_quality.suspects(rows[::-1], labels[::-1], k=3), found)
    with pytest.raises(ValueError, match="lack the column.s. spread"):
        label_quality.suspects(rows.drop(columns="spread"), labels)


def test_planted_wrong_labels_are_found():
    rng = np.random.default_rng(7)
    ages, spread = rng.integers(1, 90, 3000), rng.uniform(2, 8, 3000)
    rows = table(ages, ages + rng.normal(0, spread), spread=spread)
    rows["name"] = [f"face{i:04}.jpg" for i in range(3000)]
    wrong = rng.choice(3000, 60, replace=False)
    rows.loc[wrong[:30], "age"] += 6 * spread[wrong[:30]].round() * rng.choice([-1, 1], 30)  # six spreads off
    labels = pd.DataFrame({"name": rows["name"], "age": rows["age"].astype(int), "cluster": np.arange(3000)})
    labels = pd.concat([labels, labels.loc[wrong[30:]].assign(name=lambda t: "copy of " + t["name"],
                                                           age=lambda t: t["age"] + 25)])
    found = label_quality.suspects(rows, labels, k=30)
    by = {reason: set(part["name"]) for reason, part in found.groupby("reason")}
    assert len(by["prediction"] & set(rows.loc[wrong[:30], "name"])) >= 25
    copied = set(rows.loc[wrong[30:], "name"])
    assert by["copies"] | by.get("both", set()) == copied | {f"copy of {name}" for name in copied}
