"""Decisions by an age limit: curves and cutoffs by hand, promises kept in simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from agehelpers.evaluation import age_limits, intervals
from agehelpers.evaluation.bootstrap import share


def table(ages, predictions, part="test", gender="male", ethnicity="White", **more):
    names = [f"face{i:05d}.jpg" for i in range(len(ages))]
    return pd.DataFrame({"part": part, "name": names, "age": ages, "gender": gender, "ethnicity": ethnicity,
                         "prediction": np.asarray(predictions, float), **more})


def faces(rng, n, spread=5.0):
    ages = rng.uniform(5, 60, n)
    return table(ages, ages + rng.normal(0, spread, n))


FOUR = table([5, 10, 30, 40], [12, 25, 20, 50])


def test_precision_and_recall_of_the_younger_by_hand():
    curve, summary = age_limits.precision_recall(FOUR, 18, younger=True)
    assert [*curve] == ["cutoff", "precision", "recall"]
    assert age_limits.precision_recall(FOUR, 10, younger=True)[1]["positives"] == 1  # 10 is not younger than 10
    found = curve.sort_values("cutoff")
    # judged younger up to 12: one of one; up to 20: one of two; up to 25: two of three; up to 50: two of four
    assert found["cutoff"].tolist() == [12, 20, 25, 50]
    assert found["precision"].tolist() == pytest.approx([1, 1 / 2, 2 / 3, 2 / 4])
    assert found["recall"].tolist() == [1 / 2, 1 / 2, 1, 1]
    # each step of the recall by its precision: half by 1, half by 2/3
    assert summary.to_dict() == pytest.approx({"n": 4, "positives": 2, "prevalence": 0.5, "average_precision": 5 / 6})


def test_precision_and_recall_of_the_others_by_hand():
    curve, summary = age_limits.precision_recall(table([5, 10, 18], [30, 12, 20]), 18, younger=False)  # 18 is enough
    found = curve.sort_values("cutoff")
    assert found["cutoff"].tolist() == [12, 20, 30]
    assert found["precision"].tolist() == pytest.approx([1 / 3, 1 / 2, 0]) and found["recall"].tolist() == [1, 1, 0]
    assert summary.to_dict() == pytest.approx(
        {"n": 3, "positives": 1, "prevalence": 1 / 3, "average_precision": 1 / 2})


def test_cutoffs_are_predicted_ages_also_below_0():
    curve, _ = age_limits.precision_recall(table([5, 10, 30], [-3, 0, 20]), 18, younger=True)
    assert sorted(curve["cutoff"]) == [-3, 0, 20]
    assert curve.set_index("cutoff").loc[-3.0].tolist() == [1, 1 / 2]


@pytest.mark.parametrize("younger", [True, False])
def test_all_on_one_side_of_the_limit_leave_nothing_to_find(younger):
    for limit in (3, 41):
        with pytest.raises(ValueError, match=f"all pictures are on one side of {limit} years: there is nothing"):
            age_limits.precision_recall(FOUR, limit, younger)
    with pytest.raises(ValueError, match="predictions are empty"):
        age_limits.precision_recall(FOUR.head(0), 18, younger)


def test_cutoff_by_hand():
    adults = table([18 + i for i in range(20)], [15 + i for i in range(20)])  # predicted 15 to 34
    rows = pd.concat([table([10, 12], [3, 60]), adults])  # the younger have no say
    assert age_limits.cutoff_for(rows, 18) == 16  # one of twenty may be rejected: the one predicted 15
    assert age_limits.cutoff_for(rows, 18, 0.049) == 15
    assert age_limits.cutoff_for(rows, 18, 0.5) == 25
    assert age_limits.cutoff_for(rows, 18, 0) == 15
    hundred = table([30] * 100, range(100))
    assert age_limits.cutoff_for(hundred, 18, 0.29) == 29  # 100 * 0.29 is 28.999999999999996
    assert age_limits.cutoff_for(table([30] * 4, [20, 20, 20, 40]), 18, 0.5) == 20  # ties: none, or three of four
    assert age_limits.cutoff_for(table([18], [7]), 18, 0.9) == 7


def test_a_cutoff_is_the_highest_that_rejects_so_few():
    rng = np.random.default_rng(0)
    for _ in range(30):
        rows = table(rng.integers(18, 90, 37), rng.integers(10, 60, 37))
        for allowed in (0, 0.05, 0.2, 0.7):
            cutoff = age_limits.cutoff_for(rows, 18, allowed)
            rejected = {at: (rows["prediction"] < at).mean() for at in range(5, 65)}
            assert cutoff == max(at for at, part in rejected.items() if part <= allowed)


@pytest.mark.parametrize(("rows", "false_rejection", "message"), [
    (FOUR, 1, "false_rejection 1: a share from 0 to below 1"),
    (FOUR, -0.1, "false_rejection -0.1"),
    (FOUR.assign(age=10), 0.05, "no picture of 18 years or more to choose a cutoff by"),
    (FOUR.head(0), 0.05, "empty"),
])
def test_cutoffs_that_cannot_be_chosen(rows, false_rejection, message):
    with pytest.raises(ValueError, match=message):
        age_limits.cutoff_for(rows, 18, false_rejection)


def test_at_cutoff_by_hand():
    rows = table([10, 17, 18, 30, 40], [9, 21, 20.99, 21, 50], gender=["male", "female", "male", "male", None])
    found = age_limits.at_cutoff(rows, 18, 21).squeeze()
    assert [*found.index] == ["younger", "false_acceptance", "fa_low", "fa_high", "older", "false_rejection", "fr_low",
                              "fr_high"]
    assert found[["younger", "older"]].tolist() == [2, 3]
    assert found["false_acceptance":"fa_high"].tolist() == pytest.approx(share([False, True]))  # 21 itself is accepted
    assert found["false_rejection":"fr_high"].tolist() == pytest.approx(share([True, False, False]))
    groups = age_limits.at_cutoff(rows, 18, 21, "gender")
    assert groups["gender"].tolist() == ["male", "female", "unknown"]
    assert groups["younger"].tolist() == [1, 1, 0] and groups["older"].tolist() == [2, 0, 1]
    assert groups["false_acceptance"].tolist()[:2] == [0, 1] and groups["false_rejection"].tolist()[::2] == [0.5, 0]
    assert groups.loc[2, "false_acceptance":"fa_high"].isna().all()  # nobody younger
    assert groups.loc[1, "false_rejection":].isna().all()
    crossed = age_limits.at_cutoff(rows, 18, 21, "gender", "ethnicity")
    assert len(crossed) == 3 and crossed["ethnicity"].unique().tolist() == ["White"]


def test_copies_are_one_piece_of_evidence_in_every_table():
    rng = np.random.default_rng(1)
    rows = intervals.with_intervals(faces(rng, 200), faces(rng, 400), False)
    tables = []
    for part in (rows, pd.concat([rows.assign(cluster=range(200))] * 3), pd.concat([rows] * 3)):
        tables.append([age_limits.at_cutoff(part, 18, 20)[["fa_low", "fa_high", "fr_low", "fr_high"]],
                       age_limits.accepted_by_age(part, 20, least=1)[["low", "high"]],
                       age_limits.three_way(part, 18)[["low", "high"]]])
    for once, grouped, naive in zip(*tables, strict=True):
        assert grouped.to_numpy() == pytest.approx(once.to_numpy())
        assert (naive.iloc[:, 1] - naive.iloc[:, 0] < once.iloc[:, 1] - once.iloc[:, 0]).all()


def test_a_cutoff_keeps_its_word_on_other_pictures():
    rng = np.random.default_rng(2)
    rows = faces(rng, 8000)
    cutoff = age_limits.cutoff_for(rows[:4000], 18, 0.05)
    found = age_limits.at_cutoff(rows[4000:], 18, cutoff).squeeze()
    assert found["fr_low"] - 0.01 < 0.05 < found["fr_high"] + 0.01
    stricter = age_limits.at_cutoff(rows[4000:], 18, age_limits.cutoff_for(rows[:4000], 18, 0.3)).squeeze()
    assert stricter["false_acceptance"] < found["false_acceptance"] / 3


def test_accepted_by_age_by_hand():
    rows = table([0, 1, 2, 2, 5], [30, 10, 20, 19, 40])
    found = age_limits.accepted_by_age(rows, 20, width=3, least=2)
    # within 1.5 years: of 0 the 0 and 1; of 1 the 0, 1, 2, 2; of 2 and of 3 the two 2 (and 1); of 4, 5 only the 5
    assert [*found] == ["age", "n", "accepted", "low", "high"]
    assert found["age"].tolist() == [0, 1, 2, 3] and found["n"].tolist() == [2, 4, 3, 2]
    assert found["accepted"].tolist() == pytest.approx([1 / 2, 2 / 4, 1 / 3, 1 / 2])
    exact = stats.binomtest(1, 3).proportion_ci(method="exact")
    assert found.loc[2, ["low", "high"]].tolist() == pytest.approx([exact.low, exact.high])
    assert age_limits.accepted_by_age(rows, 20, width=1, least=1)["age"].tolist() == [0, 1, 2, 5]
    assert age_limits.accepted_by_age(rows, 20, width=2, least=1)["n"].tolist() == [2, 4, 3, 2, 1, 1]  # a year or less
    assert age_limits.accepted_by_age(rows, 20).empty  # ten pictures, unless asked


def test_three_way_by_hand():
    rows = table([10, 12, 17, 18, 30, 40], [0] * 6, lower_95=[5, 18, 10, 9, 18, 17.99],
                 upper_95=[17.99, 30, 18, 17, 40, 60.0])
    found = age_limits.three_way(rows, 18)
    assert [*found] == ["age", "n", "accepted", "rejected", "asked", "wrong", "low", "high"]
    assert found["age"].tolist() == ["younger", "at least 18"] and found["n"].tolist() == [3, 3]
    # younger: rejected, accepted (18 is old enough), asked (an interval up to 18). Others: rejected, accepted, asked
    for part in ("accepted", "rejected", "asked", "wrong"):
        assert found[part].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert found.loc[0, ["wrong", "low", "high"]].tolist() == pytest.approx(share([True, False, False]))
    sure = age_limits.three_way(rows.assign(lower_95=18.0, upper_95=60.0), 18)
    assert sure["wrong"].tolist() == [1, 0] and sure["accepted"].tolist() == [1, 1]  # wrong is not the same for both
    nobody = age_limits.three_way(rows[rows["age"] > 17], 18)
    assert nobody["n"].tolist() == [0, 3] and nobody.loc[0, "accepted":].isna().all()
    other = rows.assign(lower_80=20.0, upper_80=30.0)
    assert age_limits.three_way(other, 20, level=0.8)["accepted"].tolist() == [1, 1]
    assert age_limits.three_way(other, 20, level=0.8)["age"].tolist() == ["younger", "at least 20"]


def test_three_way_refuses_rows_without_an_interval():
    with pytest.raises(ValueError, match="lack the column.s. lower_95, upper_95"):
        age_limits.three_way(FOUR, 18)
    with pytest.raises(ValueError, match="some rows have no interval; in a record only those of part 'test' have one"):
        age_limits.three_way(FOUR.assign(lower_95=np.nan, upper_95=np.nan), 18)


def test_of_all_decisions_no_more_are_wrong_than_the_level_allows():
    rng, wrong, by_point = np.random.default_rng(3), [], []
    for _ in range(40):
        rows = faces(rng, 400)
        found = age_limits.three_way(intervals.with_intervals(rows[:200], rows[200:], False), 18, level=0.8)
        wrong.append((found["wrong"] * found["n"]).sum() / 200)
        by_point.append(((rows["prediction"] >= 18) != (rows["age"] >= 18)).mean())
        assert found[["accepted", "rejected", "asked"]].sum(axis=1).tolist() == pytest.approx([1, 1])
    assert np.mean(wrong) < 0.2 and np.mean(wrong) < np.mean(by_point) / 3
