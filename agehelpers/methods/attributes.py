"""What a network learns beside the age, in training only."""

from torch import Tensor, nn
from torch.nn import functional as F

from agehelpers.data.names import ATTRIBUTES


class AttributeHead(nn.Linear):
    """Logits of gender and ethnicity, from the features that the age is read from: [B, C] -> [B, 7].

    Related tasks that share features act as a regulariser (Caruana, Machine Learning 28, 1997). Men and women, and
    people of different origin, show their age differently; features that tell them apart serve the age too. Nothing
    reads these outputs after training.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features, sum(map(len, ATTRIBUTES.values())))

    def loss(self, outputs: Tensor, codes: Tensor) -> Tensor:
        """Sum of the attributes' cross-entropies, [B], for `codes` int64 [B, 2]; unknown ones (-1) count nothing."""
        parts = outputs.split([len(values) for values in ATTRIBUTES.values()], 1)
        losses = [F.cross_entropy(part, code, ignore_index=-1, reduction="none")
                  for part, code in zip(parts, codes.unbind(1), strict=True)]
        return sum(losses[1:], losses[0])
