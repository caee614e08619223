"""Subgroups at equal ages, and the table to cite: by hand, planted and recovered."""

import numpy as np
import pandas as pd
import pytest
from made_tables import faces, one, table
from scipy import stats

from agehelpers.data.bands import AGE_BANDS
from agehelpers.data.names import ETHNICITIES, GENDERS
from agehelpers.evaluation import subgroups

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
