"""The inferer: which slices the network is given, at which heights, and how its windows come together again."""

from math import log

import pytest
import torch
from test_slices import CARD, WINDOW, case_of, write_case
from torch import nn

from ragsam.data.slices import SliceDataset
from ragsam.errors import InputError
from ragsam.inference.volume_inferer import VolumeInferer, prepare_volumes
from ragsam.networks.lora import LoRALinear
from ragsam.networks.segmenter import Embedded
from ragsam.transforms import preprocessing


class Heights:
    """Stands for the supports of a volume: those of a slice are its height."""

    needs_embedding = False

    def require_orientation(self, volume):
        """Any will do."""

    def __call__(self, image, embedding, height):
        return height


def infer(volume, network, size=8, **options):
    """Return the logits [1, K + 1, H, W, D] of all slabs together, of a network that is given slices and heights."""
    if isinstance(network, nn.Module):
        slabs = VolumeInferer(size, **options).slabs(volume[0], network)
    else:
        slabs = VolumeInferer(size, **options).slabs(volume[0], lambda x, supports: network(x, supports), Heights())
    slabs = [logits for _, logits in slabs]
    return torch.cat(slabs).permute(1, 2, 3, 0)[None]


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
    torch.testing.assert_close(infer(volume, network, context_slices=0), volume)


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
def test_shifted_copies_come_back_to_their_place(shape):
    """A network that looks at each pixel alone is not changed by moving the volume and back."""

    def network(x, height):
        return torch.cat([-x[:, 1:2], x[:, 1:2]], dim=1)

    volume = steps(*shape)
    once, averaged = (infer(volume, network, shift=shift) for shift in (0, 2))
    assert averaged.shape == once.shape
    torch.testing.assert_close(averaged.softmax(1), once.softmax(1), atol=1e-5, rtol=0)


def test_slices_move_by_half_a_window_at_most():
    VolumeInferer(8, shift=4)
    with pytest.raises(InputError, match="test_shift 5: slices of 8 pixels move by 4 at most"):
        VolumeInferer(8, shift=5)


