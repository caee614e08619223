"""The ablation: each row once a seed, resumed, compared with the base on validation faces only."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from agehelpers.config import load_config
from agehelpers.data.bands import age_band
from agehelpers.evaluation.bootstrap import seed_noise
from tools import ablation
from tools.ablation import Table

ROWS = {"base": {}, "slower": {"lr": 0.001}}
TABLE = Table(ROWS)


@pytest.fixture
def config(faces, monkeypatch):
    monkeypatch.setattr(ablation, "BASE", {"epochs": 1, "image_size": 16, "batch_size": 16})
    return load_config("ci", {"faces": str(faces)})


def measured(errors: dict[tuple[str, int], list[float]], clusters: list[int]) -> pd.DataFrame:
    return pd.DataFrame([
        {"row": row, "seed": seed, "epochs": 1, "seconds": 60.0, "val_cs5": float(np.mean(np.abs(error) <= 5)),
         "errors": pd.DataFrame({"cluster": clusters, "plain": np.abs(error), "balanced": 2 * np.abs(error)})}
        for (row, seed), error in errors.items()])


def test_rows_and_seeds_are_trained_once_and_a_second_call_trains_nothing(config, tmp_path, monkeypatch):
    effects = ablation.ablate(config, tmp_path / "record", TABLE, workers=1)
    assert effects["row"].tolist() == ["base", "decoding: mean", "no averaging over the mirror image", "slower"]
    assert effects["runs"].tolist() == [2] * 4 and effects.loc[0, "difference"] == 0
    table = pd.read_csv(tmp_path / "record" / "runs.csv")
    assert len(table) == 8 and table.loc[table["row"] == "slower", "seed"].tolist() == [0, 1]
    assert [folder.name for folder in tmp_path.glob("*/")] == ["record"]  # checkpoints of finished rows are gone
    monkeypatch.setattr(ablation, "train_faces", None)  # calling it would fail
    for name, change in ROWS.items():
        setting = ablation.dataclasses.replace(TABLE.budgeted(config), **change)
        found = ablation.train_row(setting, tmp_path, name)
        predictions = pd.read_csv(found["file"]).query("row == @name")
        row = table[(table["row"] == name) & (table["seed"] == 0)].iloc[0]
        assert (predictions["plain"] - predictions["age"]).abs().mean() == pytest.approx(row["val_mae"], abs=1e-3)
        balanced = (predictions["balanced"] - predictions["age"]).abs()
        by_band = balanced.groupby(age_band(predictions["age"]), observed=True).mean()
        assert by_band.mean() == pytest.approx(row["balanced_mae"], abs=1e-3)


def test_no_test_picture_is_at_hand(config, tmp_path, monkeypatch):
    parts = []
    prepare = ablation.prepare_faces

    def watched(*given):
        faces = prepare(*given)
        parts.append(faces.table["part"])
        return faces

    monkeypatch.setattr(ablation, "prepare_faces", watched)
    ablation.train_row(TABLE.budgeted(config), tmp_path, "base")
    assert [set(part) for part in parts] == [{"train", "validation"}]


def test_differences_and_intervals_against_values_derived_by_hand():
    # Two pictures, one cluster each, |error| 4 and 6 in the base; the row is 1 and 3 better: difference -2.
    table = measured({("base", 0): [4.0, -6.0], ("base", 1): [4.0, -6.0], ("row", 0): [3.0, 3.0],
                      ("row", 1): [3.0, 3.0]}, [0, 1])
    effects = ablation.compare(table).set_index("row")
    assert effects.loc["row", ["val_mae", "difference", "seed_sd"]].tolist() == [3.0, -2.0, 0.0]
    # The bootstrap of (-1, -3) ends at -3 and -1: half-width 1, no seed variance.
    assert effects.loc["row", ["low", "high"]].tolist() == pytest.approx([-3.0, -1.0])
    # The decoding for rare ages has errors twice as large here, weights included.
    assert effects.loc["row", ["balanced_mae", "balanced_difference"]].tolist() == [6.0, -4.0]
    assert effects.loc["row", ["balanced_low", "balanced_high"]].tolist() == pytest.approx([-6.0, -2.0])
    assert effects.loc["base", ["difference", "low", "high", "val_cs5"]].tolist() == [0.0, 0.0, 0.0, 0.5]


def test_one_restless_row_does_not_widen_all_intervals():
    calm = {(row, seed): [5 + 0.1 * seed] * 2 for row in ("base", "a", "b", "c") for seed in (0, 1)}
    calm = ablation.compare(measured(calm | {("restless", seed): [5 + 0.1 * seed] * 2 for seed in (0, 1)}, [0, 1]))
    wild = {(row, seed): [5 + (9.0 if row == "restless" else 0.1) * seed] * 2
            for row in ("base", "a", "b", "c", "restless") for seed in (0, 1)}
    wild = ablation.compare(measured(wild, [0, 1]))
    assert wild["seed_sd"].tolist() == calm["seed_sd"].tolist() == pytest.approx([0.05 * 2**0.5 / 0.6745] * 5, abs=1e-4)


def test_the_noise_of_seeds_of_normal_numbers():
    rng = np.random.default_rng(0)
    for seeds in (2, 5):
        assert seed_noise(list(rng.normal(0, 3, (4000, seeds))))[0] == pytest.approx(3, rel=0.05)
    assert seed_noise(list(rng.normal(0, 3, (20, 2))))[1] == 7  # 37 % of 20


def test_seeds_widen_the_interval_and_copies_are_resampled_together():
    # Seeds of the row lie 1 apart around the base's, whose own do not differ: half of the deviations (scaled by the
    # root of 2) are 0.7071, half 0, their median 0.3536; one degree of freedom.
    table = measured({("base", 0): [5.0, 5.0], ("base", 1): [5.0, 5.0], ("row", 0): [5.5, 5.5],
                      ("row", 1): [4.5, 4.5]}, [0, 1])
    row = ablation.compare(table).set_index("row").loc["row"]
    noise = 0.3536 / 0.6745
    assert row["seed_sd"] == pytest.approx(noise, abs=1e-4)
    student = 12.706  # 97.5 % quantile of Student's distribution with one degree of freedom
    assert row["high"] == pytest.approx(student * noise * (1 / 2 + 1 / 2) ** 0.5, abs=1e-2)
    assert row["difference"] == 0
    rng = np.random.default_rng(0)
    base, other = rng.normal(0, 5, 40), rng.normal(0, 5, 40)
    twice = {(row, seed): np.repeat(error, 9) for row, error in (("base", base), ("row", other)) for seed in (0, 1)}
    alone = ablation.compare(measured(twice, list(range(360)))).set_index("row").loc["row"]
    copies = ablation.compare(measured(twice, list(np.repeat(range(40), 9)))).set_index("row").loc["row"]
    # Nine copies of each picture are one piece of evidence: the interval is the root of nine times as wide.
    assert (copies["high"] - copies["low"]) / (alone["high"] - alone["low"]) == pytest.approx(3, rel=0.15)
    single = ablation.compare(measured({key: twice[key] for key in twice if key[1] == 0}, list(range(360))))
    assert np.isnan(single.set_index("row").loc["row", "low"])  # one seed says nothing about seeds


def test_readings_of_the_same_networks_are_paired_by_seed():
    # The reading is worse by exactly 1 with either seed, though the seeds themselves lie 4 apart: no seed variance.
    table = measured({("base", 0): [2.0, 2.0], ("base", 1): [6.0, 6.0], ("decoding: mean", 0): [3.0, 3.0],
                      ("decoding: mean", 1): [7.0, 7.0]}, [0, 1])
    row = ablation.compare(table).set_index("row").loc["decoding: mean"]
    assert row[["difference", "low", "high"]].tolist() == [1.0, 1.0, 1.0]
    assert row["val_cs5"] == 0.5  # the share of predictions within five years, a half of them


def test_a_diverging_row_stops_no_other(config, tmp_path, monkeypatch):
    # threads for processes: the other test starts a real one
    monkeypatch.setattr(ablation, "ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(workers))
    effects = ablation.ablate(config, tmp_path / "record", Table({"base": {}, "wild": {"lr": 1e30}}), workers=1)
    assert "wild" not in set(effects["row"]) and "base" in set(effects["row"])
    assert ablation.json.loads((tmp_path / "record" / "config.json").read_text())["diverged"] == ["wild", "wild"]


def test_every_row_is_a_valid_setting_and_differs_from_the_base():
    for table in ablation.TABLES.values():
        base, rows = table.budgeted(load_config("laptop")), table.rows
        assert rows["base"] == {} and len(rows) <= 8
        changed = [ablation.dataclasses.replace(base, **change) for name, change in rows.items() if name != "base"]
        assert base not in changed and all(a != b for a, b in itertools.combinations(changed, 2))
        assert set().union(*rows.values()) <= set(ablation.BASE)  # or the base would move with the profile
    assert set().union(*ablation.DECODINGS.values()) <= set(ablation.BASE)
