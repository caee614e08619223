"""Intervals: derived by hand, held against the library crepes, and holding the age as often as they promise."""

import numpy as np
import pandas as pd
import pytest
from crepes import ConformalRegressor
from scipy import stats

from agehelpers.evaluation import intervals
from agehelpers.evaluation.bootstrap import confidence_interval
from agehelpers.evaluation.intervals import coverage, reaches, with_intervals
from agehelpers.training.calibration import LEVELS, attach, ends, reach

LOWER, UPPER = zip(*(ends(level) for level in LEVELS), strict=True)


def table(ages, predictions, part="test", gender="male", ethnicity="White", **more):
    names = [f"face{i:05d}.jpg" for i in range(len(ages))]
    return pd.DataFrame({"part": part, "name": names, "age": ages, "gender": gender, "ethnicity": ethnicity,
                         "prediction": np.asarray(predictions, float), **more})


def faces(rng, n, error, **more):
    """`n` ages from 0 to 100, guessed with `error` [n]."""
    ages = rng.uniform(0, 100, n)
    return table(ages, ages + error, **more)


def held(predictions, level, groups=None):
    """Share of ages inside the intervals, overall or by `groups`."""
    lower, upper = (predictions[end] for end in ends(level))
    inside = predictions["age"].between(lower, upper)
    return inside.mean() if groups is None else inside.groupby(groups).mean()


NINE = table([50] * 9, [50 + error for error in (5, -1, 4, -2, 3, 9, -7, 8, -6)])  # absolute errors 1 to 9


def test_names_of_the_ends():
    assert ends(0.8) == ("lower_80", "upper_80")
    assert ends(0.29) == ("lower_29", "upper_29")  # 100 * 0.29 is 28.999999999999996
    assert ends(0.995) == ("lower_99.5", "upper_99.5")
    assert LOWER == ("lower_80", "lower_90", "lower_95")


@pytest.mark.parametrize(("level", "expected"), [
    (0.8, 8.0),  # k = (9 + 1) * 0.8 = 8
    (0.75, 8.0),  # 7.5, rounded up
    (0.7, 7.0),
    (0.9, 9.0),
    (0.91, np.inf),  # k = 10 of 9
    (0.05, 1.0),  # 0.5, rounded up
])
def test_reach_is_the_kth_smallest_score(level, expected):
    assert reach((NINE["prediction"] - NINE["age"]).abs().to_numpy(), level) == expected


def test_reach_of_few_of_equal_and_of_inexact_products():
    assert reach(np.array([]), 0.8) == np.inf
    assert reach(np.arange(18.0), 0.95) == np.inf  # 19 * 0.95 = 18.05, so k = 19 of 18
    assert reach(np.arange(19.0), 0.95) == 18  # 20 * 0.95 = 19: the largest of 19
    assert reach(np.array([2.0, 2, 2, 7]), 0.6) == 2  # ties; k = 3
    assert reach(np.arange(1.0, 100), 0.55) == 55  # 100 * 0.55 is 55.00000000000001, and k not 56


@pytest.mark.parametrize("level", [0, 1, -0.1, 80])
def test_levels_lie_between_0_and_1(level):
    with pytest.raises(ValueError, match=f"level {level}: an interval's level lies between 0 and 1"):
        reach(np.arange(9.0), level)
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        with_intervals(NINE, NINE, normalised=False, levels=[level])


def test_reaches_by_hand():
    found = reaches(NINE, normalised=False)
    assert found.index.tolist() == ["all"] and found.columns.tolist() == ["n", *LEVELS]
    assert found.loc["all"].tolist() == [9, 8, 9, np.inf]
    assert found["n"].dtype == int
    # in spreads of 2 and of nearly 0 (which counts as 0.1): 4 / 2 and 1 / 0.1
    pair = table([50, 50], [54, 51], spread=[2, 1e-9])
    assert reaches(pair, normalised=True, levels=[0.3, 0.6]).loc["all"].tolist() == [2, 2, 10]
    assert reaches(pair.assign(spread=0), normalised=True, levels=[0.6]).loc["all", 0.6] == 40
    assert reaches(pair, normalised=False, levels=[0.3, 0.6]).loc["all"].tolist() == [2, 1, 4]


