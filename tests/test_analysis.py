"""Tables of error: values derived by hand, groups kept whole, intervals that cover the truth as often as they claim."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from agehelpers import analysis
from agehelpers.analysis import AGE_GROUPS, Interval, interval, percentile, resampled_sums, share
from agehelpers.index import label_error


def table(ages, predictions, part="test", gender="male", ethnicity="White", **more):
    names = [f"face{i}.jpg" for i in range(len(ages))]
    return pd.DataFrame({"part": part, "name": names, "age": ages, "gender": gender, "ethnicity": ethnicity,
                         "prediction": np.asarray(predictions, float), **more})


SMALL = table([10, 20, 30, 40], [12, 19, 36, 36])  # errors 2, -1, 6, -4


def test_overall_by_hand():
    found = analysis.overall(SMALL, resamples=50).set_index("metric")
    expected = {"MAE": 13 / 4, "RMSE": np.sqrt((4 + 1 + 36 + 16) / 4), "median absolute error": 3.0, "bias": 0.75,
                "CS@5": 3 / 4, "age group right": 2 / 4, "age group right or next to it": 1.0, "n": 4}
    assert found["value"].to_dict() == pytest.approx(expected)
    assert found.loc["MAE", "unit"] == "years" and found.loc["CS@5", "unit"] == "share"
    ends = found.drop(index="n")
    assert (ends["low"] <= ends["value"]).all() and (ends["value"] <= ends["high"]).all()


def test_single_measures_agree_with_overall():
    assert analysis.mae(SMALL) == 3.25
    assert analysis.bias(SMALL) == 0.75
    assert analysis.bias(table([30], [20])) == -10  # guessed too young is negative
    assert analysis.cs(SMALL, 1) == 0.25


def test_cumulative_score_counts_the_limit_itself():
    five_off = table([20, 20, 20], [25, 15, 25.01])
    assert analysis.cs(five_off) == pytest.approx(2 / 3)
    curve = analysis.cs_curve(five_off, [4, 5, 6])
    assert curve.columns.tolist() == ["years", "share", "low", "high"]
    assert curve["years"].tolist() == [4, 5, 6]
    assert curve["share"].tolist() == pytest.approx([0, 2 / 3, 1])
    # the chance of none, or all, of three is 0.025 at a share of 1 - 0.025 ** (1 / 3), or 0.025 ** (1 / 3)
    assert curve.loc[[0, 2], "low"].tolist() == pytest.approx([0, 0.025 ** (1 / 3)])
    assert curve.loc[[0, 2], "high"].tolist() == pytest.approx([1 - 0.025 ** (1 / 3), 1])
    assert len(analysis.cs_curve(SMALL)) == 21
    copies = analysis.cs_curve(five_off.assign(group=1), [6])
    assert copies["low"].item() == pytest.approx(0.025)  # three copies are one face


def test_share_of_single_pictures_is_clopper_and_pearsons():
    for k in range(31):
        exact = stats.binomtest(k, 30).proportion_ci(0.9, method="exact")
        assert share(np.arange(30) < k, level=0.9) == pytest.approx((k / 30, exact.low, exact.high))
    assert np.isnan(share([])).all()
    assert share([True]) == pytest.approx((1, 0.025, 1)) and share([False]) == pytest.approx((0, 0, 0.975))


def test_share_takes_copies_for_one():
    hits = np.arange(20) < 17
    alone = share(hits)
    assert share(np.repeat(hits, 3), np.repeat(np.arange(20), 3)) == pytest.approx(alone)
    assert share(hits, pd.array([pd.NA] * 20, dtype="Int64")) == alone  # a missing group is a row of its own
    # sets of 3 and 1, all hit: 4 ** 2 / (9 + 1) = 1.6 pictures, and p ** 1.6 = 0.025
    assert share([True] * 4, [5, 5, 5, 9]) == pytest.approx((1, 0.025 ** (1 / 1.6), 1))


@pytest.mark.parametrize("p", [0.5, 0.9, 0.98, 0.995, 0.9999])
def test_share_holds_the_truth_as_often_as_it_claims(p):
    n = 60
    ends = [share(np.arange(n) < k) for k in range(n + 1)]
    covered = sum(stats.binom.pmf(k, n, p) for k, found in enumerate(ends) if found.low <= p <= found.high)
    assert covered >= 0.95  # exact, no simulation


def test_share_holds_the_truth_with_copies_too():
    rng, held, naive = np.random.default_rng(9), [], []
    for _ in range(500):
        groups = np.repeat(np.arange(40), rng.integers(1, 5, 40))  # 40 faces with 1 to 4 copies each
        hits = (rng.random(40) < 0.95)[groups]
        held.append(share(hits, groups).low <= 0.95 <= share(hits, groups).high)
        naive.append(share(hits).low <= 0.95 <= share(hits).high)
    assert np.mean(held) >= 0.95 - 0.02  # the standard error of a share of 500 is 1 %
    assert np.mean(naive) < 0.9


@pytest.mark.parametrize(("predictions", "message"), [
    (SMALL.drop(columns=["age", "prediction"]), "lack the column.s. age, prediction"),
    (pd.concat([SMALL, SMALL.assign(part="train")]), "mix the parts test, train"),
    (SMALL.assign(prediction=[1, 2, np.nan, 4]), "without an age or a prediction"),
    (SMALL.head(0), "empty"),
])
def test_tables_that_cannot_be_analysed_are_refused(predictions, message):
    for function in (analysis.mae, analysis.overall, analysis.age_group_confusion, analysis.running_median):
        with pytest.raises(ValueError, match=message):
            function(predictions)


def test_interval_is_deterministic_in_its_seed():
    values = np.random.default_rng(1).normal(size=80)
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


def test_interval_of_too_little_is_nan():
    assert interval([4.0])[0] == 4 and np.isnan(interval([4.0])[1:]).all()
    assert np.isnan(interval([])).all()
    assert np.isnan(interval([1.0, 2.0, 3.0], groups=[5, 5, 5])[1:]).all()  # three copies are one piece of evidence


@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(20), 3), pd.array([1, 1, *[pd.NA] * 58], dtype="Int64")])
def test_means_are_resampled_fast_and_alike(groups):
    values = np.random.default_rng(4).normal(size=60)
    for level, seed, of in ((0.95, 0, values), (0.8, 7, values > 0)):
        fast, slow = (interval(of, mean, groups, level=level, resamples=300, seed=seed)
                      for mean in (np.mean, lambda v: v.mean()))  # only np.mean itself takes the short way
        assert fast == pytest.approx(slow, rel=1e-12)
    rows = np.column_stack([values, values])
    assert interval(rows, np.mean, groups) == pytest.approx(interval(values, np.mean, groups))


def test_resampled_sums_are_of_whole_groups():
    sizes = np.array([1, 3, 2, 5, 1])
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(5), sizes))
    one_hot = (groups[:, None] == np.arange(5)).astype(float)
    found = resampled_sums(one_hot, groups, resamples=200)
    assert found.shape == (200, 5) and (found % sizes == 0).all()
    assert ((found / sizes).sum(axis=1) == 5).all()  # five groups with repetition
    assert found.mean(axis=0) == pytest.approx(sizes, rel=0.3)  # each once, on average
    assert np.array_equal(found, resampled_sums(one_hot, groups, resamples=200))
    assert not np.array_equal(found, resampled_sums(one_hot, groups, resamples=200, seed=1))
    alone = resampled_sums(np.ones((12, 1)), resamples=3)
    assert alone.tolist() == [[12]] * 3
    shifted = resampled_sums(np.column_stack([groups, 2.0 * groups]), groups, resamples=5)
    assert np.array_equal(shifted[:, 1], 2 * shifted[:, 0])  # all columns of one resample are of the same rows


def test_percentile_by_hand():
    assert percentile(7, np.arange(101)) == pytest.approx((7, 2.5, 97.5))
    assert percentile(7, np.arange(101), 0.8) == pytest.approx((7, 10, 90))
    assert percentile(7, [np.nan, 1, 3, np.nan, np.inf], 0.5) == (7, 1.5, 2.5)
    assert np.isnan(percentile(7, [np.nan])[1:]).all() and percentile(7, []).value == 7


def test_interval_writes_itself():
    assert f"{Interval(5.1, 4.96, 5.26):.1f}" == "5.1 (5.0 to 5.3)"


def test_groups_are_drawn_whole():
    sizes = np.array([1, 3, 2, 5, 1, 4])
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(6), sizes))
    drawn = []

    def statistic(values):
        counts = np.bincount(values, minlength=6)
        assert (counts % sizes == 0).all()
        drawn.append((counts // sizes).sum())
        return float(values.mean())

    interval(groups, statistic, groups, resamples=100)
    assert drawn == [6] * 101  # the value itself, and six groups with repetition in each resample


def test_copies_in_groups_add_no_evidence():
    values = np.random.default_rng(2).normal(size=60)
    copied, groups = np.tile(values, 4), np.tile(np.arange(60), 4)
    once, grouped, naive = interval(values), interval(copied, groups=groups), interval(copied)
    assert grouped == pytest.approx(once)
    assert grouped.high - grouped.low > 1.7 * (naive.high - naive.low)  # sqrt(4) = 2 in theory


def test_missing_group_is_a_row_of_its_own():
    values = np.arange(10.0)
    assert interval(values, groups=pd.array([pd.NA] * 10, dtype="Int64")) == interval(values)


def test_intervals_cover_the_truth_as_often_as_they_claim():
    rng, groups, covered, naively = np.random.default_rng(5), np.repeat(np.arange(50), 3), 0, 0
    for _ in range(120):
        values = np.repeat(rng.normal(1, 4, 50), 3)  # 50 pictures, three copies each; true mean 1
        _, low, high = interval(values, groups=groups, resamples=200)
        covered += low <= 1 <= high
        _, low, high = interval(values, resamples=200)
        naively += low <= 1 <= high
    assert 0.88 <= covered / 120 <= 0.99  # 95 % claimed; the standard error of a share of 120 is 2 %
    assert naively / 120 < 0.85  # copies taken for evidence: 74 % in theory


def test_age_groups_begin_where_they_say():
    ages = [-3, 0, 2, 2.49, 2.5, 9.4, 9.5, 19, 20, 69.4, 69.5, 116]
    expected = ["0-2"] * 4 + ["3-9"] * 2 + ["10-19"] * 2 + ["20-29", "60-69", "70+", "70+"]
    found = analysis.age_group(ages)
    assert list(found) == expected
    assert tuple(found.categories) == AGE_GROUPS and found.ordered


def test_confusion_by_hand():
    found = analysis.age_group_confusion(table([1, 1, 25, 25, 25, 80], [2, 5, 25, 29.4, 29.6, 60]))
    assert found.shape == (9, 9) and found.to_numpy().sum() == 6
    assert found.loc["0-2", ["0-2", "3-9"]].tolist() == [1, 1]
    assert found.loc["20-29", ["20-29", "30-39"]].tolist() == [2, 1]
    assert found.loc["70+", "60-69"] == 1
    shares = analysis.age_group_confusion(table([1, 1], [2, 5]), normalise=True)
    assert shares.loc["0-2", ["0-2", "3-9"]].tolist() == [0.5, 0.5]
    assert shares.loc["70+"].isna().all()


def test_by_group_by_hand():
    predictions = table([1, 1, 25, 80], [2, 4, 20, 70], gender=["male", "female", "male", "female"])
    found = analysis.by_group(predictions, "age_group", resamples=20).set_index("age_group")
    assert tuple(found.index) == AGE_GROUPS
    assert found["n"].tolist() == [2, 0, 0, 1, 0, 0, 0, 0, 1]
    assert found.loc["0-2", ["mae", "bias", "cs5"]].tolist() == [2, 2, 1]
    assert found.loc["0-2", ["mae_low", "mae_high"]].tolist() == [1, 3]
    assert found.loc["70+", ["mae", "bias", "cs5"]].tolist() == [10, -10, 0]
    assert found.loc["70+", ["mae_low", "bias_high"]].isna().all()  # one face: no interval
    assert found.loc["3-9"].drop("n").isna().all()  # no face: nothing
    crossed = analysis.by_group(predictions, "gender", "age_group", resamples=20)
    assert len(crossed) == 2 * 9 and crossed["n"].sum() == 4
    assert crossed.query("gender == 'female' and age_group == '70+'")["bias"].item() == -10


def test_missing_ethnicity_is_its_own_row_last():
    predictions = table([20, 20, 20], [21, 22, 26], ethnicity=pd.Series(["Indian", None, None], dtype="str"))
    found = analysis.by_group(predictions, "ethnicity", resamples=20)
    assert found["ethnicity"].tolist() == ["White", "Black", "Asian", "Indian", "Others", "unknown"]
    assert found["n"].tolist() == [0, 0, 0, 1, 0, 2]
    assert found["mae"].iloc[-1] == 4
    assert "unknown" not in set(analysis.by_group(SMALL, "ethnicity", resamples=20)["ethnicity"])


def test_by_group_takes_other_columns_and_names_missing_ones():
    found = analysis.by_group(SMALL.assign(camera=["b", "a", "b", "a"]), "camera", resamples=20)
    assert found["camera"].tolist() == ["a", "b"] and found["mae"].tolist() == [2.5, 4]
    with pytest.raises(ValueError, match="lack the column.s. camera"):
        analysis.by_group(SMALL, "camera")


def test_levels_are_in_their_order_with_the_unknown_last():
    rows = pd.DataFrame({"age": [2, 71, 30], "gender": ["female", None, "male"], "camera": ["z", None, "a"],
                         "copies": pd.array([3, 1, pd.NA], dtype="Int64"), "blur": [2.5, np.nan, 1],
                         "fifth": pd.Categorical(["low", None, "high"], ["low", "mid", "high"])}, index=[5, 3, 3])
    levels = {key: analysis.level_of(rows, key) for key in ("age_group", *rows.columns[1:])}
    assert levels["gender"].tolist() == ["female", "unknown", "male"]
    assert {key: column.cat.categories.tolist() for key, column in levels.items()} == {
        "age_group": [*AGE_GROUPS], "gender": ["male", "female", "unknown"], "camera": ["a", "z", "unknown"],
        "copies": [1, 3, "unknown"], "blur": [1, 2.5, "unknown"], "fifth": ["low", "mid", "high", "unknown"]}
    assert all(column.cat.ordered and column.name == key and column.index.equals(rows.index)
               for key, column in levels.items())
    assert analysis.level_of(rows.head(0), "gender").cat.categories.tolist() == ["male", "female"]


def test_by_group_and_overall_resample_groups_together():
    rng = np.random.default_rng(3)
    ages, errors = rng.integers(1, 90, 40), rng.normal(0, 5, 40)
    copied = table(np.tile(ages, 4), np.tile(ages + errors, 4), group=np.tile(np.arange(40), 4))
    grouped, naive = analysis.overall(copied), analysis.overall(copied.drop(columns="group"))
    wider = (grouped["high"] - grouped["low"]) / (naive["high"] - naive["low"])
    assert wider[[0, 1, 3]].gt(1.5).all()
    grouped, naive = analysis.by_group(copied, "gender"), analysis.by_group(copied.drop(columns="group"), "gender")
    assert grouped["mae_high"][0] - grouped["mae_low"][0] > 1.5 * (naive["mae_high"][0] - naive["mae_low"][0])


def test_median_baseline_answers_the_training_median():
    predictions = pd.concat([table([10, 20, 90], [0, 0, 0], part="validation"), table([25, 5], [1, 1])])
    baseline = analysis.median_baseline(predictions, 20)
    assert baseline["prediction"].tolist() == [20, 20] and baseline["part"].unique().tolist() == ["test"]
    assert baseline["prediction"].dtype == float
    assert analysis.mae(baseline) == 10 and analysis.cs(baseline) == 0.5
    assert analysis.mae(analysis.median_baseline(predictions, 30, "validation")) == (20 + 10 + 60) / 3
    assert predictions["prediction"].tolist() == [0, 0, 0, 1, 1]  # the table itself is left as it was


def test_yardsticks_by_hand():
    index = pd.DataFrame({"name": list("abcdefg"), "age": [20, 26, 30, 30, 33, 50, 70], "copies": [2, 2, 3, 3, 3, 1, 1],
                          "sha256": list("xxyyyzw")})  # pairs 6; 0, 3, 3; so a mean of 3, over the root of two
    found = analysis.yardsticks(SMALL, 20, index, [("theirs", 4.5)]).set_index("what")
    assert found.index.tolist() == ["these predictions", "median baseline", "label error, an estimate", "theirs"]
    assert found["mae"].tolist() == pytest.approx([3.25, (10 + 0 + 10 + 20) / 4, label_error(index), 4.5])
    assert found["mae"].iloc[2] == pytest.approx(3 / 2**0.5)
    # picture by picture 2 - 10, 1 - 0, 6 - 10, 4 - 20
    difference = found.loc["median baseline", ["difference", "difference_low", "difference_high"]].tolist()
    assert difference == pytest.approx(interval([-8.0, 1, -4, -16])) and difference[0] == -6.75
    own = found.loc["these predictions", ["mae", "low", "high"]]
    assert own.tolist() == pytest.approx(interval([2.0, 1, 6, 4]))
    assert found.loc["theirs", ["difference", "difference_low", "difference_high"]].tolist() == pytest.approx(
        (own - 4.5).tolist())
    assert found.loc["theirs", ["low", "high"]].isna().all()
    assert found.loc["label error, an estimate", ["low", "high"]].tolist() == pytest.approx(
        [2 / 2**0.5, 6 / 2**0.5])  # two sets of copies, either of which may be drawn twice
    assert found.loc[["these predictions", "label error, an estimate"], "difference"].isna().all()


def test_yardsticks_take_copies_for_one_and_need_no_pairs():
    rng = np.random.default_rng(3)
    ages, index = rng.integers(1, 90, 40), pd.DataFrame({"name": ["a"], "age": [1], "copies": [1], "sha256": ["x"]})
    once = table(ages, ages + rng.normal(0, 5, 40))
    copied = pd.concat([once.assign(group=range(40))] * 3, ignore_index=True)
    found, grouped = (analysis.yardsticks(rows, 30, index, [("theirs", 4)]) for rows in (once, copied))
    pd.testing.assert_frame_equal(grouped, found)
    assert found.loc[2, "mae":].isna().all()


def test_slope_of_lines():
    ages = np.arange(5, 80, 3)
    for factor in (0, 0.5, 1, 1.2):
        assert analysis.slope(table(ages, factor * ages + 7), resamples=20) == pytest.approx((factor,) * 3)


def test_running_median_by_hand():
    predictions = table([10, 12, 13, 40], [11, 13, 15, 50])
    found = analysis.running_median(predictions, width=5, least=2)
    assert found["age"].tolist() == [10, 12, 13] and found["n"].tolist() == [2, 3, 2]
    assert found["median"].tolist() == [12, 13, 14]
    assert found["low"].tolist() == [11.5, 12, 13.5] and found["high"].tolist() == [12.5, 14, 14.5]


def test_best_and_worst():
    predictions = table([20] * 5, [20, 27, 19, 10, 21])  # errors 0, 7, -1, -10, 1
    found = analysis.best_and_worst(predictions, 2)
    assert found["which"].tolist() == ["best", "best", "worst", "worst"]
    assert found["error"].tolist() == [0, -1, -10, 7]  # of the two that are off by one, the first by name
    assert len(analysis.best_and_worst(predictions, 9)) == 4  # nobody is both best and worst


def test_groups_come_from_the_index_by_name():
    index = pd.DataFrame({"name": SMALL["name"][::-1], "group": pd.array([4, 3, 3, 1], dtype="Int64"), "copies": 1})
    found = analysis.add_groups(SMALL, index)
    assert found["name"].equals(SMALL["name"]) and found["group"].tolist() == [1, 3, 3, 4]
    assert [*found] == [*SMALL, "group"]
    more = analysis.add_groups(SMALL, index.assign(sharpness=[4.5, 3, 2, 1], verdict="ok"), "sharpness", "copies")
    assert [*more] == [*SMALL, "group", "sharpness", "copies"] and more["sharpness"].tolist() == [1, 2, 3, 4.5]
    with pytest.raises(ValueError, match="1 pictures are not in the index, such as face0.jpg"):
        analysis.add_groups(SMALL, index[index["name"] != "face0.jpg"])
