"""The network of a run is what its weights say, whatever its configs have."""

import re
import shutil

import pytest
import torch

from ragsam.api.segment import segment_with_run
from ragsam.errors import InputError
from ragsam.files import write_text_atomic
from ragsam.networks.checkpoints import load_weights, save_weights
from ragsam.networks.segmenter import Segmenter
from ragsam.runs.network_config import DESCRIBED, described_options
from ragsam.runs.run import RunFolder
from ragsam.runs.templates import make_run
from ragsam.runs.trained import fusion_of_weights, network_of_weights, trained_network

OPTIONS = {
    "patch_size": 8,
    "detail": False,
    "fusion": None,
    "prompts": "trained",
    "normalisation": "sam",
    "lora": {"rank": 2, "targets": ["q", "k", "v"]},
    "adapter": {"space": False, "mlp": True},
}
PREPARED = {"image_size": 32, "slice_axis": 2, "context_slices": 1, "context_distance_mm": None, "spacing_mm": None}
PREPARED |= {"window": None, "labels": ["liver", "spleen"]}


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    network = Segmenter(2, image_size=32, **OPTIONS)
    save_weights(tmp_path / "w.safetensors", network.trainable_state(), {**network.about, "preparation": PREPARED})
    return tmp_path / "w.safetensors"


def test_network_is_that_of_the_weights_and_not_of_the_config(weights):
    network = network_of_weights(weights, num_classes=2, preparation=PREPARED, untrained={"backbone": "vit_b"})
    state, about = load_weights(weights)
    assert network.about == {name: value for name, value in about.items() if name != "preparation"}
    network.load_trainable_state(state)
    assert set(network.trainable_state()) == set(state)


def test_what_steers_a_network_is_told_without_building_it(weights, tmp_path):
    assert fusion_of_weights(weights, untrained={"fusion": "vote_product"}) is None
    assert fusion_of_weights(tmp_path / "none.safetensors", untrained={"fusion": "vote_product"}) == "vote_product"
    assert fusion_of_weights(None, untrained={"fusion": None}) is None


def test_weights_say_every_option_that_shapes_a_network(weights):
    """But for its base, what only training needs, and `peft`, which `tuning` has in full."""
    parameters = set(Segmenter.__init__.__annotations__) - {"num_classes", "return"}
    ways = {"lora", "decoder_lora", "adapter", "frequency"}
    assert parameters - set(DESCRIBED) - ways == {"base", "peft", "coarse_training", "checkpointing"}
    assert described_options(load_weights(weights)[1]) == {
        **{name: OPTIONS[name] for name in ("patch_size", "detail", "fusion", "prompts", "normalisation")},
        **{name: OPTIONS[name] for name in ("lora", "adapter")},
        **{"backbone": "vit_tiny", "image_size": 32, "full_tuning": False, "mask_tokens": None},
        "enlarged": "logits",
        "efficient_decoder": None,
    }


def test_until_there_are_weights_the_config_says_the_network(tmp_path):
    given = {"num_classes": 2, "preparation": PREPARED, "untrained": OPTIONS}
    networks = [network_of_weights(weights, **given) for weights in (None, tmp_path / "none.safetensors")]
    assert networks[0].about == networks[1].about == Segmenter(2, image_size=32, **OPTIONS).about


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("image_size", 48), ("slice_axis", 0), ("context_slices", 0), ("spacing_mm", [1.0, 1.0])],
        *[("window", [0.0, 1.0]), ("labels", ["spleen", "liver"])],
    ],
)
def test_slices_prepared_otherwise_than_in_training_are_refused(weights, name, value):
    made, have = (", ".join(map(str, x)) if isinstance(x, list) else x for x in (PREPARED[name], value))
    told = f"w.safetensors: made for {name} {made}, the run has {have}; leave it as in training"
    with pytest.raises(InputError, match=re.escape(told)):
        network_of_weights(weights, num_classes=2, preparation={**PREPARED, name: value}, untrained={})


def test_a_run_with_slices_of_another_axis_than_its_weights_is_refused_before_anything_is_written(
    own_run, study, tmp_path
):
    config = own_run / "configs" / "inference.yaml"
    write_text_atomic(config, config.read_text().replace("\nslice_axis: 2", "\nslice_axis: 1"))
    with pytest.raises(InputError, match="made for slice_axis 2, the run has 1; leave it as in training"):
        segment_with_run(own_run, [study], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_say_nothing_of_their_network_are_refused(weights):
    state, about = load_weights(weights)
    about.pop("normalisation")
    save_weights(weights, state, about)
    with pytest.raises(InputError, match="do not state normalisation"):
        network_of_weights(weights, num_classes=2, preparation=PREPARED, untrained={})


def test_a_runs_network_by_its_folder_is_the_same(study, tmp_path):
    run = make_run("sam_adapter", study, tmp_path / "run", {"image_size": 32, "detail": False, "adapter.mlp": False})
    network = RunFolder(run).parser("inference").get_parsed_content("network_def")
    assert network.about["tuning"] == {"adapter": {"space": True, "mlp": False}}
    assert network.about["detail"] is False
    save_weights(run / "models" / "model.safetensors", network.trainable_state(), network.about)
    shutil.copytree(run, tmp_path / "copy")
    config = tmp_path / "copy" / "configs" / "inference.yaml"
    config.write_text(config.read_text().replace("detail: false", "detail: true"))  # of no weight any more
    found, about = trained_network(tmp_path / "copy")
    assert found.about == network.about == about