def test_reaches_of_groups_by_hand():
    four = table([50] * 4, [51, 52, 53, 56], gender=pd.Series(["male", None, "male", None], dtype="str"))
    found = reaches(four, False, [0.5, 0.6], by="gender")
    # two each: 3 * 0.5 = 1.5 and 3 * 0.6 = 1.8, the second; no row for the women, of whom there are none
    assert found.to_dict("index") == {"male": {"n": 2, 0.5: 3, 0.6: 3}, "unknown": {"n": 2, 0.5: 6, 0.6: 6}}


def test_a_spread_is_needed_only_where_it_is_used():
    with pytest.raises(ValueError, match="no column spread: this head gives none; use normalised=False"):
        with_intervals(NINE, NINE.assign(spread=1.0))
    with pytest.raises(ValueError, match="no column spread"):
        with_intervals(NINE.assign(spread=1.0), NINE)
    assert with_intervals(NINE, NINE, normalised=False)["lower_80"].notna().all()


def test_with_intervals_by_hand():
    calibration = NINE.assign(spread=2.0)  # reaches 8 / 2 = 4, 9 / 2 = 4.5 and infinity, in spreads
    wanted = table([40, 60], [41, 62], spread=[1.5, 0.05], camera=["a", "b"]).set_index(pd.Index([7, 3]))
    found = with_intervals(wanted, calibration)
    assert found.columns.tolist() == [*wanted, *np.ravel(list(zip(LOWER, UPPER, strict=True)))]
    pd.testing.assert_frame_equal(found[[*wanted]], wanted)
    assert found[[*LOWER]].to_numpy() == pytest.approx(np.array([[41 - 6, 41 - 6.75, 0], [62 - 0.4, 62 - 0.45, 0]]))
    assert found[[*UPPER]].to_numpy() == pytest.approx(np.array([[47, 47.75, 120], [62.4, 62.45, 120]]))
    plain = with_intervals(wanted, calibration, normalised=False, levels=[0.8])
    assert plain["lower_80"].tolist() == [33, 54] and plain["upper_80"].tolist() == [49, 70]
    assert "lower_90" not in plain


def test_ends_are_rounded_outwards():
    one = table([50], [50.004])  # a reach of 0.004, at a level of 0.5 of one picture
    found = with_intervals(table([50, 50, 50], [60, 60.007, 60.0101]), one, False, [0.5])
    # 60 -+ 0.004; 60.003 to 60.011; 60.0061 to 60.0141
    assert found["lower_50"].tolist() == [59.99, 60.00, 60.00]
    assert found["upper_50"].tolist() == [60.01, 60.02, 60.02]


def test_an_interval_holds_the_age_it_reaches_to_the_last_digit():
    rng = np.random.default_rng(0)
    guesses = rng.uniform(20, 80, 2000).round(rng.integers(1, 6))
    for age in (30, 57):  # each picture calibrates its own interval: it has to end at the age exactly, or beyond
        far = np.abs(guesses - age)
        found = attach(table([age] * 2000, guesses), {0.8: far}, normalised=False)
        assert held(found, 0.8) == 1
        near = np.where(guesses < age, found["upper_80"], found["lower_80"])
        assert np.abs(near - age).max() <= 0.01 + 1e-9


def test_ends_are_cut_where_no_age_is():
    found = with_intervals(table([0, 116, 0, 120], [3, 115, -20, 140]), NINE, False, [0.8])  # 8 years to either side
    assert found["lower_80"].tolist() == [0, 107, 0, 120]
    assert found["upper_80"].tolist() == [11, 120, 0, 120]  # a guess below 0 still holds a new-born child
    assert held(found, 0.8) == 1


