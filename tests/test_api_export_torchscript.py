"""Exports: another runtime gives PyTorch's logits, for any number of slices, and nothing stands where it does not."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_study import files_below
from torch import nn

from ragsam.api import export_torchscript as deployment
from ragsam.api.export_onnx import export_onnx
from ragsam.api.export_torchscript import export_torchscript, largest_difference
from ragsam.cli import main
from ragsam.data.cards.load import load_card
from ragsam.errors import InputError
from ragsam.networks import Segmenter, Supports
from ragsam.networks.checkpoints import load_weights, save_weights
from ragsam.networks.deployable import Encoder, PromptedDecoder, example_inputs, example_prompts, prepare
from ragsam.networks.supports import label_prior
from ragsam.runs.network_config import network_options
from ragsam.runs.templates import make_run
from ragsam.runs.trained import trained_network

#: A network as different from the bundle's default as can be.
OTHER = {
    "image_size": 32,
    "detail": False,
    "fusion": None,
    "prompts": "trained",
    "context_slices": 2,
    "network_def.adapter": {"depth": True},
    "network_def.frequency": {},
}


@pytest.fixture(scope="module")
def other_run(study, tmp_path_factory):
    """A run that was not trained but whose zeros have moved."""
    folder = make_run("sam_lora", study, tmp_path_factory.mktemp("other") / "run", OTHER)
    text = (folder / "configs" / "inference.yaml").read_text()
    torch.manual_seed(0)
    network = Segmenter(**network_options(text, load_card("hippocampus").num_classes))
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    save_weights(folder / "models" / "model.safetensors", network.trainable_state(), network.about)
    return folder


def slices(network, count, channels=3):
    image = torch.rand(count, channels, network.image_size, network.image_size)
    labels = torch.randint(0, network.num_classes + 1, (count, 2, network.image_size, network.image_size))
    return image, Supports(labels.to(torch.uint8), torch.tensor([[0.6, 0.4]] * (count - 1) + [[0.0, 0.0]]))


# TorchScript


@torch.no_grad()
def test_torchscript_gives_the_networks_logits(run, tmp_path):
    assert export_torchscript(run, tmp_path / "out" / "network.pt") <= 1e-3
    about = {"about.json": ""}
    exported = torch.jit.load(tmp_path / "out" / "network.pt", _extra_files=about)
    network, kept = trained_network(run)
    network.eval()
    for count in (1, 4):
        image, supports = slices(network, count)
        vote = label_prior(supports, network.num_classes + 1)
        torch.testing.assert_close(exported(image, vote), network(image, supports=supports), rtol=0, atol=1e-3)
    assert json.loads(about["about.json"]) == kept == load_weights(run / "models" / "model.safetensors")[1]
    assert files_below(tmp_path / "out") == ["network.pt"]


@torch.no_grad()
def test_torchscript_names_no_device(other_run, tmp_path):
    """What the trace made on the CPU it makes wherever its input is."""
    export_torchscript(other_run, tmp_path / "network.pt")
    graph = str(torch.jit.load(tmp_path / "network.pt").inlined_graph)
    assert "prim::device" in graph
    assert "Device = prim::Constant" not in graph
    network, _ = trained_network(other_run)
    image, _ = slices(network, 3, channels=5)
    exported = torch.jit.load(tmp_path / "network.pt")
    torch.testing.assert_close(exported(image), network.eval()(image), rtol=0, atol=1e-3)


# ONNX


def read(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(**inputs):
        outputs = session.run(None, {name: np.asarray(value) for name, value in inputs.items()})
        return dict(zip([node.name for node in session.get_outputs()], map(torch.from_numpy, outputs), strict=True))

    return run


@torch.no_grad()
def test_onnx_gives_the_networks_logits(run, tmp_path, capsys):
    assert main(["export", str(run), "--to", "onnx", "--output", str(tmp_path / "onnx")]) == 0
    said = capsys.readouterr()
    assert "largest difference to PyTorch's logits: " in said.out
    assert f"onnx: {tmp_path / 'onnx'}" in said.out
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["decoder.onnx", "encoder.onnx"]
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]
    encode, decode = read(tmp_path / "onnx" / "encoder.onnx"), read(tmp_path / "onnx" / "decoder.onnx")
    network, about = trained_network(run)
    network.eval()
    for count in (1, 4):
        image, supports = slices(network, count)
        vote = label_prior(supports, network.num_classes + 1)
        logits = decode(**encode(image=image), vote=vote)["logits"]
        torch.testing.assert_close(logits, network(image, supports=supports), rtol=0, atol=1e-3)
    (said,) = onnx.load(tmp_path / "onnx" / "decoder.onnx").metadata_props
    assert (said.key, json.loads(said.value)) == ("ragsam", about)


@torch.no_grad()
def test_onnx_answers_prompts(other_run, tmp_path):
    export_onnx(other_run, tmp_path / "onnx")
    encode, answer = (read(tmp_path / "onnx" / f"{name}.onnx") for name in ("encoder", "prompted"))
    network = prepare(trained_network(other_run)[0])
    (image,) = example_inputs(network, 4, 5)
    prompts = example_prompts(network, 4)
    theirs = PromptedDecoder(network)(*Encoder(network)(image), *prompts.values())
    few = {name: value[:, :1] if name in ("row", "column", "kind") else value for name, value in prompts.items()}
    for given, expected in (
        (prompts, theirs),
        (few, PromptedDecoder(network)(*Encoder(network)(image), *few.values())),
    ):
        found = answer(**encode(image=image), **given)
        assert list(found) == ["logits", "coarse", "quality"]
        for ours, reference in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(ours, reference, rtol=0, atol=1e-3)


def test_onnx_that_is_not_installed_is_told(monkeypatch, run, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"needs onnxscript; pip install 'ragsam\[onnx\]'"):
        export_onnx(run, tmp_path / "onnx")


def test_a_folder_that_holds_something_is_left_alone(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty; choose another output"):
        export_onnx(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# Both


def test_what_differs_from_pytorch_gets_no_name(run, tmp_path, monkeypatch):
    monkeypatch.setattr(deployment, "TOLERANCE", -1.0)
    (tmp_path / "network.pt").write_text("the one before")
    with pytest.raises(InputError, match=r"network.pt: .* apart from PyTorch; not written"):
        export_torchscript(run, tmp_path / "network.pt", overwrite=True)
    assert files_below(tmp_path) == ["network.pt"]
    assert (tmp_path / "network.pt").read_text() == "the one before"


def test_the_largest_difference_by_hand():
    def inputs(batch):
        return (torch.zeros(batch, 2),)

    assert largest_difference("x", lambda a: a, lambda a: a - 0.0005, inputs) == pytest.approx(0.0005)
    for wrong in (0.0011, float("nan")):
        with pytest.raises(InputError, match=r"x: .* apart from PyTorch"):
            largest_difference("x", lambda a: a, lambda a, wrong=wrong: a + wrong, inputs)


@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_what_is_no_run_is_told(form, tmp_path, capsys):
    assert main(["export", str(tmp_path), "--to", form, "--output", str(tmp_path / "x")]) == 2
    assert "not a run (no configs/inference.yaml)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_without_weights_is_told(other_run, study, tmp_path):
    folder = make_run("sam_lora", study, tmp_path / "run", OTHER)
    with pytest.raises(InputError, match="no such weights file"):
        export_torchscript(folder, tmp_path / "network.pt")
