"""Carrying labels over: shifts found, labels moved along, votes weighed by likeness; worked out by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsam.networks.supports import Supports, label_prior
from ragsam.retrieval.label_transfer import (
    PASSES,
    Pass,
    best_matches,
    best_shifts,
    box_matrix,
    local_shifts,
    matching_image,
    shifted_products,
    smoothing_matrix,
    transfer_labels,
    voting_area,
)

SIDE = 32


def picture(seed=0, side=SIDE):
    """A smooth picture with a dark border, as a slice is."""
    noise = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)[0, 0]
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    smooth[:8] = smooth[-8:] = smooth[:, :8] = smooth[:, -8:] = 0
    return smooth


def disc(side=SIDE):
    label = torch.zeros(side, side, dtype=torch.uint8)
    label[12:20, 12:18] = 1
    return label


def vote_of(query, images, labels, classes=2, annotated=None):
    return transfer_labels(query, images, labels, *best_shifts(query, images), classes, annotated)


def pixels_aside(query, image, one):
    """The shifts [2, h, w] of a query [h, w] in one image [h, w]."""
    return local_shifts(query[None], image[None, ..., None], one)[:, 0, ..., 0]


@settings(max_examples=20, deadline=None)
@given(down=st.integers(-4, 4), right=st.integers(-4, 4))
def test_a_shifted_picture_is_found_and_its_labels_come_back(down, right):
    query, label = picture(), disc()
    image, moved = query.roll((down, right), (0, 1)), label.roll((down, right), (0, 1))
    shifts, likeness = best_shifts(query[None], image[None, None])
    assert shifts[0, 0].tolist() == [down, right]
    torch.testing.assert_close(likeness, torch.ones(1, 1))
    transferred = vote_of(query[None], image[None, None], moved[None, None])
    inside = slice(8, 24)
    assert torch.equal(transferred.vote.argmax(1)[0, inside, inside], label[inside, inside].long())
    torch.testing.assert_close(transferred.weights, torch.ones(1, 1))


def test_shifts_farther_than_allowed_are_not_taken():
    query = picture()
    shifts, _ = best_shifts(query[None], query.roll(12, 0)[None, None])
    assert shifts.abs().max() <= round(0.15 * SIDE)


def test_a_patch_that_moved_is_followed_and_even_ground_stays_where_it_is():
    """A bright block two rows lower in the neighbour: look down by up to two rows at it, nowhere else."""
    query, other = torch.zeros(SIDE, SIDE), torch.zeros(SIDE, SIDE)
    query[12:20, 12:20] = other[14:22, 12:20] = torch.rand(8, 8, generator=torch.Generator().manual_seed(1)) + 0.5
    shifts = pixels_aside(query, other, PASSES[0])
    assert 1.0 < shifts[0, 16, 16] <= 2.0
    assert abs(shifts[1, 16, 16]) < 0.3
    assert shifts[:, :2, :2].abs().max() < 1e-3


def test_a_pass_of_finer_patches_follows_what_the_coarse_one_blurred():
    """Two blocks beside each other, moved apart: patches four pixels from each other average the two moves."""
    query, other = torch.zeros(SIDE, SIDE), torch.zeros(SIDE, SIDE)
    blocks = torch.rand(2, 8, 6, generator=torch.Generator().manual_seed(2)) + 0.5
    for picture_of, down in ((query, (0, 0)), (other, (2, -2))):
        for block, column, move in zip(blocks, (9, 17), down, strict=True):
            picture_of[12 + move : 20 + move, column : column + 6] = block
    wanted = torch.tensor([2.0, -2.0])

    def missed(passes):
        places = torch.zeros(2, SIDE, SIDE)
        for one in passes:
            grid = torch.arange(SIDE)
            rows = (grid[:, None] + places[0].round().long()).clamp(0, SIDE - 1)
            columns = (grid + places[1].round().long()).clamp(0, SIDE - 1)
            places = places + pixels_aside(query, other[rows, columns], one)
        return (places[0, 15:17, [11, 19]] - wanted).abs().max()

    assert missed(PASSES) < 0.7 < missed(PASSES[:1])


def test_a_patch_moves_no_farther_than_its_pass_reaches():
    assert Pass(grid=1, reach=1, scale=0.003).moves.tolist() == [[-1, 0], [0, -1], [0, 0], [0, 1], [1, 0]]
    assert len(Pass(grid=4, reach=3, scale=0.003).moves) == 29
    query = picture()
    for reach in (0, 2):
        shifts = pixels_aside(query, query.roll(3, 1), Pass(grid=1, reach=reach, scale=0.003))
        assert shifts.norm(dim=0).max() <= reach + 1e-5


def test_the_neighbour_that_looks_like_the_query_outvotes_the_other():
    query = picture()
    labels = torch.stack([disc(), torch.zeros_like(disc())])[None]
    transferred = vote_of(query[None], torch.stack([query, picture(seed=9)])[None], labels)
    assert transferred.weights[0, 0] > 0.6
    assert transferred.vote[0, 1, 12:20, 12:18].mean() > 0.7


def test_the_vote_is_as_faint_as_the_neighbours_are_unlike():
    """Everything differs by 0.005 ** 0.5, so the squared difference is one likeness scale: the vote sums to 1/e."""
    query = torch.full((1, SIDE, SIDE), 0.5)
    transferred = vote_of(query, query[:, None] + 0.005**0.5, disc()[None, None])
    torch.testing.assert_close(transferred.vote.sum(1)[0, 16, 16], torch.tensor(-1.0).exp())
    equal = vote_of(query, query[:, None], disc()[None, None])
    torch.testing.assert_close(equal.vote.sum(1), torch.ones(1, SIDE, SIDE))


def test_votes_are_weighed_around_the_labels_alone_and_elsewhere_all_is_background():
    """A label in rows 12 to 19 and columns 12 to 17, found 2 rows up and 4 columns to the right: rows 10 to 17 and
    columns 16 to 21 of the query, 12 pixels more on each side, outwards to a multiple of 4."""
    side = 48
    area = voting_area(disc(side)[None, None], torch.tensor([[[2, -4]]]), side)
    assert (area.rows, area.columns) == (slice(0, 32), slice(4, 36))
    query = torch.full((1, side, side), 0.5)
    image = query[:, None] + 0.005**0.5
    vote = transfer_labels(query, image, disc(side)[None, None], torch.tensor([[[2, -4]]]), torch.ones(1, 1), 2).vote
    outside = torch.ones(side, side, dtype=torch.bool)
    outside[area.rows, area.columns] = False
    assert (vote[0, 0][outside] == 1).all()
    assert (vote.sum(1)[0][~outside] < 0.5).all()


def test_without_any_label_all_is_background_and_the_likest_has_the_greatest_share():
    """Correlations that are 0.1 apart, the scale of the choice: e to 1."""
    query = picture()[None]
    empty = torch.zeros(1, 2, SIDE, SIDE, dtype=torch.uint8)
    shifts, likeness = torch.zeros(1, 2, 2, dtype=torch.long), torch.tensor([[0.9, 0.8]])
    transferred = transfer_labels(query, query[:, None].expand(-1, 2, -1, -1), empty, shifts, likeness, 2)
    assert torch.equal(transferred.vote[0, 0], torch.ones(SIDE, SIDE))
    assert not transferred.vote[0, 1].any()
    torch.testing.assert_close(transferred.weights[0, 0] / transferred.weights[0, 1], torch.tensor(1.0).exp())


def test_patches_are_averaged_by_a_matrix():
    """Six pixels, patches of 5 around the pixels 0 and 4: three pixels lie within the first, and four in the other."""
    patches = box_matrix(6, 4)
    torch.testing.assert_close(patches[0], torch.tensor([1, 1, 1, 0, 0, 0]) / 3)
    torch.testing.assert_close(patches[1], torch.tensor([0, 0, 1, 1, 1, 1]) / 4)
    torch.testing.assert_close(box_matrix(96, 2).sum(1), torch.ones(48))


def test_a_line_of_patches_is_smoothed_by_a_matrix():
    """Three patches of which the middle one is moved by 3: each of them by 1 once smoothed, as is every pixel."""
    torch.testing.assert_close(smoothing_matrix(3, 1) @ torch.tensor([0.0, 3.0, 0.0]), torch.ones(3))
    torch.testing.assert_close(smoothing_matrix(12, 4) @ torch.tensor([0.0, 3.0, 0.0]), torch.ones(12))


def test_a_class_is_asked_of_those_alone_that_annotate_it():
    """Two like neighbours, one of which does not annotate organ 2: the other alone speaks for it."""
    query = picture()[None]
    labels = torch.stack([disc() * 2, torch.zeros_like(disc())])[None]
    annotated = torch.tensor([[[True, True, True], [True, True, False]]])
    vote = vote_of(query, query[:, None].expand(-1, 2, -1, -1), labels, 3, annotated).vote
    torch.testing.assert_close(vote[0, :, 14, 14], torch.tensor([0.0, 0.0, 1.0]), atol=0.01, rtol=0)
    vote = vote_of(query, query[:, None].expand(-1, 2, -1, -1), labels, 3).vote
    torch.testing.assert_close(vote[0, :, 14, 14], torch.tensor([0.5, 0.0, 0.5]), atol=0.01, rtol=0)


@pytest.mark.parametrize("partly", [False, True])
def test_a_batch_gives_what_its_queries_give_alone(partly):
    generator = torch.Generator().manual_seed(4)
    query, images = torch.rand(3, SIDE, SIDE, generator=generator), torch.rand(3, 5, SIDE, SIDE, generator=generator)
    labels = torch.randint(0, 3, (3, 4, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    annotated = torch.rand(3, 4, 3, generator=generator) > 0.3 if partly else None
    there = torch.tensor([[True] * 5, [True, True, True, False, False], [True] * 5])

    def found(rows):
        chosen, shifts, likeness = best_matches(query[rows], images[rows], there[rows], 4)
        near = images[rows].gather(1, chosen[..., None, None].expand(-1, -1, SIDE, SIDE))
        known = None if annotated is None else annotated[rows]
        transferred = transfer_labels(query[rows], near, labels[rows], shifts, likeness, 3, known)
        return chosen, shifts, transferred.vote, transferred.weights

    together, alone = found(slice(None)), [found(slice(index, index + 1)) for index in range(3)]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert len(whole) == 3
        torch.testing.assert_close(whole, torch.cat(parts))


def test_neighbours_that_are_not_there_have_no_say():
    query = picture()[None]
    images = query[:, None].expand(-1, 2, -1, -1)
    labels = torch.stack([disc(), torch.full_like(disc(), 1)])[None]
    likeness = torch.tensor([[1.0, -torch.inf]])
    transferred = transfer_labels(query, images, labels, torch.zeros(1, 2, 2, dtype=torch.long), likeness, 2)
    assert transferred.weights.tolist() == [[1.0, 0.0]]
    assert transferred.vote[0, 1, 0, 0] == 0


def test_of_the_candidates_the_likest_are_chosen_though_they_lie_elsewhere():
    query = picture()
    candidates = torch.stack([picture(seed=5), query.roll(3, 1), query, picture(seed=6)])[None]
    found = best_matches(query[None], candidates, torch.tensor([[True, True, False, True]]), 2)
    assert found.chosen[0, 0] == 1
    assert 2 not in found.chosen[0].tolist()
    assert found.shifts[0, 0].tolist() == [0, 3]
    torch.testing.assert_close(found.likeness[0, 0], torch.tensor(1.0))


@pytest.mark.parametrize("side", [9, 10, 20])
def test_products_of_shifted_pictures_are_summed(side):
    one, other = torch.rand(2, side, side, generator=torch.Generator().manual_seed(side))
    far = torch.nn.functional.pad(other, (2, 2, 2, 2))
    expected = [[(one * far[y : y + side, x : x + side]).sum() for x in range(5)] for y in range(5)]
    found = shifted_products(one[None], other[None, None], 2)[0, 0]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_likeness_is_pearsons_with_what_is_seen():
    """Pixels beyond the image are 0."""
    one, other = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(3))
    shifts, likeness = best_shifts(one[None], other[None, None])
    down, right = shifts[0, 0].tolist()
    seen = torch.nn.functional.pad(other, (9, 9, 9, 9))[9 + down : 18 + down, 9 + right : 18 + right]
    expected = torch.corrcoef(torch.stack([one.flatten(), seen.flatten()]))[0, 1]
    torch.testing.assert_close(likeness[0, 0], expected)


def test_labels_larger_than_the_matched_images_are_carried_at_their_own_size():
    large = picture(side=192)
    query = matching_image(large.expand(1, 3, -1, -1))
    assert query.shape == (1, 96, 96)
    label = torch.zeros(192, 192, dtype=torch.uint8)
    label[80:110, 70:100] = 1
    image = matching_image(large.roll((8, -6), (0, 1)).expand(1, 3, -1, -1))
    transferred = vote_of(query, image[:, None], label.roll((8, -6), (0, 1))[None, None])
    assert transferred.vote.shape == (1, 2, 192, 192)
    assert (transferred.vote[0, 1] > 0.5).float().sub(label).abs().mean() < 0.002


def test_large_labels_vote_at_a_size_of_their_own():
    query = picture()[None]
    label = torch.zeros(512, 512, dtype=torch.uint8)
    label[200:300, 200:280] = 1
    vote = vote_of(query, query[:, None], label[None, None]).vote
    assert vote.shape == (1, 2, 256, 256)
    assert ((vote[0, 1] > 0.5) != (label[::2, ::2] == 1)).float().mean() < 0.003


@pytest.mark.parametrize("classes", [2, 4])
def test_a_carried_vote_is_the_prior_and_classes_that_it_leaves_out_get_nothing(classes):
    vote = torch.rand(2, 2, 4, 4)
    prior = label_prior(Supports.of_vote(vote, torch.tensor([True, False])), classes)
    assert torch.equal(prior[0, :2], vote[0])
    assert not prior[0, 2:].any()
    assert not prior[1].any()