@pytest.mark.parametrize("by", [None, "gender"])
@pytest.mark.parametrize("normalised", [False, True])
def test_without_calibration_pictures_an_interval_is_0_to_120_years(normalised, by):
    rows = NINE.assign(spread=3.0)
    assert reaches(rows.head(0), normalised, by=by).empty
    found = with_intervals(rows, rows.head(0), normalised, by=by)
    assert (found[[*LOWER]] == 0).all(axis=None) and (found[[*UPPER]] == 120).all(axis=None)
    none = with_intervals(rows.head(0), rows, normalised, by=by)
    assert none.empty and none.columns[-6:].tolist() == found.columns[-6:].tolist()


def test_a_group_is_calibrated_by_itself_alone():
    unlabelled = pd.Series(["male"] * 4 + ["female"] * 2 + [None] * 4, dtype="str")
    calibration = table([50] * 10, 50 + np.r_[1, 2, 3, 4, 10, 20, 5, 6, 7, 8], ethnicity=unlabelled)
    wanted = table([50] * 4, [50.0] * 4, ethnicity=pd.Series(["male", "female", None, "Indian"], dtype="str"))
    found = with_intervals(wanted, calibration, False, [0.8], by="ethnicity")
    # 5 * 0.8 = 4, the largest of four; two are too few (3 * 0.8 = 2.4); nobody calibrates "Indian"
    assert found["upper_80"].tolist() == [54, 120, 58, 120]
    assert found["lower_80"].tolist() == [46, 0, 42, 0]


def test_attach_takes_a_number_or_one_a_row():
    rows = table([50, 50], [50, 50], spread=[1.0, 2.0])
    found = attach(rows, {0.8: 3, 0.9: np.array([1, np.inf])}, normalised=True)
    assert found["upper_80"].tolist() == [53, 56] and found["lower_90"].tolist() == [49, 0]
    assert attach(rows, {0.8: 3}, normalised=False)["lower_80"].tolist() == [47, 47]
    known = reaches(rows, True, [0.5]).loc["all"]  # what a record keeps
    assert attach(rows, {0.5: known[0.5]}, True).equals(with_intervals(rows, rows, levels=[0.5]))


@pytest.mark.parametrize("by", [None, "gender"])
@pytest.mark.parametrize("normalised", [False, True])
def test_crepes_finds_the_same_intervals(normalised, by):
    rng = np.random.default_rng(3)
    men, women = 150, 83  # no (n + 1) * (1 - level) is a whole number, about which crepes rounds in its own way
    calibration, test = (faces(rng, m + w, rng.standard_t(3, m + w) * 9, spread=rng.gamma(2, 3, m + w) + 0.2,
                               gender=["male"] * m + ["female"] * w) for m, w in ((men, women), (300, 300)))
    found = with_intervals(test, calibration, normalised, by=by)
    regressor = ConformalRegressor().fit(
        (calibration["age"] - calibration["prediction"]).to_numpy(), bins=calibration[by].to_numpy() if by else None,
        sigmas=calibration["spread"].to_numpy() if normalised else None)
    for level in LEVELS:
        theirs = regressor.predict_int(test["prediction"].to_numpy(), confidence=level, y_min=0, y_max=120,
                                       sigmas=test["spread"].to_numpy() if normalised else None,
                                       bins=test[by].to_numpy() if by else None)
        lower, upper = (found[end].to_numpy() for end in ends(level))
        assert np.abs(theirs - np.column_stack([lower, upper])).max() <= 0.01 + 1e-9
        assert (lower <= theirs[:, 0] + 1e-9).all() and (upper >= theirs[:, 1] - 1e-9).all()  # outwards
        assert 0.3 < ((lower > 0) & (upper < 120)).mean()  # not all of this was decided by the cut


def test_crepes_gives_up_where_we_do():
    regressor = ConformalRegressor().fit((NINE["age"] - NINE["prediction"]).to_numpy())
    with pytest.warns(UserWarning, match="too small"):
        theirs = regressor.predict_int(np.array([50.0]), confidence=0.95, y_min=0, y_max=120)
    ours = with_intervals(NINE.head(1), NINE, normalised=False)
    assert theirs.tolist() == [[0, 120]] == ours[["lower_95", "upper_95"]].to_numpy().tolist()


