"""The loss: MONAI's where all is annotated, and silent on what a sample does not annotate."""

from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss
from scipy.ndimage import zoom
from torch.nn import functional as F

from ragsam.errors import InputError
from ragsam.runs.templates import find_bundle
from ragsam.training.losses import PartialDiceCELoss, Target, at_size

SAMED = {"dice_weight": 0.8, "cross_entropy_weight": 0.2, "dice_squared": True}


def value_and_gradient(logits, label, annotated, **options):
    logits = logits.clone().requires_grad_()
    loss = PartialDiceCELoss(**options)(logits, Target(label, annotated))
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def all_annotated(logits):
    return torch.ones(logits.shape[:2], dtype=torch.bool)


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


OPTIONS = [{}, SAMED, {"class_weights": [1.0, 0.5, 3.0, 0.0, 2.0, 1.0]}, {"dice_weight": 0.0}]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**16), st.integers(1, 4), st.integers(2, 6), st.sampled_from(OPTIONS))
def test_gradients_of_what_is_not_annotated_are_exactly_zero(seed, batch, classes, options):
    logits, label = draw(seed, batch, classes)
    annotated = torch.rand(batch, classes, generator=torch.Generator().manual_seed(seed)) < 0.6
    annotated[:, 0] = True
    label = label.where(annotated.gather(1, label.flatten(1)).view_as(label), 0)
    if weights := options.get("class_weights"):
        options = {"class_weights": weights[:classes]}
    loss, gradient = value_and_gradient(logits, label, annotated, **options)
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


# SAMed's, and the weights


def samed_loss(logits, label):
    """The loss of PEERS.md, written down: logits and labels at the decoder's resolution."""
    chances = logits.softmax(1)
    dice = 0.0
    for number in range(logits.shape[1]):
        there, chance = (label == number).to(chances.dtype), chances[:, number]
        overlap, sizes = (chance * there).sum(), (chance * chance).sum() + (there * there).sum()
        dice += (1 - (2 * overlap + 1e-5) / (sizes + 1e-5)) / logits.shape[1]
    return 0.2 * F.cross_entropy(logits, label) + 0.8 * dice


@pytest.mark.parametrize(("batch", "classes"), [(1, 2), (3, 9)])
def test_samed(batch, classes):
    """Labels four times as large as the logits are made smaller by scipy's `zoom`."""
    logits, _ = draw(4, batch, classes, side=16)
    _, label = draw(5, batch, classes, side=64)
    loss, gradient = value_and_gradient(logits, label, all_annotated(logits), **SAMED)
    logits.requires_grad_()
    smaller = torch.from_numpy(np.stack([zoom(one.numpy(), 0.25, order=0) for one in label[:, 0]]))
    theirs = samed_loss(logits, smaller)
    torch.testing.assert_close(loss, theirs.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, logits)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("large", "small"), [(512, 128), (224, 56), (10, 4), (7, 3)])
def test_labels_are_brought_to_another_size_as_scipys_zoom_does(large, small):
    label = torch.arange(large * large).reshape(1, 1, large, large)
    expected = zoom(label[0, 0].numpy(), small / large, order=0)
    assert at_size(label, expected.shape)[0, 0].tolist() == expected.tolist()


def test_labels_at_another_size_by_hand():
    """Of two places among six the first is the first pixel, the second the last."""
    label = torch.arange(36).reshape(1, 1, 6, 6)
    assert at_size(label, (6, 6)) is label
    assert at_size(label, (2, 2)).tolist() == [[[[0, 5], [30, 35]]]]
    assert at_size(label[..., :1, :1], (2, 2)).tolist() == [[[[0, 0], [0, 0]]]]
    assert at_size(label, (2, 2)).dtype == torch.int64


def test_the_parts_add_up_by_their_weights():
    logits, label = draw(6, 2, 4)
    annotated = all_annotated(logits)
    dice, _ = value_and_gradient(logits, label, annotated, cross_entropy_weight=0.0)
    entropy, _ = value_and_gradient(logits, label, annotated, dice_weight=0.0)
    torch.testing.assert_close(entropy, F.cross_entropy(logits, label[:, 0]))
    both, _ = value_and_gradient(logits, label, annotated, dice_weight=3.0, cross_entropy_weight=0.5)
    torch.testing.assert_close(both, 3 * dice + 0.5 * entropy)


