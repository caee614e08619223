"""Heads with a softmax over the ages 0, 1, ..., 100."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agehelpers.data.bands import MAX_AGE, age_prior
from agehelpers.methods.heads.base import Head, check_outputs

WEIGHT_CAP = 10.0  # largest weight of a picture in a loss that weighs rare ages more


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
    label_shape : str
        "normal", or "laplace": soft labels proportional to exp(-|k - age| / sigma), which with a sigma of 1 are those
        of SORD (Diaz and Marathe, CVPR 2019). A sigma of 0.1 or less gives hard labels, as DEX has them.
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
                 reweight: float = 0.0, balanced_softmax: float = 0.0, label_shape: str = "normal") -> None:
        super().__init__(features, MAX_AGE + 1)
        self.power = {"normal": 2, "laplace": 1}[label_shape]
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
        away = (self.bins - ages.clamp(0, MAX_AGE)[:, None]).abs() / self.sigma
        return torch.softmax(-away ** self.power / self.power, 1)

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
