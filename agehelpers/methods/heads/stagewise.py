"""The head of SSR-Net: an age from coarse to fine, in stages whose bins shift and stretch."""

import torch
from torch import Tensor

from agehelpers.data.bands import MAX_AGE
from agehelpers.methods.heads.base import Head, check_outputs

STAGES = (3, 3, 3)  # bins a stage
WIDTH = sum(bins + bins + 1 for bins in STAGES)  # of each stage: probabilities, shifts of its bins, stretch


class StagewiseHead(Head):
    """No weights: it reads the outputs of the network `ssrnet`; loss: absolute error (Yang et al., IJCAI 2018).

    age = V * sum_k [sum_i p_ki (i + eta_ki)] / prod_(j <= k) s_j (1 + Delta_j), with V = 101 years, s_k bins in stage
    k, their probabilities p, shifts eta and the stage's stretch Delta.
    """

    def __init__(self, features: int) -> None:
        if features != WIDTH:
            raise ValueError(f"head=stagewise reads the {WIDTH} outputs of backbone=ssrnet, not {features} features")
        super().__init__()

    def forward(self, features: Tensor) -> Tensor:
        """The features are the outputs, [B, 21]."""
        return features

    def ages(self, outputs: Tensor) -> Tensor:
        """The formula above, in years [B]."""
        check_outputs(outputs, WIDTH)
        age, scale, start = torch.zeros_like(outputs[:, 0]), torch.ones_like(outputs[:, 0]), 0
        for bins in STAGES:
            p, eta, delta = outputs[:, start:start + 2 * bins + 1].split([bins, bins, 1], 1)
            scale = scale * bins * (1 + delta[:, 0])
            age = age + (p * (torch.arange(bins, device=p.device) + eta)).sum(1) / scale
            start += 2 * bins + 1
        return (MAX_AGE + 1) * age
