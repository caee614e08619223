"""Gaps between subgroups: by hand, planted and detected, few where there are none, at equal ages."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from agehelpers.data.bands import AGE_BANDS, age_band
from agehelpers.data.names import ETHNICITIES, GENDERS
from agehelpers.evaluation import subgroups
from agehelpers.evaluation.tables import subgroup_of


def table(ages, errors, part="test", gender="male", ethnicity="White", **more):
    names = [f"face{i:05d}.jpg" for i in range(len(ages))]
    return pd.DataFrame({"part": part, "name": names, "age": ages, "gender": gender, "ethnicity": ethnicity,
                         "prediction": np.asarray(ages) + np.asarray(errors, float), **more})


def faces(rng, n, scale=4.0, **more):
    """`n` faces of random age, gender and ethnicity; errors to both sides, whose mean absolute value is `scale`."""
    errors = rng.exponential(scale, n) * rng.choice([-1, 1], n)
    return table(rng.integers(1, 90, n), errors, **{"gender": rng.choice(GENDERS, n),
                                                    "ethnicity": rng.choice(ETHNICITIES, n), **more})


def one(found, **wanted):
    """The one row of `found` with the `wanted` values."""
    return found.loc[np.logical_and.reduce([found[key] == value for key, value in wanted.items()])].squeeze()


def rows_of(ages, predictions, **more):
    return table(ages, np.subtract(predictions, ages), **more)


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


EIGHT = table([25] * 3 + [65] + [25] * 2 + [65] * 2, [1, -2, 3, 8, -4, 6, 5, -6], gender=["male"] * 4 + ["female"] * 4)


def test_standardised_by_hand():
    found = subgroups.standardised(EIGHT, "gender", least=1, resamples=50)
    assert [*found] == ["gender", "n", "used", "value", "gap", "standardised", "standardised_gap", "low", "high",
                        "explained"]
    male, female = (one(found, gender=gender) for gender in GENDERS)
    # of all eight, five are 25: weights 5/8 and 3/8; means of |error| there 2 and 8 (men), 5 and 5.5 (women); all 35/8
    assert male[["n", "used", "value", "gap"]].tolist() == [4, 1, 14 / 4, 14 / 4 - 35 / 8]
    assert male["standardised"] == pytest.approx((5 * 2 + 3 * 8) / 8)
    assert male["standardised_gap"] == pytest.approx((34 - 35) / 8)
    assert male["explained"] == pytest.approx((14 / 4 - 35 / 8) - (34 - 35) / 8)
    assert female["value"] == 21 / 4 and female["standardised"] == pytest.approx((5 * 5 + 3 * 5.5) / 8)
    assert female["standardised_gap"] == pytest.approx((41.5 - 35) / 8)
    biases = subgroups.standardised(EIGHT, "gender", "bias", least=1, resamples=50)
    # means of the error: 2/3 and 8 (men), 1 and -1/2 (women); all 11/8
    assert biases["standardised"].tolist() == pytest.approx([(5 * 2 / 3 + 3 * 8) / 8, (5 * 1 - 3 * 0.5) / 8])
    assert biases["gap"].tolist() == pytest.approx([10 / 4 - 11 / 8, 1 / 4 - 11 / 8])


def test_standardised_leaves_out_for_everyone_where_nothing_can_be_compared():
    # 1 and 45 years: no two of each; 25 and 65 as above. 90: men only
    extra = table([1, 1, 1, 45, 45, 90, 90], [70, 80, 90, 70, 80, 70, 80], gender=["male", "male", "female", "male",
                                                                                 "female", "male", "male"])
    rows = pd.concat([extra, EIGHT, EIGHT], ignore_index=True)
    expected = subgroups.standardised(pd.concat([EIGHT, EIGHT]), "gender", least=2, resamples=50)
    found = subgroups.standardised(rows, "gender", least=2, resamples=50)
    assert found["used"].tolist() == [8 / 13, 8 / 10]
    assert found.attrs["strata"] == ["20-29", "60-69"]
    pd.testing.assert_frame_equal(found.drop(columns="used"), expected.drop(columns="used"))


def test_subgroups_that_are_small_or_unlabelled_are_not_standardised():
    few = table([25, 65, 25, 65, 25, 65, 25, 65], [50] * 8, gender=[None] * 6 + ["third"] * 2)
    known = pd.concat([EIGHT] * 3, ignore_index=True)
    found = subgroups.standardised(pd.concat([few, known], ignore_index=True), "gender", least=3, resamples=50)
    assert found["gender"].tolist() == ["male", "female"]
    pd.testing.assert_frame_equal(found, subgroups.standardised(known, "gender", least=3, resamples=50))


def test_standardised_refuses_what_cannot_be_compared():
    for rows in (EIGHT, EIGHT.assign(gender="male"), pd.concat([EIGHT] * 3).assign(gender="male"),
                 pd.concat([EIGHT] * 3).assign(gender=["male", None] * 12), EIGHT.assign(gender=None)):
        with pytest.raises(ValueError, match="fewer than two subgroups of gender have 10 pictures with a label"):
            subgroups.standardised(rows, "gender")
    with pytest.raises(ValueError, match="fewer than two subgroups of gender have 5 pictures"):
        subgroups.standardised(EIGHT, "gender", least=5)
    with pytest.raises(ValueError, match="no age band has 4 pictures of each gender: nothing can"):
        subgroups.standardised(EIGHT, "gender", least=4)
    apart = table([25] * 20 + [65] * 20, [1] * 40, gender=["male"] * 20 + ["female"] * 20)
    with pytest.raises(ValueError, match="take fewer subgroups, or a smaller `least`"):
        subgroups.standardised(apart, "gender")
    with pytest.raises(ValueError, match="predictions are empty"):
        subgroups.standardised(EIGHT.head(0), "gender")


@pytest.mark.parametrize("order", [1, -1])
def test_a_gap_of_ages_alone_is_explained_wholly(order):
    # everybody is off by 2 years at 25 and by 6 at 65; men are young, women old. A few babies cannot be compared
    rows = table([25] * 30 + [65] * 10 + [25] * 10 + [65] * 30 + [1] * 5, [2] * 30 + [6] * 10 + [2] * 10 + [6] * 35,
                 gender=["male"] * 40 + ["female"] * 45)[::order]
    found = subgroups.standardised(rows, "gender", resamples=200)
    assert found["value"].tolist() == [3, 5] and found["gap"].tolist() == [-1, 1]
    assert found["standardised"].tolist() == [4, 4] and found["used"].tolist() == [1, 40 / 45]
    assert found["standardised_gap"].to_numpy() == pytest.approx(0) and found["explained"].tolist() == [-1, 1]
    # and surely so: whoever is drawn, the two are alike at every age
    assert found[["low", "high"]].to_numpy() == pytest.approx(0)


def mixed(rng, n, gap=0.0):
    """Men mostly young, women mostly old; the error grows with age, and men's are `gap` larger at every age."""
    sex = rng.choice(GENDERS, n)
    ages = np.where(rng.random(n) < np.where(sex == "male", 0.7, 0.3), 25, 65)
    scale = np.where(ages == 25, 2.0, 8) + gap * (sex == "male")
    return table(ages, rng.normal(0, scale * np.sqrt(np.pi / 2)), gender=sex)  # E|e| of a normal: sqrt(2 / pi) sd


