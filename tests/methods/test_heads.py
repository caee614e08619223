"""Heads against values derived by hand."""

import inspect
import math

import pytest
import torch

from agehelpers.config import Config, load_config
from agehelpers.data.bands import MAX_AGE, age_prior
from agehelpers.methods import heads
from agehelpers.methods.heads import HEADS, DistributionHead, Head, RegressionHead, build_head, median_age
from agehelpers.methods.model import build_model


def outputs_for(probabilities: dict[int, float]) -> torch.Tensor:
    """Logits [1, 101] of a distribution given by its masses."""
    p = torch.full((MAX_AGE + 1,), 1e-30)
    for age, mass in probabilities.items():
        p[age] = mass
    return p.log()[None]


def test_regression_is_the_absolute_error():
    head = RegressionHead(4)
    outputs = torch.tensor([[30.0], [20.0]])
    assert head.loss(outputs, torch.tensor([27.5, 26.0])).tolist() == [2.5, 6.0]
    assert head.ages(outputs).tolist() == [30.0, 20.0]
    assert head.distribution(outputs) is None and head.spread(outputs) is None


def test_median_and_mean_of_a_two_sided_distribution():
    # 0.6 on 20 and 0.4 on 80: the mean is 44, the median lies 0.5/0.6 of the way through the bin 19.5 to 20.5.
    outputs = outputs_for({20: 0.6, 80: 0.4})
    assert DistributionHead(4, decode="mean").ages(outputs).item() == pytest.approx(44, abs=1e-3)
    assert DistributionHead(4, decode="median").ages(outputs).item() == pytest.approx(19.5 + 0.5 / 0.6, abs=1e-3)
    assert DistributionHead(4).spread(outputs).item() == pytest.approx(60 * math.sqrt(0.24), abs=1e-2)


def test_median_of_a_single_bin_is_its_centre_also_at_the_ends():
    head = DistributionHead(4)
    for age in (1, 50, 99):
        assert head.ages(outputs_for({age: 1.0})).item() == pytest.approx(age, abs=1e-3)
    assert head.ages(outputs_for({0: 1.0})).item() == 0
    assert head.ages(outputs_for({MAX_AGE: 1.0})).item() == pytest.approx(MAX_AGE, abs=1e-3)
    assert median_age(torch.tensor([[0.0, 0.5, 0.0, 0.5]])).item() == 1.5  # all of bin 1 is below


def test_a_distribution_sums_to_1_and_spread_follows_from_it():
    head, outputs = DistributionHead(4), torch.randn(6, MAX_AGE + 1, generator=torch.Generator().manual_seed(0)) * 4
    p = head.distribution(outputs)
    assert p.shape == (6, 101) and (p >= 0).all() and p.sum(1).tolist() == pytest.approx([1.0] * 6, abs=1e-6)
    bins = torch.arange(101.0)
    mean = (p * bins).sum(1)
    assert head.spread(outputs).tolist() == pytest.approx(((p * bins**2).sum(1) - mean**2).sqrt().tolist(), rel=1e-3)
    assert torch.equal(DistributionHead(4, decode="mean").ages(outputs), mean)
    assert torch.equal(head.ages(outputs), median_age(p))

    class Certain(Head):
        """A head that only says what its distribution is has a spread."""

        def distribution(self, outputs):
            return torch.eye(101)[:1] / 2 + torch.eye(101)[40:41] / 2

    assert Certain().spread(outputs).item() == 20


PRIOR = [0.4 if age < 30 else 0.1 for age in range(MAX_AGE + 1)]


def test_an_adjustment_divides_by_the_prior():
    """By 0.4 and 0.1, so 0.5, 0.3, 0.2 become 0.125, 0.3, 0.2 of 0.625: 0.2, 0.48, 0.32. For tau = 0.5 by the roots."""
    outputs, head = outputs_for({20: 0.5, 40: 0.3, 80: 0.2}), DistributionHead(4)
    head.adjust(1, PRIOR)
    assert head.adjusted(outputs)[0, [20, 40, 80]].tolist() == pytest.approx([0.2, 0.48, 0.32])
    assert head.ages(outputs).item() == pytest.approx(39.5 + 0.3 / 0.48, abs=1e-4)
    spread = math.sqrt(0.2 * 28.8**2 + 0.48 * 8.8**2 + 0.32 * 31.2**2)
    assert head.spread(outputs).item() == pytest.approx(spread, abs=1e-3)
    assert head.distribution(outputs)[0, 20].item() == pytest.approx(0.5)  # training goes by what it was
    assert head.age_of(head.distribution(outputs)).item() == pytest.approx(20.5, abs=1e-4)
    head.decode = "mean"
    assert head.ages(outputs).item() == pytest.approx(0.2 * 20 + 0.48 * 40 + 0.32 * 80, abs=1e-3)
    head.adjust(0.5, PRIOR)
    assert head.adjusted(outputs)[0, 20].item() == pytest.approx(0.25 / 0.75)


def test_an_adjustment_changes_no_loss_and_no_weight_and_can_be_undone():
    outputs, ages = torch.randn(6, MAX_AGE + 1, generator=torch.Generator().manual_seed(0)) * 4, torch.arange(6.0)
    plain, head = DistributionHead(4), DistributionHead(4)
    head.adjust(1, PRIOR)
    assert torch.equal(head.loss(outputs, ages), plain.loss(outputs, ages)) and list(head.state_dict()) == [
        "weight", "bias"]
    assert not torch.equal(head.ages(outputs), plain.ages(outputs))
    assert (head.ages(outputs) >= plain.ages(outputs)).all()  # the young were common
    head.adjust(0, PRIOR)
    assert torch.equal(head.ages(outputs), plain.ages(outputs))
    assert torch.equal(head.spread(outputs), plain.spread(outputs))
    line = RegressionHead(4)
    line.adjust(1, PRIOR)
    assert line.ages(torch.tensor([[30.0]])).tolist() == [30]