# Draws as groups: each of many calibration sets, with its own test pictures, is a level of the column "draw", and
# calibrated on its own; the test above shows that a group is. So one table holds a whole simulation.

def draws(rng, count, n, error, **more):
    names = np.repeat([f"{draw:04d}" for draw in range(count)], n)
    return faces(rng, count * n, error(count * n), draw=names, **more)


ERRORS = {
    "a good model": lambda rng, n: rng.normal(0, 5, n),
    "a model that is 20 years off": lambda rng, n: rng.normal(20, 5, n),
    "errors without a variance": lambda rng, n: 4 * rng.standard_t(2, n),
    "errors to one side": lambda rng, n: rng.exponential(6, n),
}


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("kind", ERRORS)
def test_coverage_is_the_level_and_no_more_than_it_has_to_be(kind, normalised):
    rng, n, count = np.random.default_rng(7), 44, 1000
    calibration, test = (draws(rng, count, size, lambda m: ERRORS[kind](rng, m), spread=rng.gamma(2, 2, count * size))
                         for size in (n, 100))
    found = with_intervals(test, calibration, normalised, by="draw")
    for level in LEVELS:
        share = held(found, level, found["draw"])
        noise = 4 * share.std() / count**0.5  # four standard errors over draws
        assert noise < 0.01  # half of 1 / (n + 1): an interval by the next score, or the last, would fail
        assert level - noise <= share.mean() < level + 1 / (n + 1) + noise
        assert share.mean() == pytest.approx(np.ceil((n + 1) * level) / (n + 1), abs=noise)  # exact: k of n + 1 places


def test_intervals_of_a_whole_calibration_set_hold_what_they_promise():
    rng, shares = np.random.default_rng(11), []
    for _ in range(100):  # one set at a time, without groups
        calibration, test = (faces(rng, n, rng.normal(3, 8, n)) for n in (99, 100))
        shares.append([held(with_intervals(test, calibration, normalised=False), level) for level in LEVELS])
    assert np.mean(shares, axis=0) == pytest.approx(LEVELS, abs=4 * 0.05 / 100**0.5)  # (n + 1) * level are whole


def test_a_bad_model_pays_in_width():
    rng, ages = np.random.default_rng(2), np.random.default_rng(1).uniform(0, 100, 1200)
    found = {}
    for what, guesses in (("good", ages + rng.normal(0, 4, 1200)), ("constant", np.full(1200, 33.0))):
        rows = table(ages, guesses)
        found[what] = coverage(with_intervals(rows[600:], rows[:600], normalised=False), levels=[0.9]).loc[0]
    low, high = intervals.expected_coverage(0.9, 600, 600)
    assert all(low <= one["coverage"] <= high for one in found.values())
    assert found["good"]["width"] == pytest.approx(2 * 4 * stats.norm.ppf(0.95), rel=0.1)
    assert found["constant"]["width"] > 5 * found["good"]["width"]


def test_groups_are_promised_nothing_unless_calibrated_by_group():
    rng = np.random.default_rng(4)

    def sample(n):
        sex = np.where(np.arange(n) % 2, "female", "male")
        return faces(rng, n, rng.normal(0, 1, n) * np.where(sex == "male", 3, 12), gender=sex)

    calibration, test = sample(2000), sample(8000)
    together, apart = (held(with_intervals(test, calibration, False, by=by), 0.8, test["gender"])
                       for by in (None, "gender"))
    assert together.mean() == pytest.approx(0.8, abs=0.03)
    assert together["male"] > 0.95 and together["female"] < 0.7
    assert apart.to_numpy() == pytest.approx([0.8, 0.8], abs=0.04)


