"""The inferer: which slices the network is given, at which heights, and how its windows come together again."""

import pytest
import torch

from ragsam.workflows.inferers import VolumeInferer


def infer(volume, network, size=8, **options):
    return VolumeInferer(size, **options)(volume, network)


def steps(*shape):
    """Return a volume [1, 1, *shape] whose voxels count up, 0-1."""
    count = torch.tensor(shape).prod()
    return (torch.arange(count, dtype=torch.float32) / count).reshape(1, 1, *shape)


def test_network_sees_every_slice_between_its_neighbours_at_its_height():
    seen = []

    def network(x, height):
        seen.append((x, height))
        return x[:, 1:2].clone()  # MONAI weighs what it gets in place

    volume = steps(8, 8, 5)
    result = infer(volume, network, batch_size=2)
    torch.testing.assert_close(result, volume)
    assert [len(x) for x, _ in seen] == [2, 2, 1]
    heights = torch.cat([height for _, height in seen])
    torch.testing.assert_close(heights, torch.tensor([0, 0.25, 0.5, 0.75, 1]))
    slices = torch.cat([x for x, _ in seen])
    for z in range(5):
        for channel, index in enumerate((max(z - 1, 0), z, min(z + 1, 4))):
            assert torch.equal(slices[z, channel], volume[0, 0, :, :, index])


def test_without_context_the_slice_is_repeated():
    def network(x, height):
        assert torch.equal(x[:, 0], x[:, 1])
        assert torch.equal(x[:, 2], x[:, 1])
        return x[:, :1].clone()

    volume = steps(8, 8, 3)
    torch.testing.assert_close(infer(volume, network, slice_context=False), volume)


def test_single_slice_stands_halfway():
    heights = []

    def network(x, height):
        heights.extend(height.tolist())
        return x[:, 1:2].clone()  # MONAI weighs what it gets in place

    volume = steps(8, 8, 1)
    torch.testing.assert_close(infer(volume, network), volume)
    assert heights == [0.5]


@pytest.mark.parametrize("shape", [(5, 8, 3), (3, 4, 2), (8, 3, 3)])
def test_smaller_slices_are_padded_and_cut_back(shape):
    def network(x, height):
        assert x.shape[2:] == (8, 8)
        expected = torch.linspace(0, 1, shape[2])
        torch.testing.assert_close(height, expected)  # the padding, which is 0, does not count
        return x[:, 1:2].clone()  # MONAI weighs what it gets in place

    volume = steps(*shape)
    torch.testing.assert_close(infer(volume, network), volume)


@pytest.mark.parametrize("shape", [(20, 9, 2), (8, 21, 3), (16, 16, 2)])
def test_larger_slices_are_covered_by_windows_that_come_together(shape):
    windows = []

    def network(x, height):
        windows.append(len(x))
        return x[:, 1:2].clone()  # MONAI weighs what it gets in place

    volume = steps(*shape)
    torch.testing.assert_close(infer(volume, network), volume)
    assert sum(windows) > shape[2]


@pytest.mark.parametrize("shape", [(8, 8, 3), (6, 5, 2), (12, 9, 2)])
def test_shifted_looks_come_back_to_their_place(shape):
    """A network that looks at each pixel alone is not changed by moving the volume and back."""

    def network(x, height):
        return torch.cat([-x[:, 1:2], x[:, 1:2]], dim=1)

    volume = steps(*shape)
    once, averaged = (infer(volume, network, shift=shift) for shift in (0, 2))
    assert averaged.shape == once.shape
    torch.testing.assert_close(averaged.softmax(1), once.softmax(1), atol=1e-5, rtol=0)


def test_shifted_looks_are_averaged_as_probabilities():
    calls = []

    def network(x, height):
        calls.append(len(x))
        first = torch.full_like(x[:, :1], 100.0 if len(calls) == 1 else -100.0)
        return torch.cat([torch.zeros_like(first), first], dim=1)

    logits = infer(steps(6, 6, 1), network, shift=1)  # 6 + 2 pixels: one window a look
    assert len(calls) == 5
    torch.testing.assert_close(logits.softmax(1)[0, 1], torch.full((6, 6, 1), 0.2), atol=1e-4, rtol=0)
