"""Gaps between subgroups: by hand, planted and detected, few where there are none."""

import numpy as np
import pandas as pd
import pytest
from made_tables import faces, one, rows_of, table
from scipy import stats

from agehelpers.data.bands import AGE_BANDS, age_band
from agehelpers.data.names import GENDERS
from agehelpers.evaluation import subgroups
from agehelpers.evaluation.tables import subgroup_of

SMALL = rows_of([10, 20, 30, 40], [12, 19, 36, 36])  # errors 2, -1, 6, -4


def test_age_bands_begin_where_they_say():
    ages = [-3, 0, 2, 2.49, 2.5, 9.4, 9.5, 19, 20, 69.4, 69.5, 116]
    expected = ["0-2"] * 4 + ["3-9"] * 2 + ["10-19"] * 2 + ["20-29", "60-69", "70+", "70+"]
    found = age_band(ages)
    assert list(found) == expected
    assert tuple(found.categories) == AGE_BANDS and found.ordered


def test_confusion_by_hand():
    found = subgroups.confusion(rows_of([1, 1, 25, 25, 25, 80], [2, 5, 25, 29.4, 29.6, 60]))
    assert found.shape == (9, 9) and found.to_numpy().sum() == 6
    assert found.loc["0-2", ["0-2", "3-9"]].tolist() == [1, 1]
    assert found.loc["20-29", ["20-29", "30-39"]].tolist() == [2, 1]
    assert found.loc["70+", "60-69"] == 1
    shares = subgroups.confusion(rows_of([1, 1], [2, 5]), normalise=True)
    assert shares.loc["0-2", ["0-2", "3-9"]].tolist() == [0.5, 0.5]
    assert shares.loc["70+"].isna().all()


def test_by_subgroup_by_hand():
    predictions = rows_of([1, 1, 25, 80], [2, 4, 20, 70], gender=["male", "female", "male", "female"])
    found = subgroups.by_subgroup(predictions, "age_band", resamples=20).set_index("age_band")
    assert tuple(found.index) == AGE_BANDS
    assert found["n"].tolist() == [2, 0, 0, 1, 0, 0, 0, 0, 1]
    assert found.loc["0-2", ["mae", "bias", "cs5"]].tolist() == [2, 2, 1]
    assert found.loc["0-2", ["mae_low", "mae_high"]].tolist() == [1, 3]
    assert found.loc["70+", ["mae", "bias", "cs5"]].tolist() == [10, -10, 0]
    assert found.loc["70+", ["mae_low", "bias_high"]].isna().all()  # one face: no interval
    assert found.loc["3-9"].drop("n").isna().all()  # no face: nothing
    crossed = subgroups.by_subgroup(predictions, "gender", "age_band", resamples=20)
    assert len(crossed) == 2 * 9 and crossed["n"].sum() == 4
    assert crossed.query("gender == 'female' and age_band == '70+'")["bias"].item() == -10


def test_missing_ethnicity_is_its_own_row_last():
    predictions = rows_of([20, 20, 20], [21, 22, 26], ethnicity=pd.Series(["Indian", None, None], dtype="str"))
    found = subgroups.by_subgroup(predictions, "ethnicity", resamples=20)
    assert found["ethnicity"].tolist() == ["White", "Black", "Asian", "Indian", "Others", "unknown"]
    assert found["n"].tolist() == [0, 0, 0, 1, 0, 2]
    assert found["mae"].iloc[-1] == 4
    assert "unknown" not in set(subgroups.by_subgroup(SMALL, "ethnicity", resamples=20)["ethnicity"])


def test_by_subgroup_takes_other_columns_and_names_missing_ones():
    found = subgroups.by_subgroup(SMALL.assign(camera=["b", "a", "b", "a"]), "camera", resamples=20)
    assert found["camera"].tolist() == ["a", "b"] and found["mae"].tolist() == [2.5, 4]
    with pytest.raises(ValueError, match="lack the column.s. camera"):
        subgroups.by_subgroup(SMALL, "camera")