def test_the_right_spread_makes_coverage_even_and_intervals_short():
    rng = np.random.default_rng(5)

    def sample(n):
        spread = np.where(np.arange(n) % 2, 10.0, 2.0)
        return faces(rng, n, rng.normal(0, spread), spread=spread)

    calibration, test = sample(2000), sample(8000)
    for level in LEVELS:
        plain, normalised = (with_intervals(test, calibration, how) for how in (False, True))
        assert held(normalised, level, test["spread"]).to_numpy() == pytest.approx([level, level], abs=0.03)
        gap = np.diff(held(plain, level, test["spread"]))[0]
        assert gap < -0.09  # the sure ones are held too often, the unsure ones too rarely
    width = {how: coverage(found, levels=[0.95])["width"].item() for how, found in (("p", plain), ("n", normalised))}
    assert width["n"] < 0.8 * width["p"]


def test_coverage_by_hand():
    rows = table([10, 20, 30, 40], [0] * 4, gender=["male", "female", "male", "male"], lower_80=[10, 21, 0, 41.0],
                 upper_80=[12, 22, 30, 50.0], lower_90=[0.0] * 4, upper_90=[15, 40, 40, 45.0])
    found = coverage(rows, levels=[0.9, 0.8])  # the ends themselves are inside
    assert found.columns.tolist() == ["level", "n", "coverage", "low", "high", "width", "median"]
    assert found["level"].tolist() == [0.8, 0.9]
    assert found["coverage"].tolist() == [0.5, 1] and found["n"].tolist() == [4, 4]
    assert found["width"].tolist() == [(2 + 1 + 30 + 9) / 4, 35] and found["median"].tolist() == [5.5, 40]
    exact = stats.binomtest(2, 4).proportion_ci(method="exact")
    assert found.loc[0, ["low", "high"]].tolist() == pytest.approx([exact.low, exact.high])
    assert found.loc[1, ["low", "high"]].tolist() == pytest.approx([0.025**0.25, 1])  # p ** 4 = 0.025
    groups = coverage(rows, "gender", levels=[0.8, 0.9])
    assert groups["level"].tolist() == [0.8, 0.8, 0.9, 0.9]
    assert groups["gender"].tolist() == ["male", "female"] * 2  # in the order of the levels, not of the alphabet
    assert groups["coverage"].tolist() == pytest.approx([2 / 3, 0, 1, 1]) and groups["n"].tolist() == [3, 1, 3, 1]
    crossed = coverage(rows, "gender", "age_band", levels=[0.8])
    assert len(crossed) == 4 and crossed.query("age_band == '30-39'")["coverage"].item() == 1
    two = coverage(rows.assign(cluster=[1, 1, 2, 2]), levels=[0.9])  # two faces, not four
    assert two["low"].item() == pytest.approx(0.025**0.5)


def test_coverage_refuses_rows_without_an_interval():
    rows = with_intervals(NINE, NINE, normalised=False)
    with pytest.raises(ValueError, match="lack the column.s. lower_80, lower_90, lower_95, upper_80"):
        coverage(NINE)
    with pytest.raises(ValueError, match="lack the column.s. lower_99"):
        coverage(rows, levels=[0.99])
    with pytest.raises(ValueError, match="some rows have no interval; in a record only those of part 'test' have one"):
        coverage(rows.assign(upper_90=[np.nan, *[60.0] * 8]))
    with pytest.raises(ValueError, match="mix the parts calibration, test"):
        coverage(pd.concat([rows, rows.assign(part="calibration")]))
    with pytest.raises(ValueError, match="lack the column.s. camera"):
        coverage(rows, "camera")


def test_expected_coverage_by_hand():
    # one calibration picture and a level of a half: the number held of 99 is uniform on 0 to 99, 0.01 each. At most 2
    # has a probability of 0.03, the first above 0.025; at most 97 one of 0.98, the first above 0.975
    assert intervals.expected_coverage(0.5, 1, 99) == pytest.approx((2 / 99, 97 / 99))
    # half of the draws would be 24 to 74, but for ties; of 51 %, at most 24 has 0.25 (above 0.245), at most 75 has 0.76
    assert intervals.expected_coverage(0.5, 1, 99, 0.51) == pytest.approx((24 / 99, 75 / 99))
    assert intervals.expected_coverage(0.5, 1, 99, probability=0.95) == intervals.expected_coverage(0.5, 1, 99)
    assert intervals.expected_coverage(0.95, 18, 50) == (1, 1)  # too few: all ages are held
    assert intervals.expected_coverage(0.8, 0, 50) == (1, 1)
    low, high = intervals.expected_coverage(0.9, 499, 10**5)  # of so many pictures: the beta distribution itself
    assert (low, high) == pytest.approx(stats.beta(450, 50).interval(0.95), abs=1e-4)


