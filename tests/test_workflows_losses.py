"""The loss: MONAI's where all is annotated, and silent on what a sample does not annotate."""

from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss

from ragsam.workflows.losses import PartialDiceCELoss, Target


def value_and_gradient(logits, label, annotated):
    logits = logits.clone().requires_grad_()
    loss = PartialDiceCELoss()(logits, Target(label, annotated))
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def draw(seed, batch, classes, side=5):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, side, side, generator=generator) * 3
    return logits, torch.randint(0, classes, (batch, 1, side, side), generator=generator)


@pytest.mark.parametrize(("batch", "classes", "side"), [(4, 8, 16), (1, 2, 3), (3, 14, 9)])
def test_with_everything_annotated_it_is_monais(batch, classes, side):
    logits, label = draw(0, batch, classes, side)
    loss, gradient = value_and_gradient(logits, label, torch.ones(batch, classes, dtype=torch.bool))
    logits.requires_grad_()
    theirs = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)(logits, label)
    torch.testing.assert_close(loss, theirs.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, logits)[0])


def test_one_pixel_by_hand():
    """Logits 0, ln 3 and 5, class 2 not annotated: probabilities 1/4 and 3/4 of the first two, the label being 1."""
    logits = torch.tensor([0.0, log(3), 5.0]).reshape(1, 3, 1, 1)
    loss, gradient = value_and_gradient(logits, torch.tensor([[[[1]]]]), torch.tensor([[True, True, False]]))
    dice = [1 - 1e-5 / (0.25 + 1e-5), 1 - (2 * 0.75 + 1e-5) / (0.75 + 1 + 1e-5)]
    assert loss.item() == pytest.approx(-log(0.75) + sum(dice) / 2, abs=1e-6)
    assert gradient[0, 2].item() == 0
    assert gradient[0, 1].item() < 0 < gradient[0, 0].item()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**16), st.integers(1, 4), st.integers(2, 6))
def test_gradients_of_what_is_not_annotated_are_exactly_zero(seed, batch, classes):
    logits, label = draw(seed, batch, classes)
    annotated = torch.rand(batch, classes, generator=torch.Generator().manual_seed(seed)) < 0.6
    annotated[:, 0] = True
    label = label.where(annotated.gather(1, label.flatten(1)).view_as(label), 0)
    loss, gradient = value_and_gradient(logits, label, annotated)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    assert (gradient[~annotated] == 0).all()
    if annotated[0].sum() > 1:
        assert (gradient[0][annotated[0]] != 0).any()


def test_a_sample_says_nothing_of_its_missing_class_and_the_others_do():
    """Class 2 is annotated in the first of two samples: its Dice is that sample's, whatever the second one shows."""
    logits, label = draw(1, 2, 3)
    label[1] = label[1].clamp(max=1)
    annotated = torch.tensor([[True, True, True], [True, True, False]])
    loss, gradient = value_and_gradient(logits, label, annotated)
    other = logits.clone()
    other[1, 2] += 100
    assert value_and_gradient(other, label, annotated)[0] == loss
    assert (gradient[0, 2] != 0).all()


def test_a_class_that_no_sample_annotates_does_not_thin_the_mean():
    """Two classes, annotated, score as if the third did not exist."""
    logits, label = draw(2, 3, 3)
    label = label.clamp(max=1)
    annotated = torch.tensor([[True, True, False]]).expand(3, 3)
    loss, _ = value_and_gradient(logits, label, annotated)
    alone, _ = value_and_gradient(logits[:, :2], label, torch.ones(3, 2, dtype=torch.bool))
    torch.testing.assert_close(loss, alone)


def test_a_pixel_that_carries_a_class_not_annotated_is_left_out():
    logits, label = draw(3, 1, 3)
    annotated = torch.tensor([[True, True, False]])
    label[0, 0] = label[0, 0].clamp(max=1)
    label[0, 0, 2, 2] = 2
    loss, gradient = value_and_gradient(logits, label, annotated)
    assert (gradient[0, :, 2, 2] == 0).all()
    assert (gradient[0, :2] != 0).any()
    other = logits.clone()
    other[0, :, 2, 2] = torch.tensor([-7.0, 3.0, 9.0])
    assert value_and_gradient(other, label, annotated)[0] == loss