def test_a_planted_gap_at_equal_ages_is_recovered():
    rng, kept, estimates = np.random.default_rng(6), [], []
    for _ in range(150):
        rows = mixed(rng, 300, gap=2.0)
        row = one(subgroups.standardised(rows, "gender", resamples=150), gender="male")
        estimates.append((row.gap, row.standardised_gap, row.explained))
        # men are 0.7 of the young and 0.3 of the old; half of everybody is young, so they are to be 2 - 2 / 2 above all
        kept.append(row.low <= 1 <= row.high)
    gap, equal, explained = np.mean(estimates, axis=0)
    assert equal == pytest.approx(1, abs=0.1)
    assert gap < 0 and explained == pytest.approx(-1.2, abs=0.15)  # (0.7 - 0.5) * (2 - 8)
    assert 0.88 <= np.mean(kept) <= 0.99  # 95 % claimed; the standard error of a share of 150 is 2 %


def test_the_reach_of_all_intervals_by_hand():
    rng = np.random.default_rng(10)
    rows = table(rng.choice([25, 65], 60), rng.normal(0, 5, 60), ethnicity=rng.choice(["White", "Black", "Asian"], 60))
    found = subgroups.standardised(rows, "ethnicity", least=4, resamples=40)
    error = np.abs(rows["prediction"] - rows["age"]).to_numpy()
    young, group = (rows["age"] == 25).to_numpy(), rows["ethnicity"].to_numpy()

    def left(drawn):  # at equal ages: each group minus all
        means = [[error[drawn][(young[drawn] == age) & member].mean() for age in (True, False)] for member in (
            *(group[drawn] == name for name in found["ethnicity"]), np.full(60, True))]
        equal = np.array(means) @ [young.mean(), 1 - young.mean()]
        return equal[:-1] - equal[-1]

    draw = np.random.default_rng(0)
    drawn = np.array([left(draw.integers(0, 60, 60)) for _ in range(40)])
    sd = drawn.std(axis=0)
    reach = np.quantile((np.abs(drawn - drawn.mean(axis=0)) / sd).max(axis=1), 0.95) * sd  # one multiple for all rows
    assert found["standardised_gap"].tolist() == pytest.approx(left(np.arange(60)).tolist())
    assert found["low"].tolist() == pytest.approx((left(np.arange(60)) - reach).tolist())
    assert found["high"].tolist() == pytest.approx((left(np.arange(60)) + reach).tolist())


