"""Heads: from features of a picture to an age in years.

A head is a module from features [B, C] to raw outputs [B, K] that knows what they mean:

- ``loss(outputs, ages)``: the loss of each picture, [B];
- ``ages(outputs)``: predictions in years, [B];
- ``distribution(outputs)``: probabilities of the ages 0, 1, ..., 100, [B, 101], or None where it has none; ages and
  spread follow from it, once `adjust` has been called for rare ages too (`training.decoding`);
- ``start_at(ages)``: set the biases so that the untrained head predicts what the training ages suggest;
- ``count_ages(ages)``: take from the training ages what the loss needs, such as how rare an age is.

Its constructor takes the width C and, by name, the settings of `Config` that it uses. To add one, write the class, put
it into `HEADS`, and give it a row in `METHODS` (docs/adding_a_method.md).
"""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agehelpers.config import Config
from agehelpers.data.bands import MAX_AGE, age_prior

WEIGHT_CAP = 10.0  # largest weight of a picture in a loss that weighs rare ages more


class Head(nn.Module):
    """What all heads share: no distribution, hence no spread, and no opinion about where to start."""

    decode: str = "median"  # or "mean", of heads that predict a distribution
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
        """Loss of each picture, [B]."""
        raise NotImplementedError

    def ages(self, outputs: Tensor) -> Tensor:
        """Predictions in years, [B]: `age_of` the adjusted distribution."""
        p = self.adjusted(outputs)
        if p is None:
            raise NotImplementedError
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
    """One linear output, the age in years; loss: absolute error (L1).

    Examples
    --------
    >>> RegressionHead(4).loss(torch.tensor([[20.0], [31.0]]), torch.tensor([25.0, 30.0])).tolist()
    [5.0, 1.0]
    """

    def __init__(self, features: int) -> None:
        super().__init__(features, 1)

    def loss(self, outputs: Tensor, ages: Tensor) -> Tensor:
        """|output - age|, [B]."""
        check_outputs(outputs, 1, ages)
        return F.l1_loss(outputs[:, 0], ages, reduction="none")

    def ages(self, outputs: Tensor) -> Tensor:
        """The output itself, [B]."""
        check_outputs(outputs, 1)
        return outputs[:, 0]

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


class DistributionHead(Head, nn.Linear):
    """Logits over the ages 0, 1, ..., 100; loss: cross-entropy with soft labels, plus L1 of the expectation.

    The soft label of an age is a normal density of width `sigma` about it (DLDL, Gao et al., IEEE TIP 2017), the
    added L1 term that of DLDL-v2 (Gao et al., IJCAI 2018). Decoded by the median, which has the least expected
    absolute error, or by the mean (DEX, Rothe et al., ICCV Workshops 2015).

    Parameters
    ----------
    features : int
        Width C of the backbone's features.
    sigma, l1_weight : float
        Width of the soft labels in years; weight of the L1 term.
    decode : str
        "median" or "mean".
    reweight : float
        A picture's loss in training is multiplied by the share of its age band to the power -reweight, scaled to a mean
        of 1 and at most `WEIGHT_CAP` (after label distribution smoothing, Yang et al., ICML 2021, arXiv 2102.09554).
    balanced_softmax : float
        In training so many times the log share of an age's band is added to its logit (balanced softmax, Ren et al.,
        NeurIPS 2020, arXiv 2007.10740, is 1), so that the network itself need not know which ages are common.
    """

    bins: Tensor
    log_prior: Tensor
    weight_of: Tensor

    def __init__(self, features: int, sigma: float = 2.0, l1_weight: float = 0.1, decode: str = "median",
                 reweight: float = 0.0, balanced_softmax: float = 0.0) -> None:
        super().__init__(features, MAX_AGE + 1)
        self.sigma, self.l1_weight, self.decode = sigma, l1_weight, decode
        self.reweight, self.balanced_softmax = reweight, balanced_softmax
        self.register_buffer("bins", torch.arange(MAX_AGE + 1, dtype=torch.float32), persistent=False)
        self.register_buffer("log_prior", torch.zeros(MAX_AGE + 1), persistent=False)
        self.register_buffer("weight_of", torch.ones(MAX_AGE + 1), persistent=False)

    def count_ages(self, ages: Tensor) -> None:
        """The shares of age bands, for `reweight` and `balanced_softmax`."""
        self.log_prior.copy_(torch.tensor(age_prior(ages.numpy())).log())
        weight = torch.exp(-self.reweight * self.log_prior)
        mean = weight[ages.clamp(0, MAX_AGE).long()].mean()
        self.weight_of.copy_((weight / mean).clamp(max=WEIGHT_CAP))

    def soft_labels(self, ages: Tensor) -> Tensor:
        """Target distributions [B, 101], each summing to 1."""
        return torch.softmax(-0.5 * ((self.bins - ages.clamp(0, MAX_AGE)[:, None]) / self.sigma) ** 2, 1)

    def loss(self, outputs: Tensor, ages: Tensor) -> Tensor:
        """Cross-entropy with the soft label + l1_weight * |expectation - age|, [B]; weighed and shifted in training."""
        check_outputs(outputs, MAX_AGE + 1, ages)
        log_p = F.log_softmax(outputs + self.balanced_softmax * self.log_prior if self.training else outputs, 1)
        expected = (log_p.exp() * self.bins).sum(1)
        cross_entropy = -(self.soft_labels(ages) * log_p).sum(1)
        loss = cross_entropy + self.l1_weight * (expected - ages.clamp(0, MAX_AGE)).abs()
        return loss * self.weight_of[ages.clamp(0, MAX_AGE).long()] if self.training else loss

    def distribution(self, outputs: Tensor) -> Tensor:
        """Softmax of the logits, [B, 101]."""
        check_outputs(outputs, MAX_AGE + 1)
        return F.softmax(outputs, 1)

    def start_at(self, ages: Tensor) -> None:
        """The untrained prediction is the (soft) distribution of the training ages."""
        with torch.no_grad():
            self.bias.copy_(self.soft_labels(ages).mean(0).clamp(min=1e-4).log())


HEADS: dict[str, type[Head]] = {"regression": RegressionHead, "distribution": DistributionHead}


def build_head(config: Config, features: int) -> Head:
    """The head that `config` names, with the settings that its constructor names; ValueError for an unknown one."""
    if config.head not in HEADS:
        raise ValueError(f"head={config.head!r}: choose one of {', '.join(HEADS)}")
    kind = HEADS[config.head]
    options = [name for name in inspect.signature(kind).parameters if name != "features"]
    return kind(features, **{name: getattr(config, name) for name in options})