def test_class_weights_by_hand():
    """Two pixels of two classes, chances 3/4 for the right one and 1/2; the organ weighs three times."""
    logits = torch.tensor([[log(3), 0.0], [0.0, 0.0]]).reshape(1, 2, 1, 2)
    label = torch.tensor([[[[0, 1]]]])
    options = {"class_weights": [1, 3]}
    entropy, _ = value_and_gradient(logits, label, all_annotated(logits), dice_weight=0.0, **options)
    assert entropy.item() == pytest.approx((-log(0.75) - 3 * log(0.5)) / 4, abs=1e-6)
    dice, _ = value_and_gradient(logits, label, all_annotated(logits), cross_entropy_weight=0.0, **options)
    background, organ = 1 - 2 * 0.75 / (1.25 + 1), 1 - 2 * 0.5 / (0.75 + 1)
    assert dice.item() == pytest.approx((background + 3 * organ) / 4, abs=1e-5)


def test_equal_class_weights_weigh_nothing():
    logits, label = draw(7, 3, 4)
    annotated = torch.rand(3, 4) < 0.7
    annotated[:, 0] = True
    plain, gradient = value_and_gradient(logits, label, annotated)
    weighted, weighted_gradient = value_and_gradient(logits, label, annotated, class_weights=[2.5] * 4)
    torch.testing.assert_close(weighted, plain)
    torch.testing.assert_close(weighted_gradient, gradient)


@pytest.mark.parametrize("options", [{}, {"class_weights": [0.0, 1.0]}])
def test_a_batch_in_which_no_pixel_counts_teaches_nothing(options):
    """Without options every pixel carries a class not annotated; with them the only class there weighs nothing."""
    logits, _ = draw(8, 2, 2)
    label = torch.ones(2, 1, 5, 5, dtype=torch.int64) if not options else torch.zeros(2, 1, 5, 5, dtype=torch.int64)
    annotated = torch.tensor([[True, bool(options)]] * 2)
    loss, gradient = value_and_gradient(logits, label, annotated, dice_weight=0.0, cross_entropy_weight=1.0, **options)
    assert loss == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("options", [{}, SAMED])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_cost_no_precision(dtype, options):
    """Held against float64 on the same rounded logits, some of them extreme."""
    logits, label = draw(9, 2, 5, side=96)
    logits = (logits * torch.tensor([1.0, 30, 1, 1000, 1]).reshape(1, -1, 1, 1)).to(dtype)
    loss, gradient = value_and_gradient(logits, label, all_annotated(logits), **options)
    assert loss.dtype == torch.float32
    exact = logits.double().requires_grad_()
    if options:
        by_hand = samed_loss(exact, label[:, 0])
    else:
        by_hand = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)(exact, label)
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    theirs = torch.autograd.grad(by_hand, exact)[0]
    bound = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), theirs, rtol=bound, atol=bound * float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dice_weight": -1.0}, "^dice_weight and cross_entropy_weight: .*not numbers from 0 on"),
        ({"dice_weight": 0.0, "cross_entropy_weight": 0.0}, "one of them above it"),
        ({"class_weights": [0, 0]}, "^class_weights: .*one of them above it"),
        ({"class_weights": 3}, "^class_weights: 3 are not numbers"),
        ({"class_weights": [1, float("nan")]}, "^class_weights: "),
    ],
)
def test_weights_that_mean_nothing_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        PartialDiceCELoss(**options)


def test_class_weights_of_another_number_are_refused():
    logits, label = draw(10, 1, 3)
    with pytest.raises(InputError, match="2 numbers for 3 classes; give background's first"):
        value_and_gradient(logits, label, all_annotated(logits), class_weights=[1.0, 2.0])


def test_the_bundles_knobs_reach_the_loss():
    parser = ConfigParser()
    parser.read_config(str(find_bundle("sam_lora") / "configs" / "train.yaml"))
    parser["dice_weight"], parser["class_weights"], parser["dice_squared"] = 0.25, [1.0, 2.0], True
    loss = parser.get_parsed_content("loss")
    logits, label = draw(11, 2, 2)
    options = {"dice_weight": 0.25, "class_weights": [1.0, 2.0], "dice_squared": True}
    ours, _ = value_and_gradient(logits, label, all_annotated(logits), **options)
    assert loss(logits, Target(label, all_annotated(logits))) == ours
