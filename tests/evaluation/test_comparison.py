"""Tables over several records: by hand from small ones."""

import math

import numpy as np
import pandas as pd
import pytest

from agehelpers import paths
from agehelpers.evaluation import comparison
from agehelpers.evaluation.bootstrap import confidence_interval
from agehelpers.training.records import Record

NAMES = [f"face{i:02d}.jpg" for i in range(20)]
LABELS = pd.DataFrame({"name": NAMES, "cluster": pd.array([1, 1, *range(2, 20)], dtype="Int64")})


def record(name, covered=(15, 18, 20), protocol="holdout", calibration=39, width=10.0, prediction=50.0, **facts):
    """20 test pictures of 50 years, of whose 80, 90 and 95 % intervals the first `covered` have the age inside."""
    test = pd.DataFrame({"part": "test", "name": NAMES, "age": 50, "gender": "male", "ethnicity": "White",
                         "prediction": prediction, "spread": 1.0})
    for level, count in zip((80, 90, 95), covered, strict=True):
        test[f"lower_{level}"] = np.where(np.arange(20) < count, 49.0, 51.0)
        test[f"upper_{level}"] = test[f"lower_{level}"] + width
    other = test.head(3).assign(part="calibration", age=0).reset_index(drop=True)  # has no say
    settings = {"protocol": protocol, "backbone": "tiny", "image_size": 24, "weights": None}
    facts = {"config": settings, "intervals": {"calibration": calibration}, "split": "abc", "train_median": 30.0,
             "training_seconds": 120, "precision": "float32", "mae": {"validation": prediction}, **facts,
             "hardware": {"card": None, "threads": 1, "cores": 2} | facts.get("hardware", {})}
    return Record(name, facts, {"predictions": pd.concat([test, other], ignore_index=True)})


def chance(level, calibration, test):
    """Ends of the middle 95 % of beta-binomial shares of `test`, summed up from its definition."""
    k = math.ceil((calibration + 1) * level - 1e-9)
    a, b = k, calibration + 1 - k

    def beta(x, y):
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    mass = np.cumsum([math.comb(test, i) * math.exp(beta(i + a, test - i + b) - beta(a, b)) for i in range(test + 1)])
    assert mass[-1] == pytest.approx(1)
    return [int(np.argmax(mass >= tail)) / test for tail in (0.025, 0.975)]


def test_coverage_table_by_hand():
    made = [record("first", (15, 18, 20)), record("leaks", (20, 20, 20), "coral_published"),
            record("second", (8, 10, 12), "coral", 199, 4.0)]
    found = comparison.coverage_table(made, LABELS)
    assert found["record"].tolist() == ["first"] * 3 + ["second"] * 3  # not the one that leaks between its parts
    assert found["level"].tolist() == [0.8, 0.9, 0.95] * 2 and (found["n"] == 20).all()
    assert found["coverage"].tolist() == [0.75, 0.9, 1, 0.4, 0.5, 0.6]
    assert found["calibration"].tolist() == [39] * 3 + [199] * 3
    assert found["width"].tolist() == pytest.approx([10] * 3 + [4] * 3)
    # k of n + 1: 32, 36 and 38 of 40; 160, 180 and 190 of 200
    expected = [chance(level, n, 20) for n in (39, 199) for level in (0.8, 0.9, 0.95)]
    assert found[["expected_low", "expected_high"]].to_numpy() == pytest.approx(np.array(expected))
    assert (found["expected_low"] < found["level"]).all() and (found["level"] < found["expected_high"]).all()
    # the first two pictures are copies: fewer pieces of evidence than pictures
    apart = comparison.coverage_table(made, LABELS.assign(cluster=range(20)))
    assert (found["low"] < apart["low"]).all() and found["coverage"].equals(apart["coverage"])


def test_chance_by_another_way():
    # one calibration picture, a level of a half: 0 to 99 held of 99, each as likely
    assert chance(0.5, 1, 99) == pytest.approx([2 / 99, 97 / 99])


