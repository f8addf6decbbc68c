"""Weights whose metadata say something else than the run that they lie in load nowhere."""

import os

import pytest

from ragsam.api.segment import segment_with_run
from ragsam.errors import InputError
from ragsam.networks.checkpoints import load_weights, save_weights
from ragsam.runs.run import RunFolder
from ragsam.runs.templates import make_run
from ragsam.runs.trained import trained_network
from ragsam.runs.weights import WeightsLoader, differences, said_by_run

#: What metadata may say wrongly: of the slices and organs, and of the network itself.
WRONG = {
    "labels": ["another", "organ"],
    "window": [-1.0, 1.0],
    "spacing_mm": [9.0, 9.0],
    "slice_axis": 0,
    "context_slices": 7,
    "context_distance_mm": 3.0,
    "image_size": 48,
    "normalisation": "sam",
    "num_classes": 5,
}


def shown(value):
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def resaid(run, change):
    """Give a run's weights other metadata."""
    state, about = load_weights(run / "models" / "model.safetensors")
    change(about)
    os.remove(run / "models" / "model.safetensors")
    save_weights(run / "models" / "model.safetensors", state, about)
    return run


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("load", ["segment", "loader", "export"])
def test_weights_that_say_something_else_are_refused_with_both(own_run, study, tmp_path, load, name):
    network, about = trained_network(own_run)
    prepared = name in about["preparation"]
    resaid(own_run, lambda said: (said["preparation"] if prepared else said).update({name: WRONG[name]}))
    loads = {
        "segment": lambda: segment_with_run(own_run, [study], tmp_path / "out"),
        "loader": lambda: WeightsLoader(network, own_run / "models" / "model.safetensors").load(),
        "export": lambda: trained_network(own_run),
    }
    with pytest.raises(InputError) as error:
        loads[load]()
    own = (about["preparation"] if prepared else about)[name]
    assert str(error.value) == (
        f"model.safetensors: made for {name} {shown(WRONG[name])}, the run has {shown(own)}; leave it as in training"
    )
    assert not (tmp_path / "out").exists()


def test_what_both_places_of_metadata_say_is_compared(own_run, study, tmp_path):
    """The size of the slices stands among what the network says too, and neither hides the other."""
    resaid(own_run, lambda said: said.update(image_size=48))
    with pytest.raises(InputError, match="made for image_size 48, the run has 32"):
        segment_with_run(own_run, [study], tmp_path / "out")


def test_weights_that_say_less_load(own_run):
    """As those of imported checkpoints do, which were made with no preparation of ours."""
    resaid(own_run, lambda said: (said.pop("preparation"), said.update(labels=None)))
    trained_network(own_run)


def test_what_is_compared_is_what_both_say_by_value():
    about = {"a": [1, 2], "b": 1, "card": "x", "labels": None, "preparation": {"c": 1, "card": "x"}}
    own = {"a": (1.0, 2.0), "c": 2, "d": 3, "card": "y", "labels": ["liver"]}
    assert list(differences(about, own)) == [("c", "1", "2")]


def test_a_run_says_its_slices_organs_and_normalisation(own_run):
    said = said_by_run(RunFolder(own_run))
    about = load_weights(own_run / "models" / "model.safetensors")[1]
    wanted = {name: value for name, value in about["preparation"].items() if name != "card"}
    window = said.pop("window")
    assert (None if window is None else list(window)) == wanted.pop("window")
    assert said == {**wanted, "normalisation": about["normalisation"], "num_classes": about["num_classes"]}


def test_a_training_that_starts_with_weights_tells_how_its_slices_differ(own_run, study, tmp_path, caplog):
    make_run("sam_lora", study, tmp_path / "same", {"start": str(own_run)})
    assert "was made for" not in caplog.text
    make_run("sam_lora", study, tmp_path / "other", {"start": str(own_run), "slice_axis": 0, "spacing_mm": [1.5, 1.5]})
    assert [message for message in caplog.messages if "was made for" in message] == [
        "start: model.safetensors was made for slice_axis 2, this training has 0",
        "start: model.safetensors was made for spacing_mm None, this training has 1.5, 1.5",
    ]
