"""Ordinal heads against values derived by hand, and against the library of CORAL's and CORN's authors."""

import math

import pytest
import torch
from coral_pytorch.dataset import levels_from_labelbatch, proba_to_label
from coral_pytorch.layers import CoralLayer
from coral_pytorch.losses import coral_loss, corn_loss

from agehelpers.methods.heads.ordinal import CoralHead, CornHead, OrdinalHead

AGES = torch.tensor([0.0, 1, 30, 64, 100])
OUTPUTS = 3 * torch.randn(5, 100, generator=torch.Generator().manual_seed(0))


def logits(**answers: float) -> torch.Tensor:
    """Outputs [1, 100]: sure that the age is over k for k < `sure`, then the given logits, then sure that it is not."""
    outputs = torch.full((1, 100), -40.0)
    outputs[0, :int(answers.pop("sure"))] = 40.0
    for key, value in answers.items():
        outputs[0, int(key[1:])] = value
    return outputs


def test_independent_questions_by_hand():
    head = OrdinalHead(4, decode="mean")
    outputs = logits(sure=20, k20=math.log(3), k21=-math.log(3))  # 3/4 older than 20, 1/4 older than 21
    p = head.distribution(outputs)
    assert p[0, 20:23].tolist() == pytest.approx([0.25, 0.5, 0.25], abs=1e-6) and p.sum().item() == pytest.approx(1)
    assert head.ages(outputs).item() == pytest.approx(21, abs=1e-5)
    assert head.ages(outputs).item() == pytest.approx(outputs.sigmoid().sum().item(), abs=1e-5)
    loss = head.loss(outputs, torch.tensor([21.0])).item()  # both answers are right with probability 3/4
    assert loss == pytest.approx(2 * math.log(4 / 3), abs=1e-5)


def test_answers_that_contradict_each_other_are_cut():
    outputs = logits(sure=20, k20=-math.log(3), k21=math.log(3))  # 1/4 older than 20, 3/4 older than 21
    p = OrdinalHead(4).distribution(outputs)
    assert (p >= 0).all() and p[0, [20, 21, 22]].tolist() == pytest.approx([0.75, 0, 0.25], abs=1e-6)


def test_conditional_questions_by_hand():
    head = CornHead(4, decode="mean")
    outputs = logits(sure=20, k20=math.log(3), k21=-math.log(3))  # 3/4, and of these 1/4
    assert head.distribution(outputs)[0, 20:23].tolist() == pytest.approx([1 / 4, 9 / 16, 3 / 16], abs=1e-6)
    assert head.ages(outputs).item() == pytest.approx(20 + 3 / 4 + 3 / 16, abs=1e-5)
    # who is 20 is not asked whether older than 21; who is 21 is asked both
    assert head.loss(outputs, torch.tensor([20.0])).item() == pytest.approx(math.log(4), abs=1e-5)
    assert head.loss(outputs, torch.tensor([21.0])).item() == pytest.approx(2 * math.log(4 / 3), abs=1e-5)


def test_losses_are_those_of_the_authors():
    levels = levels_from_labelbatch(AGES.long(), 101)
    for head in (OrdinalHead(4), CoralHead(4)):
        assert head.loss(OUTPUTS, AGES).mean().item() == pytest.approx(coral_loss(OUTPUTS, levels).item(), rel=1e-5)
    asked = (AGES + 1).clamp(max=100).sum().item()
    ours = CornHead(4).loss(OUTPUTS, AGES).sum().item() / asked
    assert ours == pytest.approx(corn_loss(OUTPUTS, AGES.long(), 101).item(), rel=1e-5)


def test_decoding_agrees_with_the_authors_where_answers_agree():
    falling = OUTPUTS.sort(1, descending=True).values
    assert torch.allclose(CornHead(4).survival(OUTPUTS), OUTPUTS.sigmoid().cumprod(1), atol=1e-6)
    for head, survival in ((OrdinalHead(4), falling.sigmoid()), (CornHead(4), OUTPUTS.sigmoid().cumprod(1))):
        outputs = falling if type(head) is OrdinalHead else OUTPUTS
        whole = proba_to_label(survival).float()  # the number of answers above one half
        assert ((head.ages(outputs) - whole).abs() <= 0.5 + 1e-4).all()  # the median, within its bin


def test_coral_shares_its_weights():
    head, layer = CoralHead(8), CoralLayer(8, 101)
    assert sum(p.numel() for p in head.parameters()) == sum(p.numel() for p in layer.parameters()) == 8 + 100
    with torch.no_grad():
        layer.coral_weights.weight.copy_(head.weight)
        layer.coral_bias.copy_(head.bias)
    features = torch.randn(3, 8)
    assert torch.allclose(head(features), layer(features), atol=1e-6)


@pytest.mark.parametrize("kind", [OrdinalHead, CoralHead, CornHead])
def test_untrained_they_predict_the_training_ages(kind):
    ages = torch.tensor([10.0] * 10 + [30.0] * 20 + [70.0] * 10)
    head = kind(4)
    head.start_at(ages)
    p = head.distribution(head(torch.zeros(1, 4)))
    assert p[0, [10, 30, 70]].tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.04)
    assert p.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", [OrdinalHead, CoralHead, CornHead])
def test_wrong_shapes_are_named(kind):
    with pytest.raises(ValueError, match=r"outputs of shape \[B, 100\]"):
        kind(4).loss(torch.zeros(2, 101), torch.zeros(2))
    with pytest.raises(ValueError, match=r"ages of shape \[2\]"):
        kind(4).loss(torch.zeros(2, 100), torch.zeros(3))