def test_subgroups_are_in_their_order_with_the_unknown_last():
    rows = pd.DataFrame({"age": [2, 71, 30], "gender": ["female", None, "male"], "camera": ["z", None, "a"],
                         "copies": pd.array([3, 1, pd.NA], dtype="Int64"), "blur": [2.5, np.nan, 1],
                         "fifth": pd.Categorical(["low", None, "high"], ["low", "mid", "high"])}, index=[5, 3, 3])
    columns = {key: subgroup_of(rows, key) for key in ("age_band", *rows.columns[1:])}
    assert columns["gender"].tolist() == ["female", "unknown", "male"]
    assert {key: column.cat.categories.tolist() for key, column in columns.items()} == {
        "age_band": [*AGE_BANDS], "gender": ["male", "female", "unknown"], "camera": ["a", "z", "unknown"],
        "copies": [1, 3, "unknown"], "blur": [1, 2.5, "unknown"], "fifth": ["low", "mid", "high", "unknown"]}
    assert all(column.cat.ordered and column.name == key and column.index.equals(rows.index)
               for key, column in columns.items())
    assert subgroup_of(rows.head(0), "gender").cat.categories.tolist() == ["male", "female"]


FIVE = table([30] * 5, [1, 3, -2, -4, 6], gender=["male", "male", "female", "female", "female"])


def test_gaps_by_hand():
    found = subgroups.gaps(FIVE, (("gender",),), resamples=200)
    assert [*found] == ["grouping", "subgroup", "n", "measure", "value", "gap", "low", "high", "p", "q"]
    assert found["subgroup"].tolist() == ["male", "female"] * 2 and found["grouping"].unique().tolist() == ["gender"]
    assert found["measure"].tolist() == ["mae", "mae", "bias", "bias"]
    assert found["n"].tolist() == [2, 3, 2, 3]
    assert found["value"].tolist() == [(1 + 3) / 2, (2 + 4 + 6) / 3, 2, 0]
    assert found["gap"].tolist() == [2 - 4, 4 - 2, 2 - 0, 0 - 2]
    assert (found["low"] <= found["gap"]).all() and (found["gap"] <= found["high"]).all()
    first, second = (stats.ttest_ind(a, b, equal_var=False).pvalue for a, b in (
        ([1, 3], [2, 4, 6]), ([1, 3], [-2, -4, 6])))
    assert found["p"].tolist() == pytest.approx([first, first, second, second])
    # Benjamini and Yekutieli: p * m * c / rank, m = 2 tests (women are men's others), c = 1 + 1/2; no larger than that
    # of a larger p
    assert first < second
    larger = min(1, second * 2 * 1.5 / 2)
    assert first * 2 * 1.5 < larger < 1
    assert found["q"].tolist() == pytest.approx([first * 2 * 1.5] * 2 + [larger] * 2)
    strong = subgroups.gaps(table([30] * 6, [1, 1.1, 0.9, 8, -8.1, 7.9], gender=["male"] * 3 + ["female"] * 3),
                         (("gender",),), resamples=10)
    assert strong["p"][0] < strong["p"][2] / 100
    assert strong["q"].tolist() == pytest.approx([strong["p"][0] * 2 * 1.5] * 2 + [min(1, strong["p"][2] * 1.5)] * 2)


def test_a_gap_is_to_all_others_of_several():
    three = table([30] * 6, [1, 1, 2, 2, 6, 8], ethnicity=["White", "White", "Black", "Black", "Asian", "Asian"])
    found = subgroups.gaps(three, (("ethnicity",),), resamples=20).query("measure == 'mae'")
    assert found["subgroup"].tolist() == ["White", "Black", "Asian"]
    assert found["gap"].tolist() == [1 - (2 + 2 + 6 + 8) / 4, 2 - 16 / 4, 7 - 6 / 4]


def test_both_ends_of_a_gap_mirror_those_of_the_other_side():
    found = subgroups.gaps(faces(np.random.default_rng(0), 80), (("gender",),), resamples=300)
    for measure in ("mae", "bias"):
        male, female = (one(found, subgroup=group, measure=measure) for group in GENDERS)
        assert [male.gap, male.low, male.high] == pytest.approx([-female.gap, -female.high, -female.low])


