"""Test-time augmentation: whatever is done to them is undone to what comes back."""

import pytest
import torch

from ragsam.errors import InputError
from ragsam.inference.test_time_augmentation import AugmentedCopy
from ragsam.inference.test_time_augmentation import TestTimeAugmentation as Augmentation


def pixels(slices):
    """A network that looks at each pixel alone: background and organ 1 at odds of its intensity."""
    return torch.cat([-slices[:, :1], slices[:, :1]], dim=1) * 5


def slices(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_one_copy_gives_the_networks_own_logits():
    seen = slices(2, 3, 6, 5)
    assert torch.equal(Augmentation()(seen, pixels), pixels(seen))
    assert len(Augmentation(left_right=[(1, 2)]).copies) == 1


@pytest.mark.parametrize("options", [{"shift": 2}, {"mirror": True}, {"shift": 1, "mirror": True}])
def test_copies_that_move_pixels_leave_a_network_of_pixels_as_it_is(options):
    seen = slices(2, 3, 6, 5)
    averaged = Augmentation(**options)(seen, pixels)
    torch.testing.assert_close(averaged, pixels(seen).log_softmax(1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [0.75, 1.25])
def test_a_scaled_copy_comes_back_to_its_place(scale):
    """Of a ramp, which linear resampling keeps, all but the border comes back as it was."""
    ramp = torch.arange(16.0)[None, None, :, None].expand(1, 1, 16, 12) / 16
    copy = AugmentedCopy(scale=scale)
    shown = copy.apply(ramp)
    assert shown.shape[2:] == (round(16 * scale), round(12 * scale))
    back = copy.undo(shown, (16, 12))
    torch.testing.assert_close(back[:, :, 2:-2], ramp[:, :, 2:-2], atol=1e-5, rtol=0)


def test_a_mirrored_copy_swaps_sides_back_by_hand():
    """Organ 1 is left, 2 is right. The network calls bright rows at the left organ 1, and at the right organ 2."""

    def network(seen):
        logits = torch.full((len(seen), 3, 4, 1), -20.0)
        logits[:, 0] = 0
        logits[:, 1, :2] = 40 * seen[:, 0, :2] - 20
        logits[:, 2, 2:] = 40 * seen[:, 0, 2:] - 20
        return logits

    seen = torch.tensor([1.0, 0, 0, 1.0]).reshape(1, 1, 4, 1)  # rows run from left to right
    plain = network(seen).argmax(1).flatten().tolist()
    assert plain == [1, 0, 0, 2]
    assert Augmentation(mirror=True, left_right=[(1, 2)])(seen, network).argmax(1).flatten().tolist() == plain
    # Without the swap the mirrored copy says 2 where the plain one says 1.
    chances = Augmentation(mirror=True)(seen, network).softmax(1)[0, :, 0, 0]
    torch.testing.assert_close(chances, torch.tensor([0.0, 0.5, 0.5]), atol=1e-4, rtol=0)


def test_every_option_adds_its_copies():
    copies = Augmentation(shift=3, mirror=True, scales=[0.9, 1.1]).copies
    assert len(copies) == 5 + 1 + 2
    calls = []

    def network(seen):
        calls.append(tuple(seen.shape[-2:]))
        return pixels(seen)

    Augmentation(shift=3, mirror=True, scales=[0.5])(slices(1, 1, 6, 4), network)
    assert calls == [(12, 10)] * 6 + [(6, 5)]  # 3 pixels of margin on every side


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mirror": True, "slice_axis": 0}, "sagittal slices show no left and right"),
        ({"scales": [0.1]}, "0.1 is not between 0.5 and 2"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Augmentation(**options)
