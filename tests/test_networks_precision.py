"""Precision: which arithmetic runs where, and that half of it still trains, segments and finds the same neighbours."""

import nibabel as nib
import numpy as np
import pytest
import torch
from small_study import QUICK

from ragsam.api.segment import segment_with_run
from ragsam.api.train import train_run
from ragsam.errors import InputError
from ragsam.inference.volume_inferer import VolumeInferer
from ragsam.inference.volume_supports import VolumeSupports
from ragsam.networks import Segmenter
from ragsam.networks.precision import autocast, autocast_dtype, is_int8, scales_gradients
from ragsam.retrieval import Bank, Retriever
from ragsam.training.device import place


def test_what_autocast_computes_in(monkeypatch):
    assert autocast_dtype("auto", "cpu") is autocast_dtype("float32", "cpu") is None
    assert autocast_dtype("bfloat16", "cpu") is torch.bfloat16
    for has, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has: has)
        assert autocast_dtype("auto", "cuda") is dtype
        assert scales_gradients("auto", "cuda") == (not has)
    with pytest.raises(InputError, match="float16 needs a GPU"):
        autocast_dtype("float16", "cpu")
    with pytest.raises(InputError, match="'half' is unknown; choose one of auto, float32"):
        autocast_dtype("half", "cuda")


def test_int8_is_for_inference_on_a_cpu(study, tmp_path):
    assert is_int8("int8", "cpu")
    assert not is_int8("auto", "cuda")
    with pytest.raises(InputError, match="int8 is for a CPU; choose auto"):
        is_int8("int8", "cuda")
    with pytest.raises(InputError, match="int8 is for segmenting alone; choose auto"):
        train_run("sam_lora", study, tmp_path / "run", {**QUICK, "precision": "int8"})
    assert not (tmp_path / "run").exists()


def test_float32_leaves_an_autocast_that_is_on_as_it_is():
    x = torch.ones(2, 2)
    with autocast(None, x.device):
        assert (x @ x).dtype is torch.float32
    with torch.autocast("cpu", torch.bfloat16), autocast(None, x.device):
        assert (x @ x).dtype is torch.bfloat16


@torch.no_grad()
def test_a_volume_is_segmented_in_less_precision_and_its_logits_are_whole():
    torch.manual_seed(0)
    network = Segmenter(2, image_size=32).eval()
    volume, seen = torch.rand(1, 32, 32, 5), []
    network.sam.image_encoder.register_forward_hook(lambda module, inputs, out: seen.append(out.dtype))
    slabs = {
        precision: next(iter(VolumeInferer(32, precision=precision).slabs(volume, network)))[1]
        for precision in ("float32", "bfloat16", "int8")
    }
    assert seen[1] is torch.bfloat16 or seen[0] is torch.float32
    whole, *others = slabs.values()
    for logits in others:
        assert logits.dtype is torch.float32
        assert not torch.equal(logits, whole)
        torch.testing.assert_close(logits, whole, atol=0.05 * whole.abs().max().item(), rtol=0)


def test_neighbours_are_found_in_whole_precision(run):
    bank = Bank.open(run / "bank")
    retriever = Retriever(descriptor="centred", neighbours=8, carry=True)
    retriever.attach(bank)
    supports = VolumeSupports(retriever, "nobody", "none")
    image = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    height = torch.tensor([0.2, 0.5, 0.8])
    expected = supports(image, None, height)
    with torch.autocast("cpu", torch.bfloat16):
        found = supports(image, None, height)
    assert torch.equal(found.vote, expected.vote)
    assert torch.equal(found.weights, expected.weights)


@pytest.fixture(scope="module")
def halved(study, tmp_path_factory):
    """A run trained in bfloat16, its gradients added up over two batches, and the steps of its optimizer."""
    steps, step = [], torch.optim.AdamW.step
    patch = pytest.MonkeyPatch()
    patch.setattr(torch.optim.AdamW, "step", lambda self, *args: steps.append(1) or step(self, *args))
    options = {**QUICK, "precision": "bfloat16", "accumulation_steps": 2, "channels_last": True}
    run = train_run("sam_lora", study, tmp_path_factory.mktemp("halved") / "run", options)
    patch.undo()
    return run, len(steps)


def test_it_learns_in_half_precision_with_gradients_added_up(halved):
    run, steps = halved
    assert steps == QUICK["epochs"] * QUICK["steps_per_epoch"] // 2
    rows = (run / "log.csv").read_text().splitlines()
    loss = rows[0].split(",").index("loss")
    first, last = (float(row.split(",")[loss]) for row in (rows[1], rows[-1]))
    assert last < 0.9 * first


def test_a_run_segments_in_the_precision_that_is_asked_for(run, study, tmp_path):
    precisions = ("float32", "bfloat16", "int8")
    for precision in precisions:
        segment_with_run(run, [study], tmp_path / precision, options={"precision": precision})
    for path in (tmp_path / "float32").glob("*.nii.gz"):
        whole, *others = (np.asarray(nib.load(tmp_path / p / path.name).dataobj) for p in precisions)
        assert all(np.mean(whole == labels) > 0.99 for labels in others)
    with pytest.raises(InputError, match="float16 needs a GPU"):
        segment_with_run(run, [study], tmp_path / "float16", options={"precision": "float16"})
    with pytest.raises(InputError, match="precision: 'half' is not one of auto"):
        segment_with_run(run, [study], tmp_path / "unknown", options={"precision": "half"})
    assert not (tmp_path / "unknown" / "provenance.json").exists()


def test_channels_last_stores_the_convolutions_otherwise_and_changes_nothing():
    torch.manual_seed(0)
    network, image = Segmenter(2, image_size=32).eval(), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        plain = network(image)
        placed = place(network, "cpu", channels_last=True)
        assert placed is network
        assert network.stem is None or any(
            p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
            for p in network.parameters()
            if p.dim() == 4
        )
        torch.testing.assert_close(network(image), plain, atol=1e-4, rtol=0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_on_a_gpu_it_learns_in_every_precision(study, tmp_path, precision):
    run = train_run("sam_lora", study, tmp_path / "run", {**QUICK, "precision": precision, "channels_last": True})
    rows = (run / "log.csv").read_text().splitlines()
    loss = rows[0].split(",").index("loss")
    assert float(rows[-1].split(",")[loss]) < float(rows[1].split(",")[loss])
