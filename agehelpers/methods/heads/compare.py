"""A head that compares a face with reference faces of known age."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agehelpers.methods.heads.base import Head


class CompareHead(Head):
    """Age by comparison with the most similar of some reference faces; loss: absolute error.

    age = sum_r w_r (age_r + d(x, r)) over the `NEAREST` references r by cosine similarity of features; w is the softmax
    of similarity / `TEMPERATURE`, d a small network on [x, r, x - r] that gives the difference of two ages in years.
    The work usually cited for "compare and select" estimates gaze; nearest in age estimation are order learning (Lim
    et al., ICLR 2020) and moving window regression (Shin et al., CVPR 2022, arXiv 2203.13122), which also predict an
    age relative to references. References are training faces, spread evenly over the sorted ages. Their features are
    taken anew in each epoch (`training.references`) and are stored with the weights; pictures are not.
    """

    references = 256
    NEAREST, TEMPERATURE, HIDDEN = 16, 0.1, 64
    known: Tensor
    known_ages: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.own = nn.Linear(features, self.HIDDEN)  # of [x, r, x - r] a linear layer is one of x plus one of r
        self.other = nn.Linear(features, self.HIDDEN, bias=False)
        self.difference = nn.Linear(self.HIDDEN, 1)
        self.register_buffer("known", torch.zeros(self.references, features))
        self.register_buffer("known_ages", torch.full((self.references,), 30.0))

    def refer(self, features: Tensor, ages: Tensor) -> None:
        """Take the features [256, C] and ages [256] of the reference faces."""
        self.known.copy_(features)
        self.known_ages.copy_(ages)

    def forward(self, features: Tensor) -> Tensor:
        """Ages [B, 1] of features [B, C]."""
        similarity = F.normalize(features, dim=1) @ F.normalize(self.known, dim=1).T
        nearest, chosen = similarity.topk(self.NEAREST, dim=1)
        hidden = self.own(features)[:, None] + self.other(self.known)[chosen]  # [B, NEAREST, HIDDEN]
        compared = self.known_ages[chosen] + self.difference(hidden.relu())[..., 0]
        return (F.softmax(nearest / self.TEMPERATURE, 1) * compared).sum(1, keepdim=True)

    def start_at(self, ages: Tensor) -> None:
        """Before there are references the prediction is near the median."""
        self.known_ages.fill_(ages.median())
