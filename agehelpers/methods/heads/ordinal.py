"""Ordinal heads: a logit for each question "older than k years?", k = 0, 1, ..., 99."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agehelpers.data.bands import MAX_AGE
from agehelpers.methods.heads.base import Head, check_outputs


class OrdinalHead(Head, nn.Linear):
    """Independent binary questions; loss: the sum of their cross-entropies (OR-CNN, Niu et al., CVPR 2016).

    loss = sum_k BCE(sigmoid(o_k), [age > k]), all questions weighed the same. The survival probabilities s_k =
    P(age > k) make the distribution p_k = s_(k-1) - s_k; where independent questions contradict each other (s_k >
    s_(k-1)), s_k is cut to s_(k-1). The mean of p is the sum of all s_k.
    """

    ranks: Tensor

    def __init__(self, features: int, decode: str = "median") -> None:
        super().__init__(features, MAX_AGE)
        self.decode = decode
        self.register_buffer("ranks", torch.arange(MAX_AGE, dtype=torch.float32), persistent=False)

    def loss(self, outputs: Tensor, ages: Tensor) -> Tensor:
        """Sum of binary cross-entropies, [B], for outputs [B, 100]."""
        check_outputs(outputs, MAX_AGE, ages)
        older = (ages[:, None] > self.ranks).to(outputs.dtype)
        return F.binary_cross_entropy_with_logits(outputs, older, reduction="none").sum(1)

    def survival(self, outputs: Tensor) -> Tensor:
        """P(age > k), [B, 100], never rising with k."""
        refused = F.pad(-outputs.sigmoid(), (MAX_AGE - 1, 0), value=-1.0)
        return -F.max_pool1d(refused[:, None], MAX_AGE, stride=1)[:, 0]  # the least so far; ONNX has no cummin

    def distribution(self, outputs: Tensor) -> Tensor:
        """Probabilities of the ages 0 to 100, [B, 101]."""
        check_outputs(outputs, MAX_AGE)
        return -F.pad(F.pad(self.survival(outputs), (1, 0), value=1.0), (0, 1)).diff(dim=1)

    def start_at(self, ages: Tensor) -> None:
        """The untrained head answers each question with its share among the training ages."""
        with torch.no_grad():
            self.bias.copy_(self.shares(ages).clamp(1e-3, 1 - 1e-3).logit())

    def shares(self, ages: Tensor) -> Tensor:
        """Of the training ages [N] the share older than k, [100]."""
        return (ages[:, None] > self.ranks).float().mean(0)


class CoralHead(OrdinalHead):
    """The questions share one weight vector and differ in their bias (CORAL, Cao, Mirjalili and Raschka, 2020).

    arXiv 1901.07884; o_k = w x + b_k with the loss of `OrdinalHead`. Trained to its end the biases fall with k, so that
    no two answers contradict each other.
    """

    def __init__(self, features: int, decode: str = "median") -> None:
        super().__init__(features, decode)
        self.weight = nn.Parameter(self.weight[:1].detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, 100] of features [B, C]."""
        return F.linear(features, self.weight) + self.bias


class CornHead(OrdinalHead):
    """Conditional questions: older than k, given older than k - 1 (CORN, Shi, Cao and Raschka, 2021).

    arXiv 2111.08851; question k is asked only of those older than k - 1, and s_k = sigmoid(o_0) ... sigmoid(o_k) cannot
    contradict itself. The loss is the sum over the questions that a picture is asked (the authors divide a batch's sum
    by the number of all questions asked, not by that of its pictures).
    """

    def loss(self, outputs: Tensor, ages: Tensor) -> Tensor:
        """Sum of the binary cross-entropies of the questions asked, [B], for outputs [B, 100]."""
        check_outputs(outputs, MAX_AGE, ages)
        older = (ages[:, None] > self.ranks).to(outputs.dtype)
        asked = ages[:, None] > self.ranks - 1
        return (F.binary_cross_entropy_with_logits(outputs, older, reduction="none") * asked).sum(1)

    def survival(self, outputs: Tensor) -> Tensor:
        """P(age > k), [B, 100]: the products of the conditional probabilities."""
        return F.logsigmoid(outputs).cumsum(1).exp()

    def shares(self, ages: Tensor) -> Tensor:
        """Of the training ages older than k - 1 the share older than k, [100]."""
        share = super().shares(ages)
        return share / F.pad(share, (1, 0), value=1.0)[:-1].clamp(min=1e-6)
