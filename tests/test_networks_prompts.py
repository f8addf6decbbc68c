"""Prompts at the network: SAM's own answers on base weights, and class logits that prompts leave alone."""

from functools import partial

import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from ragsam.networks import Segmenter
from ragsam.networks.prompts import INSIDE, OUTSIDE, BoxPrompts, PointPrompts, Prompts

PATCH = 8
SIZES = (64, 128)  # a grid that one attention window holds, and one that windows cover


def segment_anything_sam(size):
    """Return a small SAM of segment-anything's own making, with SAM's normalisation; no table is left at zero."""
    grid = size // PATCH
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=size,
            patch_size=PATCH,
            embed_dim=192,
            depth=4,
            num_heads=6,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=0 if grid <= 14 else 14,
            global_attn_indexes=(1, 3),
        ),
        prompt_encoder=PromptEncoder(256, (grid, grid), (size, size), 16),
        mask_decoder=MaskDecoder(transformer_dim=256, transformer=TwoWayTransformer(2, 256, 8, 512)),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    for name, parameter in sam.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            nn.init.normal_(parameter, std=0.1)
    return sam.eval()


@pytest.fixture(scope="module", params=SIZES)
def pair(request, tmp_path_factory):
    """A SAM with random weights, and our network tuned from its saved state dict."""
    size = request.param
    torch.manual_seed(size)
    sam = segment_anything_sam(size)
    path = tmp_path_factory.mktemp("base") / "sam.pth"
    torch.save(sam.state_dict(), path)
    ours = Segmenter(
        2,
        image_size=size,
        patch_size=PATCH,
        base=path,
        lora={"rank": 2},
        adapter={},
        prompts="base",
        normalisation="sam",
    )
    return size, sam, ours.eval(), path


def image_of(size, count=1):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def drawn(size, count=3):
    """Return prompts of `count` objects as ours and as SAM's (x, y) tensors; row and column always differ."""
    generator = torch.Generator().manual_seed(4)
    row, column = (torch.rand(count, 2, generator=generator) * (size - 1) for _ in range(2))
    kind = torch.tensor([[INSIDE, OUTSIDE]] * count)
    top, left = (torch.rand(count, generator=generator) * size / 4 for _ in range(2))
    bottom, right = top + size / 3, left + size / 2
    coarse = size // PATCH * 4
    masks = 5 * torch.randn(count, 1, coarse, coarse, generator=generator)
    ours = {
        "points": PointPrompts(row, column, kind),
        "boxes": BoxPrompts(top, left, bottom, right),
        "masks": masks,
    }
    theirs = {
        "point_coords": torch.stack([column, row], -1),
        "point_labels": kind,
        "boxes": torch.stack([left, top, right, bottom], -1),
        "mask_input": masks,
    }
    return ours, theirs


COMBINATIONS = [
    ("points",),
    ("boxes",),
    ("masks",),
    ("points", "boxes"),
    ("points", "masks"),
    ("boxes", "masks"),
    ("points", "boxes", "masks"),
]
NAMES = {"points": ("point_coords", "point_labels"), "boxes": ("boxes",), "masks": ("mask_input",)}


def predicted(sam, image, theirs, kinds):
    """Return logits, quality and low-resolution logits of SamPredictor: the first mask, then the other three."""
    predictor = SamPredictor(sam)
    predictor.set_torch_image(image * 255, tuple(image.shape[-2:]))
    given = {name: theirs[name] for kind in kinds for name in NAMES[kind]}
    given = {"point_coords": None, "point_labels": None, **given}
    both = [predictor.predict_torch(**given, multimask_output=several, return_logits=True) for several in (False, True)]
    return [torch.cat(parts, dim=1) for parts in zip(*both, strict=True)]


def assert_equal(answer, expected):
    logits, quality, coarse = expected
    assert coarse.std() > 0.01  # the masks say something
    for own, other in ((answer.coarse, coarse), (answer.quality, quality), (answer.logits, logits)):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kinds", COMBINATIONS, ids="+".join)
@torch.no_grad()
def test_base_weights_answer_prompts_as_sam_predictor_does(pair, kinds):
    size, sam, ours, _ = pair
    image = image_of(size)
    own, theirs = drawn(size)
    answer = ours.decode_prompted(ours.embed(image), Prompts(**{kind: own[kind] for kind in kinds}))
    assert_equal(answer, predicted(sam, image, theirs, kinds))


@torch.no_grad()
def test_objects_of_different_slices_are_answered_together(pair):
    size, sam, ours, _ = pair
    images = image_of(size, 3)
    own, theirs = drawn(size)
    answer = ours.decode_prompted(ours.embed(images), Prompts(points=own["points"], boxes=own["boxes"]))
    for index in range(3):
        one = {name: tensor[index : index + 1] for name, tensor in theirs.items()}
        expected = predicted(sam, images[index : index + 1], one, ("points", "boxes"))
        assert_equal(type(answer)(*(part[index : index + 1] for part in answer)), expected)


@torch.no_grad()
def test_a_point_with_row_and_column_exchanged_is_another_prompt(pair):
    size, _, ours, _ = pair
    embedded, points = ours.embed(image_of(size)), drawn(size)[0]["points"]
    swapped = PointPrompts(points.column, points.row, points.kind)
    right, wrong = (ours.decode_prompted(embedded, Prompts(points=one)).coarse for one in (points, swapped))
    assert (right - wrong).abs().max() > 1e-3


@torch.no_grad()
def test_prompts_leave_the_class_logits_as_they_are(pair):
    size, _, ours, path = pair
    image = image_of(size)
    embedded = ours.embed(image)
    before = ours.decode(embedded)
    ours.decode_prompted(embedded, Prompts(boxes=drawn(size)[0]["boxes"]))
    assert torch.equal(ours.decode(embedded), before)
    torch.manual_seed(0)
    options = {"image_size": size, "patch_size": PATCH, "base": path, "normalisation": "sam", "lora": {"rank": 2}}
    without = Segmenter(2, prompts=None, **options).eval()
    own = without.state_dict()
    answering = Segmenter(2, prompts="base", **options).eval()
    answering.load_state_dict(own, strict=False)
    assert torch.equal(answering(image), without(image))


@torch.no_grad()
def test_a_lone_click_takes_the_best_of_three_and_a_sure_prompt_the_first(pair):
    size, _, ours, _ = pair
    answer = ours.decode_prompted(ours.embed(image_of(size)), Prompts(points=drawn(size)[0]["points"]))
    sure, best = answer.choose(ambiguous=False), answer.choose(ambiguous=True)
    assert torch.equal(sure.logits, answer.logits[:, :1])
    assert torch.equal(best.quality[:, 0], answer.quality[:, 1:].amax(1))
    for index, number in enumerate(answer.quality[:, 1:].argmax(1) + 1):
        assert torch.equal(best.logits[index, 0], answer.logits[index, number])


@torch.no_grad()
def test_another_number_of_slices_than_objects_is_refused(pair):
    size, _, ours, path = pair
    prompts = Prompts(boxes=drawn(size)[0]["boxes"])
    with pytest.raises(ValueError, match="2 slices for 3 objects"):
        ours.decode_prompted(ours.embed(image_of(size, 2)), prompts)
    deaf = Segmenter(2, image_size=size, patch_size=PATCH, base=path)
    with pytest.raises(ValueError, match="answers no prompts"):
        deaf.decode_prompted(deaf.embed(image_of(size)), prompts)
    with pytest.raises(ValueError, match="no prompt"):
        Prompts()
