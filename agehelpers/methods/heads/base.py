"""Heads: from features of a picture to an age in years.

A head is a module from features [B, C] to raw outputs [B, K] that knows what they mean:

- ``loss(outputs, ages)``: the loss of each picture, [B], by default the absolute error of ``ages``;
- ``ages(outputs)``: predictions in years, [B], by default read from the distribution, or else the single output;
- ``distribution(outputs)``: probabilities of the ages 0, 1, ..., 100, [B, 101], or None where it has none; ages and
  spread follow from it, once `adjust` has been called for rare ages too (`training.decoding`);
- ``start_at(ages)``: set the biases so that the untrained head predicts what the training ages suggest;
- ``count_ages(ages)``: take from the training ages what the loss needs, such as how rare an age is.

Its constructor takes the width C and, by name, the settings of `Config` that it uses. To add one, write the class, put
it into `HEADS`, and give it a row in `METHODS` (docs/adding_a_method.md).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agehelpers.data.bands import MAX_AGE


class Head(nn.Module):
    """What all heads share: no distribution, hence no spread, and no opinion about where to start."""

    decode: str = "median"  # or "mean", of heads that predict a distribution
    references: int = 0  # number of training faces that it compares with, if any
    tau: float = 0.0  # strength of the adjustment, and what it divides by; not among the weights
    prior: tuple[float, ...] = ()

    def adjust(self, tau: float, prior: Sequence[float]) -> None:
        """From now on ages and spread are read from p / prior^tau, renormalised; `prior` [101], positive; 0 undoes it.

        This is the logit adjustment of a trained model (Menon et al., ICLR 2021, arXiv 2007.07314). The median then
        has the least expected absolute error, were the error at each age weighed by prior^-tau.
        """
        if len(prior) != MAX_AGE + 1 or min(prior) <= 0 or tau < 0:
            raise ValueError(f"an adjustment needs tau >= 0 and {MAX_AGE + 1} positive numbers")
        self.tau, self.prior = float(tau), tuple(map(float, prior))

    def loss(self, outputs: Tensor, ages: Tensor) -> Tensor:
        """Absolute error of `ages`, [B]."""
        predicted = self.ages(outputs)
        check_outputs(outputs, outputs.shape[1], ages)
        return F.l1_loss(predicted, ages, reduction="none")

    def ages(self, outputs: Tensor) -> Tensor:
        """Predictions in years, [B]: `age_of` the adjusted distribution, or the output itself where there is none."""
        p = self.adjusted(outputs)
        if p is None:
            check_outputs(outputs, 1)
            return outputs[:, 0]
        return self.age_of(p)

    def age_of(self, p: Tensor) -> Tensor:
        """Of distributions [B, 101] the median or the mean, as `decode` says, in years [B]."""
        return (p * _bins(p)).sum(1) if self.decode == "mean" else median_age(p)

    def distribution(self, outputs: Tensor) -> Tensor | None:
        """Probabilities of the ages 0 to 100, [B, 101], or None."""
        return None

    def adjusted(self, outputs: Tensor) -> Tensor | None:
        """The distribution after `adjust`, [B, 101]; as it is without one."""
        p = self.distribution(outputs)
        if p is None or self.tau == 0:
            return p
        prior = p.new_tensor(self.prior)
        p = p * (prior.min() / prior) ** self.tau
        return p / p.sum(1, keepdim=True)

    def spread(self, outputs: Tensor) -> Tensor | None:
        """Standard deviation of the adjusted distribution in years, [B], or None."""
        p = self.adjusted(outputs)
        if p is None:
            return None
        mean = (p * _bins(p)).sum(1, keepdim=True)
        return (p * (_bins(p) - mean) ** 2).sum(1).sqrt()

    def start_at(self, ages: Tensor) -> None:
        """Set the biases from the training ages [N]; nothing by default."""

    def count_ages(self, ages: Tensor) -> None:
        """Take from the training ages [N] what the loss needs; nothing by default."""

    def refer(self, features: Tensor, ages: Tensor) -> None:
        """Take the features [M, C] and ages [M] of the reference faces; nothing by default."""


def _bins(p: Tensor) -> Tensor:
    """The ages 0, 1, ..., K - 1 of distributions [B, K]."""
    return torch.arange(p.shape[1], dtype=p.dtype, device=p.device)


def check_outputs(outputs: Tensor, width: int, ages: Tensor | None = None) -> None:
    """ValueError unless `outputs` are [B, width], and `ages`, where given, [B]."""
    if outputs.ndim != 2 or outputs.shape[1] != width:
        raise ValueError(f"expected outputs of shape [B, {width}], got {list(outputs.shape)}")
    if ages is not None and ages.shape != outputs.shape[:1]:
        raise ValueError(f"expected ages of shape [{outputs.shape[0]}], got {list(ages.shape)}")


class RegressionHead(Head, nn.Linear):
    """One linear output, the age in years; loss, as `regression_loss` says: "l1", the absolute error; "l2", half of the
    squared error; "huber", half of the squared error up to `HUBER` years, from there on straight (Huber, 1964).

    Examples
    --------
    >>> RegressionHead(4).loss(torch.tensor([[20.0], [31.0]]), torch.tensor([25.0, 30.0])).tolist()
    [5.0, 1.0]
    """

    HUBER = 5.0

    def __init__(self, features: int, regression_loss: str = "l1") -> None:
        super().__init__(features, 1)
        self.regression_loss = regression_loss

    def loss(self, outputs: Tensor, ages: Tensor) -> Tensor:
        """Of |output - age|, [B]."""
        if self.regression_loss == "l1":
            return super().loss(outputs, ages)
        check_outputs(outputs, 1, ages)
        delta = self.HUBER if self.regression_loss == "huber" else 1e9
        return F.huber_loss(outputs[:, 0], ages, reduction="none", delta=delta)

    def start_at(self, ages: Tensor) -> None:
        """The untrained prediction is near the median, the constant with the least absolute error."""
        with torch.no_grad():
            self.bias.fill_(ages.median())


def median_age(p: Tensor) -> Tensor:
    """Median [B] of distributions [B, K], each bin k spread evenly over k - 0.5 to k + 0.5; at least 0, at most K - 1.

    Examples
    --------
    >>> median_age(torch.tensor([[0.25, 0.5, 0.25], [0.0, 1.0, 0.0]])).tolist()
    [1.0, 1.0]
    """
    last = p.shape[1] - 1
    total = p.cumsum(1)
    k = (total < 0.5).sum(1, keepdim=True).clamp(max=last)
    p_k = p.gather(1, k)
    below = total.gather(1, k) - p_k
    inside = ((0.5 - below) / p_k.clamp(min=1e-12)).clamp(0, 1)
    return (k - 0.5 + inside)[:, 0].clamp(0, last)