@pytest.mark.parametrize(("level", "n", "m"), [(0.8, 30, 100), (0.9, 200, 60)])
def test_expected_coverage_is_what_95_percent_of_draws_show(level, n, m):
    rng, count = np.random.default_rng(6), 600
    calibration, test = (draws(rng, count, size, lambda total: rng.normal(0, 5, total)) for size in (n, m))
    share = held(with_intervals(test, calibration, False, [level], by="draw"), level, test["draw"])
    low, high = intervals.expected_coverage(level, n, m)
    tight = (low + 1.5 / m <= share) & (share <= high - 1.5 / m)
    assert ((low - 1e-9 <= share) & (share <= high + 1e-9)).mean() >= 0.95 - 0.018  # two standard errors
    assert tight.mean() < 0.95  # and no wider than it has to be
    naive = stats.binom(m, level).interval(0.95)  # as if the calibration set were no draw as well
    assert high - low > (naive[1] - naive[0]) / m


def test_risk_coverage_by_hand():
    rows = table([20] * 4, [24, 21, 28, 22], spread=[1, 2, 2, 3])  # errors 4, 1, 8, 2
    found = intervals.risk_coverage(rows, shares=[0.01, 0.5, 0.75, 1])
    assert [*found] == ["share", "n", "limit", "mae", "low", "high", "best"]
    assert found["n"].tolist() == [1, 2, 3, 4] and found["share"].tolist() == [0.25, 0.5, 0.75, 1]
    assert found["limit"].tolist() == [1, 2, 2, 3]
    assert found["mae"].tolist() == [4, 2.5, 13 / 3, 3.75]  # of the two with a spread of 2, the first by name
    assert found["best"].tolist() == [1, 1.5, 7 / 3, 3.75]
    # of one picture no interval; of errors 4 and 1 a quarter of draws is 4 twice, and a quarter 1 twice
    assert found.loc[0, ["low", "high"]].isna().all() and found.loc[1, ["low", "high"]].tolist() == [1, 4]
    assert found.loc[3, ["low", "high"]].tolist() == pytest.approx(confidence_interval([4, 1, 8, 2])[1:])
    copies = intervals.risk_coverage(rows.assign(cluster=[1, 1, 2, 2]), shares=[0.5, 1])
    assert copies.loc[0, ["low", "high"]].isna().all()  # the two answered are one picture
    assert copies.loc[1, ["low", "high"]].tolist() == [2.5, 5]  # errors 4 and 1, and 8 and 2: in pairs
    assert intervals.risk_coverage(rows[::-1], shares=[0.01, 0.5, 0.75, 1]).equals(found)
    with pytest.raises(ValueError, match="lack the column.s. spread"):
        intervals.risk_coverage(NINE)


def test_risk_coverage_between_a_perfect_and_a_useless_spread():
    rng = np.random.default_rng(8)
    error = rng.normal(0, 6, 3000)
    perfect = intervals.risk_coverage(faces(rng, 3000, error, spread=np.abs(error)))
    assert len(perfect) == 20 and perfect["share"].iloc[0] == 0.05 and perfect["n"].iloc[-1] == 3000
    assert perfect["mae"].to_numpy() == pytest.approx(perfect["best"].to_numpy())
    useless = intervals.risk_coverage(faces(rng, 3000, error, spread=rng.uniform(size=3000)))
    assert useless["mae"].to_numpy() == pytest.approx(np.abs(error).mean(), rel=0.15)
    assert useless["best"].to_numpy() == pytest.approx(perfect["best"].to_numpy())
