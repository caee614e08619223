"""The decoding is chosen on validation, by hand where it can be, and goes with the weights."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from agehelpers.config import load_config
from agehelpers.data.bands import age_band, age_prior, balanced_mean
from agehelpers.data.faces import PARTS, SELECTION, prepare_faces
from agehelpers.methods.heads import DistributionHead, RegressionHead
from agehelpers.photos.estimator import Estimator
from agehelpers.training import decoding, runs
from agehelpers.training.checkpoints import load_checkpoint, load_model
from agehelpers.training.decoding import choose_decoding
from agehelpers.training.loop import read_outputs
from agehelpers.training.records import read_record


def test_every_band_counts_once():
    assert balanced_mean([1.0, 3, 10], age_band([5, 5, 75]).codes) == 6
    assert balanced_mean([7.0], age_band([75]).codes) == 7


def test_the_prior_of_an_age_is_the_share_of_its_band():
    """Two of ten pictures between 20 and 29, eight between 40 and 49; the eight other bands count as one picture."""
    found = age_prior([20, 29, *[40] * 7, 49])
    assert len(found) == 101 and max(found) == found[44] and max(found[:35]) == max(found[24:26])
    assert found[3] == pytest.approx(1 / 18, abs=1e-4) and found[100] == pytest.approx(1 / 18, abs=1e-6)
    inside = 0.789  # share of a normal density of 4 years within 5 years of its centre
    assert found[44] == pytest.approx(inside * 8 / 18 + (1 - inside) / 18, abs=0.01)
    assert np.abs(np.diff(found)).max() < 0.05  # no step where a band ends
    old = age_prior([*[75] * 8, *[85] * 2])
    assert old[75] > 2 * old[90]  # the last band is cut at 80


def toy(monkeypatch, head, ages, outputs, training=(20, 20, 20, 80)):
    """A model of `head` alone, and faces of which nothing but ages is known."""
    parts = {"train": pd.DataFrame({"age": training}), "validation": pd.DataFrame({"age": ages})}
    monkeypatch.setattr(decoding, "raw_outputs", lambda model, faces, config: {"validation": outputs}[faces])
    config = load_config("ci")
    return (SimpleNamespace(head=head, config=config),
            SimpleNamespace(part=parts.__getitem__, dataset=lambda part: part, config=config))


def undecided(old: float) -> torch.Tensor:
    """Logits of 1 - old on the age 20 and `old` on 80."""
    p = torch.full((101,), 1e-30)
    p[20], p[80] = 1 - old, old
    return p.log()


def test_the_tau_with_the_lowest_balanced_error_within_the_allowance_is_chosen(monkeypatch):
    """The prior is 20 : 80 = r : 1. Two pictures say 40 % and 30 % old, of an old and of a young person, beside three
    that are sure. From r^tau > 6 / 4 on the first is decoded as old, from 7 / 3 on the second is too."""
    outputs = torch.stack([undecided(share) for share in (0.4, 0.3, 0.0, 0.0, 0.0)])
    model, faces = toy(monkeypatch, DistributionHead(4), [80, 20, 20, 20, 20], outputs)
    prior = age_prior([20, 20, 20, 80])
    r = prior[20] / prior[80]
    first, second = (np.log(odds) / np.log(r) for odds in (6 / 4, 7 / 3))
    found = choose_decoding(model, faces, 0.05)
    assert first < found["tau"] < second and model.head.tau == found["tau"] and list(model.head.prior) == prior
    # bin 20 has 0.6: the median lies at 0.5 / 0.6 of its year, that of the second at 0.5 / 0.7
    errors = [80 - (19.5 + 0.5 / 0.6), 19.5 + 0.5 / 0.7 - 20, 0, 0, 0]
    assert found["plain_mae"] == pytest.approx(sum(errors) / 5, abs=1e-3)
    assert found["plain_balanced_mae"] == pytest.approx((errors[0] + errors[1] / 4) / 2, abs=1e-3)
    assert found["mae"] < 1 and found["balanced_mae"] < 1
    table = read_outputs(model.head, outputs)
    assert table["prediction"][0] == pytest.approx(80, abs=1)
    assert table["plain"][0] == pytest.approx(19.5 + 5 / 6, abs=1e-4)


@pytest.mark.parametrize(("within", "mae", "balanced_mae"), [(0.05, 10, 30), (60, 20, 12)])
def test_what_costs_more_plain_error_than_allowed_is_not_chosen(monkeypatch, within, mae, balanced_mae):
    """An old person and two young ones are as undecided, three young are sure: 60 / 6 years off, else 2 * 60 / 6."""
    outputs = torch.stack([undecided(share) for share in (0.4, 0.4, 0.4, 0.0, 0.0, 0.0)])
    model, faces = toy(monkeypatch, DistributionHead(4), [80, *[20] * 5], outputs)
    found = choose_decoding(model, faces, within)
    assert found["mae"] == pytest.approx(mae, abs=0.5) and found["plain_mae"] == pytest.approx(10, abs=0.5)
    assert found["balanced_mae"] == pytest.approx(balanced_mae, abs=0.5)


def test_a_head_without_distribution_is_left_alone(monkeypatch):
    model, faces = toy(monkeypatch, RegressionHead(4), [80, 20], torch.tensor([[70.0], [20.0]]))
    found = choose_decoding(model, faces, 0.05)
    assert found == {"tau": 0, "mae": 5, "balanced_mae": 5, "plain_mae": 5, "plain_balanced_mae": 5}
    assert list(read_outputs(model.head, torch.tensor([[70.0]]))) == ["prediction"]


PRIOR = [0.4 if age < 40 else 0.1 for age in range(101)]  # helps a hardly trained network, and so a test


@pytest.fixture(scope="module")
def balancing(quick):
    """Settings that differ in the decoding alone, which may cost what it likes."""
    return dataclasses.replace(quick, balance_within=100.0)


@pytest.fixture(scope="module")
def balanced(balancing, tmp_path_factory):
    """Folder of the finished run with them."""
    base = tmp_path_factory.mktemp("balanced")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGEHELPERS_CACHE", str(base / "cache"))
        patch.setattr(decoding, "age_prior", lambda ages: PRIOR)
        runs.run(balancing, base / "run")
    return base / "run"


def test_a_run_predicts_by_the_decoding_that_it_chose_and_keeps_the_plain_one(trained, balanced):
    plain, record = read_record(trained), read_record(balanced)
    facts, table = record.facts["decoding"], record.predictions
    assert facts["tau"] > 0 and "decoding" not in plain.facts and "plain" not in plain.predictions
    assert table["plain"].equals(plain.predictions["prediction"])  # the same training
    assert not table["plain"].equals(table["prediction"])
    validation = record.part("validation")
    for column, name in (("prediction", ""), ("plain", "plain_")):
        error, bands = (validation[column] - validation["age"]).abs(), age_band(validation["age"]).codes
        assert facts[f"{name}mae"] == pytest.approx(error.mean(), abs=6e-4)
        assert facts[f"{name}balanced_mae"] == pytest.approx(balanced_mean(error, bands), abs=6e-4)
    assert facts["balanced_mae"] < facts["plain_balanced_mae"]
    assert record.facts["mae"]["validation"] == facts["mae"]
    assert record.facts["balanced_mae"]["validation"] == facts["balanced_mae"]
    assert plain.facts["balanced_mae"]["validation"] == facts["plain_balanced_mae"]
    assert record.facts["intervals"] != plain.facts["intervals"]


def test_the_decoding_goes_with_the_weights(balancing, trained, balanced, faces):
    (plain, before), (tensors, state) = (load_checkpoint(run / "best.safetensors") for run in (trained, balanced))
    assert all(torch.equal(tensors[key], plain[key]) for key in plain) and tensors.keys() == plain.keys()
    assert "decoding" not in before and state["decoding"]["prior"] == PRIOR
    record = read_record(balanced)
    assert state["decoding"]["tau"] == record.facts["decoding"]["tau"]
    model, whole = load_model(balanced / "best.safetensors"), prepare_faces(balancing)
    again = pd.concat([runs.predictions_of(model, whole, part) for part in PARTS], ignore_index=True)
    pd.testing.assert_frame_equal(again, record.predictions[list(again)], check_exact=True)
    test = record.part("test")
    found = Estimator(balanced / "best.safetensors")([faces / name for name in test["name"]], cropped=True)
    assert "plain" not in found  # a person has one age
    assert np.abs(found["prediction"].to_numpy() - test["prediction"].to_numpy()).max() < 0.0511


def test_the_choice_is_made_before_a_test_picture_is_at_hand(balancing, balanced, tmp_path, spoil_test, monkeypatch):
    spoil_test(balancing)
    parts, choose = [], runs.choose_decoding
    monkeypatch.setattr(decoding, "age_prior", lambda ages: PRIOR)
    monkeypatch.setattr(runs, "choose_decoding", lambda model, faces, within: parts.extend(
        faces.table["part"].unique()) or choose(model, faces, within))
    first, second = read_record(balanced), runs.run(balancing, tmp_path / "run")
    assert set(parts) == set(SELECTION)
    assert second.facts["decoding"] == first.facts["decoding"]
    states = [load_checkpoint(folder / "best.safetensors")[1] for folder in (balanced, tmp_path / "run")]
    assert states[0] == states[1]
    assert second.facts["mae"]["test"] != first.facts["mae"]["test"]


def test_a_run_that_dies_with_its_decoding_chosen_makes_the_same_record(balancing, balanced, tmp_path, monkeypatch):
    def die(*given):
        raise OSError("no space left on device")

    monkeypatch.setattr(decoding, "age_prior", lambda ages: PRIOR)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(runs, "write_record", die)
        runs.run(balancing, tmp_path / "run")
    assert "decoding" in load_checkpoint(tmp_path / "run" / "best.safetensors")[1]
    runs.run(balancing, tmp_path / "run", resume=True)
    for name in ("best.safetensors", "predictions.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (balanced / name).read_bytes(), name