def test_all_rows_are_corrected_together():
    rows = faces(np.random.default_rng(1), 200)
    alone, together = (subgroups.gaps(rows, groupings, resamples=10) for groupings in (
        (("gender",),), (("gender",), ("ethnicity",), ("ethnicity", "gender"))))
    assert len(together) == 2 * (2 + 5 + 10)
    assert together["p"].iloc[:4].equals(alone["p"])
    women = (together["subgroup"] == "female").to_numpy()  # of gender alone: the tests of the men once more
    assert women.sum() == 2
    assert together["q"][~women].to_numpy() == pytest.approx(
        stats.false_discovery_control(together["p"][~women], method="by"))
    assert together["q"][women].tolist() == together["q"][together["subgroup"] == "male"].tolist()
    assert (together["q"].iloc[:4] >= alone["q"]).all() and together["q"].iloc[:4].sum() > alone["q"].sum()
    assert len(subgroups.gaps(rows, resamples=10)) == 2 * (2 + 5)  # gender and ethnicity, unless asked


def test_two_subgroups_that_are_not_each_others_others_are_two_tests():
    rows = table([30] * 9, [1, -2, 3, -4, 1, 3, -9, 8, 40], ethnicity=["White"] * 4 + ["Black"] * 4 + ["Asian"])
    found = subgroups.gaps(rows, (("ethnicity",),), resamples=10)
    assert found["subgroup"].tolist() == ["White", "Black"] * 2 and found["p"].nunique() == 4  # others: and an Asian
    assert found["q"].to_numpy() == pytest.approx(stats.false_discovery_control(found["p"], method="by"))
    two = subgroups.gaps(rows.head(8), (("ethnicity",),), resamples=10)
    assert two["p"].round(12).nunique() == 2
    assert two["q"].tolist() == pytest.approx(np.repeat(
        stats.false_discovery_control(two["p"][::2], method="by"), 2).tolist())


def test_subgroups_are_named_in_the_order_of_their_levels():
    rows = table([30] * 8, range(8), gender=["male", "female"] * 4,
                 ethnicity=["White"] * 4 + [None] * 2 + ["Black"] * 2)
    rows = pd.concat([rows[::-1]] * 2)  # a table of two, whose numbers of rows are not unique
    found = subgroups.gaps(rows, (("ethnicity", "gender"), ("gender", "ethnicity")), resamples=10)
    first, second = (part for _, part in found.groupby("grouping", sort=False))
    assert first["grouping"].iloc[0] == "ethnicity and gender"
    assert first["subgroup"].unique().tolist() == [
        f"{group}, {gender}" for group in ("White", "Black", "unknown") for gender in GENDERS]
    assert second["subgroup"].unique().tolist() == [
        f"{gender}, {group}" for gender in GENDERS for group in ("White", "Black", "unknown")]
    assert one(first, subgroup="White, female", measure="bias")[["n", "value"]].tolist() == [4, (1 + 3) / 2]


def test_subgroups_of_one_picture_have_no_row():
    rows = table([30] * 6, range(6), gender=["male"] * 5 + ["female"], ethnicity=["White"] * 2 + ["Black"] * 4)
    assert subgroups.gaps(rows, resamples=10)["subgroup"].tolist() == ["White", "Black"] * 2  # men leave one other
    copies = rows.assign(cluster=[7, 7, 1, 2, 3, 4])  # both Whites are one picture
    assert subgroups.gaps(copies, resamples=10).empty
    named = subgroups.gaps(rows.assign(gender="male"), (("gender",),))  # one group has nobody to be compared with
    assert named.empty and [*named] == [*subgroups.gaps(rows, resamples=10)]


def test_subgroups_without_any_scatter():
    rows = table([30] * 6, [2.0] * 6, gender=["male", "female"] * 3)
    found = subgroups.gaps(rows, (("gender",),), resamples=10)
    assert found["p"].tolist() == [1] * 4 and found["q"].tolist() == [1] * 4 and (found["gap"] == 0).all()
    apart = subgroups.gaps(table([30] * 6, [2.0, -5] * 3, gender=["male", "female"] * 3), (("gender",),), resamples=10)
    assert apart["p"].tolist() == [0] * 4 and one(apart, subgroup="male", measure="bias")["gap"] == 7