def test_intervals_of_all_rows_hold_together():
    names, gaps = ETHNICITIES[:4], np.array([3.0, 1, 0, 0])  # years of error more, at every age
    rng, estimates, reaches = np.random.default_rng(9), [], []
    for _ in range(300):
        group = rng.integers(0, 4, 400)
        ages = np.where(rng.random(400) < np.array([0.7, 0.5, 0.4, 0.3])[group], 25, 65)
        scale = np.where(ages == 25, 3.0, 6) + gaps[group]
        rows = table(ages, rng.normal(0, scale * np.sqrt(np.pi / 2)), ethnicity=np.array(names)[group])
        found = subgroups.standardised(rows, "ethnicity", resamples=200)
        assert found["ethnicity"].tolist() == [*names] and found.attrs["strata"] == ["20-29", "60-69"]
        estimates.append(found["standardised_gap"])
        reaches.append((found["high"] - found["low"]) / 2)
    # a quarter of everybody in each group, though not at each age: over all ages the mean gap is that of the groups
    off = np.abs(np.array(estimates) - (gaps - gaps.mean()))
    together = (off <= np.array(reaches)).all(axis=1).mean()
    marginal = (off <= 1.96 * np.std(estimates, axis=0)).all(axis=1).mean()  # each row by itself, the sd known
    assert 0.91 <= together <= 0.99  # 95 % claimed; the standard error of a share of 300 is 1.3 %
    assert marginal < 0.88
    assert ((off <= np.array(reaches)).mean(axis=0) > 0.95).all()  # so each by itself holds more often


def test_standardised_draws_copies_together():
    rows = mixed(np.random.default_rng(7), 150)
    copied = pd.concat([rows.assign(cluster=range(150))] * 3, ignore_index=True)
    once, grouped, naive, missing = (subgroups.standardised(part, "gender", resamples=200) for part in (
        rows, copied, copied.drop(columns="cluster"), rows.assign(cluster=pd.array([pd.NA] * 150, dtype="Int64"))))
    assert grouped.drop(columns=["gender", "n"]).to_numpy() == pytest.approx(
        once.drop(columns=["gender", "n"]).to_numpy())
    assert (naive["high"] - naive["low"] < 0.75 * (once["high"] - once["low"])).all()
    pd.testing.assert_frame_equal(missing, once)


EMPTY = ["used", "gap to all", "at equal ages"]