@pytest.mark.parametrize(("tau", "prior"), [(-0.1, PRIOR), (1, PRIOR[1:]), (1, [0.0, *PRIOR[1:]])])
def test_an_adjustment_that_is_none_is_refused(tau, prior):
    with pytest.raises(ValueError, match="an adjustment needs tau >= 0 and 101 positive numbers"):
        DistributionHead(4).adjust(tau, prior)


def test_soft_labels_are_a_normal_density_and_older_people_are_clipped():
    labels = DistributionHead(4, sigma=2.0).soft_labels(torch.tensor([30.0, 116.0]))
    assert labels.sum(1).tolist() == pytest.approx([1, 1])
    assert (labels[0, 32] / labels[0, 30]).item() == pytest.approx(math.exp(-0.5))
    assert labels[1].argmax().item() == MAX_AGE


def test_distribution_loss_of_an_undecided_head():
    head = DistributionHead(4, sigma=2.0, l1_weight=0.1)
    loss = head.loss(torch.zeros(1, 101), torch.tensor([30.0]))
    assert loss.item() == pytest.approx(math.log(101) + 0.1 * 20, abs=1e-4)  # the mean of 0..100 is 50


def test_the_right_prediction_has_the_least_loss():
    head = DistributionHead(4)
    losses = [head.loss(torch.log(head.soft_labels(torch.tensor([guess])) + 1e-9), torch.tensor([40.0])).item()
              for guess in (20.0, 36.0, 40.0, 44.0, 60.0)]
    assert losses.index(min(losses)) == 2


@pytest.mark.parametrize("head", [RegressionHead(4), DistributionHead(4)])
def test_wrong_shapes_are_named(head):
    with pytest.raises(ValueError, match="expected outputs of shape"):
        head.loss(torch.zeros(3, 7), torch.zeros(3))
    with pytest.raises(ValueError, match="expected outputs of shape"):
        head.ages(torch.zeros(3, 7))
    with pytest.raises(ValueError, match="expected ages of shape"):
        head.loss(torch.zeros(3, head.out_features), torch.zeros(2))


def test_a_head_takes_the_settings_that_its_constructor_names(monkeypatch):
    head = build_head(load_config("ci", {"sigma": 1.5, "l1_weight": 0.7, "decode": "mean"}), 8)
    assert isinstance(head, DistributionHead) and head.in_features == 8
    assert (head.sigma, head.l1_weight, head.decode) == (1.5, 0.7, "mean")
    assert isinstance(build_head(load_config("ci", {"head": "regression"}), 8), RegressionHead)

    class Mine(RegressionHead):
        def __init__(self, features: int, epochs: int, flip: bool) -> None:
            super().__init__(features)
            self.named = epochs, flip

    monkeypatch.setitem(heads.HEADS, "mine", Mine)
    assert build_head(load_config("ci", {"head": "mine", "epochs": 7, "flip": False}), 8).named == (7, False)
    with pytest.raises(ValueError, match="head='softmax': choose one of regression, distribution, mean_"):
        build_head(load_config("ci", {"head": "softmax"}), 8)


@pytest.mark.parametrize("kind", HEADS)
def test_every_option_of_a_head_is_a_setting(kind):
    options = set(inspect.signature(HEADS[kind]).parameters) - {"features"}
    assert options <= set(Config.__pydantic_fields__)  # type: ignore[attr-defined]


RARE = torch.tensor([25.0] * 90 + [75.0] * 10)


def test_rare_ages_weigh_more_in_training_and_nowhere_else():
    head, plain = DistributionHead(4, reweight=0.5), DistributionHead(4)
    head.count_ages(RARE)
    outputs, ages = torch.randn(2, 101, generator=torch.Generator().manual_seed(0)), torch.tensor([25.0, 75.0])
    weights = head.train().loss(outputs, ages) / plain.loss(outputs, ages)
    prior = torch.tensor(age_prior(RARE.numpy()))
    assert (weights[1] / weights[0]).item() == pytest.approx((prior[25] / prior[75]).item() ** 0.5, rel=1e-4)
    assert (0.9 * weights[0] + 0.1 * weights[1]).item() == pytest.approx(1, rel=1e-4)  # over the training pictures
    assert torch.equal(head.eval().loss(outputs, ages), plain.loss(outputs, ages))
    head.reweight = 5.0
    head.count_ages(RARE)
    assert head.weight_of.max() == 10  # one rare picture does not make up a step
    assert "log_prior" not in head.state_dict() and "weight_of" not in head.state_dict()


def test_balanced_softmax_adds_the_shares_of_bands_in_training_only():
    head, plain = DistributionHead(4, balanced_softmax=0.5), DistributionHead(4)
    head.count_ages(RARE)
    outputs, ages = torch.randn(2, 101, generator=torch.Generator().manual_seed(0)), torch.tensor([25.0, 75.0])
    shifted = outputs + 0.5 * torch.tensor(age_prior(RARE.numpy())).log()
    assert torch.allclose(head.train().loss(outputs, ages), plain.loss(shifted, ages))
    assert torch.equal(head.eval().loss(outputs, ages), plain.loss(outputs, ages))


def test_the_head_of_a_new_model_has_counted_the_training_ages():
    model = build_model(load_config("ci", {"reweight": 1.0}), RARE.numpy())
    assert model.head.weight_of[75] > 5 * model.head.weight_of[25]
    same = build_model(load_config("ci"), RARE.numpy())
    assert torch.equal(same.head.weight_of, torch.ones(101))