def test_shifted_copies_are_averaged_as_probabilities():
    calls = []

    def network(x, height):
        calls.append(len(x))
        first = torch.full_like(x[:, :1], 100.0 if len(calls) == 1 else -100.0)
        return torch.cat([torch.zeros_like(first), first], dim=1)

    logits = infer(steps(6, 6, 1), network, shift=1)  # 6 + 2 pixels: one window a look
    assert len(calls) == 5
    torch.testing.assert_close(logits.softmax(1)[0, 1], torch.full((6, 6, 1), 0.2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("distance_mm", [None, 3.0, 0.8])
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_the_network_is_shown_what_it_was_trained_on(tmp_path, slice_axis, distance_mm):
    """Voxels of 1 x 1 x 2 mm: the channels, with their distance in mm, are those of the training slices."""
    write_case(tmp_path, "a", (9, 7, 5), "LPS", (1, 2))
    case, chain = case_of(tmp_path, "a", "1"), preprocessing(window=WINDOW, slice_axis=slice_axis)
    context = {"context_slices": 2, "context_distance_mm": distance_mm}
    dataset = SliceDataset([case], CARD, chain, image_size=12, **context)
    seen = []

    def network(x, height):
        seen.append(x.clone())
        return x[:, :1].clone()

    item = chain({"image": str(case.image), "label": str(case.label)})
    infer(item["image"][None], network, 12, **context)
    slices = torch.cat(seen)
    assert len(slices) == len(dataset) == (9, 7, 5)[slice_axis]
    for index, shown in enumerate(slices):
        torch.testing.assert_close(torch.as_tensor(shown), dataset[index]["image"], atol=2**-10, rtol=0)
    if distance_mm == 3.0 and slice_axis == 2:  # three halves of a slice
        volume = item["image"].as_tensor()[0]
        between = (volume[..., 3] + volume[..., 4]) / 2
        torch.testing.assert_close(torch.as_tensor(slices[2, 3, 1:10, 2:9]), between, atol=1e-5, rtol=0)


def test_a_distance_in_mm_needs_a_volume_that_knows_its_spacing():
    with pytest.raises(ValueError, match="carries no affine"):
        infer(steps(8, 8, 3), lambda x, height: x[:, :1].clone(), context_distance_mm=2.0)


def test_labels_and_maps_by_hand():
    """A pixel of even odds, one that is sure, and one of 3 to 1: two classes, an entropy of 1, 0 and 0.811 bits."""

    def network(x):
        organ = torch.tensor([0, 40, log(3)])[None, None, None]
        return torch.cat([torch.zeros_like(organ), organ], dim=1).expand(len(x), 2, 3, 3).clone()

    inferer = VolumeInferer(3, uncertainty=True, probabilities=True)
    pred = inferer(torch.zeros(1, 1, 3, 3, 2), network)
    assert pred.dtype == torch.uint8
    assert pred.shape == (1, 3, 3, 3, 2)
    labels, entropy, organ = (channel[0, :, 1].tolist() for channel in pred[0])
    assert labels == [0, 1, 1]
    assert entropy == [255, 0, round(255 * 0.8112781)]
    assert organ == [128, 255, 191]
    assert torch.equal(VolumeInferer(3)(torch.zeros(1, 1, 3, 3, 2), network), pred[:, :1])


@pytest.mark.parametrize(("image_size", "batch_size"), [(56, 16), (256, 16), (512, 4), (1024, 1), (2048, 1)])
def test_large_windows_go_fewer_at_once(image_size, batch_size):
    assert VolumeInferer(image_size).batch_size == batch_size
    assert VolumeInferer(image_size, batch_size=3).batch_size == 3


def test_lora_is_merged_while_a_volume_is_segmented_but_not_under_autocast():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.merged = LoRALinear(nn.Linear(8, 8), {"q": slice(0, 8)}), []

        def forward(self, x):
            self.merged.append(self.layer.merged)
            return self.layer(x[:, :2])

    network, volume = Network(), steps(8, 8, 2)
    nn.init.ones_(network.layer.updates["q"].b.weight)
    plain = network(torch.stack([volume[0, :, :, :, z].expand(3, -1, -1) for z in range(2)]))
    torch.testing.assert_close(infer(volume, network, context_slices=0).permute(4, 1, 2, 3, 0)[..., 0], plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        infer(volume, network)
    assert network.merged == [False, True, False]
    assert not network.layer.merged


@pytest.mark.parametrize("looks_at_embedding", [True, False])
def test_supports_are_found_for_each_window_and_handed_to_the_network(looks_at_embedding):
    asked = []

    class Network(nn.Module):
        def embed(self, x):
            return Embedded(x * 2, None)

        def decode(self, embedded, supports):
            return embedded.embedding[:, :1] / 2 + supports

        def forward(self, x, supports=None):
            return x[:, :1].clone() if supports is None else x[:, :1] + supports

    class Found:
        needs_embedding = looks_at_embedding

        def require_orientation(self, volume):
            """Any will do."""

        def __call__(self, image, embedding, height):
            asked.append((len(image), embedding is not None, height.tolist()))
            return height[:, None, None, None]

    volume, inferer, network = steps(8, 8, 3), VolumeInferer(8, batch_size=2, context_slices=0), Network()
    plain = torch.cat([logits for _, logits in inferer.slabs(volume[0], network)])
    found = torch.cat([logits for _, logits in inferer.slabs(volume[0], network, Found())])
    torch.testing.assert_close(found - plain, torch.tensor([0.0, 0.5, 1.0])[:, None, None, None].expand_as(plain))
    assert asked == [(2, looks_at_embedding, [0.0, 0.5]), (1, looks_at_embedding, [1.0])]


def test_what_handlers_put_into_a_batch_is_handed_on():
    batch = {"image": torch.zeros(1, 1, 2, 2, 2), "supports": "found", "case": ["a"]}
    image, label, arguments, options = prepare_volumes(batch, "cpu")
    assert (label, arguments, options) == (None, (), {"supports": "found", "average": None})
    assert set(batch) == {"image", "case"}  # MONAI takes what is left apart
    assert image is not None