def test_the_table_to_cite():
    rng = np.random.default_rng(8)
    rows = faces(rng, 900, age=rng.choice([25, 35, 45], 900))
    rows.loc[5, "age"] = 80  # alone in its age band
    rows["prediction"] = rows["age"] + rng.exponential(4, 900) + 30 * (rows["ethnicity"] == "Asian")
    rows.loc[rows["age"] == 35, "prediction"] += 3
    rows.loc[:1, "ethnicity"] = [None, None]
    rows["cluster"] = [1, 1, *range(2, 900)]  # the two without an ethnicity are copies
    found = subgroups.citable(rows, resamples=100)
    assert [*found] == ["subgroup", "n", "MAE", "bias", "CS@5", "gap", "q", *EMPTY]
    assert found["subgroup"].tolist()[:3 + 2] == ["20-29", "30-39", "40-49", "male", "female"]
    assert found["subgroup"].tolist()[5:11] == [*ETHNICITIES, "unknown"]
    assert found["subgroup"].tolist()[11:13] == ["White, male", "White, female"]
    assert all(isinstance(cell, str) for cell in found.to_numpy().ravel())
    text = found.set_index("subgroup")
    # two lists of tests: age bands; all other rows
    ages, other = (subgroups.gaps(rows, part, resamples=100) for part in (
        (("age_band",),), (("gender",), ("ethnicity",), ("ethnicity", "gender"))))
    gaps = pd.concat([ages, other]).query("measure == 'mae'")
    asian = one(gaps, subgroup="Asian")
    q = gaps.set_index("subgroup")["q"]
    assert text["q"].drop("unknown").to_dict() == {
        name: "< 0.001" if q[name] < 0.001 else f"{q[name]:.3f}" for name in q.index}
    assert q.between(0.001, 0.1).any() and q.lt(0.001).any() and q.gt(0.1).any()
    once = other[(other["subgroup"] != "female").to_numpy()]
    assert once["q"].to_numpy() == pytest.approx(stats.false_discovery_control(once["p"], method="by"))
    assert ages["q"].to_numpy() == pytest.approx(stats.false_discovery_control(ages["p"], method="by"))
    error = subgroups.by_subgroup(rows, "ethnicity", resamples=100).set_index("ethnicity").loc["Asian"]
    alike = subgroups.standardised(rows, "ethnicity", resamples=100)
    equal = one(alike, ethnicity="Asian")
    assert text.loc["Asian"].tolist() == [
        str(asian.n), f"{error.mae:.2f} ({error.mae_low:.2f} to {error.mae_high:.2f})",
        f"+{error.bias:.2f} (+{error.bias_low:.2f} to +{error.bias_high:.2f})", "0%",
        f"+{asian.gap:.2f} (+{asian.low:.2f} to +{asian.high:.2f})", "< 0.001", f"{equal.used:.0%}",
        f"+{equal.gap:.2f}", f"+{equal.standardised_gap:.2f} (+{equal.low:.2f} to +{equal.high:.2f})"]
    used = text.loc[[*GENDERS, *ETHNICITIES], "used"]
    assert used.tolist() == [f"{share:.0%}" for share in (
        *subgroups.standardised(rows, "gender", resamples=10)["used"], *alike["used"])]
    assert found.attrs["strata"] == dict.fromkeys(["gender", "ethnicity"], ["20-29", "30-39", "40-49"])
    assert text.loc["unknown", ["n", "gap", "q", *EMPTY]].tolist() == ["2", *[""] * 5]
    assert (text.loc[["20-29", "White, male"], EMPTY] == "").all(axis=None)
    assert (text.loc["male", EMPTY] != "").all() and text.loc["White", "gap"].startswith("-")
    assert set(AGE_BANDS) & set(text.index) == {"20-29", "30-39", "40-49"}  # none for nobody, or for one


def test_the_table_to_cite_where_nothing_can_be_compared_at_equal_ages():
    few = subgroups.citable(faces(np.random.default_rng(11), 20, age=[25] * 20), resamples=10)
    assert (few[EMPTY] == "").all(axis=None) and few.attrs["strata"] == {}
    assert few["subgroup"].tolist()[:3] == ["20-29", *GENDERS] and few.loc[few["subgroup"] == "male", "q"].item() != ""
    assert few.loc[0, ["gap", "q"]].tolist() == ["", ""]  # all are of one age band
    own = faces(np.random.default_rng(12), 300, age=np.repeat([25, 65], 150), ethnicity=np.nan)
    found = subgroups.citable(own, resamples=50)
    assert found["subgroup"].tolist() == ["20-29", "60-69", *GENDERS, "unknown", "unknown, male", "unknown, female"]
    assert [*found.attrs["strata"].items()] == [("gender", ["20-29", "60-69"])]
    text = found.set_index("subgroup")
    assert (text.loc[[*GENDERS], EMPTY] != "").all(axis=None) and text.loc["unknown", ["gap", *EMPTY]].eq("").all()
    one_sex = subgroups.citable(own.assign(gender="male"), resamples=10)
    assert one_sex["subgroup"].tolist() == ["20-29", "60-69", "male", "unknown", "unknown, male"]
    assert one_sex.attrs["strata"] == {} and one_sex["q"].tolist()[2:] == [""] * 3
    babies = table([1] * 12, [1] * 12, ethnicity=["White"] * 2 + ["Black"] * 10)
    part = pd.concat([own.assign(ethnicity="White"), babies])
    with_babies = subgroups.citable(part, resamples=10)  # no stratum holds ten of each: ethnicities only are empty
    assert with_babies.attrs["strata"] == {"gender": ["20-29", "60-69"]}