def test_summary_by_hand():
    off = np.where(np.arange(20) < 10, 2.0, 8.0)  # errors
    found = comparison.summary([
        record("small_coral", protocol="coral", prediction=51.0, hardware={"card": "GPU"}),
        record("small_1", protocol="benchmark", prediction=53.0, training_seconds=60, split="x"),
        record("small_packaged", prediction=50 + off),
        record("small_0", protocol="benchmark", prediction=57.0, split="y")], LABELS)
    assert found["family"].tolist() == ["small_packaged", "small", "small_coral"]  # by protocol
    assert found["runs"].tolist() == [1, 2, 1] and found["splits"].tolist() == ["abc", "x, y", "abc"]
    assert found.loc[1, "of"] == "splits"
    seeds = comparison.summary([record("two_0"), record("two_1")], LABELS).iloc[0]
    assert (seeds["splits"], seeds["of"], seeds["runs"]) == ("abc", "seeds", 2)
    assert found["mae"].tolist() == [5, (3 + 7) / 2, 1] and found["cs5"].tolist() == [0.5, 0.5, 1]
    assert found["mae_sd"].iloc[1] == pytest.approx(8**0.5) and found["mae_sd"].isna().tolist() == [True, False, True]
    assert found.loc[1, ["mae_low", "mae_high", "cs5_low", "cs5_high"]].tolist() == [3, 7, 0, 1]  # the runs themselves
    assert found.loc[0, ["mae_low", "mae_high"]].tolist() == pytest.approx(
        confidence_interval(off, clusters=LABELS["cluster"])[1:])
    assert found["baseline"].tolist() == [20] * 3 and found["pictures"].tolist() == [20] * 3
    cpu = "1 of 2 CPU cores, float32"
    assert found["training"].tolist() == [f"2 min on {cpu}", f"2 min on {cpu}", "2 min on GPU"]
    mixed = [record("two_0"), record("two_1", hardware={"card": "GPU"}, training_seconds=60), record("two_2")]
    assert comparison.summary(mixed, LABELS)["training"].item() == "2 min on 1 of 2 CPU cores, float32, 1 min on GPU"
    assert found["network"].unique().tolist() == ["tiny, 24 px, from scratch"]


def test_summary_has_the_balanced_error_and_the_plain_decoding():
    one, other = record("x_0", prediction=51.0), record("x_1", prediction=51.0)
    for each in (one, other):  # 15 faces of 50 years, 1 year off, and 5 of 20, 31 years off
        each.predictions.loc[15:19, "age"] = 20
    other.predictions["plain"] = 52.0
    found = comparison.summary([one], LABELS).iloc[0]
    assert found[["mae", "balanced", "plain_mae", "plain_balanced"]].tolist() == [8.5, 16, 8.5, 16]
    found = comparison.summary([one, other], LABELS).iloc[0]
    assert found[["mae", "balanced", "plain_mae", "plain_balanced"]].tolist() == [8.5, 16, 9, 16.5]


def test_published_figures_name_their_protocol_and_source():
    table = comparison.published()
    assert [*table] == ["protocol", "method", "start", "mae", "sd", "source", "how_known"]
    assert table[["protocol", "method", "mae", "source", "how_known"]].notna().all(axis=None)
    assert set(table["protocol"]) <= {"holdout", "benchmark", "coral"}


def test_training_records_are_ordered_and_leave_out_searches(monkeypatch, tmp_path):
    for name in ("b", "a", "grid"):
        (tmp_path / name).mkdir()
    for name in ("b", "a"):
        (tmp_path / name / "predictions.csv").touch()
    protocols = {"a": "coral", "b": "holdout"}
    monkeypatch.setattr(comparison, "read_record", lambda folder: record(folder.name, protocol=protocols[folder.name]))
    monkeypatch.setattr(paths, "records_folder", lambda: tmp_path)
    assert [one.name for one in comparison.training_records()] == ["b", "a"]
    monkeypatch.setattr(comparison, "read_record", lambda folder: {"a": record("a", protocol="coral")}[folder.name])
    assert [one.name for one in comparison.training_records({"a"})] == ["a"]  # others are not even read


def test_recipes_against_ours_on_the_same_pictures_by_hand():
    ours = [record("ours_0", prediction=53.0), record("ours_1", prediction=55.0)]  # errors 3 and 5: 4 on each picture
    theirs = [record("theirs", prediction=np.where(np.arange(20) < 10, 44.0, 40.0), mae={"validation": 7})]  # 6, 10
    found = comparison.against({"ours": ours, "theirs": theirs}, LABELS)
    assert found["recipe"].tolist() == ["ours", "theirs"] and found["runs"].tolist() == [2, 1]
    assert found["validation"].tolist() == [54, 7]
    assert found[["mae", "lowest", "highest", "difference"]].to_numpy().tolist() == [[4, 3, 5, 0], [8, 8, 8, 4]]
    assert found.loc[0, ["low", "high"]].tolist() == [0, 0]
    paired = confidence_interval(np.where(np.arange(20) < 10, 2.0, 6.0), clusters=LABELS["cluster"])
    assert found.loc[1, ["low", "high"]].tolist() == pytest.approx(paired[1:])
    shuffled = theirs[0].predictions.sample(frac=1, random_state=0).reset_index(drop=True)
    other = Record("x", theirs[0].facts, {"predictions": shuffled})
    again = comparison.against({"ours": ours, "theirs": [other]}, LABELS)
    pd.testing.assert_frame_equal(again, found)
    fewer = Record("x", theirs[0].facts, {"predictions": shuffled.iloc[1:]})
    with pytest.raises(ValueError, match="theirs: its test pictures are not those of ours"):
        comparison.against({"ours": ours, "theirs": [fewer, theirs[0]]}, LABELS)
