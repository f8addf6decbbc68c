"""Refinement: an organ replaced in the slices that were prompted, and nothing else changed."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from small_study import affine_of, flipped

from ragsam.inference.volume_inferer import VolumeInferer
from ragsam.networks import Segmenter
from ragsam.prompting.prompted_volume import SliceMask
from ragsam.prompting.refinement import keep_prompted, organ_odds, refine, replace_organ, segment_automatically
from ragsam.transforms import postprocessing, preprocessing
from ragsam.transforms.voxel_prompts import SliceBox, SliceGrid, SlicePoint, SlicePrompts


def test_odds_by_hand():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2]))[None, :, None, None]
    for organ, chance in ((1, 0.3), (2, 0.2)):
        assert float(organ_odds(logits, torch.tensor([organ]))) == pytest.approx(
            math.log(chance / (1 - chance)), abs=1e-6
        )


class Echo:
    """Answers with the draft it is given, and remembers its prompts."""

    def __init__(self):
        self.asked = {}

    def __call__(self, number, prompts):
        self.asked[number] = prompts
        return SliceMask(torch.zeros(2, 2) if prompts.mask is None else prompts.mask, 0.9)


def test_the_automatic_result_is_the_draft_even_where_it_lacks_the_organ():
    odds = torch.full((2, 2, 3), -1.0)
    odds[0, 0, 1] = 2
    answer, click = Echo(), SlicePrompts((SlicePoint(0, 1, inside=False),))
    found = refine(answer, odds, {1: click, 2: click})
    assert torch.equal(answer.asked[1].mask, odds[..., 1])
    assert answer.asked[1].points == click.points
    assert torch.equal(answer.asked[2].mask, odds[..., 2])
    assert list(found) == [1, 2]
    assert not found[2].mask.any()


def test_of_what_is_redrawn_the_pieces_that_were_asked_for_are_taken():
    """The draft is a bar in row 2; the refined mask has lost its two ends, and gained two pixels away from it."""
    draft, refined = torch.full((6, 8), -1.0), torch.full((6, 8), -2.0)
    draft[2, 1:7] = 1
    refined[2, 3:5] = 3
    refined[0, 0] = refined[5, 7] = 4

    def changed(*points, box=None):
        kept = keep_prompted(draft, refined, SlicePrompts(points, box))
        assert torch.equal(kept, torch.where(kept == draft, draft, refined))
        return {tuple(place) for place in torch.nonzero(kept != draft).tolist()}

    assert changed(SlicePoint(0, 0)) == {(0, 0)}
    assert changed(SlicePoint(2, 1, inside=False)) == {(2, 1), (2, 2)}
    assert changed(SlicePoint(2.4, 5.6, inside=False), SlicePoint(5, 7)) == {(2, 5), (2, 6), (5, 7)}
    assert changed(SlicePoint(0, 0, inside=False)) == set()  # what it says was so already
    assert changed(SlicePoint(2, 3), SlicePoint(2, 1)) == set()
    assert changed(box=SliceBox(0, 0, 2, 1)) == {(0, 0), (2, 1), (2, 2)}


def grid_of(folder, array, axes=(), **options):
    stored, affine = flipped(array, affine_of(), axes)
    nib.save(nib.Nifti1Image(stored, affine), folder / "v.nii.gz")
    chain = preprocessing(window=(0, 1), keys=["image"], **options)
    volume = chain({"image": str(folder / "v.nii.gz")})["image"]
    return volume, SliceGrid.of(volume)


def test_an_organ_is_replaced_in_its_slices_alone(tmp_path):
    _, grid = grid_of(tmp_path, np.zeros((1, 4, 3), np.float32), axes=(2,))
    labels = np.array([[[1, 1, 1], [2, 2, 2], [0, 0, 0], [1, 1, 1]]], np.uint8)
    otherwise = np.where(labels == 1, 2, labels).astype(np.uint8)
    mask = np.zeros(labels.shape, bool)
    mask[0, [0, 2], :] = True
    replace_organ(labels, 1, mask, otherwise, [0], grid)  # slice 0 is the file's last, k being flipped
    assert labels[..., 2].tolist() == [[1, 2, 1, 2]]  # kept, untouched, gained, lost to what is likeliest otherwise
    assert labels[..., 0].tolist() == labels[..., 1].tolist() == [[1, 2, 0, 1]]
    both = labels.copy()
    mask[0, 1, 0] = True
    replace_organ(both, 1, mask, otherwise, [2], grid)
    assert both[..., 0].tolist() == [[1, 1, 1, 2]]  # a gained voxel was another organ's


@pytest.mark.parametrize("spacing_mm", [None, (0.7, 1.4)])
def test_the_automatic_labels_are_those_of_the_inferer(tmp_path, spacing_mm):
    torch.manual_seed(0)
    network = Segmenter(2, image_size=32, fusion=None).eval()
    torch.nn.init.zeros_(network.detail.prior)  # before it is trained, all would be background else
    array = np.random.default_rng(0).random((20, 24, 4)).astype(np.float32)
    volume, grid = grid_of(tmp_path, array, (0, 1), spacing_mm=spacing_mm)
    inferer, chain = VolumeInferer(32), postprocessing()
    with torch.no_grad():
        expected = chain({"pred": inferer(volume[None], network)[0], "image": volume})["pred"][0].numpy()
    assert len(np.unique(expected)) > 1
    made = segment_automatically(inferer, network, volume, chain, [1, 2])
    assert np.array_equal(made.labels, expected)
    assert inferer.restore_grid
    for organ in (1, 2):
        other = made.otherwise[organ]
        assert not (other == organ).any()
        assert np.array_equal(other[expected != organ], expected[expected != organ])
        assert made.odds[organ].shape == volume.shape[1:]
        if spacing_mm is None:  # more likely than all others together is more likely than each
            surely = (made.odds[organ] > 0).numpy()
            assert (grid.slices(made.labels).numpy()[surely] == organ).all()
