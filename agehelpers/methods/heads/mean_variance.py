"""A softmax over the ages that is also pulled by its mean and its spread."""

from torch import Tensor

from agehelpers.data.bands import MAX_AGE
from agehelpers.methods.heads.distributions import DistributionHead


class MeanVarianceHead(DistributionHead):
    """Softmax with hard labels; loss: cross-entropy, a pull of the mean and one of the spread (Pan et al., CVPR 2018).

    loss = CE(age) + 0.2 * (m - age)^2 / 2 + 0.05 * v, with the mean m and the variance v of the predicted distribution.
    """

    MEAN, VARIANCE = 0.2, 0.05

    def __init__(self, features: int, decode: str = "median") -> None:
        super().__init__(features, sigma=0.1, l1_weight=0.0, decode=decode)

    def loss(self, outputs: Tensor, ages: Tensor) -> Tensor:
        """The formula above, [B]."""
        p, ages = self.distribution(outputs), ages.clamp(0, MAX_AGE)
        mean = (p * self.bins).sum(1)
        variance = (p * (self.bins - mean[:, None]) ** 2).sum(1)
        return super().loss(outputs, ages) + self.MEAN * (mean - ages) ** 2 / 2 + self.VARIANCE * variance
