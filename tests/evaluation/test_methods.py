"""Methods side by side: errors by seed, pairs with the noise of pictures and of seeds."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from agehelpers.evaluation.methods import method_errors, pairwise, summary

N = 400
LABELS = pd.DataFrame({"name": [f"{n}.jpg" for n in range(N)], "cluster": np.arange(N)})


def made(offsets: dict[str, float], seeds: int = 3, noise: float = 0.02) -> pd.DataFrame:
    """Predictions too high by about 5 years plus the offset; the seeds of a method lie about `noise` apart."""
    rng = np.random.default_rng(0)
    ages = rng.integers(20, 60, N)
    shared = rng.normal(0, 1, N)
    return pd.DataFrame({"name": LABELS["name"], "age": ages} | {
        f"{name}, {seed}": ages + 5 + offset + shared + rng.normal(0, 0.3, N) + rng.normal(0, noise)
        for name, offset in offsets.items() for seed in range(seeds)})


def test_errors_of_a_method_by_hand():
    table = pd.DataFrame({"name": ["a", "b"], "age": [20, 30], "one, two, 0": [21.0, 27], "one, two, 1": [19.0, 30]})
    assert {name: error.tolist() for name, error in method_errors(table).items()} == {"one, two": [[1, 3], [1, 0]]}


def test_the_summary_of_methods_by_hand():
    tests = pd.DataFrame({"name": LABELS["name"], "age": [20] * 300 + [75] * 100} | {
        f"one, {seed}": [22.0 + seed] * 300 + [65.0 - seed] * 100 for seed in range(2)} | {"two, 0": [20.0] * N})
    two, one = summary(tests.assign(**{"two, 0": tests["age"] + 1.0}), LABELS).to_dict("records")
    assert (two["method"], two["seeds"], two["mae"], two["cs5"], one["seeds"]) == ("two", 1, 1.0, 1.0, 2)
    assert one["mae"] == pytest.approx(0.75 * 2.5 + 0.25 * 10.5) and one["balanced_mae"] == pytest.approx(6.5)
    assert (one["lowest"], one["highest"], one["cs5"]) == (0.75 * 2 + 0.25 * 10, 0.75 * 3 + 0.25 * 11, 0.75)
    assert one["low"] < one["mae"] < one["high"] and two["low"] == two["high"] == 1


def test_a_large_difference_is_found_and_a_small_one_is_not():
    found = pairwise(made({"a": 0, "b": 0.01, "c": 1.0}), LABELS)
    pairs = found.set_index(["better", "worse"])
    assert set(pairs.index) >= {("a", "c")} and len(found) == 3 and found["difference"].is_monotonic_decreasing
    assert pairs.loc[("a", "c"), "difference"] == pytest.approx(1, abs=0.08) and pairs.loc[("a", "c"), "q"] < 0.01
    small = found.iloc[-1]
    assert {small["better"], small["worse"]} == {"a", "b"} and small["q"] > 0.05 and (found["q"] >= found["p"]).all()
    freedom = 2  # 37 % of 3 methods with 2 each
    power = stats.t.isf(0.05 * 2 / 5.5 / 2, freedom) + stats.t.ppf(0.8, freedom)  # 2 of 3: 0.05 * 2 / (3 + 3/2 + 3/3)
    assert (found["q"] < 0.05).sum() == 2 and found.attrs["detectable"] == pytest.approx(power * found["se"].median())
    same = pairwise(made({"a": 0, "b": 0, "c": 0}, noise=0.3), LABELS)
    power = stats.t.isf(0.05 / 5.5 / 2, freedom) + stats.t.ppf(0.8, freedom)  # none is found yet
    assert (same["q"] > 0.05).all() and same.attrs["detectable"] == pytest.approx(power * same["se"].median())
    one = pairwise(made({"a": 0, "b": 1.0}, seeds=1), LABELS)
    assert one["p"].item() < 1e-6 and one.attrs["detectable"] == pytest.approx(2.80 * one["se"].item(), abs=0.01)


def test_noisy_seeds_and_copies_widen_the_standard_error():
    calm, wild = (pairwise(made({"a": 0, "b": 0.1, "c": 0.2}, noise=noise), LABELS) for noise in (0.01, 0.5))
    assert wild["se"].min() > 3 * calm["se"].max()
    tests = made({"a": 0, "b": 0.1}, seeds=1)  # no noise of seeds is known
    copies = pd.concat([tests.iloc[:40]] * 9).assign(name=[f"{n}.jpg" for n in range(360)])
    alone = pairwise(copies, LABELS)["se"].item()
    together = pairwise(copies, LABELS.assign(cluster=LABELS["cluster"] % 40))["se"].item()
    assert together > 2 * alone