def test_tables_that_have_no_gaps_are_refused():
    with pytest.raises(ValueError, match="predictions are empty"):
        subgroups.gaps(FIVE.head(0))
    with pytest.raises(ValueError, match="mix the parts test, train"):
        subgroups.gaps(pd.concat([FIVE, FIVE.assign(part="train")]))


def test_copies_of_a_picture_are_no_further_evidence():
    rows = faces(np.random.default_rng(2), 60, ethnicity="White")
    copied = pd.concat([rows.assign(cluster=range(60))] * 3, ignore_index=True)
    once, grouped, naive = (subgroups.gaps(part, (("gender",),), resamples=300) for part in (
        rows, copied, copied.drop(columns="cluster")))
    same = ["gap", "low", "high", "p", "q"]
    assert grouped[same].to_numpy() == pytest.approx(once[same].to_numpy())
    assert grouped["n"].tolist() == (3 * once["n"]).tolist()
    assert (naive["p"] < once["p"]).all() and (naive["high"] - naive["low"] < once["high"] - once["low"]).all()
    missing = subgroups.gaps(rows.assign(cluster=pd.array([pd.NA] * 60, dtype="Int64")), (("gender",),), resamples=300)
    pd.testing.assert_frame_equal(missing, once)  # a missing cluster is a row of its own


def test_gaps_are_seldom_found_where_there_are_none():
    rng, first, corrected = np.random.default_rng(3), [], []
    for _ in range(120):
        found = subgroups.gaps(faces(rng, 150), resamples=2)
        first.append((found["p"] < 0.05).any())
        corrected.append((found["q"] < 0.05).any())
    assert np.mean(first) > 0.25  # of 14 tests some are below 0.05 in many tables: why they are corrected
    assert np.mean(corrected) <= 0.05 + 0.02  # the standard error of a share of 120 is 2 %


def test_planted_gaps_are_found_and_nothing_else():
    rng = np.random.default_rng(4)
    rows = faces(rng, 1500)
    older = rows.assign(prediction=rows["prediction"] + 3 * (rows["gender"] == "female"))
    worse = faces(rng, 1500, np.where(rows["ethnicity"] == "Black", 12.0, 4), ethnicity=rows["ethnicity"])
    found = subgroups.gaps(older, (("gender",), ("ethnicity",)), resamples=200).query("measure == 'bias'")
    assert set(found.loc[found["q"] < 0.05, "subgroup"]) == {"male", "female"}
    assert one(found, subgroup="female").pipe(lambda row: row.low < 3 < row.high)
    found = subgroups.gaps(worse, resamples=200)
    assert one(found, subgroup="Black", measure="mae").pipe(lambda row: row.q < 0.001 and row.low < 8 < row.high)
    assert (found.loc[found["grouping"] == "gender", "q"] > 0.05).all()
    assert (found.loc[found["measure"] == "bias", "q"] > 0.05).all()


def test_intervals_of_gaps_hold_the_planted_gap():
    rng, held, naive = np.random.default_rng(5), [], []
    sex = np.repeat(GENDERS, [50, 100])
    for draw in range(120):
        once = faces(rng, 150, np.where(sex == "male", 8.0, 5.0), gender=sex, cluster=range(150))
        rows = once.iloc[np.repeat(np.arange(150), 3)]  # three copies of each
        for part, found in ((rows, held), (rows.drop(columns="cluster"), naive))[:1 + (draw % 3 == 0)]:
            row = one(subgroups.gaps(part, (("gender",),), resamples=100), subgroup="male", measure="mae")
            found.append(row.low <= 3 <= row.high)
    assert 0.88 <= np.mean(held) <= 0.99  # 95 % claimed; the standard error of a share of 120 is 2 %
    assert np.mean(naive) < 0.85  # of 40: copies taken for evidence, 74 % in theory
